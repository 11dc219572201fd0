package watch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/pkg/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ended is a context that is over: with it Next tells what there is without waiting.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func change(index kv.Index, action kv.Action, key string) kv.Event {
	return kv.Event{Action: action, Node: &kv.Node{Key: key, ModifiedIndex: index, CreatedIndex: index}}
}

func dirChange(index kv.Index, action kv.Action, key string) kv.Event {
	e := change(index, action, key)
	e.Node.Dir = true
	return e
}

// publish publishes each event by itself.
func publish(h *Hub, events ...kv.Event) {
	for _, e := range events {
		h.Publish([]kv.Event{e}, e.Node.ModifiedIndex)
	}
}

func watch(t *testing.T, h *Hub, from kv.WatchFrom) *Watcher {
	t.Helper()
	w, err := h.Watch(from)
	if err != nil {
		t.Fatalf("watching %+v: %v", from, err)
	}
	return w
}

// drain returns the indices of all events that there are for w now.
func drain(t *testing.T, w *Watcher) []kv.Index {
	t.Helper()
	got := []kv.Index{}
	for {
		e, err := w.Next(ended)
		if errors.Is(err, context.Canceled) {
			return got
		}
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		got = append(got, e.Node.ModifiedIndex)
	}
}

func TestAWatcherSeesItsPathAndRecursivelyWhatIsShownBelow(t *testing.T) {
	events := []kv.Event{
		change(1, kv.ActionSet, "/a"), change(2, kv.ActionSet, "/a/b"), change(3, kv.ActionCreate, "/a/b/c"),
		change(4, kv.ActionUpdate, "/a-b"), change(5, kv.ActionSet, "/a0"), change(6, kv.ActionSet, "/ab/c"),
		change(7, kv.ActionSet, "/a/_h"), change(8, kv.ActionSet, "/a/_h/x"), change(9, kv.ActionSet, "/a/b/_h/x"),
		change(10, kv.ActionDelete, "/a/b/c"), dirChange(11, kv.ActionExpire, "/a/b"), change(12, kv.ActionDelete, "/a"),
		dirChange(13, kv.ActionDelete, "/ki"), dirChange(14, kv.ActionSet, "/a"), dirChange(15, kv.ActionDelete, "/a/_h"),
		dirChange(16, kv.ActionDelete, "/a"), change(17, kv.ActionCompareAndDelete, "/kite"),
	}
	for _, c := range []struct {
		key       string
		recursive bool
		want      []kv.Index
	}{
		{"", true, []kv.Index{1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 16, 17}},
		{"", false, []kv.Index{}},
		{"/a", false, []kv.Index{1, 12, 14, 16}},
		{"/a", true, []kv.Index{1, 2, 3, 10, 11, 12, 14, 16}},
		{"/a/b", false, []kv.Index{2, 11, 16}},
		{"/a/b/c", false, []kv.Index{3, 10, 11, 16}},
		{"/a/b/c", true, []kv.Index{3, 10, 11, 16}},
		{"/a/b/c/d/never/there", false, []kv.Index{11, 16}},
		{"/a/_h", false, []kv.Index{7, 15, 16}},
		{"/a/_h", true, []kv.Index{7, 8, 15, 16}},
		{"/a/_h/x", false, []kv.Index{8, 15, 16}},
		{"/a/b/_h", true, []kv.Index{9, 11, 16}},
		{"/kite", false, []kv.Index{17}}, // the removal of /ki is none of its business
		{"/kite/x", true, []kv.Index{}},  // what was removed there was a value
		{"/a-b", true, []kv.Index{4}},
		{"/ab", true, []kv.Index{6}},
		{"//a/./b/", false, []kv.Index{2, 11, 16}},
	} {
		h := NewHub(100)
		from := kv.WatchFrom{Key: c.key, Recursive: c.recursive}
		live := watch(t, h, from)
		publish(h, events...)
		if got := drain(t, live); !slices.Equal(got, c.want) {
			t.Errorf("%+v live: got %v, want %v", from, got, c.want)
		}
		from.Index = 1
		if got := drain(t, watch(t, h, from)); !slices.Equal(got, c.want) {
			t.Errorf("%+v from the history: got %v, want %v", from, got, c.want)
		}
	}
}

