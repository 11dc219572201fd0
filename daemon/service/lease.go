package service

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
)

// leases is what the leader's work and renewals have to agree on.
type leases struct {
	mu sync.Mutex
	// held has the leases about which a command is on its way that a renewal must not meet; the
	// channel is closed when the command is done. Expiry holds one slice at a time.
	held map[uint64]chan struct{}

	draw func() uint64 // returns an id for a new lease, which v3 would read as a positive number
}

// grantAttempts is how many ids are drawn before a grant gives up. One of them is taken already
// with a chance of one in 10^13 when there are a million leases.
const grantAttempts = 3

// Grant implements kv.Leaser. A lease that there is no room for is refused with NoSpace.
func (s *Service) Grant(ctx context.Context, ttl time.Duration) (kv.Lease, error) {
	return s.grant(ctx, ttl, command.Command{})
}

// grant proposes by with a body.
func (s *Service) grant(ctx context.Context, ttl time.Duration, by command.Command) (kv.Lease, error) {
	ttl, err := kv.LeaseTTL(ttl)
	if err != nil {
		return kv.Lease{}, err
	}
	if err := s.quota.reserve(store.ItemOverhead); err != nil {
		return kv.Lease{}, err
	}
	defer s.quota.release(store.ItemOverhead)
	for range grantAttempts {
		id := s.leases.draw()
		var result command.Result
		by.Body = command.LeaseGrant{ID: id, TTL: ttl}
		result, err = s.log.Propose(ctx, by)
		if err != nil {
			return kv.Lease{}, err
		}
		if result.Err == nil {
			return kv.Lease{ID: kv.LeaseID(id), TTL: ttl, Remaining: ttl, Index: result.Index}, nil
		}
		if err = result.Err; kv.Is(err, kv.Denied) {
			break
		} // else the id is taken, or is one that no lease can have
	}
	return kv.Lease{}, err
}

// KeepAlive implements kv.Leaser. The log learns nothing of it, but for a lease that it believes to
// be short of time: see command.LeaseCheckpoint. The leader alone knows of renewals, and only while it
// leads.
func (s *Service) KeepAlive(ctx context.Context, id kv.LeaseID) (kv.Lease, error) {
	return s.keepAlive(ctx, id, permit)
}

// permit permits everything.
func permit() error { return nil }

// keepAlive asks permitted once this member knows what others had changed before the call.
func (s *Service) keepAlive(ctx context.Context, id kv.LeaseID, permitted func() error) (kv.Lease, error) {
	lease, err := s.keepAliveLeading(ctx, id, permitted)
	if !kv.Is(err, kv.NoLeader) {
		return lease, err
	}
	if err := s.log.ReadBarrier(ctx); err != nil {
		return kv.Lease{}, err
	}
	if err := permitted(); err != nil {
		return kv.Lease{}, err
	}
	answer, err := s.askLeader(ctx, raftnode.MethodRenew, leaseQuestion{Lease: id})
	return answer.Lease, err
}

// keepAliveLeading renews a lease if this member leads and it is permitted. It is done only if the member led afterwards,
// too: a renewal that a new leader knows nothing of is none.
func (s *Service) keepAliveLeading(ctx context.Context, id kv.LeaseID, permitted func() error) (lease kv.Lease, err error) {
	err = s.log.WhileLeading(ctx, func() error {
		if err := permitted(); err != nil {
			return err
		}
		for {
			renewed, checkpointed, held, err := s.renew(id)
			switch {
			case err != nil:
				return err
			case held != nil:
				select {
				case <-held:
					continue
				case <-ctx.Done():
					return lateError(ctx, "lease keep-alive")
				}
			case checkpointed:
				whole := command.LeaseCheckpoint{Leases: []command.LeaseEnd{{Lease: uint64(id)}}}
				if _, err := s.log.ProposeLeading(ctx, command.Command{Body: whole}); err != nil {
					return err
				}
			}
			lease = renewed
			return nil
		}
	})
	if err != nil {
		return kv.Lease{}, err
	}
	return lease, nil
}

// renew renews a lease unless it is held.
func (s *Service) renew(id kv.LeaseID) (lease kv.Lease, checkpointed bool, held <-chan struct{}, err error) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if held, ok := s.leases.held[uint64(id)]; ok {
		return kv.Lease{}, false, held, nil
	}
	lease, checkpointed, err = s.state.machine.Renew(id, s.log.LeaseNow())
	return lease, checkpointed, nil, err
}

func lateError(ctx context.Context, op string) error {
	kind := kv.Unknown
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = kv.Timeout
	}
	return &kv.Error{Op: op, Kind: kind, Err: ctx.Err()}
}

// Lease implements kv.Leaser. What a lease has left is known to the leader alone.
func (s *Service) Lease(ctx context.Context, id kv.LeaseID) (kv.Lease, error) {
	answer, err := s.aboutLeases(ctx, leaseQuestion{Lease: id})
	return answer.Lease, err
}

// Leases implements kv.Leaser.
func (s *Service) Leases(ctx context.Context, after kv.LeaseID) ([]kv.Lease, kv.Index, error) {
	answer, err := s.aboutLeases(ctx, leaseQuestion{All: true, After: after})
	return answer.Leases, answer.Index, err
}

// aboutLeases answers a question about leases, when this member knows what others had changed before the call.
func (s *Service) aboutLeases(ctx context.Context, q leaseQuestion) (leaseAnswer, error) {
	answer, err := s.lookLeading(ctx, q)
	if !kv.Is(err, kv.NoLeader) {
		return answer, err
	}
	if err := s.log.ReadBarrier(ctx); err != nil {
		return leaseAnswer{}, err
	}
	return s.askLeader(ctx, raftnode.MethodLease, q)
}

// lookLeading answers a question about leases if this member leads.
func (s *Service) lookLeading(ctx context.Context, q leaseQuestion) (answer leaseAnswer, err error) {
	err = s.log.WhileLeading(ctx, func() (err error) {
		if q.All {
			answer.Leases, answer.Index = s.state.machine.SharedLeases(q.After, s.log.LeaseNow(), kv.LeasesMax)
			return nil
		}
		answer.Lease, err = s.state.machine.Lease(q.Lease, s.log.LeaseNow(), kv.LeaseKeysMax)
		return err
	})
	if err != nil {
		return leaseAnswer{}, err
	}
	return answer, nil
}

// Revoke implements kv.Leaser.
func (s *Service) Revoke(ctx context.Context, id kv.LeaseID) (kv.Index, error) {
	return s.revoke(ctx, command.Command{Body: command.LeaseRevoke{ID: uint64(id)}})
}

// revoke proposes c, whose body is a LeaseRevoke.
func (s *Service) revoke(ctx context.Context, c command.Command) (kv.Index, error) {
	result, err := s.log.Propose(ctx, c)
	if err == nil {
		err = result.Err
	}
	return result.Index, err
}
