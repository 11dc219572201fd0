package service

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
)

// guards are all watches of sessions, so that those which lose their right can be ended whether
// anything happens to their keys or not.
type guards struct {
	mu      sync.Mutex // guards the fields below
	watches map[*guardedWatch]struct{}
	seen    *store.Auth // as of the last check
}

func (g *guards) add(w *guardedWatch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.watches == nil {
		g.watches = map[*guardedWatch]struct{}{}
	}
	g.watches[w] = struct{}{}
}

func (g *guards) remove(w *guardedWatch) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.watches, w)
}

// check ends the watches that auth does not permit, unless it has been checked.
func (g *guards) check(auth *store.Auth) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if auth == g.seen {
		return
	}
	g.seen = auth
	for w := range g.watches {
		if _, permitted := w.permitted(auth); !permitted {
			w.lost.Store(true)
			w.Watch.Close()
		}
	}
}

// guardedWatch is a watch of a session. It delivers what the session may see.
type guardedWatch struct {
	kv.Watch
	session *Session
	needs   []store.Need
	lost    atomic.Bool // it was ended because it lost its right
}

// permitted returns whether the watch may go on, and the key for which it may not.
func (w *guardedWatch) permitted(auth *store.Auth) (key string, permitted bool) {
	if !auth.Enabled {
		return "", true
	}
	user, _ := auth.User(w.session.user)
	if w.session.hash != "" && w.session.hash != user.Hash { // whoever watches may not know the new password
		return w.needs[0].Key, false
	}
	key, lacks := w.session.lacks(auth, w.needs)
	return key, !lacks
}

// Next implements kv.Watch. In addition it returns Denied when the watch has lost its right.
func (w *guardedWatch) Next(ctx context.Context) (kv.Event, error) {
	for {
		event, err := w.Watch.Next(ctx)
		auth := w.session.auth()
		lost := w.lost.Load()
		if key, permitted := w.permitted(auth); lost || err == nil && !permitted {
			w.Close()
			return kv.Event{}, w.session.deny("watch", cmp.Or(key, w.needs[0].Key))
		}
		if err != nil {
			return kv.Event{}, err
		}
		if event, visible := w.see(auth, event); visible {
			return event, nil
		}
	}
}

// see returns what the session may see of an event that its watch wants.
func (w *guardedWatch) see(auth *store.Auth, event kv.Event) (kv.Event, bool) {
	if !auth.Enabled {
		return event, true
	}
	key := event.Node.Key
	asDir := false
	for _, need := range w.needs {
		if event.Removes() && event.Node.Dir && kv.Below(need.Key, key) { // a directory above has gone; no value is in that
			return event, true
		}
		asDir = asDir || need.AsDir && need.Key == key
	}
	switch auth.Rights(w.session.user).Decide(store.Need{Key: key, AsDir: asDir}) {
	case store.Allowed:
		return event, true
	case store.AllowedAsDir:
		if event.PrevNode != nil && !event.PrevNode.Dir {
			event.PrevNode = nil
		}
		return event, event.Node.Dir
	}
	return kv.Event{}, false
}

// Close implements kv.Watch.
func (w *guardedWatch) Close() {
	w.session.service.state.guards.remove(w)
	w.Watch.Close()
}