func TestAWatchBeginsAtItsIndex(t *testing.T) {
	h := NewHub(100)
	publish(h, change(2, kv.ActionSet, "/a"), change(5, kv.ActionSet, "/a"))
	h.Publish(nil, 7)
	for _, c := range []struct {
		from kv.Index
		want []kv.Index
	}{
		{0, []kv.Index{8, 12}}, {1, []kv.Index{2, 5, 8, 12}}, {2, []kv.Index{2, 5, 8, 12}}, {3, []kv.Index{5, 8, 12}},
		{6, []kv.Index{8, 12}}, {8, []kv.Index{8, 12}}, {9, []kv.Index{12}}, {13, []kv.Index{}},
	} {
		w := watch(t, h, kv.WatchFrom{Key: "/a", Index: c.from})
		if w.Index() != 7 {
			t.Errorf("registered at %d, want 7", w.Index())
		}
		defer func() {
			if got := drain(t, w); !slices.Equal(got, c.want) {
				t.Errorf("from %d: got %v, want %v", c.from, got, c.want)
			}
		}()
	}
	publish(h, change(8, kv.ActionSet, "/a"), change(10, kv.ActionSet, "/b"), change(12, kv.ActionSet, "/a"))
}

func TestHistoryIsGoneExactlyUpToTheIndexDropped(t *testing.T) {
	h := NewHub(3)
	for i := kv.Index(2); i <= 40; i += 2 {
		publish(h, change(i, kv.ActionSet, "/a"))
		dropped := kv.Index(0)
		if i > 6 {
			dropped = i - 6
		}
		for from := kv.Index(1); from <= i+2; from++ {
			w, err := h.Watch(kv.WatchFrom{Key: "/b", Index: from})
			if from > dropped {
				if err != nil {
					t.Fatalf("at %d, from %d: %v", i, from, err)
				}
				w.Close()
				continue
			}
			want := &kv.Error{Op: "watch", Key: "/b", Kind: kv.HistoryGone, Index: i,
				Cause: fmt.Sprintf("the requested history has been cleared [%d/%d]", i-4, from)}
			var got *kv.Error
			if !errors.As(err, &got) || *got != *want {
				t.Fatalf("at %d, from %d: got %v, want %v", i, from, err, want)
			}
		}
	}
	if n := h.Watchers(); n != 0 {
		t.Errorf("%d watchers are left", n)
	}
}

func TestASlowWatcherIsToldOnceItLostAnEvent(t *testing.T) {
	h := NewHub(2)
	slow, idle := watch(t, h, kv.WatchFrom{Key: "/a"}), watch(t, h, kv.WatchFrom{Key: "/idle"})
	publish(h, change(2, kv.ActionSet, "/a"), change(3, kv.ActionSet, "/b"))
	if got := drain(t, slow); !slices.Equal(got, []kv.Index{2}) {
		t.Fatalf("in time: %v", got)
	}
	for i := kv.Index(4); i <= 4+lag*2+1; i++ {
		publish(h, change(i, kv.ActionSet, "/a"))
	}
	for range 2 {
		if _, err := slow.Next(ended); !kv.Is(err, kv.HistoryGone) {
			t.Errorf("got %v, want HistoryGone", err)
		}
	}
	publish(h, change(99, kv.ActionSet, "/idle"))
	if got := drain(t, idle); !slices.Equal(got, []kv.Index{99}) {
		t.Errorf("who lost nothing got %v", got)
	}
}

func TestLargeEventsAreHeldForWhoIsBehindNoLongerThanForWhoBegins(t *testing.T) {
	const length = 10
	for _, c := range []struct {
		size int
		lost bool
	}{{lagBytes / length / lag, false}, {lagBytes / length, true}} {
		h, value := NewHub(length), strings.Repeat("v", c.size/2)
		slow, quick := watch(t, h, kv.WatchFrom{Key: "/a"}), watch(t, h, kv.WatchFrom{Key: "/a"})
		const last = 1 + lag*length
		for i := kv.Index(2); i <= last; i++ {
			e := change(i, kv.ActionSet, "/a")
			e.Node.Value, e.PrevNode = value, &kv.Node{Key: "/a", Value: value}
			publish(h, e)
			if got := drain(t, quick); !slices.Equal(got, []kv.Index{i}) {
				t.Fatalf("who keeps up gets %v instead of %d", got, i)
			}
		}
		if _, err := slow.Next(ended); kv.Is(err, kv.HistoryGone) != c.lost {
			t.Errorf("%d events of %d bytes behind: %v", last-1, c.size, err)
		}
		if got := drain(t, watch(t, h, kv.WatchFrom{Key: "/a", Index: last - length + 1})); len(got) != length {
			t.Errorf("who begins gets %v, want the last %d", got, length)
		}
		for range lag*length + 1 { // small ones have their places again
			publish(h, change(h.index+1, kv.ActionSet, "/b"))
		}
		if len(h.events) != lag*length+1 || h.bytes != 0 {
			t.Errorf("%d events are held, with %d bytes", len(h.events), h.bytes)
		}
	}
}

