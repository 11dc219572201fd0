package kvtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// watcher is a Watch whose Next must bring an event.
type watcher struct {
	kv.Watch
	s *store
}

func (s *store) watch(name string, recursive bool, from kv.Index) *watcher {
	s.t.Helper()
	w, err := s.Watch(s.context(), kv.WatchFrom{Key: s.key(name), Recursive: recursive, Index: from})
	if err != nil {
		s.t.Fatalf("watch %s from %d: %v", name, from, err)
	}
	s.t.Cleanup(w.Close)
	return &watcher{Watch: w, s: s}
}

func (w *watcher) next() kv.Event {
	w.s.t.Helper()
	ctx, cancel := context.WithTimeout(w.s.t.Context(), patience)
	defer cancel()
	event, err := w.Next(ctx)
	if err != nil {
		w.s.t.Fatalf("next event: %v", err)
	}
	return event
}

// want takes the next events, each as "action name".
func (w *watcher) want(texts ...string) {
	w.s.t.Helper()
	for _, text := range texts {
		event := w.next()
		if got := fmt.Sprintf("%s %s", event.Action, event.Node.Key[len(w.s.root):]); got != text {
			w.s.t.Fatalf("event %q at %d, want %q", got, event.Node.ModifiedIndex, text)
		}
	}
}

