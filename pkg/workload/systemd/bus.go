package systemd

import (
	"context"

	"github.com/coreos/go-systemd/v22/dbus"
)

// hintsMax is how many changes of units may wait to be looked at. When more arrive, one hint for
// all of them takes their place.
const hintsMax = 256

// systemBus is a connection over the system's D-Bus or, for root without one, to systemd itself.
type systemBus struct {
	connection *dbus.Conn
	merged     chan string
	stop       context.CancelFunc
	ended      chan struct{}
}

func connectSystem(ctx context.Context) (bus, error) {
	connection, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, err
	}
	updates, overflow := make(chan *dbus.PropertiesUpdate, hintsMax), make(chan error, 1)
	connection.SetPropertiesSubscriber(updates, overflow)
	if err := connection.Subscribe(); err != nil {
		connection.Close()
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	b := &systemBus{connection: connection, merged: make(chan string), stop: stop, ended: make(chan struct{})}
	go b.merge(ctx, updates, overflow)
	return b, nil
}

// merge turns both channels of the subscription into one, until ctx ends.
func (b *systemBus) merge(ctx context.Context, updates <-chan *dbus.PropertiesUpdate, overflow <-chan error) {
	defer close(b.ended)
	for {
		hint := ""
		select {
		case update := <-updates:
			hint = update.UnitName
		case <-overflow: // some hints were dropped: anything may have changed
		case <-ctx.Done():
			return
		}
		select {
		case b.merged <- hint:
		case <-ctx.Done():
			return
		}
	}
}

func (b *systemBus) properties(ctx context.Context, unit string) (map[string]any, error) {
	return b.connection.GetAllPropertiesContext(ctx, unit)
}

func (b *systemBus) hints() <-chan string { return b.merged }
func (b *systemBus) connected() bool      { return b.connection.Connected() }

func (b *systemBus) close() {
	b.stop()
	<-b.ended
	b.connection.Close()
}
