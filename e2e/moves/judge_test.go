package moves

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/kvd-io/kvd/pkg/kv"
)

// watcher has all events below a prefix, in order.
type watcher struct {
	mu     sync.Mutex // guards the fields below
	events []kv.Event
	now    map[string]*kv.Node // what is there, by key
	err    error
}

// follow adds events until ctx ends.
func (w *watcher) follow(ctx context.Context, watch kv.Watch) {
	defer watch.Close()
	for {
		event, err := watch.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		w.mu.Lock()
		if err != nil {
			w.err = err
			w.mu.Unlock()
			return
		}
		w.events = append(w.events, event)
		if event.Removes() {
			delete(w.now, event.Node.Key)
		} else {
			w.now[event.Node.Key] = event.Node
		}
		w.mu.Unlock()
	}
}

// at returns the value of key now, "" if there is none.
func (w *watcher) at(key string) (value string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if node := w.now[key]; node != nil {
		value = node.Value
	}
	return value, w.err
}

// judge says what the hosts have done that they must not. hostOf names the host that a value is of, ""
// if it is of none. links are those of all hosts.
func judge(events []kv.Event, links []*link, keys []string, hostOf func(value string) string) (violations []string, expiries int) {
	blame := func(format string, a ...any) { violations = append(violations, fmt.Sprintf(format, a...)) }
	authors := map[string]write{} // by index and key
	var renewals []write
	lessee := map[string]string{}
	name := func(index kv.Index, key string) string { return fmt.Sprintf("%d %s", index, key) }
	for _, l := range links {
		l.mu.Lock()
		for _, w := range l.writes {
			authors[name(w.index, w.key)] = w
			renewals = append(renewals, w)
		}
		for id := range l.leases {
			lessee[id] = l.host
		}
		if l.broken != nil {
			blame("the link of %s: %v", l.host, l.broken)
		}
		l.mu.Unlock()
	}

	history := map[string][]kv.Event{}
	for _, e := range events {
		key := e.Node.Key
		if !slices.Contains(keys, key) {
			if !e.Node.Dir {
				blame("at %d: %s %s is none of the records", e.Node.ModifiedIndex, e.Action, key)
			}
			continue
		}
		before := lastValue(history[key])
		if before != valueOf(e.PrevNode) {
			blame("at %d: %s %s follows %q, but the watch had told %q", e.Node.ModifiedIndex, e.Action, key, valueOf(e.PrevNode), before)
		}
		history[key] = append(history[key], e)
		author, known := authors[name(e.Node.ModifiedIndex, key)]
		switch {
		case e.Action == kv.ActionExpire:
			expiries++
			continue
		case !known && e.Action == kv.ActionDelete && e.PrevNode != nil && e.PrevNode.Lease != 0: // with its lease
			author = write{host: lessee[e.PrevNode.Lease.String()], what: "revoke " + e.PrevNode.Lease.String()}
		case !known:
			blame("at %d: nobody has done the %s of %s", e.Node.ModifiedIndex, e.Action, key)
			continue
		}
		if before != "" && hostOf(before) != author.host {
			blame("at %d: %s of %s, with %s, was done to what %s had written: %s", e.Node.ModifiedIndex, e.Action, author.host, author.what, hostOf(before), before)
		}
		if !e.Removes() && hostOf(e.Node.Value) != author.host {
			blame("at %d: %s has written as %s: %s", e.Node.ModifiedIndex, author.host, hostOf(e.Node.Value), e.Node.Value)
		}
		if e.Node.Lease != 0 && lessee[e.Node.Lease.String()] != author.host {
			blame("at %d: %s has written with lease %v, which was granted to %q", e.Node.ModifiedIndex, author.host, e.Node.Lease, lessee[e.Node.Lease.String()])
		}
	}
	// A renewal is no event: whose record did it find?
	for _, w := range renewals {
		if !slices.Contains(keys, w.key) {
			continue
		}
		at := before(history[w.key], w.index)
		if eventAt(history[w.key], w.index) || at == "" || hostOf(at) == w.host {
			continue
		}
		blame("at %d: %s has renewed, with %s, what %s had written: %s", w.index, w.host, w.what, hostOf(at), at)
	}
	return violations, expiries
}

func valueOf(n *kv.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

func lastValue(history []kv.Event) string {
	if len(history) == 0 || history[len(history)-1].Removes() {
		return ""
	}
	return history[len(history)-1].Node.Value
}

// before returns the value as it was until index, "" for none.
func before(history []kv.Event, index kv.Index) string {
	for i := len(history) - 1; i >= 0; i-- {
		if history[i].Node.ModifiedIndex < index {
			return lastValue(history[:i+1])
		}
	}
	return ""
}

func eventAt(history []kv.Event, index kv.Index) bool {
	return slices.ContainsFunc(history, func(e kv.Event) bool { return e.Node.ModifiedIndex == index })
}