func TestABatchOfMoreEventsThanTheHistoryHasPlacesLosesNoWatcherThatKeepsUp(t *testing.T) {
	const length, batch = 10, 25 * lag
	h := NewHub(length)
	w := watch(t, h, kv.WatchFrom{Key: "/a"})
	var want []kv.Index
	last := kv.Index(1)
	for range 3 {
		var events []kv.Event
		for range batch {
			last++
			events, want = append(events, change(last, kv.ActionSet, "/a")), append(want, last)
		}
		h.Publish(events, last)
		if _, err := h.Watch(kv.WatchFrom{Key: "/a", Index: last - length}); !kv.Is(err, kv.HistoryGone) {
			t.Errorf("beginning %d events back: %v", length+1, err)
		}
		watch(t, h, kv.WatchFrom{Key: "/a", Index: last - length + 1}).Close()
		if got := drain(t, w); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		want = nil
	}
}

func TestAWatcherBeyondTheLimitIsRefusedAndToldWhich(t *testing.T) {
	h := NewHub(10)
	h.LimitWatchers(2)
	first := watch(t, h, kv.WatchFrom{Key: "/a"})
	watch(t, h, kv.WatchFrom{Key: "/b"})
	w, err := h.Watch(kv.WatchFrom{Key: "/c"})
	if w != nil || !kv.Is(err, kv.Unavailable) || !strings.Contains(err.Error(), "more than 2 watches at a time (--max-watchers)") {
		t.Errorf("the third: %v, %v", w, err)
	}
	first.Close()
	first.Close() // frees one place, not two
	watch(t, h, kv.WatchFrom{Key: "/c"})
	if w, err := h.Watch(kv.WatchFrom{Key: "/d"}); !kv.Is(err, kv.Unavailable) {
		t.Errorf("the fourth: %v, %v", w, err)
	}
}

func TestNextWaitsForAnEventOrTheEndOfItsContextOrClose(t *testing.T) {
	for name, c := range map[string]struct {
		wake func(h *Hub, w *Watcher, cancel func())
		want func(e kv.Event, err error) bool
	}{
		"an event": {
			func(h *Hub, _ *Watcher, _ func()) { publish(h, change(3, kv.ActionSet, "/d/a")) },
			func(e kv.Event, err error) bool { return err == nil && e.Node.ModifiedIndex == 3 },
		},
		"a removal above": {
			func(h *Hub, _ *Watcher, _ func()) { publish(h, dirChange(3, kv.ActionExpire, "/d")) },
			func(e kv.Event, err error) bool { return err == nil && e.Node.ModifiedIndex == 3 },
		},
		"the end of its context": {
			func(_ *Hub, _ *Watcher, cancel func()) { cancel() },
			func(_ kv.Event, err error) bool { return errors.Is(err, context.Canceled) },
		},
		"Close": {
			func(_ *Hub, w *Watcher, _ func()) { w.Close() },
			func(_ kv.Event, err error) bool { return kv.Is(err, kv.Closed) },
		},
		"the end of the hub": {
			func(h *Hub, _ *Watcher, _ func()) { h.Close() },
			func(_ kv.Event, err error) bool { return kv.Is(err, kv.Closed) },
		},
		"being cut off from the leader": {
			func(h *Hub, _ *Watcher, _ func()) { h.Interrupt("no leader for a second") },
			func(_ kv.Event, err error) bool {
				return kv.Is(err, kv.NoLeader) && strings.Contains(err.Error(), "no leader for a second")
			},
		},
		"being cut off for a moment": {
			func(h *Hub, _ *Watcher, _ func()) { h.Interrupt("no leader"); h.Resume() },
			func(_ kv.Event, err error) bool { return kv.Is(err, kv.NoLeader) },
		},
		"a restore that has an event": {
			func(h *Hub, _ *Watcher, _ func()) { h.Reset([]kv.Event{change(3, kv.ActionSet, "/d/a")}, 0, 9) },
			func(e kv.Event, err error) bool { return err == nil && e.Node.ModifiedIndex == 3 },
		},
		"a restore that has lost some": {
			func(h *Hub, _ *Watcher, _ func()) { h.Reset([]kv.Event{change(8, kv.ActionSet, "/d/a")}, 7, 9) },
			func(_ kv.Event, err error) bool { return kv.Is(err, kv.HistoryGone) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := NewHub(10)
				w := watch(t, h, kv.WatchFrom{Key: "/d/a"})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				returned := false
				go func() {
					e, err := w.Next(ctx)
					returned = true
					if !c.want(e, err) {
						t.Errorf("got %v, %v", e, err)
					}
				}()
				publish(h, change(2, kv.ActionSet, "/b")) // no business of this watcher
				synctest.Wait()
				if returned {
					t.Fatal("it did not wait")
				}
				c.wake(h, w, cancel)
				synctest.Wait()
				if !returned {
					t.Fatal("it still waits")
				}
			})
		})
	}
}

