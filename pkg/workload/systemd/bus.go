package systemd

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	busName       = "org.freedesktop.DBus"
	systemdName   = "org.freedesktop.systemd1"
	managerPath   = "/org/freedesktop/systemd1"
	unitPaths     = managerPath + "/unit/"
	managerFace   = systemdName + ".Manager"
	unitFace      = systemdName + ".Unit"
	serviceFace   = systemdName + ".Service"
	propertyFace  = busName + ".Properties"
	privateSocket = "unix:path=/run/systemd/private"
)

// bus is a connection to the service manager. It loads no unit: systemd would tell that as a change,
// and who looks at every change would go round in a circle.
type bus interface {
	// units returns the names of all units that are loaded.
	units(ctx context.Context) ([]string, error)
	// properties returns those of a unit; nil if it is not loaded.
	properties(ctx context.Context, unit string) (map[string]any, error)
	// exists reports whether there is a file for a unit that is not loaded.
	exists(ctx context.Context, unit string) (bool, error)
	// changed receives a token when take has something to return.
	changed() <-chan struct{}
	// take returns what may have changed since the last take.
	take() changes
	// broken is closed when the connection ends.
	broken() <-chan struct{}
	close()
}

// changes is what may have changed. However much does, it is no more than the units there are.
type changes struct {
	units     map[string]bool // by name; true: it was loaded or unloaded, so that its files count anew
	relist    bool            // any unit may have changed, come or gone
	reloaded  bool            // the same, and all unit files were read again
	restarted bool            // another systemd answers now, which knows nothing of this connection
}

// systemBus is a connection over the system's D-Bus or, for root without one, to systemd itself.
type systemBus struct {
	connection *dbus.Conn
	manager    dbus.BusObject
	end        context.CancelFunc
	tokens     chan struct{}
	received   chan struct{} // closed when nothing is received any more

	mu      sync.Mutex // guards pending
	pending changes
}

// connectSystem returns a connection on which changes of the units named are told, or of all services
// and sockets if none is named.
func connectSystem(ctx context.Context, units []string) (bus, error) {
	// The connection ends with ctx, which so bounds the time that it takes to make it as well.
	ctx, end := context.WithCancel(ctx)
	bound := time.AfterFunc(readTimeout, end)
	defer bound.Stop()
	connection, overBus, err := dial(ctx)
	if err != nil {
		end()
		return nil, err
	}
	b := &systemBus{
		connection: connection, manager: connection.Object(systemdName, managerPath), end: end,
		tokens: make(chan struct{}, 1), received: make(chan struct{}),
	}
	signals := make(chan *dbus.Signal, 16)
	connection.Signal(signals)
	go b.receive(signals)
	if overBus { // systemd itself sends everything
		err = b.match(ctx, units)
	}
	if err == nil {
		err = b.manager.CallWithContext(ctx, managerFace+".Subscribe", 0).Err
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// dial returns a connection that ends with ctx, over the system's D-Bus or, for root without one, to
// systemd itself.
func dial(ctx context.Context) (connection *dbus.Conn, overBus bool, err error) {
	connection, err = dialBus(ctx, dbus.SystemBusPrivate, (*dbus.Conn).Hello)
	overBus = err == nil
	if err != nil && os.Geteuid() == 0 {
		connection, err = dialBus(ctx, dialSystemd, nil)
	}
	return connection, overBus, err
}

func dialSystemd(options ...dbus.ConnOption) (*dbus.Conn, error) {
	return dbus.Dial(privateSocket, options...)
}

// dialBus opens a connection and authenticates; hello is what a bus expects first.
func dialBus(ctx context.Context, dial func(...dbus.ConnOption) (*dbus.Conn, error), hello func(*dbus.Conn) error) (*dbus.Conn, error) {
	connection, err := dial(dbus.WithContext(ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
	if err != nil {
		return nil, err
	}
	err = connection.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))})
	if err == nil && hello != nil {
		err = hello(connection)
	}
	if err != nil {
		connection.Close()
		return nil, err
	}
	return connection, nil
}

