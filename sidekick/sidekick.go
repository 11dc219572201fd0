// Package sidekick is kvsidekick: it stands beside one workload, a command or a systemd unit, and
// keeps the service it offers registered from its first passing check until it stops.
//
// It knows the order of things at the end: drain, remove, stop. Whether a service is in the registry
// is decided by pkg/registrar, what the workload does is told by a workload.Source, and what operators
// want of it arrives over a local socket or the store.
//
// Asked to end while the workload runs, it first makes the record draining, waits for the drain time so
// that readers can follow, removes the record, and only then tells a command to stop. Of a unit that is
// told to stop systemd does the same: it stops the sidekick first and waits for it. If the sidekick alone
// is started anew, the record stays for its next run.
package sidekick

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

const (
	// progressMax is how long a part may take over what it does again and again, beyond the time that
	// it is given for it, before the service manager's watchdog is no longer fed.
	progressMax = 30 * time.Second

	// lastTry bounds how long the end waits for a store that is known not to answer.
	lastTry = time.Second

	// reviewEvery is how often the status is looked at although nothing was heard of.
	reviewEvery = 2 * time.Second
)

// Sidekick keeps one service registered while the one workload of Source runs and is healthy. The
// fields are set before Run.
type Sidekick struct {
	Publisher registry.PublisherConfig // of the record; OnStatus and WithdrawTimeout are the Sidekick's
	Overrides registrar.Overrides      // nil: there are none
	Peers     kvclient.Source          // where other instances of the service are seen, for Offer.KeepLast; nil: nowhere
	Offer     registrar.Offer          // what Source's workload offers; what changes with the workload is filled in

	Source  workload.Source
	Sight   func() error  // why Source cannot see its workload now, nil if it can; nil: it always can
	Outcome func() string // how Source ended, asked once it has; nil if it ends only when told to

	Drain           time.Duration // how long readers are given between knowing of the end and the end
	WithdrawTimeout time.Duration // how long a store that does not answer may delay the end, for each of draining and removing

	// Followed reports, when it is told to end, whether another run follows at once, to which it leaves
	// the record: the Publisher's Owner must be a StandingOwner then. nil: none does.
	Followed func(ctx context.Context) bool

	// Serve tells others how it stands, until ctx ends; nil: nobody is told.
	Serve  func(ctx context.Context, r *registrar.Registrar, p *registry.Publisher)
	Notify *Notifier    // nil tells nobody
	Log    *slog.Logger // nil discards

	// Owned by the goroutine of Run.
	publisher *registry.Publisher
	registrar *registrar.Registrar
	snapshots chan workload.Snapshot
	statuses  chan registry.Status
	state     workload.Workload
	status    registry.Status
	swept     bool   // what an earlier run has left was looked for
	told      string // why the first checks failed, as it was logged last
	ready     bool   // the record was registered at least once
}

// Run returns when ctx has ended or Source has, and the record is removed or known to expire.
func (s *Sidekick) Run(ctx context.Context) {
	if s.Notify == nil {
		s.Notify = &Notifier{}
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	// Both outlive ctx: what it ends begins with draining the record.
	lasting := context.WithoutCancel(ctx)
	stopRegistrar := s.startRegistrar(lasting)
	defer stopRegistrar()
	sourceEnded, stopSource := s.startSource(lasting)
	defer stopSource()
	started := time.Now()

	watchdog, stopWatchdog := s.startWatchdog()
	defer stopWatchdog()
	review := time.NewTicker(reviewEvery)
	defer review.Stop()
	for {
		changed := s.registrar.Changed()
		s.look()
		select {
		case <-ctx.Done():
			if s.Followed != nil && s.Followed(lasting) {
				s.handOver()
			} else {
				s.drain(lasting, sourceEnded)
				s.withdraw(lasting)
			}
			stopRegistrar()
			stopSource()
			s.tellEnd(slog.LevelInfo, started)
			return
		case <-sourceEnded:
			s.tellEnd(slog.LevelWarn, started)
			s.withdraw(lasting)
			return
		case snapshot := <-s.snapshots:
			s.follow(snapshot)
		case latest := <-s.statuses:
			s.settle(latest)
		case <-changed:
		case <-review.C:
		case <-watchdog:
			s.feed()
		}
	}
}

// startRegistrar runs the registrar and what serves it until stop is called; stop waits for the
// publisher's last attempt to remove the record.
func (s *Sidekick) startRegistrar(ctx context.Context) (stop func()) {
	s.statuses = make(chan registry.Status, 1)
	cfg := s.Publisher
	cfg.WithdrawTimeout, cfg.Log = lastTry, s.Log
	cfg.OnStatus = func(latest registry.Status) {
		select {
		case <-s.statuses: // nobody has read the one before: it is out of date
		default:
		}
		s.statuses <- latest
	}
	s.publisher = registry.NewPublisher(cfg)
	s.registrar = registrar.New(registrar.Config{
		Publisher: s.publisher, Overrides: s.Overrides, Peers: s.Peers, Prefix: s.Publisher.Prefix, Log: s.Log})
	ctx, cancel := context.WithCancel(ctx)
	registered, served := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(registered)
		if err := s.registrar.Run(ctx); err != nil {
			s.Log.Warn("ended without removing the record", "reason", err)
		}
	}()
	go func() {
		defer close(served)
		if s.Serve != nil {
			s.Serve(ctx, s.registrar, s.publisher)
		}
	}()
	return func() { cancel(); <-registered; <-served }
}