func TestAClosedWatcherIsForgotten(t *testing.T) {
	h := NewHub(10)
	w, other := watch(t, h, kv.WatchFrom{Key: "/a"}), watch(t, h, kv.WatchFrom{Key: "/a"})
	publish(h, change(2, kv.ActionSet, "/a"))
	w.Close()
	w.Close()
	publish(h, change(3, kv.ActionSet, "/a"))
	if _, err := w.Next(ended); !kv.Is(err, kv.Closed) {
		t.Errorf("got %v, want Closed", err)
	}
	if got := drain(t, other); !slices.Equal(got, []kv.Index{2, 3}) || h.Watchers() != 1 {
		t.Errorf("the other got %v; %d watchers", got, h.Watchers())
	}
	other.Close()
	if h.paths.Len() != 0 {
		t.Errorf("%d paths are still watched", h.paths.Len())
	}
}

func TestAClosedHubTakesNoWatcherAndLosesNone(t *testing.T) {
	h := NewHub(10)
	w := watch(t, h, kv.WatchFrom{Key: "/a"})
	h.Close()
	h.Close()
	if _, err := h.Watch(kv.WatchFrom{Key: "/a"}); !kv.Is(err, kv.Closed) {
		t.Errorf("got %v, want Closed", err)
	}
	publish(h, change(2, kv.ActionSet, "/a"))
	if _, err := w.Next(context.Background()); !kv.Is(err, kv.Closed) {
		t.Errorf("got %v, want Closed", err)
	}
	w.Close()
	if h.Watchers() != 0 {
		t.Errorf("%d watchers are left", h.Watchers())
	}
}

func TestAWatchOfTheFutureSurvivesARestore(t *testing.T) {
	h := NewHub(3)
	publish(h, change(2, kv.ActionSet, "/a"))
	far, near := watch(t, h, kv.WatchFrom{Key: "/a", Index: 12}), watch(t, h, kv.WatchFrom{Key: "/a", Index: 9})
	h.Reset([]kv.Event{change(6, kv.ActionSet, "/a"), change(8, kv.ActionSet, "/a"), change(9, kv.ActionSet, "/a")}, 5, 10)
	publish(h, change(11, kv.ActionSet, "/a"), change(12, kv.ActionSet, "/a"))
	if got := drain(t, far); !slices.Equal(got, []kv.Index{12}) {
		t.Errorf("from 12: got %v", got)
	}
	if got := drain(t, near); !slices.Equal(got, []kv.Index{9, 11, 12}) {
		t.Errorf("from 9: got %v", got)
	}
}

func TestEventsTouchNoneButTheWatchersTheyConcern(t *testing.T) {
	h := NewHub(10)
	idle := map[*Watcher]bool{}
	for i := range 5000 {
		idle[watch(t, h, kv.WatchFrom{Key: fmt.Sprintf("/idle/%d", i), Recursive: i%2 == 0})] = true
	}
	for _, key := range []string{"/a", "/a/b", "/a/b/c", "/a/b0", "/a/b-", "/b", "/a/bc"} {
		idle[watch(t, h, kv.WatchFrom{Key: key})] = true
	}
	for _, key := range []string{"", "/x"} { // above, but not recursive
		idle[watch(t, h, kv.WatchFrom{Key: key})] = true
	}
	concerned := []*Watcher{watch(t, h, kv.WatchFrom{Key: "/x", Recursive: true}), watch(t, h, kv.WatchFrom{Key: "/x/y"})}
	if n := h.Watchers(); n != len(idle)+2 {
		t.Fatalf("%d watchers, want %d", n, len(idle)+2)
	}
	publish(h, change(2, kv.ActionSet, "/x/y"), dirChange(3, kv.ActionSet, "/idle"), dirChange(4, kv.ActionDelete, "/idl"), dirChange(6, kv.ActionDelete, "/x/y"))
	for w := range idle {
		if len(w.ready) > 0 {
			t.Errorf("a watcher of %s was woken", w.key)
		}
	}
	for _, w := range concerned {
		if got := drain(t, w); !slices.Equal(got, []kv.Index{2, 6}) {
			t.Errorf("a watcher of %s got %v", w.key, got)
		}
	}
}

func TestTheHubHoldsNoMoreThanItIsToKeep(t *testing.T) {
	h := NewHub(10)
	var freed atomic.Int64
	const published, held = 1009, 10*lag + 1
	for i := range published {
		e := change(kv.Index(i+2), kv.ActionSet, "/a")
		runtime.AddCleanup(e.Node, func(int) { freed.Add(1) }, 0)
		publish(h, e)
	}
	for deadline := time.Now().Add(20 * time.Second); freed.Load() < published-held; runtime.Gosched() {
		runtime.GC()
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d events are held", published-freed.Load(), published)
		}
	}
	runtime.KeepAlive(h)
}
