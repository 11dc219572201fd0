package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/registry"
)

const (
	checksMax = 32 // in flight, over all offers

	// The delay between two attempts grows from the first to the second: a server that is up in
	// milliseconds is registered in milliseconds, one that never comes costs little.
	retryMin = 5 * time.Millisecond
	retryMax = 250 * time.Millisecond

	// tellAfter is when somebody may begin to wonder why nothing is registered.
	tellAfter = 10 * time.Second
)

// gate holds offers back until they have answered once since their container started. All its
// methods are called by the loop that created it.
type gate struct {
	ctx      context.Context // ended by close
	cancel   context.CancelFunc
	log      *slog.Logger
	verdicts chan verdict
	doors    map[doorKey]*door
	slots    chan struct{} // one for each check in flight
	watchers sync.WaitGroup
}

// doorKey is one port of one run of a container.
type doorKey struct {
	id, run, protocol string
	port              int
}

// door is an offer that has checks.
type door struct {
	checks Checks
	cancel context.CancelFunc // ends the goroutine that tries it
	tried  bool               // at least one attempt has ended
	open   bool               // one has succeeded
}

// verdict is what an attempt has found out about a door.
type verdict struct {
	door *door
	open bool
}

func newGate(ctx context.Context, log *slog.Logger) *gate {
	ctx, cancel := context.WithCancel(ctx)
	return &gate{
		ctx: ctx, cancel: cancel, log: log,
		verdicts: make(chan verdict),
		doors:    map[doorKey]*door{},
		slots:    make(chan struct{}, checksMax),
	}
}

func (g *gate) close() {
	g.cancel()
	g.watchers.Wait()
}

// admit returns the records of the offers that have answered or need not, and begins to try the
// others. Offers that are not among these any more are forgotten.
func (g *gate) admit(offers []Offer) []registry.Record {
	var records []registry.Record
	doors := make(map[doorKey]*door, len(offers))
	for _, offer := range offers {
		if offer.Checks.empty() {
			records = append(records, offer.Record)
			continue
		}
		key := doorKey{offer.Workload.ID, offer.Workload.Run, offer.Record.Protocol, offer.Port}
		d := g.doors[key]
		if d == nil || !d.open && !d.checks.equal(offer.Checks) {
			if d != nil {
				d.cancel()
			}
			d = g.try(offer)
		}
		doors[key] = d
		if d.open {
			records = append(records, offer.Record)
		}
	}
	for key, d := range g.doors {
		if doors[key] == nil {
			d.cancel()
		}
	}
	g.doors = doors
	return records
}

// note takes in a verdict. A door that has been forgotten meanwhile is in no map, so that what is
// noted about it has no effect.
func (g *gate) note(v verdict) { v.door.tried, v.door.open = true, v.open }

// allTried reports whether each door was tried at least once.
func (g *gate) allTried() bool {
	for _, d := range g.doors {
		if !d.tried {
			return false
		}
	}
	return true
}

// try makes a door and starts the goroutine that knocks until it opens.
func (g *gate) try(offer Offer) *door {
	ctx, cancel := context.WithCancel(g.ctx)
	d := &door{checks: offer.Checks, cancel: cancel}
	log := g.log.With("container", offer.Workload.Name, "port", offer.Port, "service", offer.Record.Service)
	g.watchers.Go(func() {
		defer cancel()
		started, told := time.Now(), false
		for attempt, delay := 0, retryMin; ; attempt, delay = attempt+1, min(delay*2, retryMax) {
			err := g.answers(ctx, offer.Checks)
			if ctx.Err() != nil {
				return
			}
			if err == nil || attempt == 0 {
				select {
				case g.verdicts <- verdict{door: d, open: err == nil}:
				case <-ctx.Done():
					return
				}
			}
			if err == nil {
				return
			}
			if !told && time.Since(started) > tellAfter {
				told = true
				log.Warn("not registered yet: the port does not answer", "err", err)
			}
			select {
			case <-time.After(delay):
			case <-ctx.Done():
				return
			}
		}
	})
	return d
}

// answers runs the checks when a slot is free.
func (g *gate) answers(ctx context.Context, checks Checks) error {
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
		return checks.run(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}
