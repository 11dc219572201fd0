package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/pkg/kv"
)

var keys = []string{"", "/a", "/a/b", "/a/b/c", "/ab", "/a-b", "/a0", "/_h", "/a/_h", "/a/_h/x", "/a/_h/_i", "/a/b/c/d", "/é"}

// wants says, segment by segment, whether a watcher of key is to see an event.
func wants(key string, recursive bool, e kv.Event) bool {
	mine, its := strings.Split(key, "/"), strings.Split(e.Node.Key, "/")
	for i := range min(len(mine), len(its)) {
		if mine[i] != its[i] {
			return false
		}
	}
	switch {
	case len(mine) == len(its):
		return true
	case len(mine) > len(its):
		return e.Node.Dir && slices.Contains([]kv.Action{"delete", "compareAndDelete", "expire"}, e.Action)
	}
	for _, segment := range its[len(mine):] {
		if strings.HasPrefix(segment, "_") {
			return false
		}
	}
	return recursive
}

// hubTrial is a hub beside the list of all events that there ever were.
type hubTrial struct {
	hub      *Hub
	length   int
	all      []kv.Event
	held     int // the last events of all that watchers can still read
	index    kv.Index
	watchers []*expectation
}

// expectation is a watcher and what is to come of it.
type expectation struct {
	*Watcher
	from   kv.WatchFrom
	cursor kv.Index // events from here on are unread
	lost   bool     // a restore did not tell what came after the cursor
	closed bool
}

// dropped returns the index of the newest event that no watch can begin with.
func (tr *hubTrial) dropped() kv.Index { return tr.before(tr.length) }

// forgotten returns the index of the newest event that no watcher can read.
func (tr *hubTrial) forgotten() kv.Index { return tr.before(tr.held) }

// before returns the index of the event before the last n.
func (tr *hubTrial) before(n int) kv.Index {
	if n := len(tr.all) - n; n > 0 {
		return tr.all[n-1].Node.ModifiedIndex
	}
	return 0
}

// pending returns the first unread event that x wants.
func (tr *hubTrial) pending(x *expectation) (kv.Event, bool) {
	for _, e := range tr.all {
		if e.Node.ModifiedIndex >= x.cursor && wants(x.from.Key, x.from.Recursive, e) {
			return e, true
		}
	}
	return kv.Event{}, false
}

func (tr *hubTrial) draw(t *rapid.T) []kv.Event {
	var events []kv.Event
	for range rapid.IntRange(0, 6).Draw(t, "events") {
		tr.index += rapid.Uint64Range(1, 3).Draw(t, "gap")
		action := rapid.SampledFrom([]kv.Action{
			kv.ActionSet, kv.ActionCreate, kv.ActionUpdate, kv.ActionCompareAndSwap, kv.ActionDelete, kv.ActionCompareAndDelete, kv.ActionExpire,
		}).Draw(t, "action")
		e := change(tr.index, action, rapid.SampledFrom(keys[1:]).Draw(t, "key"))
		e.Node.Dir = rapid.Bool().Draw(t, "dir")
		events = append(events, e)
	}
	tr.index += rapid.Uint64Range(0, 2).Draw(t, "refreshes")
	tr.all = append(tr.all, events...)
	return events
}

func (tr *hubTrial) publish(t *rapid.T) {
	events := tr.draw(t)
	tr.held = min(tr.held, lag*tr.length) + len(events)
	tr.hub.Publish(events, tr.index)
}

func (tr *hubTrial) restore(t *rapid.T) {
	before := tr.index
	idle := map[*expectation]bool{}
	for _, x := range tr.watchers {
		_, found := tr.pending(x)
		idle[x] = !found
	}
	tr.draw(t)
	tr.draw(t)
	tr.held = min(tr.length, len(tr.all))
	tr.hub.Reset(slices.Clone(tr.all[max(0, len(tr.all)-tr.length):]), tr.dropped(), tr.index)
	for x := range idle {
		if idle[x] {
			x.lost = x.lost || max(before+1, x.from.Index) <= tr.dropped()
		}
	}
}

