// Package sidekick is kvsidekick: it stands beside one workload, a command or a systemd unit, and
// keeps the service it offers registered from its first passing check until it stops.
//
// It knows the order of events: gate, register, remove, drain, stop. How checks are made is
// pkg/health's business, how the store is kept in agreement pkg/registry's, and what the workload does
// is told by a workload.Source.
//
//	                 runs               passes                stops, fails its checks
//	(nothing) ----------------> gated ----------> registered -------------------------> removed
//	                              ^                                                        |
//	                              +---------------- runs anew, answers again --------------+
//
// Asked to end while the workload runs, it first removes the record, waits for the drain time so
// that readers can follow, and only then tells a command to stop.
package sidekick

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

const (
	// progressMax is how long the publisher may take over one pass, beyond two TTLs, before the
	// service manager's watchdog is no longer fed.
	progressMax = 30 * time.Second

	// lastTry bounds the publisher's own attempt to remove a record that withdraw could not remove.
	lastTry = time.Second

	// overdueAfter is when somebody may begin to wonder why nothing is registered, remindAfter when
	// to tell it again.
	overdueAfter = 10 * time.Second
	remindAfter  = 10 * time.Minute
)

// Sidekick keeps Record registered while the one workload of Source runs and Monitor finds it
// healthy. The fields are set before Run.
type Sidekick struct {
	Store           kv.Store
	Prefix          string
	TTL             time.Duration
	Record          registry.Record
	Monitor         health.Monitor
	Source          workload.Source
	Outcome         func() string // how Source ended, asked once it has; nil if it ends only when told to
	Drain           time.Duration // between removing the record and ending Source
	WithdrawTimeout time.Duration
	Notify          *Notifier    // nil tells nobody
	Log             *slog.Logger // nil discards

	// Owned by the goroutine of Run.
	publisher *registry.Publisher
	state     workload.Workload
	gate      *gate
	verdict   health.Verdict
	opened    time.Time   // when the gate was
	overdue   *time.Timer // to tell that no check has passed
	status    registry.Status
	ready     bool // the record was registered at least once
}

// gate is a running monitor. It is opened anew whenever the workload starts anew.
type gate struct {
	verdicts chan health.Verdict
	close    func() // ends the monitor and waits for it
}

// Run returns when ctx has ended or Source has, and the record is removed or known to expire.
func (s *Sidekick) Run(ctx context.Context) {
	if s.Notify == nil {
		s.Notify = &Notifier{}
	}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	// Both outlive ctx: what it ends begins with removing the record.
	lasting := context.WithoutCancel(ctx)
	statuses := make(chan registry.Status, 1)
	stopPublisher := s.startPublisher(lasting, statuses)
	defer stopPublisher()
	snapshots := make(chan workload.Snapshot)
	sourceEnded, stopSource := s.startSource(lasting, snapshots)
	defer stopSource()
	s.overdue = time.NewTimer(0)
	s.overdue.Stop()
	defer s.closeGate()
	started := time.Now()

	watchdog, stopWatchdog := s.startWatchdog()
	defer stopWatchdog()
	s.explain()
	for {
		select {
		case <-ctx.Done():
			if s.withdraw(lasting) {
				s.drain(sourceEnded)
			}
			stopSource()
			s.tellEnd(slog.LevelInfo, started)
			return
		case <-sourceEnded:
			s.tellEnd(slog.LevelWarn, started)
			s.withdraw(lasting)
			return
		case snapshot := <-snapshots:
			s.follow(lasting, snapshot.Workloads[0])
		case s.verdict = <-s.verdicts():
			s.judge()
		case <-s.overdue.C:
			s.remind()
		case latest := <-statuses:
			s.settle(latest)
		case <-watchdog:
			s.feed()
			continue
		}
		s.explain()
	}
}

// startPublisher runs the publisher until stop is called; stop waits for it to remove the record.
func (s *Sidekick) startPublisher(ctx context.Context, statuses chan registry.Status) (stop func()) {
	s.publisher = registry.NewPublisher(registry.PublisherConfig{
		Store: s.Store, Prefix: s.Prefix, TTL: s.TTL, WithdrawTimeout: lastTry, Log: s.Log,
		OnStatus: func(latest registry.Status) {
			select {
			case <-statuses: // nobody has read the one before: it is out of date
			default:
			}
			statuses <- latest
		},
	})
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.publisher.Run(ctx); err != nil {
			s.Log.Warn("ended without removing the record", "reason", err)
		}
	}()
	return func() { cancel(); <-ended }
}

