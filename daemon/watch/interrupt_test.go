package watch

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
)

func TestAMemberThatIsCutOffServesNoWatches(t *testing.T) {
	h := NewHub(10)
	publish(h, change(2, kv.ActionSet, "/a"), change(3, kv.ActionSet, "/a"))
	behind, waiting, closed := watch(t, h, kv.WatchFrom{Key: "/a", Index: 2}), watch(t, h, kv.WatchFrom{Key: "/b"}), watch(t, h, kv.WatchFrom{Key: "/a"})
	closed.Close()

	h.Interrupt("the leader has not been heard of for 2s")
	if _, err := h.Watch(kv.WatchFrom{Key: "/a", Index: 2}); !kv.Is(err, kv.NoLeader) {
		t.Errorf("a new watch: %v", err)
	}
	publish(h, change(4, kv.ActionSet, "/b"))
	h.Reset([]kv.Event{change(5, kv.ActionSet, "/b")}, 4, 5)
	h.Interrupt("again")
	h.Resume()
	for name, w := range map[string]*Watcher{"behind": behind, "waiting": waiting} {
		for range 2 {
			if e, err := w.Next(ended); !kv.Is(err, kv.NoLeader) {
				t.Errorf("%s got %v, %v", name, e, err)
			}
		}
		w.Close()
		if _, err := w.Next(ended); !kv.Is(err, kv.Closed) {
			t.Errorf("%s was closed and gets %v", name, err)
		}
	}
	if _, err := closed.Next(ended); !kv.Is(err, kv.Closed) {
		t.Errorf("one that was closed before gets %v", err)
	}
	if h.Watchers() != 0 || h.paths.Len() != 0 {
		t.Errorf("%d watchers of %d paths are left", h.Watchers(), h.paths.Len())
	}

	// A client that goes on where it was misses nothing.
	again := watch(t, h, kv.WatchFrom{Key: "/b", Index: 5})
	publish(h, change(6, kv.ActionSet, "/b"))
	if got := drain(t, again); !slices.Equal(got, []kv.Index{5, 6}) {
		t.Errorf("afterwards: %v", got)
	}
}

// Readers follow one key, and begin again from the index after the last they have seen whenever their
// watch ends. However often the member is cut off or restored meanwhile, each event comes once.
func TestClientsThatResumeMissNothingHoweverOftenTheMemberIsCutOffOrRestored(t *testing.T) {
	const events, readers = 2000, 4
	h := NewHub(events)
	h.Publish(nil, 1)
	var group sync.WaitGroup
	for range readers {
		group.Go(func() {
			next := kv.Index(2)
			for next < events+2 {
				w, err := h.Watch(kv.WatchFrom{Key: "/a", Index: next})
				if kv.Is(err, kv.NoLeader) {
					runtime.Gosched()
					continue
				} else if err != nil {
					t.Error(err)
					return
				}
				for next < events+2 {
					e, err := w.Next(context.Background())
					if kv.Is(err, kv.NoLeader) {
						break
					}
					if err != nil || e.Node.ModifiedIndex != next {
						t.Errorf("at %d: %v, %v", next, e.Node, err)
						w.Close()
						return
					}
					next++
				}
				w.Close()
			}
		})
	}
	var all []kv.Event
	for i := range events {
		e := change(kv.Index(i+2), kv.ActionSet, "/a")
		all = append(all, e)
		switch i % 10 {
		case 3:
			h.Interrupt("cut off")
		case 4:
			h.Resume()
		case 5: // as a follower that has got a snapshot instead of the entry
			h.Reset(slices.Clone(all), 0, e.Node.ModifiedIndex)
			continue
		}
		publish(h, e)
	}
	group.Wait()
	if h.Watchers() != 0 {
		t.Errorf("%d watchers are left", h.Watchers())
	}
}