func (tr *hubTrial) watch(t *rapid.T) {
	from := kv.WatchFrom{Key: rapid.SampledFrom(keys).Draw(t, "key"), Recursive: rapid.Bool().Draw(t, "recursive"), Index: rapid.Uint64Range(0, tr.index+4).Draw(t, "from")}
	w, err := tr.hub.Watch(from)
	if from.Index != 0 && from.Index <= tr.dropped() {
		oldest := tr.all[len(tr.all)-tr.length].Node.ModifiedIndex
		var e *kv.Error
		if !errors.As(err, &e) || e.Kind != kv.HistoryGone || e.Index != tr.index || !strings.HasSuffix(e.Cause, fmt.Sprintf("[%d/%d]", oldest, from.Index)) {
			t.Fatalf("watching %+v at %d, dropped %d: %v", from, tr.index, tr.dropped(), err)
		}
		return
	}
	if err != nil || w.Index() != tr.index {
		t.Fatalf("watching %+v at %d, dropped %d: %v", from, tr.index, tr.dropped(), err)
	}
	x := &expectation{Watcher: w, from: from, cursor: from.Index}
	if from.Index == 0 {
		x.cursor = tr.index + 1
	}
	tr.watchers = append(tr.watchers, x)
}

func (tr *hubTrial) next(t *rapid.T) {
	if len(tr.watchers) == 0 {
		t.Skip("nobody watches")
	}
	tr.step(t, rapid.SampledFrom(tr.watchers).Draw(t, "watcher"))
}

// step reads once and reports whether there was an event.
func (tr *hubTrial) step(t *rapid.T, x *expectation) bool {
	got, err := x.Next(ended)
	want, found := tr.pending(x)
	switch {
	case x.closed:
		if !kv.Is(err, kv.Closed) {
			t.Fatalf("%+v is closed: got %v, %v", x.from, got, err)
		}
		return false
	case x.lost || found && want.Node.ModifiedIndex <= tr.forgotten():
		if !kv.Is(err, kv.HistoryGone) {
			t.Fatalf("%+v at %d, forgotten %d: got %v, %v, want HistoryGone", x.from, x.cursor, tr.forgotten(), got, err)
		}
		x.lost = true
		return false
	case !found:
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("%+v at %d: got %+v, %v, want nothing", x.from, x.cursor, got.Node, err)
		}
		return false
	}
	if err != nil || got.Node != want.Node || got.Action != want.Action {
		t.Fatalf("%+v at %d: got %+v, %v, want %+v", x.from, x.cursor, got.Node, err, want.Node)
	}
	x.cursor = want.Node.ModifiedIndex + 1
	return true
}

func (tr *hubTrial) close(t *rapid.T) {
	if len(tr.watchers) == 0 {
		t.Skip("nobody watches")
	}
	x := rapid.SampledFrom(tr.watchers).Draw(t, "watcher")
	x.Close()
	x.closed = true
}

func (tr *hubTrial) count(t *rapid.T) {
	open := 0
	for _, x := range tr.watchers {
		if !x.closed {
			open++
		}
	}
	if n := tr.hub.Watchers(); n != open {
		t.Fatalf("%d watchers, want %d", n, open)
	}
	if n := len(tr.hub.events); n > tr.held {
		t.Fatalf("the hub holds %d events, it is to keep %d", n, tr.held)
	}
}

func TestHubDeliversWhatAPlainFilterOverAllEventsDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(1, 6).Draw(t, "length")
		tr := &hubTrial{hub: NewHub(length), length: length}
		t.Repeat(map[string]func(*rapid.T){
			"publish": tr.publish, "restore": tr.restore, "watch": tr.watch, "watch more": tr.watch, "next": tr.next, "next again": tr.next,
			"close": tr.close, "": tr.count,
		})
		for _, x := range tr.watchers {
			for tr.step(t, x) {
			}
		}
	})
}
