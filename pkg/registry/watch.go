package registry

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
)

// change says that somebody changed or removed a key, or a directory above it.
type change struct {
	key     string
	index   kv.Index
	removed bool
}

// watch reports changes below the prefix, so that a key that vanishes is put back at once. It is a
// hint only: whatever it misses while it reconnects, the next heartbeat finds.
func (p *Publisher) watch(ctx context.Context) {
	retry := backoff.Backoff{Min: retryMin, Max: retryMax}
	complained := false
	for ctx.Err() == nil {
		watch, err := p.cfg.Store.Watch(ctx, kv.WatchFrom{Key: p.cfg.Views[0].Prefix, Recursive: true})
		if err == nil || isOutage(err) {
			select {
			case p.links <- err:
			case <-ctx.Done():
			}
		} else if !complained {
			complained = true
			p.cfg.Log.Warn("cannot watch the registrations; one that vanishes is put back at its next heartbeat", "reason", err)
		}
		if err == nil && p.follow(ctx, watch) {
			retry.Reset()
		}
		retry.Wait(ctx)
	}
}

// follow reads one watch until it fails and reports whether it ever delivered.
func (p *Publisher) follow(ctx context.Context, watch kv.Watch) (delivered bool) {
	defer watch.Close()
	for {
		event, err := watch.Next(ctx)
		if err != nil {
			return delivered
		}
		delivered = true
		select {
		case p.changes <- change{key: event.Node.Key, index: event.Node.ModifiedIndex, removed: event.Removes()}:
		case <-ctx.Done():
			return delivered
		}
	}
}

// note makes the entries due that a change is about.
func (p *Publisher) note(c change) {
	for key, e := range p.entries {
		about := key == c.key || c.removed && kv.Below(key, c.key)
		if about && c.index > e.index { // otherwise it is our own write, or older than it
			e.unsure, e.due = true, time.Now()
		}
	}
}
