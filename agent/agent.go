// Package agent keeps what runs on one host registered: what a container engine, systemd and a
// directory of files report is turned into offers, one for each port that others can reach, and these
// are handed to the registrar for as long as they last.
//
// It knows what labels mean, which address of a host others can reach, and what people may ask about
// all that. It refuses to know how an engine is followed (pkg/workload and below), when an offer may be
// registered (pkg/registrar) and how records are kept in the store (pkg/registry).
//
//	docker, systemd, files -> Seen -> Offers, a pure function -> registrar -> publisher -> the store
package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
)

// Agent registers what sources report. Sources, Registrar, Publisher and Options are required, and set
// before Run.
type Agent struct {
	Sources   []Source
	Registrar *registrar.Registrar
	Publisher *registry.Publisher // the Registrar's
	Options   Options
	TTL       time.Duration // of registrations, by which the Publisher's progress is judged
	Hold      time.Duration // how long what a source reported stays valid when it fails; 0: for ever
	Log       *slog.Logger  // nil discards

	// Ready, unless nil, is called once, in a goroutine of Run, when each source has reported or is known
	// not to be there, and what answered at the first attempt is in the store.
	Ready func()

	// Leaves reports, when Run is told to end, whether nothing that is registered will answer in a moment.
	// Then it is draining for Drain, and removed. nil: that is the Publisher's to say.
	Leaves func(ctx context.Context) bool
	Drain  time.Duration

	mu      sync.Mutex // guards the fields below
	follows []*follow
	offers  []*Offer
	refused []Refusal
	turned  time.Time // when the loop last went round
	started time.Time
	isReady bool
}

const (
	// turnMax is how often the loop goes round without an event.
	turnMax = time.Second
	// againAfter is when tags that could not be fetched are tried again.
	againAfter = unfetchedFor
)

// Run registers until ctx ends, then lets the Registrar end and returns its error. It is called once.
func (a *Agent) Run(ctx context.Context) error {
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	told := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // what ends it may begin with leaving
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() {
		select {
		case <-told.Done():
			a.leave(ctx)
			cancel()
		case <-ctx.Done():
		}
	})

	updates := make(chan update)
	a.mu.Lock()
	a.started = time.Now()
	for _, source := range a.Sources {
		f := &follow{Source: source, log: a.Log, hold: a.Hold, started: time.Now()}
		a.follows = append(a.follows, f)
		group.Go(func() { f.run(ctx, updates) })
	}
	a.mu.Unlock()
	var registrarErr error
	registered := make(chan struct{})
	group.Go(func() {
		defer close(registered)
		registrarErr = a.Registrar.Run(ctx)
	})
	a.loop(ctx, updates, &group)
	<-registered
	return registrarErr
}

// loop keeps the registrar's offers equal to what the sources report, until ctx ends.
func (a *Agent) loop(ctx context.Context, updates <-chan update, group *sync.WaitGroup) {
	plan := newPlanner(a.Options)
	told := map[Refusal]bool{}
	tick := time.NewTicker(turnMax)
	defer tick.Stop()
	var begin beginning
	decided := time.Now()
	for isNew := true; ; {
		if isNew || plan.again && time.Since(decided) > againAfter {
			decided = time.Now()
			a.decide(plan, told)
		}
		a.mu.Lock()
		a.turned = time.Now()
		a.mu.Unlock()
		changed := a.Registrar.Changed()
		a.begin(ctx, &begin, group)
		select {
		case <-ctx.Done():
			return
		case u := <-updates:
			a.take(u)
			isNew = true
			a.takeAll(updates)
		case <-changed:
			isNew = false
		case <-tick.C:
			isNew = false
		}
	}
}

// takeAll takes what else is there already: many changes at one time are one.
func (a *Agent) takeAll(updates <-chan update) {
	for {
		select {
		case u := <-updates:
			a.take(u)
		default:
			return
		}
	}
}

func (a *Agent) take(u update) {
	a.mu.Lock()
	defer a.mu.Unlock()
	u.follow.take(u)
}

// decide makes offers of what is seen now.
func (a *Agent) decide(plan *planner, told map[Refusal]bool) {
	offers, refusals := plan.offers(a.seen())
	a.tell(refusals, told)
	list := make([]*registrar.Offer, len(offers))
	for i, offer := range offers {
		list[i] = &offer.Offer
	}
	a.Registrar.SetEach(list)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.offers, a.refused = offers, refusals
}

// seen returns what all sources have reported last.
func (a *Agent) seen() (all []Seen) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.follows {
		for _, w := range f.workloads {
			all = append(all, Seen{Source: f.Name, Workload: w})
		}
	}
	return all
}

// beginning is how far the agent has come since its start.
type beginning struct{ swept, ready bool }

// begin removes what earlier runs have left, once all sources have reported, and tells when the agent is
// ready. A source that does not answer delays the removal by the hold time: what it had may still run.
func (a *Agent) begin(ctx context.Context, b *beginning, group *sync.WaitGroup) {
	if b.swept && b.ready {
		return
	}
	known, heard := true, true
	a.mu.Lock()
	for _, f := range a.follows {
		known = known && f.known()
		heard = heard && (f.reported || f.failing())
	}
	offers := a.offers
	a.mu.Unlock()
	if !heard || !a.Registrar.AllTried() {
		return
	}
	if known && !b.swept {
		b.swept = true
		spare := make([]registry.Record, len(offers))
		for i, offer := range offers {
			spare[i] = offer.Record
		}
		a.Publisher.Sweep(spare) // not before: what answers is carried over without a gap
	}
	if !b.ready {
		b.ready = true
		group.Go(func() {
			if a.Publisher.Settle(ctx) != nil {
				return // ended before
			}
			a.mu.Lock()
			a.isReady = true
			a.mu.Unlock()
			if a.Ready != nil {
				a.Ready()
			}
		})
	}
}

// tell logs the refusals that were not told before: mistakes so that somebody corrects them, the
// rest for those who ask why.
func (a *Agent) tell(refusals []Refusal, told map[Refusal]bool) {
	now := make(map[Refusal]bool, len(refusals))
	for _, refusal := range refusals {
		now[refusal] = true
		if told[refusal] {
			continue
		}
		level := slog.LevelDebug
		if refusal.Mistake {
			level = slog.LevelWarn
		}
		args := []any{"source", refusal.Source, "workload", refusal.Workload}
		if refusal.Port != 0 {
			args = append(args, "port", refusal.Port)
		}
		a.Log.Log(context.Background(), level, "not registered as asked", append(args, "reason", refusal.Reason)...)
	}
	clear(told)
	for refusal := range now {
		told[refusal] = true
	}
}