// startSource runs Source until it ends or stop is called; stop waits for it.
func (s *Sidekick) startSource(ctx context.Context, snapshots chan workload.Snapshot) (ended <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Source.Run(ctx, snapshots); err != nil {
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

// feed tells the service manager that this loop turns, unless the publisher's has stopped.
func (s *Sidekick) feed() {
	if since := time.Since(s.publisher.LastPass()); since > 2*s.TTL+progressMax {
		s.Log.Error("no progress; leaving it to the watchdog", "for", since)
		return
	}
	s.Notify.living()
}

// follow acts on a new state of the workload.
func (s *Sidekick) follow(ctx context.Context, now workload.Workload) {
	before := s.state
	s.state = now
	switch {
	case now.State != workload.Running:
		s.closeGate()
		s.publish(false)
	case before.State != workload.Running || before.Run != now.Run:
		s.closeGate()
		s.publish(false)
		s.openGate(ctx)
	}
	if before.Reason != now.Reason || before.Run != now.Run {
		s.Log.Info("workload "+string(now.State), "what", now.Name, "state", now.Reason)
	}
}

func (s *Sidekick) openGate(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	verdicts, done := make(chan health.Verdict), make(chan struct{})
	go func() {
		defer close(done)
		s.Monitor.Run(ctx, func(v health.Verdict) {
			select {
			case verdicts <- v:
			case <-ctx.Done():
			}
		})
	}()
	s.gate = &gate{verdicts: verdicts, close: func() { cancel(); <-done }}
	s.opened = time.Now()
	s.overdue.Reset(overdueAfter)
}

func (s *Sidekick) closeGate() {
	if s.gate != nil {
		s.overdue.Stop()
		s.gate.close()
		s.gate, s.verdict = nil, health.Verdict{}
	}
}

// verdicts is nil, which blocks for ever, while there is no gate.
func (s *Sidekick) verdicts() <-chan health.Verdict {
	if s.gate == nil {
		return nil
	}
	return s.gate.verdicts
}

// judge acts on a new verdict.
func (s *Sidekick) judge() {
	if s.verdict.Err == nil {
		s.overdue.Stop() // from now on failures are told as they come
	}
	switch {
	case s.verdict.Err == nil:
	case s.ready:
		s.Log.Warn("check failed", "check", s.Monitor.Check.String(), "healthy", s.verdict.Healthy, "reason", s.verdict.Err)
	default:
		s.Log.Info("not healthy yet", "check", s.Monitor.Check.String(), "reason", s.verdict.Err)
	}
	s.publish(s.verdict.Healthy)
}

// remind tells that a workload that runs has passed no check yet.
func (s *Sidekick) remind() {
	reason := s.verdict.Err
	if reason == nil {
		reason = errNoVerdict
	}
	s.Log.Warn("not registered yet: the check does not pass", "check", s.Monitor.Check.String(),
		"for", time.Since(s.opened).Round(time.Second), "reason", reason)
	s.overdue.Reset(remindAfter)
}

var errNoVerdict = errors.New("the first check has not ended")

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

// publish wants the record in the store, or not.
func (s *Sidekick) publish(wanted bool) {
	if wanted {
		s.publisher.Set([]registry.Record{s.Record})
	} else {
		s.publisher.Set(nil)
	}
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
		s.Log.Warn("not registered any more", "key", s.Record.Key(s.Prefix), "reason", latest.Err)
	}
}

// withdraw removes the record and reports whether readers that still have it need time to follow.
func (s *Sidekick) withdraw(ctx context.Context) (needsDrain bool) {
	s.closeGate()
	s.Notify.stopping(s.WithdrawTimeout + s.Drain + progressMax)
	s.Notify.status("removing the record")
	// Not whether it is known to be registered: its answer may be on the way.
	before := s.publisher.Status().Removed
	s.publish(false)
	ctx, cancel := context.WithTimeout(ctx, s.WithdrawTimeout)
	defer cancel()
	if err := s.publisher.Settle(ctx); err != nil {
		s.Log.Warn("the record could not be removed; it expires", "within", s.TTL, "reason", err)
		return false
	}
	return s.publisher.Status().Removed > before && s.state.State == workload.Running
}

// drain lets the workload serve those who have not yet seen that its record is gone.
func (s *Sidekick) drain(sourceEnded <-chan struct{}) {
	s.Notify.status(fmt.Sprintf("draining for %v", s.Drain))
	timer := time.NewTimer(s.Drain)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-sourceEnded:
	}
}

// explain puts the state into one line for the service manager.
func (s *Sidekick) explain() {
	text := ""
	switch {
	case s.state.State == "":
		text = "looking at the workload"
	case s.state.State != workload.Running:
		text = fmt.Sprintf("not registered: %s is %s", s.state.Name, s.state.Reason)
	case !s.verdict.Healthy && s.verdict.Err != nil:
		text = fmt.Sprintf("not registered: %v", s.verdict.Err)
	case !s.verdict.Healthy:
		text = fmt.Sprintf("not registered: waiting for the check %v", s.Monitor.Check)
	case s.status.Registered == 0:
		text = "registering"
	default:
		text = "registered as " + s.Record.Key(s.Prefix)
	}
	if s.status.Err != nil {
		text += fmt.Sprintf(" (%v)", s.status.Err)
	}
	s.Notify.status(text)
}
