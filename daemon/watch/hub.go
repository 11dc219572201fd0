// Package watch brings events to those who wait for them. The hub holds one log of the last
// events; a watcher is a path and a position in that log, and has no buffer of its own. A slow
// watcher is only an old position; when the log no longer reaches back to it, it is told so.
//
// It knows events and paths. It does not know who reads, over which API, or how events come to be;
// they arrive in index order from the one goroutine that applies the log.
package watch

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/pkg/kv"
)

// lag is how many times the length of the history a watcher may be behind, once it is registered.
// A batch of writes can bring more events than the history has places; who keeps up has then to be
// able to read them all, and some more that come while it does.
const lag = 4

// lagBytes bounds the values of the events that are there for watchers who are behind. When there are
// more, only the history itself is left: what clients write must not be held four times over.
const lagBytes = 64 << 20

// Hub is the log of events and the index of who watches which path. The methods Publish, Reset and
// Close are for its owner; Watch may be called from any goroutine.
type Hub struct {
	length int // events that a watch can begin with
	limit  int // of watchers, 0 for none

	mu        sync.RWMutex // guards the fields below and the next of every watcher
	events    []kv.Event   // in index order: what the last Publish brought, and lag*length before that at most
	bytes     int          // of the values in events
	forgotten kv.Index     // of the newest event that is no longer there
	dropped   kv.Index     // of the newest event that a watch can no longer begin with
	index     kv.Index     // the store's
	paths     btree.Map[string, *group]
	count     int // of watchers
	closed    bool
	cut       bool   // there are no watches now
	reason    string // of the last Interrupt

	registered, delivered, lost atomic.Uint64

	woken []*Watcher // room for Publish to work in
}

// group is the watchers of one path.
type group struct{ exact, recursive list }

func (g *group) of(w *Watcher) *list {
	if w.recursive {
		return &g.recursive
	}
	return &g.exact
}

func (g *group) empty() bool { return g.exact.first == nil && g.recursive.first == nil }

// each calls do with every watcher of the group.
func (g *group) each(do func(*Watcher)) {
	for _, l := range []list{g.exact, g.recursive} {
		for p := l.first; p != nil; p = p.later {
			do(p.watcher)
		}
	}
}

// list links places through themselves, and the first place of a watcher is in it: a watcher of one key
// that waits costs itself and nothing more.
type list struct{ first *place }

// place is where a watcher stands in the list of one of its keys.
type place struct {
	watcher        *Watcher
	earlier, later *place // guarded by hub.mu
}

func (l *list) add(p *place) {
	p.later = l.first
	if l.first != nil {
		l.first.earlier = p
	}
	l.first = p
}

func (l *list) remove(p *place) {
	if p.earlier == nil {
		l.first = p.later
	} else {
		p.earlier.later = p.later
	}
	if p.later != nil {
		p.later.earlier = p.earlier
	}
	p.earlier, p.later = nil, nil
}

// NewHub returns a hub whose watches can begin with any of the last length events.
func NewHub(length int) *Hub { return &Hub{length: length} }

// LimitWatchers sets how many watchers there may be at a time, 0 for any number. Call it before
// the first Watch.
func (h *Hub) LimitWatchers(n int) { h.limit = n }

// Reset makes the hub agree with a store that was restored: its events, oldest first, the index
// of the newest event that the store no longer has, and the store's index. Watchers go on where
// they were if the events reach back that far.
func (h *Hub) Reset(events []kv.Event, dropped, index kv.Index) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.index
	h.events, h.forgotten, h.dropped, h.index = events, dropped, dropped, index
	h.bytes = 0
	for _, event := range events {
		h.bytes += bytesOf(event)
	}
	h.everybody(func(w *Watcher) {
		if w.next == interrupted {
			return
		}
		if w.next == 0 {
			w.next = max(before+1, w.from)
		}
		if w.next > dropped {
			w.next = h.firstMatch(w, w.next)
		}
		w.signal()
	})
}

// everybody calls do with every watcher, and again for each further key of it.
func (h *Hub) everybody(do func(*Watcher)) {
	h.paths.Scan(func(_ string, g *group) bool {
		g.each(do)
		return true
	})
}

// Publish appends events, wakes those who wait for one, and notes the store's index. Its cost grows
// with the depth of the paths and the watchers woken, not with the watchers there are.
func (h *Hub) Publish(events []kv.Event, index kv.Index) {
	for _, w := range h.append(events, index) { // without the lock, which they will want
		w.signal()
	}
	clear(h.woken)
	h.woken = h.woken[:0]
}

