package kvclient

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Source is a store that can be followed; a Client is one.
type Source interface {
	kv.Reader
	kv.Watcher
}

// Follower keeps up with the keys at and below one key, from what is there at the start on, through
// cuts, restarts and absences longer than the history that the store keeps. It remembers every
// value that it has told of. It is for one goroutine at a time, except Contact.
type Follower struct {
	source Source
	key    string
	index  kv.Index
	known  map[string]*kv.Node // what was told of, by key
	retry  backoff.Backoff

	mu    sync.Mutex // guards the fields below for Contact; only the goroutine of Next and Close changes them
	watch kv.Watch   // nil before everything has been read, and when it has to be read again
	heard time.Time  // without a watch: when the store was heard last
	why   error      // why it was not since then
}

// Changes lead from one state of the store to a later one.
type Changes struct {
	// Events are about one key each that holds a value, or held one: whoever keeps a map sets
	// Node.Key to Node.Value, or deletes it if the event Removes. A directory that goes is an event
	// for each key in it.
	Events []kv.Event
	Index  kv.Index // of the store after the changes

	// Afresh says that everything was read: at the start, then Events are all that is there, and
	// whenever the store no longer has the events in between or was replaced, then they are the
	// difference to what was told before, as if it had been set and deleted now. They may be none.
	Afresh bool
}

// How long to wait before everything is read again, more after each time that it was in vain.
const (
	afreshWaitMin = 20 * time.Millisecond
	afreshWaitMax = 5 * time.Second
)

// Follow returns a Follower of what is at and below key and not hidden from there. It asks nobody
// yet.
func Follow(source Source, key string) *Follower {
	return &Follower{
		source: source, key: kv.Clean(key), known: map[string]*kv.Node{},
		retry: backoff.Backoff{Min: afreshWaitMin, Max: afreshWaitMax},
	}
}

// Contact returns when the store was heard last, and why it is not heard any more: now and nil while it
// is watched, the zero time before its first answer. A link that is dead and a server that hangs count as
// heard until the watch notices. It may be called from any goroutine and does not wait.
func (f *Follower) Contact() (time.Time, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watch == nil {
		return f.heard, f.why
	}
	if w, ok := f.watch.(interface{ Contact() (time.Time, error) }); ok {
		return w.Contact()
	}
	return time.Now(), nil
}

// Next waits for the next changes; the first are those to the present state from an empty one, also
// if there is nothing. After an error nothing is lost: Next may be called again, and after a while it
// should be if the error is Temporary. Errors by Kind: those of Read and of Watch but NotFound and
// HistoryGone; Timeout around ctx's error when ctx ends.
func (f *Follower) Next(ctx context.Context) (Changes, error) {
	for {
		if f.watch == nil {
			changes, err := f.readAfresh(ctx)
			if kv.Is(err, kv.HistoryGone) { // while everything was read, more has happened than the store keeps
				err = f.pause(ctx)
			} else if err == nil {
				return changes, nil
			}
			if err != nil {
				f.setSilent(err)
				return Changes{}, err
			}
			continue
		}
		event, err := f.watch.Next(ctx)
		switch {
		case err == nil:
			f.retry.Reset()
			f.index = event.Node.ModifiedIndex
			if events := f.take(event); len(events) > 0 {
				return Changes{Events: events, Index: f.index}, nil
			}
		case kv.Is(err, kv.HistoryGone):
			f.Close()
			if err := f.pause(ctx); err != nil {
				return Changes{}, err
			}
		default:
			if !kv.Temporary(err) {
				f.Close()
				f.setSilent(err)
			}
			return Changes{}, err
		}
	}
}

// Close ends the watch of f. A Next after it reads everything again.
func (f *Follower) Close() {
	watch := f.watch
	if watch == nil {
		return
	}
	heard, why := f.Contact()
	f.mu.Lock()
	f.watch, f.heard, f.why = nil, heard, why
	f.mu.Unlock()
	watch.Close()
}

// setSilent notes why the store is not heard.
func (f *Follower) setSilent(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why = why
}

func (f *Follower) pause(ctx context.Context) error {
	if err := f.retry.Wait(ctx); err != nil {
		return &kv.Error{Op: "follow", Key: nameOf(f.key), Kind: kv.Timeout, Err: err}
	}
	return nil
}

// readAfresh reads everything, and watches from there.
func (f *Follower) readAfresh(ctx context.Context) (Changes, error) {
	result, err := f.source.Read(ctx, kv.Read{Key: f.key, Recursive: true, Quorum: true})
	index := result.Index
	var missing *kv.Error
	if errors.As(err, &missing) && missing.Kind == kv.NotFound {
		index = missing.Index
	} else if err != nil {
		return Changes{}, err
	}
	watch, err := f.source.Watch(ctx, kv.WatchFrom{Key: f.key, Recursive: true, Index: index + 1})
	if err != nil {
		return Changes{}, err
	}
	f.index = index
	f.mu.Lock()
	f.watch = watch
	f.mu.Unlock()
	fresh := map[string]*kv.Node{}
	collect(result.Node, fresh)
	events := difference(f.known, fresh, index)
	f.known = fresh
	return Changes{Events: events, Index: index, Afresh: true}, nil
}

// collect adds the keys at and below node that hold values.
func collect(node *kv.Node, keys map[string]*kv.Node) {
	switch {
	case node == nil:
	case node.Dir:
		for _, child := range node.Nodes {
			collect(child, keys)
		}
	default:
		keys[node.Key] = node
	}
}

// difference returns the events that lead from before to after, the store's state at index: what is
// gone by its key, then what is new in the order in which it was written.
func difference(before, after map[string]*kv.Node, index kv.Index) (events []kv.Event) {
	for key, node := range before {
		if after[key] == nil {
			events = append(events, removal(kv.ActionDelete, node, index))
		}
	}
	slices.SortFunc(events, func(a, b kv.Event) int { return cmp.Compare(a.Node.Key, b.Node.Key) })
	var written []kv.Event
	for key, node := range after {
		if old := before[key]; old == nil || old.Value != node.Value {
			written = append(written, kv.Event{Action: kv.ActionSet, Node: node, PrevNode: old})
		}
	}
	slices.SortFunc(written, func(a, b kv.Event) int { return cmp.Compare(a.Node.ModifiedIndex, b.Node.ModifiedIndex) })
	return append(events, written...)
}

func removal(action kv.Action, node *kv.Node, index kv.Index) kv.Event {
	return kv.Event{
		Action:   action,
		Node:     &kv.Node{Key: node.Key, ModifiedIndex: index, CreatedIndex: node.CreatedIndex},
		PrevNode: node,
	}
}

// take returns the events about keys that event of the store stands for.
func (f *Follower) take(event kv.Event) (events []kv.Event) {
	node := event.Node
	switch {
	case event.Removes():
		for key, old := range f.known {
			if key == node.Key || kv.Below(key, node.Key) {
				delete(f.known, key)
				events = append(events, removal(event.Action, old, node.ModifiedIndex))
			}
		}
		slices.SortFunc(events, func(a, b kv.Event) int { return cmp.Compare(a.Node.Key, b.Node.Key) })
	case node.Dir: // only a key in whose place it was made is gone
		if old := f.known[node.Key]; old != nil {
			delete(f.known, node.Key)
			events = append(events, removal(kv.ActionDelete, old, node.ModifiedIndex))
		}
	default:
		f.known[node.Key] = node
		events = append(events, event)
	}
	return events
}
