package service

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
)

const (
	// expireBatch is how many leases are ended at once. It bounds the burst that watchers see.
	expireBatch = 1000
	// tickInterval is how far the replicated clock may fall behind while leases live and nothing
	// is written. After a loss of the leader, leases have what they had left within this much.
	tickInterval = time.Second
	// proposeRetry is the pause after a proposal that did not go through.
	proposeRetry = 100 * time.Millisecond
)

// Lead does the work of the leader until ctx ends: it ends leases when they are due on the lease
// clock, and keeps that clock replicated. Run it from when the leader's term is open.
func (s *Service) Lead(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.state.applied:
		case <-timer.C:
		}
		timer.Reset(s.expireDue(ctx))
	}
}

// expireDue proposes the end of every lease that is due, and a tick if the clock stood still for
// too long. It returns how long there is nothing to do unless something is applied.
func (s *Service) expireDue(ctx context.Context) time.Duration {
	now := s.log.LeaseNow()
	due, next := s.state.machine.Due(now, expireBatch)
	if len(due) > 0 {
		if err := s.proposeAll(ctx, due); err != nil {
			return proposeRetry
		}
		return 0
	}
	if s.state.machine.Leases() == 0 {
		return math.MaxInt64
	}
	clock, _ := s.state.machine.LeaseClock()
	tick := clock + int64(tickInterval)
	if now >= tick {
		if _, err := s.log.Propose(ctx, command.Command{Body: command.Tick{}}); err != nil {
			return proposeRetry
		}
		return tickInterval
	}
	return time.Duration(min(next, tick) - now)
}

// proposeAll proposes commands side by side, so that the log takes them in one entry. A lease
// that was renewed meanwhile is no error: the command then does nothing.
func (s *Service) proposeAll(ctx context.Context, due []command.Expire) error {
	failed := make([]error, len(due))
	var proposals sync.WaitGroup
	for i, expire := range due {
		proposals.Go(func() { _, failed[i] = s.log.Propose(ctx, command.Command{Body: expire}) })
	}
	proposals.Wait()
	return errors.Join(failed...)
}

func sameMember(a, b command.Member) bool {
	return a.ID == b.ID && a.Name == b.Name && a.Voter == b.Voter &&
		slices.Equal(a.PeerURLs, b.PeerURLs) && slices.Equal(a.ClientURLs, b.ClientURLs)
}