// append does the part of Publish under the lock and returns whom to wake. What goes out of the log
// goes before the new comes in: however much that is, whoever had read all before can read it.
func (h *Hub) append(events []kv.Event, index kv.Index) []*Watcher {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.index = index
	for len(h.events) > lag*h.length || len(h.events) > h.length && h.bytes > lagBytes {
		oldest := &h.events[0]
		h.forgotten, h.bytes = indexOf(*oldest), h.bytes-bytesOf(*oldest)
		*oldest = kv.Event{} // the values in it are free at once, the array at the next growth
		h.events = h.events[1:]
	}
	for _, event := range events {
		h.events = append(h.events, event)
		h.bytes += bytesOf(event)
		h.notify(event)
	}
	if last := len(h.events) - h.length; last > 0 {
		h.dropped = max(h.dropped, indexOf(h.events[last-1]))
	}
	return h.woken
}

// notify finds the watchers of an event: at its path, at each directory above it that shows it, and
// below it when a directory is removed.
func (h *Hub) notify(event kv.Event) {
	key, index := event.Node.Key, indexOf(event)
	if g, ok := h.paths.Get(key); ok {
		h.wake(g.exact, index)
		h.wake(g.recursive, index)
	}
	for path := key; path != ""; {
		path = kv.Parent(path)
		if g, ok := h.paths.Get(path); ok && g.recursive.first != nil && !kv.HiddenBelow(key, path) {
			h.wake(g.recursive, index)
		}
	}
	if event.Removes() && event.Node.Dir {
		end := key + "0" // '0' follows '/'
		h.paths.Ascend(key+"/", func(path string, g *group) bool {
			if path >= end {
				return false
			}
			h.wake(g.exact, index)
			h.wake(g.recursive, index)
			return true
		})
	}
}

func (h *Hub) wake(l list, index kv.Index) {
	for p := l.first; p != nil; p = p.later {
		if w := p.watcher; w.next == 0 && index >= w.from {
			w.next = index
			h.woken = append(h.woken, w)
		}
	}
}

// Watch registers a watcher: every event from from.Index on, or after now if that is 0, will be
// seen. A watcher of several keys counts once for each of them. Errors by Kind: HistoryGone with the
// oldest index kept in its Cause, Unavailable at the limit of watchers, NoLeader between Interrupt and
// Resume, Invalid for Only, Closed.
func (h *Hub) Watch(from kv.WatchFrom) (*Watcher, error) {
	only, err := kv.Only(from.Key, from.Only)
	if err != nil {
		return nil, err
	}
	w := &Watcher{hub: h, key: kv.Clean(from.Key), only: only, recursive: from.Recursive || only != nil, from: from.Index, ready: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, &kv.Error{Op: "watch", Key: from.Key, Kind: kv.Closed}
	}
	if h.cut {
		return nil, noLeader(from.Key, h.reason)
	}
	if h.limit > 0 && h.count+max(1, len(only)) > h.limit {
		return nil, &kv.Error{Op: "watch", Key: from.Key, Kind: kv.Unavailable,
			Cause: fmt.Sprintf("this member serves no more than %d watches at a time (--max-watchers)", h.limit)}
	}
	w.registered = h.index
	if from.Index == 0 {
		w.from = h.index + 1
	} else if from.Index <= h.dropped {
		return nil, h.historyGone(from.Key, from.Index)
	}
	if w.next = h.firstMatch(w, w.from); w.next != 0 {
		w.signal()
	}
	w.places(func(key string, p *place) {
		g, ok := h.paths.Get(key)
		if !ok {
			g = &group{}
			h.paths.Set(key, g)
		}
		p.watcher = w
		g.of(w).add(p)
		h.count++
	})
	h.registered.Add(1)
	return w, nil
}

// Stats is what a hub has done since it was made, and for how many watchers it works.
type Stats struct {
	Watchers   int    // now
	Registered uint64 // watchers, ever
	Delivered  uint64 // events, each as often as a watcher got it
	Lost       uint64 // watchers that were so slow that what they had yet to read is gone
}

// Stats returns the figures of this moment.
func (h *Hub) Stats() Stats {
	return Stats{Watchers: h.Watchers(), Registered: h.registered.Load(), Delivered: h.delivered.Load(), Lost: h.lost.Load()}
}

// Watchers returns how many watchers there are.
func (h *Hub) Watchers() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.count
}

// Interrupt ends all watches with NoLeader, and refuses new ones until Resume: what happens in the
// cluster does not reach this member, and who waits here would wait in vain. reason is for people.
// Events that a watcher has yet to read it may read elsewhere, from the index after the last it has
// seen. It may be called again.
func (h *Hub) Interrupt(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut, h.reason = true, reason
	h.everybody(func(w *Watcher) {
		w.next = interrupted
		w.signal()
	})
}

// Resume permits watches again. Those that were interrupted stay so.
func (h *Hub) Resume() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cut = false
}

func noLeader(key, reason string) error {
	return &kv.Error{Op: "watch", Key: key, Kind: kv.NoLeader, Cause: reason}
}

// Close ends all watches with kv.Closed. Watching again is an error.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.everybody((*Watcher).signal)
}

// firstMatch returns the index of the first event from index on that w wants, 0 if there is none.
func (h *Hub) firstMatch(w *Watcher, index kv.Index) kv.Index {
	for i := h.position(index); i < len(h.events); i++ {
		if w.matches(h.events[i]) {
			return indexOf(h.events[i])
		}
	}
	return 0
}

