package registry

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
)

// tie is what connects the publisher with the store: the lease that its keys share, if the store has
// such, and whether the store answers.
//
//	(nothing) -> what earlier runs left -> their lease, or a new one, or none -> connected
//	connected -> renewed every third of the TTL -> ... -> the lease has ended -> a new one
//
// Whether a request fails because of one key or because of the store is not to be seen from it. So
// each such failure raises a doubt, which one small request to the store settles: until then, and
// while that fails, nothing is repeated. What is new is tried once all the same.
type tie struct {
	connected bool       // it is known whether there is a lease, and which
	known     bool       // what earlier runs have left was looked at
	lease     kv.LeaseID // 0 while connected: the store has none
	expires   time.Time  // until when the lease lives at least
	outage    error      // why the store does not answer; nil while it does
	doubtful  bool       // somebody has not been answered
	heard     time.Time  // when the latest request began by which the store was found to answer
	tending   bool       // a request of this part is under way
	tendAt    time.Time  // of the next one; zero: when there is a doubt
	lost      time.Time  // when a lease has ended last
	retry     backoff.Backoff
}

// tend makes the request of this part that is due.
func (p *Publisher) tend(ctx context.Context) {
	if p.tendAt.IsZero() && !p.known { // the first turn
		p.tendAt = time.Now()
	}
	if !p.canTend() || time.Now().Before(p.tendAt) {
		return
	}
	request, lease := p.probe, p.lease
	switch {
	case !p.connected:
		c := connection{p: p, look: !p.known && isStanding(p.cfg.Owner), desired: p.desired.values}
		request = c.make
	case lease != 0:
		request = func(ctx context.Context) func() { return p.beat(ctx, lease) }
	}
	p.tending = true
	p.begin(ctx, func(ctx context.Context) func() {
		apply := request(ctx)
		return func() {
			p.tending = false
			p.touchAll()
			apply()
		}
	})
}

// canTend reports whether a request may be made. What earlier runs left without naming themselves
// is known by what is desired alone, so that a lease is chosen only then.
func (p *Publisher) canTend() bool {
	switch {
	case p.tending, p.tendAt.IsZero():
		return false
	case p.connected:
		return true
	case p.leaving:
		return false
	}
	return p.known || p.generation > 0 || !isStanding(p.cfg.Owner) || p.namesOwners()
}

func (p *Publisher) namesOwners() bool {
	for _, view := range p.cfg.Views {
		if view.namesOwner() {
			return true
		}
	}
	return len(p.cfg.Views) == 0
}

// isCalm reports whether what has failed may be repeated.
func (p *Publisher) isCalm() bool {
	return p.leaving || p.connected && p.outage == nil && !p.doubtful
}

// connection is the way to a lease.
type connection struct {
	p       *Publisher
	look    bool               // for what earlier runs have left
	desired map[string]*placed // at the time
	left    remains
	started time.Time // of the request that grants or renews
	lease   kv.LeaseID
	renewed bool // an earlier run's lease
}

func (c *connection) make(ctx context.Context) func() {
	p := c.p
	err := c.try(ctx)
	return func() {
		if err != nil {
			p.tended(time.Time{}, err)
			return
		}
		p.connect(c)
	}
}

func (c *connection) try(ctx context.Context) (err error) {
	if c.look {
		if c.left, err = c.p.lookForRemains(ctx, c.desired); err != nil {
			return err
		}
	}
	c.started = time.Now()
	leaser := c.p.cfg.Leaser
	if leaser == nil {
		if c.look {
			return nil // it has answered
		}
		return c.p.ask(ctx)
	}
	if c.left.lease != 0 && c.isWhole(ctx) {
		switch lease, err := leaser.KeepAlive(ctx, c.left.lease); {
		case err == nil && lease.TTL == c.p.cfg.TTL:
			c.lease, c.renewed = lease.ID, true
			return nil
		case err != nil && isOutage(err):
			return err
		}
	}
	c.started = time.Now()
	c.lease, err = c.p.grant(ctx)
	return err
}

// isWhole reports whether all that is attached to the lease of an earlier run was found: what was not
// would live as long as the lease, whoever wants it.
func (c *connection) isWhole(ctx context.Context) bool {
	lease, err := c.p.cfg.Leaser.Lease(ctx, c.left.lease)
	if err != nil {
		return isOutage(err) // renewing it will say so
	}
	found := make(map[string]bool, len(c.left.found))
	for _, r := range c.left.found {
		found[r.node.Key] = true
	}
	return !slices.ContainsFunc(lease.Keys, func(key string) bool { return !found[key] })
}

// grant returns a new lease, or 0 from a store that has none: it refuses to know what a lease is,
// and answers in the same breath when it is asked for a key.
func (p *Publisher) grant(ctx context.Context) (kv.LeaseID, error) {
	lease, err := p.cfg.Leaser.Grant(ctx, p.cfg.TTL)
	if err == nil {
		return lease.ID, nil
	}
	if knowsNoLeases(err) {
		return 0, p.ask(ctx)
	}
	return 0, err
}