// startSource runs Source until it ends or stop is called; stop waits for it.
func (s *Sidekick) startSource(ctx context.Context) (ended <-chan struct{}, stop func()) {
	s.snapshots = make(chan workload.Snapshot)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Source.Run(ctx, s.snapshots); err != nil {
			s.Log.Error("cannot go on", "reason", err)
		}
	}()
	return done, func() { cancel(); <-done }
}

func (s *Sidekick) startWatchdog() (ticks <-chan time.Time, stop func()) {
	if s.Notify.watchdog <= 0 {
		return nil, func() {}
	}
	ticker := time.NewTicker(s.Notify.watchdog / 2)
	return ticker.C, ticker.Stop
}

// feed tells the service manager that everything turns: this loop, which calls it, the exchange with the
// store, and the checks.
func (s *Sidekick) feed() {
	if part, since := s.stuck(); part != "" {
		s.Log.Error("no progress; leaving it to the watchdog", "of", part, "for", since)
		return
	}
	s.Notify.living()
}

// stuck names the part that makes no progress, and for how long; "" if all do.
func (s *Sidekick) stuck() (part string, since time.Duration) {
	if since := time.Since(s.publisher.LastPass()); since > 2*s.Publisher.TTL+progressMax {
		return "the exchange with the store", since
	}
	for _, e := range s.registrar.Entries() {
		at, m := e.Verdict.At, s.Offer.Monitor
		if m == nil || e.Offer.State != workload.Running || at.IsZero() {
			continue
		}
		if since := time.Since(at); since > 2*(m.Interval+m.Timeout)+progressMax {
			return "the checks", since
		}
	}
	return "", 0
}

// follow acts on a new state of the workload.
func (s *Sidekick) follow(snapshot workload.Snapshot) {
	if len(snapshot.Workloads) == 0 {
		return
	}
	before, now := s.state, snapshot.Workloads[0]
	s.state = now
	offer := s.Offer
	offer.Workload, offer.Run, offer.State = now.Name, now.Run, now.State
	s.registrar.Set([]registrar.Offer{offer})
	if before.Reason != now.Reason || before.Run != now.Run {
		s.Log.Info("workload "+string(now.State), "what", now.Name, "state", now.Reason)
	}
}

// look acts on what the registrar has decided.
func (s *Sidekick) look() {
	if isStanding := s.Publisher.Owner != ""; isStanding && !s.swept && s.state.State != "" && s.registrar.AllTried() {
		s.swept = true // not before: what answers is carried over without a gap
		s.publisher.Sweep(nil)
	}
	if e, ok := s.entry(); ok && e.Phase == registrar.Checking && e.Verdict.Err != nil && e.Reason != s.told {
		s.told = e.Reason
		s.Log.Info("not healthy yet", "check", s.Offer.Monitor.Check.String(), "reason", e.Reason)
	}
	s.explain()
}

// entry is what the registrar knows of the service; false until it has seen it.
func (s *Sidekick) entry() (registrar.Entry, bool) {
	for _, e := range s.registrar.Entries() {
		return e, true
	}
	return registrar.Entry{}, false
}

// tellEnd logs the end of the workload, as a warning when nobody asked for it.
func (s *Sidekick) tellEnd(level slog.Level, started time.Time) {
	if s.Outcome == nil {
		return
	}
	outcome, hint := s.Outcome(), []any(nil)
	if level == slog.LevelWarn && !s.ready && outcome == succeeded {
		hint = []any{"hint", "it was never registered; a command that goes on in the background must be kept in the foreground, or followed with --unit"}
	}
	s.Log.Log(context.Background(), level, "workload ended", append([]any{"what", s.state.Name, "outcome", outcome,
		"ran", time.Since(started).Round(time.Millisecond)}, hint...)...)
}

// settle acts on what the publisher reports.
func (s *Sidekick) settle(latest registry.Status) {
	before := s.status
	s.status = latest
	switch {
	case latest.Registered > before.Registered:
		if !s.ready {
			s.ready = true
			s.Notify.ready()
		}
	case latest.Registered < before.Registered && latest.Wanted > 0 && latest.Err != nil:
		s.Log.Warn("not registered any more", "key", s.name(), "reason", latest.Err)
	}
}

// explain puts the state into one line for the service manager.
func (s *Sidekick) explain() {
	e, known := s.entry()
	text := ""
	switch {
	case s.state.State == "" || !known:
		text = "looking at the workload"
	case s.state.State == workload.Starting || s.state.State == workload.Stopped:
		text = fmt.Sprintf("not registered: %s is %s", s.state.Name, s.state.Reason)
	case e.State == "":
		text = "not registered: " + e.Reason
	case s.status.Registered == 0:
		text = "registering"
	case e.State == registry.StateUp:
		text = "registered as " + s.name()
	default:
		text = fmt.Sprintf("registered as %s, %s: %s", s.name(), e.State, e.Reason)
	}
	if e.Kept {
		text += ", as the last one although its check fails"
	}
	if s.status.Err != nil {
		text += fmt.Sprintf(" (%v)", s.status.Err)
	}
	if s.Sight != nil {
		if err := s.Sight(); err != nil {
			text += fmt.Sprintf(" (as it was last seen: %v)", err)
		}
	}
	s.Notify.status(text)
}

// name is what the record is called for people: its key, or its keys.
func (s *Sidekick) name() string {
	var keys []string
	for _, view := range s.Publisher.Views {
		keys = append(keys, s.Offer.Record.Key(view.Prefix))
	}
	if len(keys) == 0 {
		return s.Offer.Record.Key(cmp.Or(s.Publisher.Prefix, registry.DefaultPrefix))
	}
	return strings.Join(keys, ", ")
}