// match asks the bus for the signals to be told of: of a few units one by one, for a bus bounds how many
// rules a connection may have; otherwise of all.
func (b *systemBus) match(ctx context.Context, units []string) error {
	fromSystemd := dbus.WithMatchSender(systemdName)
	rules := [][]dbus.MatchOption{
		{dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, systemdName)},
		{fromSystemd, dbus.WithMatchInterface(managerFace), dbus.WithMatchMember("Reloading")},
	}
	changed := []dbus.MatchOption{fromSystemd, dbus.WithMatchInterface(propertyFace), dbus.WithMatchMember("PropertiesChanged"), dbus.WithMatchArg(0, unitFace)}
	loaded := []dbus.MatchOption{fromSystemd, dbus.WithMatchInterface(managerFace), dbus.WithMatchMember("UnitNew")}
	gone := []dbus.MatchOption{fromSystemd, dbus.WithMatchInterface(managerFace), dbus.WithMatchMember("UnitRemoved")}
	if len(units) == 0 {
		rules = append(rules, append(changed, dbus.WithMatchPathNamespace(managerPath+"/unit")), loaded, gone)
	}
	for _, unit := range units {
		// The first change of a unit that was just loaded is told as UnitNew alone.
		path, name := dbus.WithMatchObjectPath(dbus.ObjectPath(objectPath(unit))), dbus.WithMatchArg(0, unit)
		rules = append(rules, with(changed, path), with(loaded, name), with(gone, name))
	}
	for _, rule := range rules {
		if err := b.connection.AddMatchSignalContext(ctx, rule...); err != nil {
			return err
		}
	}
	return nil
}

func with(options []dbus.MatchOption, more dbus.MatchOption) []dbus.MatchOption {
	return append(options[:len(options):len(options)], more)
}

// receive notes what signals are about until the connection ends, which closes them.
func (b *systemBus) receive(signals <-chan *dbus.Signal) {
	defer close(b.received)
	for signal := range signals {
		b.note(signal)
	}
}

func (b *systemBus) note(signal *dbus.Signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch signal.Name {
	case propertyFace + ".PropertiesChanged":
		b.noteUnit(unitOf(string(signal.Path)), false)
	case managerFace + ".UnitNew", managerFace + ".UnitRemoved":
		b.noteUnit(argument[string](signal, 0), true)
	case managerFace + ".Reloading":
		if argument[bool](signal, 0) { // it has only begun
			return
		}
		b.pending.reloaded = true
	case busName + ".NameOwnerChanged":
		if argument[string](signal, 0) != systemdName || argument[string](signal, 2) == "" { // the next one is to come
			return
		}
		b.pending.restarted = true
	default:
		return
	}
	select {
	case b.tokens <- struct{}{}:
	default:
	}
}

func (b *systemBus) noteUnit(unit string, anew bool) {
	if unit == "" {
		return
	}
	if b.pending.units == nil {
		b.pending.units = map[string]bool{}
	}
	b.pending.units[unit] = b.pending.units[unit] || anew
}

// argument returns one argument of a signal, the zero value if it is not there.
func argument[T any](signal *dbus.Signal, i int) (value T) {
	if i < len(signal.Body) {
		value, _ = signal.Body[i].(T)
	}
	return value
}

func (b *systemBus) changed() <-chan struct{} { return b.tokens }
func (b *systemBus) broken() <-chan struct{}  { return b.connection.Context().Done() }

func (b *systemBus) take() changes {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.pending
	b.pending = changes{}
	return taken
}

func (b *systemBus) units(ctx context.Context) ([]string, error) {
	var listed [][]any
	if err := b.manager.CallWithContext(ctx, managerFace+".ListUnits", 0).Store(&listed); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(listed))
	for _, unit := range listed {
		if len(unit) > 0 {
			if name, ok := unit[0].(string); ok {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

func (b *systemBus) properties(ctx context.Context, unit string) (map[string]any, error) {
	var path dbus.ObjectPath
	if err := b.manager.CallWithContext(ctx, managerFace+".GetUnit", 0, unit).Store(&path); err != nil {
		if isError(err, systemdName+".NoSuchUnit") {
			return nil, nil
		}
		return nil, err
	}
	object := b.connection.Object(systemdName, path)
	var variants map[string]dbus.Variant
	if err := object.CallWithContext(ctx, propertyFace+".GetAll", 0, unitFace).Store(&variants); err != nil {
		return nil, err
	}
	properties := make(map[string]any, len(variants))
	for name, variant := range variants {
		properties[name] = variant.Value()
	}
	var pid dbus.Variant
	if err := object.CallWithContext(ctx, propertyFace+".Get", 0, serviceFace, "MainPID").Store(&pid); err == nil { // no socket has one
		properties["MainPID"] = pid.Value()
	}
	return properties, nil
}

func (b *systemBus) exists(ctx context.Context, unit string) (bool, error) {
	err := b.manager.CallWithContext(ctx, managerFace+".GetUnitFileState", 0, unit).Err
	if isError(err, busName+".Error.FileNotFound") || isError(err, systemdName+".NoSuchUnit") {
		return false, nil
	}
	return err == nil, err
}

// isError reports whether err is the error of D-Bus that has this name.
func isError(err error, name string) bool {
	var of dbus.Error
	return errors.As(err, &of) && of.Name == name
}

func (b *systemBus) close() {
	b.end()
	b.connection.Close()
	<-b.received
}

// errEnded says that the connection has ended; systemd and D-Bus do that when they are restarted.
var errEnded = errors.New("the connection to D-Bus ended")
