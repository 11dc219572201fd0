package service

import (
	"context"
	"slices"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/store"
)

const (
	// expireSlice is how many nodes are ended by one command: what a write that comes with it in one
	// log entry has to wait for. A shared lease with more of them still ends as a whole.
	expireSlice = 100
	// expireRate bounds how many nodes end in a second when many are due: writes go on in between,
	// and watchers can follow.
	expireRate = 20_000
	// tickInterval is how far the replicated clock may fall behind while leases live and nothing
	// is written. After a loss of the leader, leases have what they had left within this much.
	tickInterval = time.Second
	// proposeRetry is the pause after a proposal that did not go through.
	proposeRetry = 100 * time.Millisecond
	// leaseGrace is what a new leader adds to the time that a shared lease has left by the log, for
	// its holder to find the leader.
	leaseGrace = 5 * time.Second
)

// Lead does the work of the leader until ctx ends: it ends leases when they are due on the lease
// clock, and keeps that clock and what shared leases have left replicated. Run it from when the
// leader's term is open.
func (s *Service) Lead(ctx context.Context) {
	s.state.machine.Resume(s.log.LeaseNow(), leaseGrace)
	defer s.state.machine.Forget()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var rested time.Time // when the next slice may go
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.state.applied:
		case <-timer.C:
		}
		if rest := time.Until(rested); rest > 0 {
			timer.Reset(rest)
			continue
		}
		begun := time.Now()
		ended, wait := s.expireDue(ctx)
		rested = begun.Add(time.Duration(ended) * time.Second / expireRate)
		timer.Reset(wait)
	}
}

// expireDue proposes what is due: the end of leases, or a checkpoint of those that were not renewed
// for long, or a tick if the clock stood still for too long. It returns how many nodes have ended,
// and how long there is nothing to do unless something is applied.
func (s *Service) expireDue(ctx context.Context) (ended int, wait time.Duration) {
	now := s.log.LeaseNow()
	due, settle := s.hold(now)
	err := s.proposeDue(ctx, due)
	settle()
	switch {
	case err != nil:
		return 0, proposeRetry
	case len(due.Ended)+len(due.Silent) > 0:
		return due.Changes, 0
	case s.state.machine.Leases() == 0:
		return 0, time.Duration(due.Next - now) // for ever
	}
	clock, _ := s.state.machine.LeaseClock()
	tick := clock + int64(tickInterval)
	if now >= tick {
		if _, err := s.log.ProposeLeading(ctx, command.Command{Body: command.Tick{}}); err != nil {
			return 0, proposeRetry
		}
		return 0, tickInterval
	}
	return 0, time.Duration(min(due.Next, tick) - now)
}

// proposeDue proposes what is due and returns when it is done. A lease that was renewed meanwhile is
// no error: it stays.
func (s *Service) proposeDue(ctx context.Context, due store.Due) error {
	if len(due.Silent) > 0 {
		if _, err := s.log.ProposeLeading(ctx, command.Command{Body: command.LeaseCheckpoint{Leases: due.Silent}}); err != nil {
			return err
		}
	}
	if len(due.Ended) > 0 {
		if _, err := s.log.ProposeLeading(ctx, command.Command{Body: command.Expire{Leases: due.Ended}}); err != nil {
			return err
		}
	}
	return nil
}

// hold returns what is due. Until settle is called nobody can renew the leases in it: a renewal that
// the log does not know of would be overrun by what is proposed.
func (s *Service) hold(now int64) (due store.Due, settle func()) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	due = s.state.machine.Due(now, expireSlice)
	if len(due.Ended)+len(due.Silent) == 0 {
		return due, func() {}
	}
	settled := make(chan struct{})
	for _, l := range slices.Concat(due.Ended, due.Silent) {
		s.leases.held[l.Lease] = settled
	}
	return due, func() {
		s.leases.mu.Lock()
		defer s.leases.mu.Unlock()
		clear(s.leases.held)
		close(settled)
	}
}

func sameMember(a, b command.Member) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Voter == b.Voter && a.Learner == b.Learner &&
		slices.Equal(a.PeerURLs, b.PeerURLs) && slices.Equal(a.ClientURLs, b.ClientURLs)
}