var watches = map[string]func(*testing.T, *store){
	"a watch of several keys brings what watches of each would": func(t *testing.T, s *store) {
		s.set("/d/a", "1")
		first := s.set("/d/_h/x", "1")
		only := []string{s.key("/d/_h"), s.key("/d/sub"), s.key("/d/a"), s.key("/e/f")}
		read, err := s.Read(s.context(), kv.Read{Key: s.root, Recursive: true, Quorum: true, Only: only})
		if err != nil || read.Index < first.Index {
			t.Fatalf("read at %d: %v", read.Index, err)
		}
		change := func() {
			s.set("/d/other", "1")
			s.set("/d/a", "2")
			s.set("/d/_h/x", "2")
			s.set("/d/sub/_hidden", "2")
			s.set("/d/sub/x/y", "2")
			s.set("/e/f", "2")
			s.set("/e/g", "2")
			s.do(kv.Write{Op: kv.OpDelete, Key: "/e/f"})
			s.do(kv.Write{Op: kv.OpDelete, Key: "/d/sub/x", Recursive: true})
			s.do(kv.Write{Op: kv.OpDelete, Key: "/d", Recursive: true})
			s.set("/d/a", "3")
		}
		live, err := s.Watch(s.context(), kv.WatchFrom{Key: s.root, Recursive: true, Index: read.Index + 1, Only: only, Seen: read.Seen})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(live.Close)
		change()
		past, err := s.Watch(s.context(), kv.WatchFrom{Key: s.root, Recursive: true, Index: read.Index + 1, Only: only, Seen: read.Seen})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(past.Close)
		for what, w := range map[string]kv.Watch{"live": live, "past": past} {
			// An etcd brings what happens to hidden keys, and what removes them, in an order and a number of its own.
			got, hidden := map[string][]string{}, false
			for len(got["/d/a"]) < 3 || len(got["/e/f"]) < 2 || len(got["/d/sub"]) < 2 || !hidden {
				event := (&watcher{Watch: w, s: s}).next()
				text := fmt.Sprintf("%s %s", event.Action, event.Node.Key[len(s.root):])
				for _, key := range []string{"/d/a", "/d/sub", "/e/f"} {
					if at := s.key(key); (event.Node.Key == at || kv.Below(event.Node.Key, at) || kv.Below(at, event.Node.Key)) && !slices.Contains(got[key], text) {
						got[key] = append(got[key], text)
					} else if event.Node.Key == at && text == "set /d/a" {
						got[key] = append(got[key], text)
					}
				}
				hidden = hidden || text == "set /d/_h/x"
				if strings.HasPrefix(text, "set /d/other") || strings.HasPrefix(text, "set /e/g") || strings.Contains(text, "_hidden") {
					t.Errorf("%s: event %q is about none of the keys", what, text)
				}
			}
			for key, want := range map[string][]string{
				"/d/a": {"set /d/a", "delete /d", "set /d/a"}, "/d/sub": {"set /d/sub/x/y", "delete /d/sub/x"}, "/e/f": {"set /e/f", "delete /e/f"},
			} {
				if !slices.Equal(got[key][:len(want)], want) {
					t.Errorf("%s: of %s it brings %q, want %q", what, key, got[key], want)
				}
			}
		}
	},
	"a watch from now sees each kind of change with its answer": func(t *testing.T, s *store) {
		w := s.watch("/a", false, 0)
		var answers []kv.Result
		for _, write := range []kv.Write{
			{Op: kv.OpSet, Value: "1"},
			{Op: kv.OpUpdate, Value: "2"},
			{Op: kv.OpCompareAndSwap, PrevValue: "2", Value: "3"},
			{Op: kv.OpCompareAndDelete, PrevValue: "3"},
			{Op: kv.OpCreate, Value: "4"},
			{Op: kv.OpDelete},
		} {
			write.Key = "/a"
			answers = append(answers, s.do(write))
		}
		for _, answer := range answers {
			event := w.next()
			if event.Action != answer.Action || event.Node.ModifiedIndex != answer.Index || event.Node.Value != answer.Node.Value {
				t.Errorf("event %q %+v, want %q %+v", event.Action, event.Node, answer.Action, answer.Node)
			}
			if (event.PrevNode == nil) != (answer.PrevNode == nil) {
				t.Errorf("%s: previous node %+v, want %+v", event.Action, event.PrevNode, answer.PrevNode)
			} else if event.PrevNode != nil && event.PrevNode.Value != answer.PrevNode.Value {
				t.Errorf("%s: previous value %q, want %q", event.Action, event.PrevNode.Value, answer.PrevNode.Value)
			}
		}
	},
	"a watch from an index begins with history and goes on live": func(t *testing.T, s *store) {
		first := s.set("/d/a", "1")
		s.set("/d/b", "2")
		s.do(kv.Write{Op: kv.OpDelete, Key: "/d/a"})
		w := s.watch("/d", true, first.Index)
		w.want("set /d/a", "set /d/b", "delete /d/a")
		s.set("/d/c", "3")
		w.want("set /d/c")
	},
	"reading and then watching from the next index misses nothing": func(t *testing.T, s *store) {
		const keys = 300
		read := s.set("/d/first", "0")
		wrote := make(chan error, 1)
		go func() {
			var err error
			for i := 0; i < keys && err == nil; i++ {
				_, err = s.Write(s.context(), kv.Write{Op: kv.OpSet, Key: s.key("/d/a"), Value: fmt.Sprint(i)})
			}
			wrote <- err
		}()
		w := s.watch("/d", true, read.Index+1)
		last := read.Index
		for i := range keys {
			event := w.next()
			if event.Node.Value != fmt.Sprint(i) || event.Node.ModifiedIndex <= last {
				t.Fatalf("event %d is %s=%s at %d after %d", i, event.Node.Key, event.Node.Value, event.Node.ModifiedIndex, last)
			}
			last = event.Node.ModifiedIndex
		}
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
	},
	"a plain watch of a directory sees itself and not its children": func(t *testing.T, s *store) {
		made := s.do(kv.Write{Op: kv.OpCreate, Key: "/d", Dir: true})
		w := s.watch("/d", false, made.Index+1)
		s.set("/d/x", "1")
		s.do(kv.Write{Op: kv.OpDelete, Key: "/d", Recursive: true})
		w.want("delete /d")
	},
	"the end of a parent is the end of what is watched": func(t *testing.T, s *store) {
		made := s.set("/d/sub/x", "1")
		w := s.watch("/d/sub/x", false, made.Index+1)
		s.do(kv.Write{Op: kv.OpDelete, Key: "/d", Recursive: true})
		w.want("delete /d")
	},
	"a neighbour with the same beginning is another key": func(t *testing.T, s *store) {
		made := s.set("/d/foobar", "1")
		s.set("/d/foo/x", "1")
		s.do(kv.Write{Op: kv.OpDelete, Key: "/d/foo", Recursive: true})
		history := s.watch("/d/foobar", true, made.Index+1)
		live := s.watch("/d/foobar", true, 0)
		s.set("/d/foobarbaz", "1")
		s.set("/d/foobar", "2")
		history.want("set /d/foobar")
		live.want("set /d/foobar")
	},
	"hidden keys wake only those who name them": func(t *testing.T, s *store) {
		start := s.set("/d/x", "1")
		live := s.watch("/d", true, 0)
		inside := s.watch("/d/_h", true, 0)
		exact := s.watch("/d/_h/y", false, 0)
		s.set("/d/_h/y", "1")
		s.set("/d/_z", "1")
		s.set("/d/x", "2")
		live.want("set /d/x")
		inside.want("set /d/_h/y")
		exact.want("set /d/_h/y")
		s.watch("/d", true, start.Index+1).want("set /d/x")
	},
	"a delivery happens once, of a removed key too": func(t *testing.T, s *store) {
		made := s.set("/d/x", "1")
		w := s.watch("/d/x", false, made.Index+1)
		s.do(kv.Write{Op: kv.OpDelete, Key: "/d/x"})
		s.set("/d/x", "2")
		s.do(kv.Write{Op: kv.OpDelete, Key: "/d", Recursive: true})
		s.set("/d/x", "3")
		w.want("delete /d/x", "set /d/x", "delete /d", "set /d/x")
	},
	"a burst arrives whole and in order, however slowly it is read": func(t *testing.T, s *store) {
		const keys = 500
		w := s.watch("/d", true, 0)
		for i := range keys {
			s.set(fmt.Sprintf("/d/%d", i), "1")
		}
		for i := range keys {
			w.want(fmt.Sprintf("set /d/%d", i))
		}
	},
	"the end of one call leaves the watch usable": func(t *testing.T, s *store) {
		w := s.watch("/a", false, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := w.Next(ctx); !errors.Is(err, context.DeadlineExceeded) || !kv.Is(err, kv.Timeout) {
			t.Fatalf("got %v, want the kind %q around the context's error", err, kv.Timeout)
		}
		s.set("/a", "1")
		w.want("set /a")
	},
	"the context of Watch bounds its registration only": func(t *testing.T, s *store) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		watch, err := s.Watch(ctx, kv.WatchFrom{Key: s.key("/a")})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		t.Cleanup(watch.Close)
		s.set("/a", "1")
		(&watcher{watch, s}).want("set /a")
	},
	"a closed watch ends whoever waits for it": func(t *testing.T, s *store) {
		w := s.watch("/a", false, 0)
		ended := make(chan error, 1)
		go func() {
			_, err := w.Next(s.context())
			ended <- err
		}()
		w.Close()
		w.Close()
		if err := <-ended; !kv.Is(err, kv.Closed) {
			t.Errorf("got %v, want the kind %q", err, kv.Closed)
		}
		if _, err := w.Next(s.context()); !kv.Is(err, kv.Closed) {
			t.Errorf("then got %v, want the kind %q", err, kv.Closed)
		}
	},
	"the index of a watch is where the store stood": func(t *testing.T, s *store) {
		set := s.set("/a", "1")
		w := s.watch("/a", false, set.Index)
		if w.Index() < set.Index {
			t.Errorf("index %d, want at least %d", w.Index(), set.Index)
		}
	},
	"history that is gone is said so, with the index to start from": func(t *testing.T, s *store) {
		const kept = 1000 // events that the v2 API keeps
		first := s.set("/a", "1")
		var last kv.Result
		for range kept + 5 {
			last = s.do(kv.Write{Op: kv.OpSet, Key: "/a", Value: "1", NoValue: true})
		}
		w, err := s.Watch(s.context(), kv.WatchFrom{Key: s.key("/a"), Index: first.Index})
		if err == nil {
			defer w.Close()
			_, err = w.Next(s.context())
		}
		var e *kv.Error
		if !errors.As(err, &e) || e.Kind != kv.HistoryGone || e.Index < last.Index {
			t.Fatalf("got %v, want the kind %q at %d", err, kv.HistoryGone, last.Index)
		}
	},
}
