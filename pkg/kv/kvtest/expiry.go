package kvtest

import (
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// waitGone waits until a key is gone.
func (s *store) waitGone(name string) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.Read(s.context(), kv.Read{Key: s.key(name), Quorum: true})
		if kv.Is(err, kv.NotFound) {
			return
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s is still there after %v", name, patience)
		}
	}
}

// wantTTL checks the seconds left, of which up to two may have passed.
func (s *store) wantTTL(n *kv.Node, seconds int64) {
	s.t.Helper()
	if n.TTL > seconds || n.TTL < seconds-2 {
		s.t.Errorf("%s has %d s left, want %d", n.Key, n.TTL, seconds)
	}
	if n.Expiration.IsZero() != (seconds == 0) {
		s.t.Errorf("%s expires %v with %d s left", n.Key, n.Expiration, seconds)
	}
}

var expiries = map[string]func(*testing.T, *store){
	"a TTL is shown and counts down to the end of the key": func(t *testing.T, s *store) {
		t.Parallel()
		set := s.do(kv.Write{Op: kv.OpSet, Key: "/a", Value: "1", TTL: time.Second})
		watch := s.watch("/a", false, set.Index+1)
		if set.Node.TTL != 1 || set.Node.Expiration.IsZero() {
			t.Errorf("TTL %d, expiration %v", set.Node.TTL, set.Node.Expiration)
		}
		gone := watch.next()
		if gone.Action != kv.ActionExpire {
			t.Errorf("action %q, want %q", gone.Action, kv.ActionExpire)
		}
		s.wantNode("node", gone.Node, "/a", "")
		s.wantNode("previous", gone.PrevNode, "/a", "1")
		s.refuseRead("/a", kv.NotFound, s.key("/a"))
	},
	"a TTL that is due removes the key at once": func(t *testing.T, s *store) {
		t.Parallel()
		s.do(kv.Write{Op: kv.OpSet, Key: "/a", Value: "1", TTL: kv.TTLDue})
		s.waitGone("/a")
	},
	"the TTL of a directory takes what is below it, in one event": func(t *testing.T, s *store) {
		t.Parallel()
		made := s.do(kv.Write{Op: kv.OpCreate, Key: "/d", Dir: true, TTL: time.Second})
		s.set("/d/x", "1")
		watch := s.watch("/d", false, made.Index+1)
		gone := watch.next()
		if gone.Action != kv.ActionExpire || !gone.Node.Dir || gone.Node.Key != s.key("/d") {
			t.Errorf("got %q of %+v", gone.Action, gone.Node)
		}
		s.refuseRead("/d/x", kv.NotFound, s.key("/d"))
	},
	"writing without a TTL makes a key permanent": func(t *testing.T, s *store) {
		for _, w := range []kv.Write{
			{Op: kv.OpSet, Value: "2"},
			{Op: kv.OpUpdate, Value: "2"},
			{Op: kv.OpCompareAndSwap, PrevValue: "1", Value: "2"},
		} {
			w.Key = "/" + w.Op.String()
			s.do(kv.Write{Op: kv.OpSet, Key: w.Key, Value: "1", TTL: 100 * time.Second})
			s.wantTTL(s.get(w.Key).Node, 100)
			s.do(w)
			s.wantTTL(s.get(w.Key).Node, 0)
		}
	},
	"a refresh renews the TTL, keeps the value and wakes nobody": func(t *testing.T, s *store) {
		set := s.do(kv.Write{Op: kv.OpSet, Key: "/a", Value: "1", TTL: 50 * time.Second})
		watch := s.watch("/a", false, set.Index+1)
		for _, w := range []kv.Write{
			{Op: kv.OpUpdate, TTL: 100 * time.Second},
			{Op: kv.OpSet, TTL: 200 * time.Second},
			{Op: kv.OpCompareAndSwap, PrevValue: "1", TTL: 300 * time.Second},
		} {
			w.Key, w.Refresh = "/a", true
			refreshed := s.do(w)
			if refreshed.Index <= set.Index {
				t.Errorf("%v: index %d, want above %d", w.Op, refreshed.Index, set.Index)
			}
			node := s.get("/a").Node
			s.wantNode(w.Op.String(), node, "/a", "1")
			s.wantTTL(node, int64(w.TTL/time.Second))
		}
		last := s.set("/a", "2")
		if event := watch.next(); event.Node.ModifiedIndex != last.Index {
			t.Errorf("woken by %q at %d, want only by the set at %d", event.Action, event.Node.ModifiedIndex, last.Index)
		}
	},
	"a refresh needs a key, and a compare that holds": func(t *testing.T, s *store) {
		s.refuse(kv.Write{Op: kv.OpUpdate, Key: "/none", Refresh: true, TTL: time.Second}, kv.NotFound, "")
		s.set("/a", "1")
		s.refuse(kv.Write{Op: kv.OpCompareAndSwap, Key: "/a", PrevValue: "x", Refresh: true, TTL: time.Second}, kv.CompareFailed, "[x != 1]")
	},
	"a refreshed key outlives its first TTL": func(t *testing.T, s *store) {
		t.Parallel()
		s.do(kv.Write{Op: kv.OpSet, Key: "/marker", Value: "1", TTL: 2 * time.Second})
		s.do(kv.Write{Op: kv.OpSet, Key: "/a", Value: "1", TTL: time.Second})
		s.do(kv.Write{Op: kv.OpUpdate, Key: "/a", Refresh: true, TTL: 100 * time.Second})
		s.waitGone("/marker")
		s.wantNode("get", s.get("/a").Node, "/a", "1")
	},
}
