package service

import (
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
		if !w.permitted(auth) {
			w.lost.Store(true)
			w.Watch.Close()
		}
	}
}

// guardedWatch is a watch of a session. It delivers what the session may see.
type guardedWatch struct {
	kv.Watch
	session *Session
	need    store.Need
	lost    atomic.Bool // it was ended because it lost its right
}

func (w *guardedWatch) permitted(auth *store.Auth) bool {
	if !auth.Enabled {
		return true
	}
	user, _ := auth.User(w.session.user)
	if w.session.hash != "" && w.session.hash != user.Hash { // whoever watches may not know the new password
		return false
	}
	return auth.Rights(w.session.user).Decide(w.need) != store.Denied
}

// Next implements kv.Watch. In addition it returns Denied when the watch has lost its right.
func (w *guardedWatch) Next(ctx context.Context) (kv.Event, error) {
	for {
		event, err := w.Watch.Next(ctx)
		auth := w.session.auth()
		if w.lost.Load() || err == nil && !w.permitted(auth) {
			w.Close()
			return kv.Event{}, w.session.deny("watch", w.need.Key)
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
	if kv.Below(w.need.Key, key) { // a directory above has gone; no value is in that
		return event, true
	}
	switch auth.Rights(w.session.user).Decide(store.Need{Key: key, AsDir: w.need.AsDir && key == w.need.Key}) {
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
