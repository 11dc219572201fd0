// Package registrar decides which of the offers of a host are in the registry now, and in which
// state.
//
// It holds an offer back until its checks pass, takes it out when they fail for long enough, drains
// it when its workload stops, and does what operators want of it. It does not know where offers come
// from (pkg/workload and the programs), how a check is made (pkg/health), nor how the store is kept
// in agreement (pkg/registry).
//
//	               runs             passes            fails too often
//	(starting) ----------> checking -------> up <------------------------> unhealthy
//	                          ^               |  \        passes             |
//	                          |               |   +--- an operator: draining, maintenance
//	                          +- runs anew ---+--- told to stop: stopping (its record drains) --> gone
package registrar

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// What becomes of a record whose instance was healthy and fails its checks now.
const (
	UnhealthyRemove = "remove" // it has no record
	UnhealthyMark   = "mark"   // its record stays, in the state unhealthy
)

// Offer is one instance of a service that a host has to offer.
type Offer struct {
	Record   registry.Record // as it is when all is well; State is set by the Registrar
	Source   string          // who found it: "docker", "systemd", "file" or "command"
	Workload string          // the container, unit or command it belongs to, for people
	Run      string          // changes when the workload starts anew: it has to pass its checks again
	State    workload.State  // only Running is registered; Stopping drains; with Failed what was in use stays

	// Health is the engine's own verdict; HealthUnknown if there is none, or it is not to count.
	Health workload.Health
	// Monitor says what has to pass beyond Health; nil if nothing has. Its check is the same one as
	// long as its String is. The Registrar gives it slots and runs it; another one carries on from
	// what it has found out.
	Monitor *health.Monitor

	Unhealthy string // UnhealthyRemove, which "" means, or UnhealthyMark
	KeepLast  bool   // the last healthy instance of the service is not taken away because of a check
	Address   string // which rule gave the record its address, for people
}

// Phase is where an offer stands.
type Phase string

// The phases.
const (
	Starting        Phase = "starting"          // its workload does not run yet
	Checking        Phase = "checking"          // it runs and has not passed its checks yet
	Up              Phase = "up"                // it is registered
	Unhealthy       Phase = "unhealthy"         // it was up and fails its checks
	Draining        Phase = "draining"          // an operator, or Drain, wants no new work for it
	Maintenance     Phase = "maintenance"       // an operator has taken it out
	Stopping        Phase = "stopping"          // its workload was told to stop
	Failed          Phase = "failed"            // its workload has ended by itself with an error
	Held            Phase = "held"              // somebody else has its key
	WaitingForStore Phase = "waiting-for-store" // it should be registered and the store does not answer
)

// Entry is an offer with all that is known about it.
type Entry struct {
	Offer    Offer
	Phase    Phase
	Since    time.Time      // when Phase became what it is
	Reason   string         // why, in a few words; "" if all is well
	State    string         // of its record in the registry as it should be; "" if it has none
	Weight   int            // of its record
	Kept     bool           // it is registered as up although it fails: it is the last one, or its workload has Failed
	Verdict  health.Verdict // of the Monitor
	Override override.Override
	Keys     []registry.KeyStatus // of its record, one for each view
}

// Stats count since the start.
type Stats struct {
	Checks   uint64 // checks that have ended
	Failures uint64 // of these, those that have failed
}

// Overrides are the wishes of operators. *override.Source is one.
type Overrides interface {
	// Run keeps them up to date until ctx ends.
	Run(ctx context.Context) error
	// Get returns what is wanted of one instance, the zero Override if nothing is.
	Get(service, instance string) override.Override
	// Changed returns a channel that is closed when any Get has another answer.
	Changed() <-chan struct{}
}

// Config is what a Registrar needs. Only Publisher is required.
type Config struct {
	Publisher *registry.Publisher // the Registrar alone sets its records and runs it
	Overrides Overrides           // nil: there are none; the Registrar runs it

	// Peers is where the Registrar sees the other instances of the services that KeepLast; nil: it
	// sees none, and keeps every one of theirs. Prefix is the directory of the Publisher's view in
	// LayoutJSON, without which nothing is seen; "" means registry.DefaultPrefix.
	Peers  kvclient.Source
	Prefix string

	Log *slog.Logger // nil discards
}