// knowsNoLeases reports whether err is an answer that says nothing in the words of the store. That a
// server is not well it says in its own: those are kinds Unknown and Unavailable.
func knowsNoLeases(err error) bool {
	var e *kv.Error
	return errors.As(err, &e) && e.Kind == kv.Internal && e.Err == nil
}

// ask makes a small request that only a store that works can answer.
func (p *Publisher) ask(ctx context.Context) error {
	prefix := DefaultPrefix
	if len(p.cfg.Views) > 0 {
		prefix = p.cfg.Views[0].Prefix
	}
	_, err := p.cfg.Store.Read(ctx, kv.Read{Key: prefix + "/_", Quorum: true})
	switch kv.KindOf(err) {
	case kv.NotFound, kv.NotDir, kv.Denied:
		return nil
	}
	return err
}

// connect goes on from a store that has answered, with a lease or without.
func (p *Publisher) connect(c *connection) {
	first := !p.known
	p.connected, p.known, p.lease = true, true, c.lease
	for _, text := range c.left.unreadable {
		p.say(slog.LevelWarn, "cannot look for what an earlier run has left; it expires by itself", "reason", text)
	}
	p.inherit(c.left)
	p.tended(c.started, nil)
	if !first {
		p.scatter()
	}
}

// beat renews the lease.
func (p *Publisher) beat(ctx context.Context, lease kv.LeaseID) func() {
	started := time.Now()
	_, err := p.cfg.Leaser.KeepAlive(ctx, lease)
	if kv.Is(err, kv.Denied) {
		// Perhaps because of one key, which would take all others along.
		if other, failed := p.cfg.Leaser.Grant(ctx, p.cfg.TTL); failed == nil {
			return func() {
				if p.lease == lease {
					p.lease = other.ID
				}
				p.tended(started, nil)
				p.scatter()
			}
		}
	}
	return func() {
		p.tended(started, err)
		if kv.Is(err, kv.NoLease) || knowsNoLeases(err) && time.Now().After(p.expires) {
			p.loseLease(lease)
		}
	}
}

// probe asks whether the store answers.
func (p *Publisher) probe(ctx context.Context) func() {
	started := time.Now()
	err := p.ask(ctx)
	return func() { p.tended(started, err) }
}

// tended notes how a request of this part has ended, and when the next one is due.
func (p *Publisher) tended(started time.Time, err error) {
	if kv.Is(err, kv.NoLease) { // it has answered
		err = nil
	} else if err == nil && p.lease != 0 {
		p.status.Renewals++
		p.lives(started)
		p.expires = started.Add(p.cfg.TTL)
	}
	now := time.Now()
	if err != nil {
		p.setOutage(err)
		p.tendAt = now.Add(p.retry.Next())
		return
	}
	p.doubtful, p.tendAt = false, time.Time{}
	p.heard = started
	switch {
	case !p.connected: // the lease was found lost meanwhile
		p.tendAt = now
	case p.lease != 0:
		p.tendAt = now.Add(heartbeat(p.cfg.TTL))
	}
	over := p.outage != nil
	p.setOutage(nil)
	if over {
		p.scatter()
	}
}

// lives notes that what a request has renewed that began at started lives on.
func (p *Publisher) lives(started time.Time) {
	if started.After(p.status.Heartbeat) {
		p.status.Heartbeat, p.status.Expires = started, started.Add(p.cfg.TTL)
	}
}

// loseLease notes that a lease has ended, and everything with it.
func (p *Publisher) loseLease(id kv.LeaseID) {
	if id == 0 || id != p.lease {
		return // of before
	}
	now := time.Now()
	p.touchAll()
	p.connected, p.lease, p.tendAt = false, 0, now
	if again := p.lost.Add(leasesApart); again.After(now) {
		p.tendAt = again
	}
	p.lost = now
	p.status.LeasesLost++
	p.say(slog.LevelWarn, "the lease has ended, and all registrations with it; registering them again", "lease", id.String())
	for _, e := range p.entries {
		if e.known.lease == id {
			e.known.index, e.suspect = 0, false
		}
	}
}

// doubt has the store asked whether it answers, because a request that began at started was not
// answered.
func (p *Publisher) doubt(started time.Time) {
	if p.heard.After(started) || p.doubtful || !p.connected {
		return
	}
	p.doubtful = true
	if p.outage == nil {
		p.tendAt = time.Now()
	}
}

// setOutage notes whether the store answers, and logs the first and the last failure of a row.
func (p *Publisher) setOutage(cause error) {
	switch {
	case cause != nil && p.outage == nil && isOutage(cause):
		p.say(slog.LevelWarn, "store does not answer; trying until it does", "reason", cause)
	case cause != nil && p.outage == nil:
		p.say(slog.LevelWarn, "store refuses; trying until it does not", "reason", cause)
	case cause == nil && p.outage != nil:
		p.say(slog.LevelInfo, "store answers again")
	}
	if cause == nil {
		p.retry.Reset()
	}
	p.outage = cause
}

// heartbeat is a third of the TTL, spread by a tenth either way so that hosts that started
// together drift apart.
func heartbeat(ttl time.Duration) time.Duration {
	return time.Duration(float64(ttl) / 3 * (0.9 + 0.2*rand.Float64()))
}
