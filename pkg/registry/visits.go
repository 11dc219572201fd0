package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// hurry has e visited as soon as possible.
func (p *Publisher) hurry(e *entry) {
	p.touch(e)
	p.agenda.drop(e)
	e.retry.Reset()
	if !e.busy && !e.queued {
		e.queued = true
		p.fresh = append(p.fresh, e)
	}
}

// scatter has everything visited soon that is not as it should be, in random order and spread over a
// short time, so that a store that is back is not met by all at once.
func (p *Publisher) scatter() {
	var waiting []*entry
	for _, e := range p.entries {
		if !e.busy && !e.leftover && !e.known.foreign && p.needs(e) {
			waiting = append(waiting, e)
		}
	}
	window := min(time.Duration(len(waiting)-1)*spreadEach, spreadMax)
	now := time.Now()
	for _, e := range waiting {
		e.retry.Reset()
		e.due = now
		if window > 0 {
			e.due = now.Add(rand.N(window))
		}
		e.queued = false
		p.agenda.put(e)
	}
	p.fresh = nil
	for _, e := range p.entries {
		if e.queued {
			p.fresh = append(p.fresh, e)
		}
	}
}

// needs reports whether a visit would change anything.
func (p *Publisher) needs(e *entry) bool {
	k := &e.known
	switch {
	case k.unsure:
		return true
	case e.wanted == "":
		return k.index != 0
	}
	return k.index == 0 || k.value != e.wanted || p.lease != 0 && k.lease != p.lease || !k.held
}

// inPlace reports whether the last thing known is that the store holds what the entry wants.
func (p *Publisher) inPlace(e *entry) bool {
	return e.wanted != "" && p.connected && !p.needs(e)
}

// registered reports whether readers find the record at now, as far as can be known: a store that
// does not answer us may still answer them, until the key is due to expire.
func (p *Publisher) registered(e *entry, now time.Time) bool {
	k := &e.known
	if e.wanted == "" || k.index == 0 || k.value != e.wanted || !k.held {
		return false
	}
	if p.lease != 0 && k.lease == p.lease {
		return now.Before(p.expires)
	}
	return now.Before(k.expires)
}

// gone reports whether there is nothing left to do for an entry that is not wanted.
func (e *entry) gone() bool {
	return e.wanted == "" && e.known.index == 0 && !e.known.unsure && !e.busy && !e.leftover
}

// forget drops an entry that is gone. If a write to it was not answered lately, it may still be done,
// and its lease would keep the key for ever: until then it is watched for.
func (p *Publisher) forget(e *entry) {
	p.discount(e)
	if p.lease != 0 && !p.leaving && time.Now().Before(e.haunted) {
		e.leftover, e.due = true, e.haunted
		p.agenda.put(e)
		return
	}
	p.agenda.drop(e)
	delete(p.entries, e.key)
}

// dispatch begins the visits that are due: first those about something new, which are never held up
// by repetitions, and as long as the store is believed to answer, those.
func (p *Publisher) dispatch(ctx context.Context) {
	if p.revocation != revocationNone {
		return // it may spare all of them
	}
	for len(p.fresh) > 0 && p.visiting < visitsMax && (p.connected || p.leaving) {
		e := p.fresh[0]
		p.fresh[0], p.fresh = nil, p.fresh[1:]
		e.queued = false
		p.call(ctx, e)
	}
	now := time.Now()
	for len(p.agenda) > 0 && p.visiting < repairsMax && p.isCalm() && !p.agenda[0].due.After(now) {
		e := p.agenda.next()
		if e.leftover && e.known.index != 0 && p.cfg.AwaitSweep && !p.isSwept {
			e.due = now.Add(p.cfg.TTL)
			p.agenda.put(e)
			continue
		}
		p.call(ctx, e)
	}
}

// visitOf returns a visit to the key of e as it is wanted now.
func (p *Publisher) visitOf(e *entry) visit {
	return visit{
		store: p.cfg.Store, owner: p.cfg.Owner, ttl: p.cfg.TTL, lease: p.lease,
		view: e.view, key: e.key, wanted: e.wanted, known: e.known,
	}
}

// call begins a visit.
func (p *Publisher) call(ctx context.Context, e *entry) {
	e.leftover = false
	p.touch(e)
	if e.busy || p.entries[e.key] != e || e.gone() {
		return
	}
	e.busy = true
	p.visiting++
	v := p.visitOf(e)
	p.begin(ctx, func(ctx context.Context) func() {
		o := v.run(ctx)
		return func() { p.finish(e, o) }
	})
}

// finish notes what a visit has come to, and when e is due again.
func (p *Publisher) finish(e *entry, o outcome) {
	p.touch(e)
	e.busy = false
	p.visiting--
	e.known, e.problem = o.known, o.err
	if o.unanswered {
		e.haunted = time.Now().Add(max(p.cfg.TTL, overdueAfter))
	}
	p.count(e, o)
	overtaken := e.noted > e.known.seen // somebody was there meanwhile
	if overtaken {
		e.suspect = e.suspect || p.inPlace(e)
		e.known.unsure = true
	}
	e.noted = 0
	var held *HeldError
	switch {
	case o.err == nil && p.needs(e):
		p.hurry(e)
	case o.err == nil:
		p.rest(e)
	case kv.Is(o.err, kv.NoLease):
		e.problem = nil
		p.loseLease(o.lease)
		p.hurry(e)
	case errors.As(o.err, &held):
		if overtaken || e.wanted != o.wanted { // who held it may be gone
			p.hurry(e)
		}
	case isOutage(o.err):
		p.later(e, retryMin, p.retry.Max)
		p.doubt(o.started)
	default:
		p.later(e, refusedMin, max(refusedMin, min(refusedMax, p.cfg.TTL)))
	}
}

// later has e visited again after a while that grows with each failure.
func (p *Publisher) later(e *entry, shortest, longest time.Duration) {
	e.retry.Min, e.retry.Max = shortest, longest
	e.due = time.Now().Add(e.retry.Next())
	p.agenda.put(e)
}

// rest leaves an entry alone that is as it should be: until it has to be renewed, if it has a TTL of
// its own, or until somebody changes it.
func (p *Publisher) rest(e *entry) {
	e.retry.Reset()
	if e.wanted != "" && p.lease == 0 {
		e.due = time.Now().Add(heartbeat(p.cfg.TTL))
		p.agenda.put(e)
	}
}

// count adds what a visit has done to the status, and logs it.
func (p *Publisher) count(e *entry, o outcome) {
	if o.wrote {
		p.status.Writes++
	}
	if o.renewed {
		p.status.Renewals++
	}
	if o.lease == 0 && (o.renewed || o.wrote && o.known.index != 0) {
		p.lives(o.started)
	}
	if o.err == nil {
		if o.wrote && e.suspect {
			p.status.Corrections++
		}
		e.suspect = false
	}
	p.announce(e, o.news, o.before)
}