// Registrar keeps the records of the offers that are to be registered, and no others, with its
// Publisher. Its methods are safe for concurrent use; Run is called once.
type Registrar struct {
	cfg      Config
	slots    *health.Slots
	wake     chan struct{} // holds one token when there is something to decide
	checks   atomic.Uint64
	failures atomic.Uint64
	peers    *peers // owned by Run

	mu       sync.Mutex // guards the fields below
	offers   []*Offer
	isNew    bool           // offers were set and Run has not seen them
	gates    []*gate        // of the offers that Run has seen, in their order
	known    map[name]*gate // of these, those that count
	round    uint64         // grows with each Set that Run has seen
	draining bool
	allTried bool
	ended    bool
	changed  chan struct{} // closed and replaced when an entry has changed
}

// name is what an instance is known by in the registry.
type name struct{ service, instance string }

// New returns a Registrar without offers. It does nothing until Run.
func New(cfg Config) *Registrar {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Prefix = cmp.Or(kv.Clean(cfg.Prefix), registry.DefaultPrefix)
	return &Registrar{
		cfg: cfg, slots: health.NewSlots(), wake: make(chan struct{}, 1),
		known: map[name]*gate{}, changed: make(chan struct{}),
	}
}

// Set replaces the offers. It never blocks. The slice and what it points to must not be changed
// afterwards. Of several offers of one instance of a service the first counts.
func (r *Registrar) Set(offers []Offer) {
	each := make([]*Offer, len(offers))
	for i := range offers {
		each[i] = &offers[i]
	}
	r.SetEach(each)
}

// SetEach is Set for many of which few change: what has the address that it had before is the same, and
// is not looked at.
func (r *Registrar) SetEach(offers []*Offer) {
	r.mu.Lock()
	r.offers, r.isNew, r.allTried = offers, true, false
	r.mu.Unlock()
	r.poke()
}

// Drain makes all records that are up draining, for good, and returns when the store has it. It
// returns early with an error when ctx ends or Run has ended.
func (r *Registrar) Drain(ctx context.Context) error {
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	r.poke()
	for {
		r.mu.Lock()
		drained, ended, changed := r.isDrained(), r.ended, r.changed
		r.mu.Unlock()
		switch {
		case ended:
			return &kv.Error{Op: "drain", Kind: kv.Closed, Cause: "the registrar has ended"}
		case drained:
			return r.cfg.Publisher.Settle(ctx)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *Registrar) isDrained() bool {
	return !r.isNew && !slices.ContainsFunc(r.gates, func(g *gate) bool { return g.now.state == registry.StateUp })
}

// AllTried reports whether every offer of the latest Set was decided about: each check has ended at
// least once, and what passed is among the Publisher's records.
func (r *Registrar) AllTried() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.allTried
}

// Changed returns a channel that is closed when Entries or AllTried may have another answer. Take it
// before asking.
func (r *Registrar) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Entries returns what is known about each offer of the latest Set that Run has seen, in its order.
func (r *Registrar) Entries() []Entry {
	keys := map[name][]registry.KeyStatus{}
	for _, key := range r.cfg.Publisher.Keys() {
		n := name{key.Service, key.Instance}
		keys[n] = append(keys[n], key)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	entries := make([]Entry, 0, len(r.gates))
	for _, g := range r.gates {
		entries = append(entries, g.entry(keys[nameOf(g.offer)]))
	}
	return entries
}

// Stats returns what was counted since the start.
func (r *Registrar) Stats() Stats {
	return Stats{Checks: r.checks.Load(), Failures: r.failures.Load()}
}

func nameOf(offer *Offer) name { return name{offer.Record.Service, offer.Record.Instance} }

// poke wakes Run.
func (r *Registrar) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run registers until ctx ends, and then ends as its Publisher does: it returns the Publisher's
// error.
func (r *Registrar) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	var publisherErr error
	published := make(chan struct{})
	group.Go(func() {
		defer close(published)
		publisherErr = r.cfg.Publisher.Run(ctx)
	})
	if r.cfg.Overrides != nil {
		group.Go(func() {
			if err := r.cfg.Overrides.Run(ctx); err != nil {
				r.cfg.Log.Error("overrides are not followed any more", "reason", err)
			}
		})
	}
	r.peers = &peers{registrar: r, followed: map[string]*peer{}}
	r.loop(ctx, &group)
	<-published
	r.mu.Lock()
	r.ended = true
	r.stir()
	r.mu.Unlock()
	return publisherErr
}

// loop decides whenever something has happened, until ctx ends.
func (r *Registrar) loop(ctx context.Context, group *sync.WaitGroup) {
	timer := time.NewTimer(remindAfter)
	defer timer.Stop()
	var overridden <-chan struct{}
	for ctx.Err() == nil {
		all := false
		if r.cfg.Overrides != nil {
			changed := r.cfg.Overrides.Changed()
			all, overridden = changed != overridden, changed
		}
		published := r.cfg.Publisher.Changed()
		timer.Reset(r.decide(ctx, group, all))
		select {
		case <-ctx.Done():
		case <-r.wake:
		case <-overridden:
		case <-published:
		case <-timer.C:
		}
	}
}

// stir wakes those who wait for a change. It is called with mu held.
func (r *Registrar) stir() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// decide brings the gates about which there is news, or all of them, and the publisher's records to what
// is known now, and returns how long nothing else is to be said.
func (r *Registrar) decide(ctx context.Context, group *sync.WaitGroup, all bool) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	records := r.isNew
	if r.isNew {
		r.isNew = false
		r.adopt(ctx, group)
	}
	all = all || r.draining
	allTried, quiet := true, remindAfter
	for _, g := range r.gates {
		if g.now.kept && r.peers.mayGo(g.offer.Record) {
			g.gone, g.news = true, true
		}
		if g.news || all {
			if r.cfg.Overrides != nil {
				g.override = r.cfg.Overrides.Get(g.offer.Record.Service, g.offer.Record.Instance)
			}
			records = g.decide(r.draining, r.cfg.Log) || records
		}
		quiet = min(quiet, g.remind(r.cfg.Log))
		allTried = allTried && g.tried()
	}
	if records {
		r.cfg.Publisher.Set(r.records())
	}
	r.allTried = allTried
	r.stir()
	return quiet
}

