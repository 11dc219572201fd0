package registry

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
)

// followers keep up with what others do to the keys: one watch for each view, and a look at all keys
// when a watch begins, since it tells nothing of before, and once a minute, should it have missed
// something all the same.
type followers struct {
	open    map[string]bool // directories that are being watched
	refused map[string]bool // those that cannot be, and that was told
	looking bool
	lookAt  time.Time // of the next look
}

// link says what has become of the watch of one directory: nil, it is open.
type link struct {
	prefix string
	err    error
}

// watch reports changes below prefix until ctx ends.
func (p *Publisher) watch(ctx context.Context, prefix string) {
	retry := backoff.Backoff{Min: retryMin, Max: retryMax}
	for ctx.Err() == nil {
		watch, err := p.cfg.Store.Watch(ctx, kv.WatchFrom{Key: prefix, Recursive: true})
		p.tell(ctx, link{prefix, err})
		if err == nil {
			delivered, err := p.follow(ctx, watch)
			if delivered {
				retry.Reset()
			}
			p.tell(ctx, link{prefix, err})
		}
		retry.Wait(ctx) // an error of ctx ends the loop
	}
}

func (p *Publisher) tell(ctx context.Context, l link) {
	select {
	case p.links <- l:
	case <-ctx.Done():
	}
}

// follow reads one watch until it fails and reports whether it ever delivered.
func (p *Publisher) follow(ctx context.Context, watch kv.Watch) (delivered bool, err error) {
	defer watch.Close()
	for {
		event, err := watch.Next(ctx)
		if err != nil {
			return delivered, err
		}
		delivered = true
		select {
		case p.events <- event:
		case <-ctx.Done():
			return delivered, ctx.Err()
		}
	}
}

// linked notes what has become of a watch.
func (p *Publisher) linked(l link) {
	switch {
	case l.err == nil:
		p.lookAt = time.Now()
	case kv.Is(l.err, kv.HistoryGone): // it begins again from now
	case isOutage(l.err):
		p.doubt(time.Now())
	case !p.refused[l.prefix]:
		p.refused[l.prefix] = true
		p.say(slog.LevelWarn, "cannot watch the registrations; changes are found a little later", "directory", l.prefix, "reason", l.err)
	}
	p.open[l.prefix] = l.err == nil
	if l.err == nil {
		delete(p.refused, l.prefix)
	} else if p.lookAt.IsZero() {
		p.lookAt = time.Now().Add(p.lookInterval())
	}
}

// lookInterval is the time between two looks: a minute, or, without a watch, that of a heartbeat.
func (p *Publisher) lookInterval() time.Duration {
	for _, view := range p.cfg.Views {
		if !p.open[view.Prefix] {
			return heartbeat(p.cfg.TTL)
		}
	}
	return time.Duration(float64(verifyInterval) * (0.9 + 0.2*rand.Float64()))
}

// note acts on a change that somebody has made, perhaps we.
func (p *Publisher) note(event kv.Event) {
	node := event.Node
	if !event.Removes() {
		if e := p.entries[node.Key]; e != nil && node.ModifiedIndex > e.known.seen {
			p.changed(e, node)
		}
		return
	}
	p.entriesBelow(node.Key, func(e *entry) {
		if node.ModifiedIndex > e.known.seen {
			p.vanished(e, node.ModifiedIndex)
		}
	})
}

// changed acts on a new value at the key of e.
func (p *Publisher) changed(e *entry, node *kv.Node) {
	if p.isUncertain(e, node.ModifiedIndex) {
		return
	}
	before, wasThere := p.inPlace(e), e.known.index != 0
	v := p.visitOf(e)
	v.known.seen = node.ModifiedIndex
	e.problem = v.judge(node)
	e.known = v.known
	p.touch(e)
	switch {
	case e.known.foreign: // nothing to do until it goes
		p.agenda.drop(e)
	case e.leftover && wasThere: // another run of ours cares for it
	case p.needs(e):
		e.suspect = e.suspect || before
		e.leftover = false
		p.hurry(e)
	}
}

// vanished acts on the removal of the key of e at index.
func (p *Publisher) vanished(e *entry, index kv.Index) {
	if p.isUncertain(e, index) {
		return
	}
	before, wasThere := p.inPlace(e), e.known.index != 0
	e.known.absent(index)
	e.suspect = e.suspect || before
	p.touch(e)
	if e.wanted != "" || wasThere {
		e.leftover = false
		p.hurry(e)
	}
}