// position returns where the first event with at least this index stands.
func (h *Hub) position(index kv.Index) int {
	i, _ := slices.BinarySearchFunc(h.events, index, func(e kv.Event, index kv.Index) int {
		if indexOf(e) < index {
			return -1
		}
		return 1
	})
	return i
}

func (h *Hub) historyGone(key string, asked kv.Index) error {
	oldest := h.dropped + 1
	if i := h.position(oldest); i < len(h.events) {
		oldest = indexOf(h.events[i])
	}
	return &kv.Error{Op: "watch", Key: key, Kind: kv.HistoryGone, Index: h.index,
		Cause: fmt.Sprintf("the requested history has been cleared [%d/%d]", oldest, asked)}
}

func indexOf(e kv.Event) kv.Index { return e.Node.ModifiedIndex }

func bytesOf(e kv.Event) int {
	bytes := len(e.Node.Value)
	if e.PrevNode != nil {
		bytes += len(e.PrevNode.Value)
	}
	return bytes
}

// Watcher is one reader's place in the log. It implements kv.Watch.
type Watcher struct {
	hub        *Hub
	key        string
	only       []string // sorted; nil: key is all there is
	recursive  bool
	from       kv.Index // events before it are not wanted
	registered kv.Index

	// next is the index of the first event that is wanted and not yet read, 0 if there is none so
	// far. Guarded by hub.mu: the hub sets it under the lock, the one reader under the read lock.
	next kv.Index

	first place   // in the list of key, or of the first of only
	more  []place // of the others

	ready chan struct{} // has a token when Next has something to look at
}

var _ kv.Watch = (*Watcher)(nil)

// places calls do with each key that w is to be found by, and its place there.
func (w *Watcher) places(do func(key string, p *place)) {
	if w.only == nil {
		do(w.key, &w.first)
		return
	}
	if w.more == nil {
		w.more = make([]place, len(w.only)-1)
	}
	for i, key := range w.only {
		if i == 0 {
			do(key, &w.first)
		} else {
			do(key, &w.more[i-1])
		}
	}
}

// matches reports whether the watcher wants an event: one at its path; recursively, one below that
// is not hidden; and the removal of a directory that its path is in.
func (w *Watcher) matches(e kv.Event) bool {
	key := e.Node.Key
	switch {
	case w.only != nil:
		return kv.Among(w.only, key) || e.Removes() && e.Node.Dir && kv.Above(key, w.only)
	case key == w.key:
		return true
	case w.recursive && kv.Below(key, w.key):
		return !kv.HiddenBelow(key, w.key)
	}
	return e.Removes() && e.Node.Dir && kv.Below(w.key, key)
}

// signal leaves a token for the reader; one is enough.
func (w *Watcher) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Index returns the store's index when the watch was registered.
func (w *Watcher) Index() kv.Index { return w.registered }

// Next returns the next event that the watcher wants. Errors: HistoryGone when the reader was so
// slow that the log has dropped what it had yet to read; NoLeader after an Interrupt; Closed; Timeout
// around ctx's own. All but the last are final.
func (w *Watcher) Next(ctx context.Context) (kv.Event, error) {
	for {
		event, found, err := w.take()
		if found || err != nil {
			return event, err
		}
		select {
		case <-w.ready:
		case <-ctx.Done():
			return kv.Event{}, &kv.Error{Op: "watch", Key: w.key, Kind: kv.Timeout, Err: ctx.Err()}
		}
	}
}

// take returns the event at next, if there is one, and moves next on.
func (w *Watcher) take() (kv.Event, bool, error) {
	h := w.hub
	h.mu.RLock()
	defer h.mu.RUnlock()
	switch {
	case h.closed || w.next == gone:
		return kv.Event{}, false, &kv.Error{Op: "watch", Key: w.key, Kind: kv.Closed}
	case w.next == interrupted:
		return kv.Event{}, false, noLeader(w.key, h.reason)
	case w.next == 0:
		return kv.Event{}, false, nil
	case w.next <= h.forgotten:
		h.lost.Add(1)
		return kv.Event{}, false, h.historyGone(w.key, w.next)
	}
	event := h.events[h.position(w.next)]
	w.next = h.firstMatch(w, indexOf(event)+1)
	h.delivered.Add(1)
	return event, true, nil
}

// These in next are no index: of a watcher that was closed, and of one that Interrupt has ended.
const (
	gone        = ^kv.Index(0)
	interrupted = gone - 1
)

// Close unregisters the watcher; a Next that waits returns kv.Closed. It may be called twice.
func (w *Watcher) Close() {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.next == gone {
		return
	}
	w.places(func(key string, p *place) {
		if g, ok := h.paths.Get(key); ok {
			g.of(w).remove(p)
			if g.empty() {
				h.paths.Delete(key)
			}
		}
		h.count--
	})
	w.next = gone
	w.signal()
}