// adopt carries the offers over to the gates.
func (r *Registrar) adopt(ctx context.Context, group *sync.WaitGroup) {
	r.round++
	r.gates = make([]*gate, 0, len(r.offers))
	for _, offer := range r.offers {
		n := nameOf(offer)
		g := r.known[n]
		switch {
		case g == nil:
			g = &gate{offer: &Offer{}}
			r.known[n] = g
		case g.round == r.round:
			r.gates = append(r.gates, &gate{offer: offer, rival: g.offer.Workload, news: true})
			continue
		}
		g.round = r.round
		r.gates = append(r.gates, g)
		if g.offer != offer && g.follow(offer) {
			r.start(ctx, group, g)
		}
	}
	for n, g := range r.known {
		if g.round != r.round {
			g.stop()
			delete(r.known, n)
		}
	}
	r.peers.follow(ctx, group, r.gates)
}

// start runs the monitor of a gate.
func (r *Registrar) start(ctx context.Context, group *sync.WaitGroup, g *gate) {
	ctx, cancel := context.WithCancel(ctx)
	c := &checking{monitor: *g.offer.Monitor, cancel: cancel}
	g.checking = c
	monitor, last := *g.offer.Monitor, g.verdict
	monitor.Slots = r.slots
	group.Go(func() {
		monitor.Run(ctx, last, func(v health.Verdict) {
			r.checks.Add(1)
			if v.Err != nil {
				r.failures.Add(1)
			}
			r.mu.Lock()
			news := g.checking == c && g.note(v)
			r.mu.Unlock()
			if news {
				r.poke()
			}
		})
	})
}

func (r *Registrar) records() []registry.Record {
	records := make([]registry.Record, 0, len(r.gates))
	for _, g := range r.gates {
		if g.now.state == "" {
			continue
		}
		record := g.offer.Record
		record.State, record.Weight, record.Kept = g.now.state, g.now.weight, g.now.kept
		records = append(records, record)
	}
	return records
}
