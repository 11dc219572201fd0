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

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Hub is the log of events and the index of who watches which path. The methods Publish, Reset and
// Close are for its owner; Watch may be called from any goroutine.
type Hub struct {
	length int // events kept

	mu      sync.RWMutex // guards the fields below and the next of every watcher
	events  []kv.Event   // in index order, no more than length
	dropped kv.Index     // of the newest event that is no longer kept
	index   kv.Index     // the store's
	paths   btree.Map[string, watchers]
	closed  bool
}

// watchers are those of one path.
type watchers map[*Watcher]struct{}

// NewHub returns a hub that keeps the last length events.
func NewHub(length int) *Hub { return &Hub{length: length} }

// Reset makes the hub agree with a store that was restored: its events, oldest first, the index
// of the newest event that the store no longer has, and the store's index. Watchers go on where
// they were if the events reach back that far.
func (h *Hub) Reset(events []kv.Event, dropped, index kv.Index) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.index
	h.events, h.dropped, h.index = events, dropped, index
	h.paths.Scan(func(_ string, group watchers) bool {
		for w := range group {
			if w.next == 0 {
				w.next = max(before+1, w.from)
			}
			if w.next > dropped {
				w.next = h.firstMatch(w, w.next)
			}
			w.signal()
		}
		return true
	})
}

// Publish appends events, wakes those who wait for one, and notes the store's index. Its cost grows
// with the depth of the paths and the watchers woken, not with the watchers there are.
func (h *Hub) Publish(events []kv.Event, index kv.Index) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.index = index
	for _, event := range events {
		h.events = append(h.events, event)
		h.notify(event)
	}
	if excess := len(h.events) - h.length; excess > 0 {
		h.dropped = indexOf(h.events[excess-1])
		clear(h.events[:excess]) // the values in them are free at once, the array at the next growth
		h.events = h.events[excess:]
	}
}

// notify finds the watchers of an event: at its path, at each directory above it, and below it when
// a directory is removed.
func (h *Hub) notify(event kv.Event) {
	key := event.Node.Key
	for path := key; ; path = kv.Parent(path) {
		if group, ok := h.paths.Get(path); ok {
			h.wake(group, event)
		}
		if path == "" {
			break
		}
	}
	if event.Removes() && event.Node.Dir {
		end := key + "0" // '0' follows '/'
		h.paths.Ascend(key+"/", func(path string, group watchers) bool {
			if path < end {
				h.wake(group, event)
			}
			return path < end
		})
	}
}

func (h *Hub) wake(group watchers, event kv.Event) {
	index := indexOf(event)
	for w := range group {
		if w.next == 0 && index >= w.from && w.matches(event) {
			w.next = index
			w.signal()
		}
	}
}

// Watch registers a watcher: every event from from.Index on, or after now if that is 0, will be
// seen. Errors by Kind: HistoryGone with the oldest index kept in its Cause, Closed.
func (h *Hub) Watch(from kv.WatchFrom) (*Watcher, error) {
	w := &Watcher{hub: h, key: kv.Clean(from.Key), recursive: from.Recursive, from: from.Index, ready: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, &kv.Error{Op: "watch", Key: from.Key, Kind: kv.Closed}
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
	group, ok := h.paths.Get(w.key)
	if !ok {
		group = watchers{}
		h.paths.Set(w.key, group)
	}
	group[w] = struct{}{}
	return w, nil
}

// Watchers returns how many watchers there are.
func (h *Hub) Watchers() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	count := 0
	h.paths.Scan(func(_ string, group watchers) bool {
		count += len(group)
		return true
	})
	return count
}

// Close ends all watches with kv.Closed. Watching again is an error.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.paths.Scan(func(_ string, group watchers) bool {
		for w := range group {
			w.signal()
		}
		return true
	})
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

// Watcher is one reader's place in the log. It implements kv.Watch.
type Watcher struct {
	hub        *Hub
	key        string
	recursive  bool
	from       kv.Index // events before it are not wanted
	registered kv.Index

	// next is the index of the first event that is wanted and not yet read, 0 if there is none so
	// far. Guarded by hub.mu: the hub sets it under the lock, the one reader under the read lock.
	next kv.Index

	ready chan struct{} // has a token when Next has something to look at
}

var _ kv.Watch = (*Watcher)(nil)

// matches reports whether the watcher wants an event: one at its path; recursively, one below that
// is not hidden; and the removal of a directory that its path is in.
func (w *Watcher) matches(e kv.Event) bool {
	key := e.Node.Key
	switch {
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
// slow that the log has dropped what it had yet to read; Closed; Timeout around ctx's own. All but
// the last are final.
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
	case w.next == 0:
		return kv.Event{}, false, nil
	case w.next <= h.dropped:
		return kv.Event{}, false, h.historyGone(w.key, w.next)
	}
	event := h.events[h.position(w.next)]
	w.next = h.firstMatch(w, indexOf(event)+1)
	return event, true, nil
}

// gone is the next of a watcher that was closed.
const gone = ^kv.Index(0)

// Close unregisters the watcher; a Next that waits returns kv.Closed. It may be called twice.
func (w *Watcher) Close() {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if group, ok := h.paths.Get(w.key); ok {
		delete(group, w)
		if len(group) == 0 {
			h.paths.Delete(w.key)
		}
	}
	w.next = gone
	w.signal()
}