// isUncertain notes a change of a key of which it is not known what our own writes have made of it:
// then the store has to be read.
func (p *Publisher) isUncertain(e *entry, index kv.Index) bool {
	if e.busy {
		e.noted = max(e.noted, index)
		return true
	}
	if e.known.tried == "" {
		return false
	}
	e.known.unsure = true
	p.hurry(e)
	return true
}

// canLook reports whether a look at all keys may be made when it is due.
func (p *Publisher) canLook() bool {
	return p.connected && p.outage == nil && !p.leaving && !p.lookAt.IsZero()
}

// look begins a look at all keys if one is due.
func (p *Publisher) look(ctx context.Context) {
	if p.looking || !p.canLook() || time.Now().Before(p.lookAt) {
		return
	}
	p.looking = true
	p.lookAt = time.Now().Add(p.lookInterval())
	lease := p.lease
	p.begin(ctx, func(ctx context.Context) func() { return p.verify(ctx, lease) })
}

// verify finds out which keys are not there as they should be: from the lease, which tells all that
// is attached to it in one answer, or else from the directories.
func (p *Publisher) verify(ctx context.Context, id kv.LeaseID) func() {
	started := time.Now()
	if id != 0 {
		lease, err := p.cfg.Leaser.Lease(ctx, id)
		return func() { p.looked(started, err, func() { p.compareWithLease(id, lease) }, id) }
	}
	if p.cfg.Leaser != nil { // it may have been replaced by one that has leases
		if granted, err := p.cfg.Leaser.Grant(ctx, p.cfg.TTL); err == nil {
			return func() {
				p.looking, p.lease = false, granted.ID
				p.touchAll()
				p.tended(started, nil)
				p.scatter()
			}
		}
	}
	nodes, index := map[string]*kv.Node{}, kv.Index(0)
	var failed error
	for _, view := range p.cfg.Views {
		result, err := p.cfg.Store.Read(ctx, kv.Read{Key: view.Prefix, Recursive: true})
		switch {
		case kv.Is(err, kv.NotFound):
			index = max(index, indexOf(err))
		case err != nil:
			failed = err
		default:
			if index == 0 || result.Index < index {
				index = result.Index
			}
			for _, r := range records(view, result.Node) {
				nodes[r.node.Key] = r.node
			}
		}
	}
	return func() { p.looked(started, failed, func() { p.compareWithNodes(nodes, index) }, 0) }
}

// looked ends a look at all keys.
func (p *Publisher) looked(started time.Time, err error, compare func(), lease kv.LeaseID) {
	p.looking = false
	p.touchAll()
	switch {
	case err == nil:
		compare()
	case kv.Is(err, kv.NoLease):
		p.loseLease(lease)
	case isOutage(err):
		p.doubt(started)
	}
}

// compareWithLease doubts every key that is not attached. Of more keys than an answer names, those
// behind the last one named are left to the watch.
func (p *Publisher) compareWithLease(id kv.LeaseID, lease kv.Lease) {
	attached := make(map[string]bool, len(lease.Keys))
	last := ""
	for _, key := range lease.Keys {
		attached[key], last = true, max(last, key)
	}
	complete := lease.Attached <= len(lease.Keys)
	p.compare(lease.Index, func(e *entry) bool {
		return attached[e.key] || e.known.lease != id || !complete && e.key > last
	})
}

// compareWithNodes doubts every key that is not as it was left.
func (p *Publisher) compareWithNodes(nodes map[string]*kv.Node, index kv.Index) {
	p.compare(index, func(e *entry) bool {
		node := nodes[e.key]
		return node != nil && node.ModifiedIndex == e.known.index
	})
}

// compare has every key visited that was ours when the store stood at index, and is not there, and
// every key that somebody else had.
func (p *Publisher) compare(index kv.Index, isThere func(*entry) bool) {
	for _, e := range p.entries {
		switch {
		case e.busy || e.leftover || e.wanted == "":
		case e.known.foreign:
			p.hurry(e)
		case e.known.index != 0 && e.known.seen <= index && !isThere(e):
			e.suspect = e.suspect || p.inPlace(e)
			e.known.unsure = true
			p.hurry(e)
		}
	}
}
