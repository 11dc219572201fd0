package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// farewell is how the keys of a lease are removed at the end: all in one step by ending the lease, if
// nothing else is attached to it. Another run of the same owner may have carried on with it already.
type farewell struct {
	revocation revocation
	revokeAt   time.Time
	problem    error // why the latest attempt failed
}

type revocation int

const (
	revocationNone revocation = iota // there is no lease to end, or it is over
	revocationDue                    // visits wait for it
	revocationBusy                   // as well
)

// withdraw removes every key that is ours, or with Keep those that are not wanted any more, for as
// long as the configuration allows. Its error says what is left.
func (p *Publisher) withdraw(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.WithdrawTimeout)
	defer cancel()
	timer := time.NewTimer(p.turn(ctx, p.leave))
	defer timer.Stop()
	for !p.hasLeft() {
		var happened func()
		select {
		case <-ctx.Done():
			return p.left()
		case <-timer.C:
		case happened = <-p.findings:
		}
		timer.Reset(p.turn(ctx, happened))
	}
	return nil
}

// leave begins the end.
func (p *Publisher) leave() {
	p.adopt()
	p.leaving, p.swept = true, nil
	p.retry.Reset()
	for key, e := range p.entries {
		switch {
		case !p.cfg.Keep:
			p.unwant(e)
		case e.wanted != "" || e.leftover:
			p.agenda.drop(e)
			p.discount(e)
			delete(p.entries, key)
		default:
			p.hurry(e)
		}
	}
	if !p.cfg.Keep && p.lease != 0 && (p.outage == nil || p.isAttached()) {
		p.revocation, p.revokeAt = revocationDue, time.Now()
	}
	p.touchAll()
}

// isAttached reports whether anything may be attached to the lease.
func (p *Publisher) isAttached() bool {
	for _, e := range p.entries {
		if e.busy || e.known.unsure || e.known.index != 0 && e.known.lease == p.lease {
			return true
		}
	}
	return false
}

// revoke ends the lease if that is due and nothing is being written.
func (p *Publisher) revoke(ctx context.Context) {
	if p.revocation != revocationDue || p.visiting > 0 || time.Now().Before(p.revokeAt) {
		return
	}
	p.revocation = revocationBusy
	id, needed, ours := p.lease, p.isAttached(), make(map[string]bool, len(p.entries))
	for key := range p.entries {
		ours[key] = true
	}
	p.begin(ctx, func(ctx context.Context) func() {
		if !needed {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, farewellMax)
			defer cancel()
		}
		err := p.end(ctx, id, ours)
		return func() { p.revoked(id, err, needed) }
	})
}

// errShared says that a lease has keys that are not known.
var errShared = errors.New("the lease has keys of somebody else too")

// end ends a lease that has no other keys than ours.
func (p *Publisher) end(ctx context.Context, id kv.LeaseID, ours map[string]bool) error {
	lease, err := p.cfg.Leaser.Lease(ctx, id)
	if err != nil {
		return err
	}
	if lease.Attached > len(lease.Keys) {
		return errShared // as far as can be known
	}
	for _, key := range lease.Keys {
		if !ours[key] {
			return errShared
		}
	}
	_, err = p.cfg.Leaser.Revoke(ctx, id)
	return err
}

// revoked notes what has come of ending the lease.
func (p *Publisher) revoked(id kv.LeaseID, err error, needed bool) {
	p.farewell.problem = nil
	p.touchAll()
	switch {
	case err == nil, kv.Is(err, kv.NoLease):
		p.revocation, p.lease, p.connected = revocationNone, 0, false
		for _, e := range p.entries {
			p.wentWith(e, id)
		}
	case needed && isOutage(err):
		p.revocation, p.revokeAt = revocationDue, time.Now().Add(p.retry.Next())
		p.farewell.problem = err
	default: // one by one, if there are any
		p.revocation = revocationNone
	}
}

// wentWith notes that the key of e has gone if it was attached to a lease that has ended. A write that
// was not answered can have no effect any more.
func (p *Publisher) wentWith(e *entry, id kv.LeaseID) {
	k := &e.known
	attached := k.index != 0 && k.lease == id
	if attached {
		p.status.Writes++
		p.announce(e, newsRemoved, "")
	}
	if attached || k.tried != "" {
		k.absent(k.seen)
	}
}

// hasLeft reports whether nothing is left to be removed.
func (p *Publisher) hasLeft() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.entries) == 0 && p.revocation == revocationNone
}

// left says what is left.
func (p *Publisher) left() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var problems []error
	for key, e := range p.entries {
		cause := errors.Join(e.problem, p.farewell.problem)
		switch {
		case e.known.index == 0 && !e.known.unsure && !e.busy:
			continue
		case cause == nil:
			cause = errors.New("there was no time left to try")
		}
		problems = append(problems, fmt.Errorf("%s was not removed and expires by itself within %v: %w", key, p.cfg.TTL, cause))
	}
	return errors.Join(problems...)
}
