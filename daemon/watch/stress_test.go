package watch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// stressEvents returns n random events with rising indices.
func stressEvents(n int) []kv.Event {
	random := rand.New(rand.NewPCG(3, 4))
	var all []kv.Event
	index := kv.Index(1)
	for range n {
		index += 1 + random.Uint64N(3)
		e := change(index, kv.ActionSet, keys[1+random.IntN(len(keys)-1)])
		if random.IntN(10) == 0 {
			e = dirChange(index, kv.ActionDelete, e.Node.Key)
		}
		all = append(all, e)
	}
	return all
}

func publishAll(h *Hub, all []kv.Event) {
	random := rand.New(rand.NewPCG(5, 6))
	for len(all) > 0 {
		n := min(len(all), 1+random.IntN(7))
		h.Publish(all[:n], all[n-1].Node.ModifiedIndex)
		all = all[n:]
	}
}

// bounded is longer than any of these tests takes unless a watcher is never woken.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestReadersBesideAWriterGetEveryEventOnceInOrder(t *testing.T) {
	all := stressEvents(4000)
	h := NewHub(len(all))
	ctx := bounded(t)
	var readers sync.WaitGroup
	for i := range 4 * len(keys) {
		from := kv.WatchFrom{Key: keys[i%len(keys)], Recursive: i%2 == 0, Index: kv.Index(i%3) * 100}
		w := watch(t, h, from)
		readers.Go(func() {
			defer w.Close()
			for _, want := range all {
				if !wants(from.Key, from.Recursive, want) || want.Node.ModifiedIndex < from.Index {
					continue
				}
				got, err := w.Next(ctx)
				if err != nil || got.Node != want.Node {
					t.Errorf("%+v: got %+v, %v, want %+v", from, got.Node, err, want.Node)
					return
				}
			}
		})
	}
	publishAll(h, all)
	readers.Wait()
	if n := h.Watchers(); n != 0 {
		t.Errorf("%d watchers are left", n)
	}
}

// A reader of a short log loses events, is told so, begins again behind what it lost, and still
// sees everything else once and in order.
func TestSlowReadersOfAShortLogMissNothingUntold(t *testing.T) {
	all := stressEvents(3000)
	last := all[len(all)-1].Node.ModifiedIndex
	all = append(all, change(last+1, kv.ActionSet, "/end"))
	h := NewHub(16)
	ctx := bounded(t)
	position := map[kv.Index]int{}
	for i, e := range all {
		position[e.Node.ModifiedIndex] = i
	}
	var readers sync.WaitGroup
	for range 8 {
		w := watch(t, h, kv.WatchFrom{Recursive: true})
		readers.Go(func() {
			seen, told := -1, true // told: what comes next need not be adjacent
			for {
				e, err := w.Next(ctx)
				if kv.Is(err, kv.HistoryGone) {
					w.Close()
					if w, err = h.Watch(kv.WatchFrom{Recursive: true}); err != nil {
						t.Error(err)
						return
					}
					if w.Index() >= last+1 {
						w.Close()
						return
					}
					told = true
					continue
				}
				if err != nil {
					t.Errorf("after event %d: %v", seen, err)
					return
				}
				at := position[e.Node.ModifiedIndex]
				for missed := seen + 1; missed < at && !told; missed++ {
					if wants("", true, all[missed]) {
						t.Errorf("event %d is missing between %d and %d", missed, seen, at)
						return
					}
				}
				if at <= seen {
					t.Errorf("event %d came after %d", at, seen)
					return
				}
				seen, told = at, false
				if e.Node.Key == "/end" {
					w.Close()
					return
				}
			}
		})
	}
	publishAll(h, all)
	readers.Wait()
}

func TestWatchersMayComeAndGoWhileEventsPass(t *testing.T) {
	h := NewHub(64)
	all := stressEvents(2000)
	ctx := bounded(t)
	var churn sync.WaitGroup
	for i := range 8 {
		churn.Go(func() {
			for j := range 150 {
				w, err := h.Watch(kv.WatchFrom{Key: keys[(i+j)%len(keys)], Recursive: j%2 == 0})
				if err != nil {
					t.Error(err)
					return
				}
				waiting := make(chan error, 1)
				go func() {
					for {
						if _, err := w.Next(ctx); err != nil {
							waiting <- err
							return
						}
					}
				}()
				w.Close()
				if err := <-waiting; !kv.Is(err, kv.Closed) && !kv.Is(err, kv.HistoryGone) {
					t.Errorf("got %v, want Closed", err)
					return
				}
			}
		})
	}
	publishAll(h, all)
	churn.Wait()
	if h.Watchers() != 0 || h.paths.Len() != 0 {
		t.Errorf("%d watchers, %d paths are left", h.Watchers(), h.paths.Len())
	}
}

// BenchmarkPublish is one event among watchers: those it wakes, those of other keys, and those of
// directories above it that are not recursive. Only the first may cost anything.
func BenchmarkPublish(b *testing.B) {
	for _, c := range []struct{ woken, elsewhere, above int }{{0, 0, 0}, {0, 15_000, 0}, {0, 0, 15_000}, {1, 0, 0}, {1500, 0, 0}, {1500, 13_500, 0}} {
		b.Run(fmt.Sprintf("woken=%d/elsewhere=%d/above=%d", c.woken, c.elsewhere, c.above), func(b *testing.B) {
			h := NewHub(1000)
			register := func(n int, from func(i int) kv.WatchFrom) (list []*Watcher) {
				for i := range n {
					w, err := h.Watch(from(i))
					if err != nil {
						b.Fatal(err)
					}
					list = append(list, w)
				}
				return list
			}
			register(c.elsewhere, func(i int) kv.WatchFrom { return kv.WatchFrom{Key: fmt.Sprintf("/idle/%d", i), Recursive: true} })
			register(c.above, func(int) kv.WatchFrom { return kv.WatchFrom{Key: "/services"} })
			woken := register(c.woken, func(int) kv.WatchFrom { return kv.WatchFrom{Key: "/services", Recursive: true} })
			b.ReportAllocs()
			index := kv.Index(1)
			for b.Loop() {
				index++
				h.Publish([]kv.Event{change(index, kv.ActionSet, "/services/web/instance-1")}, index)
				for _, w := range woken {
					if _, err := w.Next(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
