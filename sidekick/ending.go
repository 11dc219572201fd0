package sidekick

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
	"github.com/kvd-io/kvd/pkg/workload/systemd"
)

// drain tells readers that the service is about to end, and lets the workload serve those who have not
// heard of it yet. It does nothing if nobody can find the service, or readers have had their time.
func (s *Sidekick) drain(ctx context.Context, sourceEnded <-chan struct{}) {
	wait := s.drainTime()
	s.Notify.stopping(wait + 2*s.WithdrawTimeout + progressMax)
	if wait <= 0 {
		return
	}
	s.Notify.status("telling readers that it drains")
	bounded, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	if err := s.registrar.Drain(bounded); err != nil {
		s.Log.Warn("cannot tell readers to drain", "reason", err)
		return
	}
	s.Notify.status(fmt.Sprintf("draining for %v", wait.Round(time.Millisecond)))
	s.Log.Info("draining", "key", s.name(), "for", wait)
	over := time.NewTimer(wait)
	defer over.Stop()
	watchdog, stopWatchdog := s.startWatchdog()
	defer stopWatchdog()
	for s.state.State != workload.Stopped {
		select {
		case <-over.C:
			return
		case <-sourceEnded:
			return
		case snapshot := <-s.snapshots:
			s.follow(snapshot)
		case latest := <-s.statuses:
			s.settle(latest)
		case <-watchdog:
			s.feed()
		}
	}
}

// handOver leaves the record to the next run.
func (s *Sidekick) handOver() {
	s.Notify.stopping(progressMax)
	s.Notify.status("leaving the record to the next run")
	s.Log.Info("leaving the record to the next run", "key", s.name())
	s.publisher.Keep(true)
}

// askMax bounds how long the end waits for systemd to say why it has come.
const askMax = time.Second

// isRestartedAlone reports whether systemd starts this sidekick anew while its unit goes on.
func isRestartedAlone(ctx context.Context, unit string, log *slog.Logger) bool {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	plans, err := systemd.ReadPlans(ctx, unit)
	if err != nil {
		log.Debug("cannot find out why it is to end", "reason", err)
		return false
	}
	return !plans.Shutdown && plans.Own == systemd.JobRestart && !plans.Unit.Ends()
}

// drainTime is how long readers need from now on: all of the drain time if they still route to the
// service, what is left of it if they were told before, by an operator or by systemd.
func (s *Sidekick) drainTime() time.Duration {
	e, known := s.entry()
	status := s.publisher.Status()
	switch {
	case !known || status.Registered == 0 && status.Err != nil: // without an error the answer may be on its way
		return 0
	case e.State == "": // it is gone, or about to go
		return 0
	case s.state.State == workload.Starting || s.state.State == workload.Stopped:
		return 0
	case e.State == registry.StateUp:
		return s.Drain
	}
	return s.Drain - time.Since(e.Since)
}

// patience is how long the store may take to do one thing at the end.
func (s *Sidekick) patience() time.Duration {
	if s.publisher.Status().Err != nil {
		return min(s.WithdrawTimeout, lastTry)
	}
	return s.WithdrawTimeout
}

// withdraw removes the record.
func (s *Sidekick) withdraw(ctx context.Context) {
	s.Notify.stopping(s.WithdrawTimeout + progressMax)
	s.Notify.status("removing the record")
	ctx, cancel := context.WithTimeout(ctx, s.patience())
	defer cancel()
	if err := s.removed(ctx); err != nil {
		s.Log.Warn("the record could not be removed; it expires", "key", s.name(), "reason", err)
	}
}

// removed returns when the store has the record no more.
func (s *Sidekick) removed(ctx context.Context) error {
	s.registrar.Set(nil)
	for {
		changed := s.registrar.Changed()
		if len(s.registrar.Entries()) == 0 {
			return s.publisher.Settle(ctx)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), s.publisher.Status().Err)
		}
	}
}
