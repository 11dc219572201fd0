package kvtest

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Leaser is a Store that keeps leases as well.
type Leaser interface {
	kv.Store
	kv.Leaser
}

// RunLeaser runs the part of the suite that is about kv.Leaser. open is as that of Run.
func RunLeaser(t *testing.T, open func(t *testing.T) Leaser) {
	var subtests atomic.Int64
	start := time.Now().UnixNano()
	for name, test := range leasing {
		t.Run(name, func(t *testing.T) {
			root := fmt.Sprintf("/kvtest/%x-l%d", start, subtests.Add(1))
			s := open(t)
			test(t, &leaser{store: &store{Store: s, t: t, root: root}, leases: s})
		})
	}
}

// leaser is a Leaser whose calls must succeed unless a kind is named.
type leaser struct {
	*store
	leases kv.Leaser
}

// grant makes a lease that ends with the test.
func (s *leaser) grant(ttl time.Duration) kv.Lease {
	s.t.Helper()
	l, err := s.leases.Grant(s.context(), ttl)
	if err != nil {
		s.t.Fatalf("grant: %v", err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, _ = s.leases.Revoke(ctx, l.ID) // it may have ended
	})
	return l
}

func (s *leaser) lease(id kv.LeaseID) kv.Lease {
	s.t.Helper()
	l, err := s.leases.Lease(s.context(), id)
	if err != nil {
		s.t.Fatalf("lease: %v", err)
	}
	return l
}

func (s *leaser) attach(op kv.Op, name string, id kv.LeaseID) kv.Result {
	s.t.Helper()
	return s.do(kv.Write{Op: op, Key: name, Value: "v", Lease: id})
}

func (s *leaser) wantKeys(l kv.Lease, names ...string) {
	s.t.Helper()
	want := []string{}
	for _, name := range names {
		want = append(want, s.key(name))
	}
	if l.Attached != len(want) || !slices.Equal(l.Keys, want) {
		s.t.Errorf("lease %v has %d keys %q, want %q", l.ID, l.Attached, l.Keys, want)
	}
}

var leasing = map[string]func(*testing.T, *leaser){
	"a lease is granted for whole seconds, and shows what is left": func(t *testing.T, s *leaser) {
		l := s.grant(99*time.Second + 1)
		if l.ID == 0 || l.TTL != 100*time.Second || l.Remaining != l.TTL || l.Index == 0 {
			t.Errorf("granted %+v", l)
		}
		if got := s.lease(l.ID); got.ID != l.ID || got.TTL != l.TTL || got.Remaining > l.TTL || got.Remaining < l.TTL-patience {
			t.Errorf("now it is %+v", got)
		}
		if other := s.grant(time.Minute); other.ID == l.ID {
			t.Error("two leases have one id")
		}
	},
	"a lease that lasts too short or too long is refused": func(t *testing.T, s *leaser) {
		for _, ttl := range []time.Duration{0, kv.TTLDue, time.Second - 1, kv.LeaseTTLMax + 1} {
			if l, err := s.leases.Grant(s.context(), ttl); !kv.Is(err, kv.Invalid) {
				t.Errorf("%v: granted %+v, %v", ttl, l, err)
			}
		}
	},
	"every write attaches, and reads say so": func(t *testing.T, s *leaser) {
		l := s.grant(100 * time.Second)
		s.set("/update", "")
		swap := s.set("/swap", "")
		s.attach(kv.OpSet, "/set", l.ID)
		s.attach(kv.OpCreate, "/create", l.ID)
		s.attach(kv.OpUpdate, "/update", l.ID)
		s.do(kv.Write{Op: kv.OpCompareAndSwap, Key: "/swap", PrevIndex: swap.Index, Lease: l.ID})
		s.do(kv.Write{Op: kv.OpCreate, Key: "/dir", Dir: true, Lease: l.ID})
		made := s.attach(kv.OpCreateInOrder, "/queue", l.ID)
		if made.Node.Lease != l.ID {
			t.Errorf("the answer names lease %v", made.Node.Lease)
		}
		s.wantKeys(s.lease(l.ID), "/create", "/dir", made.Node.Key[len(s.root):], "/set", "/swap", "/update")
		for _, name := range []string{"/create", "/dir", "/set", "/swap", "/update"} {
			node := s.get(name).Node
			s.wantTTL(node, 100)
			if node.Lease != l.ID {
				t.Errorf("%s has lease %v", name, node.Lease)
			}
		}
	},
	"other writes detach, failed ones do not": func(t *testing.T, s *leaser) {
		l := s.grant(100 * time.Second)
		other := s.grant(200 * time.Second)
		for _, name := range []string{"/bare", "/deleted", "/failed", "/moved", "/refreshed", "/ttl"} {
			s.attach(kv.OpSet, name, l.ID)
		}
		s.set("/bare", "2")
		s.do(kv.Write{Op: kv.OpSet, Key: "/ttl", TTL: 50 * time.Second})
		s.do(kv.Write{Op: kv.OpUpdate, Key: "/refreshed", Refresh: true, TTL: 60 * time.Second})
		s.attach(kv.OpUpdate, "/moved", other.ID)
		s.do(kv.Write{Op: kv.OpDelete, Key: "/deleted"})
		s.refuse(kv.Write{Op: kv.OpCompareAndSwap, Key: "/failed", PrevValue: "x"}, kv.CompareFailed, "")
		s.wantKeys(s.lease(l.ID), "/failed")
		s.wantKeys(s.lease(other.ID), "/moved")
		for name, seconds := range map[string]int64{"/bare": 0, "/ttl": 50, "/refreshed": 60, "/moved": 200, "/failed": 100} {
			s.wantTTL(s.get(name).Node, seconds)
		}
	},
	"a write with a lease that is not there is refused and changes nothing": func(t *testing.T, s *leaser) {
		l := s.grant(time.Minute)
		if _, err := s.leases.Revoke(s.context(), l.ID); err != nil {
			t.Fatal(err)
		}
		s.refuse(kv.Write{Op: kv.OpSet, Key: "/a", Lease: l.ID}, kv.NoLease, l.ID.String())
		s.refuseRead("/a", kv.NotFound, "")
	},
	"a write with a lease and a TTL is refused": func(t *testing.T, s *leaser) {
		l := s.grant(time.Minute)
		w := kv.Write{Op: kv.OpSet, Key: s.key("/a"), Lease: l.ID, TTL: time.Second}
		if _, err := s.Write(s.context(), w); !kv.Is(err, kv.Invalid) {
			t.Errorf("got %v", err)
		}
	},
	"a lease that nobody keeps alive takes all of its keys, each with an event": func(t *testing.T, s *leaser) {
		t.Parallel()
		l := s.grant(2 * time.Second)
		watch := s.watch("", true, l.Index+1)
		for _, name := range []string{"/c", "/a", "/b"} {
			s.attach(kv.OpSet, name, l.ID)
			watch.next()
		}
		last := kv.Index(0)
		for _, name := range []string{"/a", "/b", "/c"} {
			e := watch.next()
			if e.Action != kv.ActionExpire || e.Node.Key != s.key(name) || last != 0 && e.Node.ModifiedIndex != last+1 {
				t.Errorf("%s of %s at %d after %d, want the end of %s", e.Action, e.Node.Key, e.Node.ModifiedIndex, last, name)
			}
			last = e.Node.ModifiedIndex
		}
		if _, err := s.leases.KeepAlive(s.context(), l.ID); !kv.Is(err, kv.NoLease) {
			t.Errorf("keeping it alive: %v", err)
		}
	},
	"a keep-alive gives a lease its full time and wakes nobody": func(t *testing.T, s *leaser) {
		t.Parallel()
		l := s.grant(2 * time.Second)
		before := s.attach(kv.OpSet, "/a", l.ID)
		watch := s.watch("", true, before.Index+1)
		s.do(kv.Write{Op: kv.OpSet, Key: "/marker", TTL: 3 * time.Second})
		watch.next()
		for gone := false; !gone; time.Sleep(100 * time.Millisecond) {
			got, err := s.leases.KeepAlive(s.context(), l.ID)
			if err != nil || got.ID != l.ID || got.TTL != l.TTL || got.Remaining != l.TTL {
				t.Fatalf("kept alive: %+v, %v", got, err)
			}
			_, err = s.Read(s.context(), kv.Read{Key: s.key("/marker"), Quorum: true})
			gone = kv.Is(err, kv.NotFound)
		}
		if e := watch.next(); e.Action != kv.ActionExpire || e.Node.Key != s.key("/marker") {
			t.Errorf("woken by %s of %s", e.Action, e.Node.Key)
		}
		if node := s.get("/a").Node; node.ModifiedIndex != before.Index || node.TTL == 0 {
			t.Errorf("it is %+v", node)
		}
	},
	"revoking removes the keys now, as deletes": func(t *testing.T, s *leaser) {
		l := s.grant(100 * time.Second)
		s.attach(kv.OpSet, "/b", l.ID)
		last := s.attach(kv.OpSet, "/a", l.ID)
		watch := s.watch("", true, last.Index+1)
		index, err := s.leases.Revoke(s.context(), l.ID)
		if err != nil || index != last.Index+2 {
			t.Errorf("revoked at %d, %v; want two changes after %d", index, err, last.Index)
		}
		for i, name := range []string{"/a", "/b"} {
			if e := watch.next(); e.Action != kv.ActionDelete || e.Node.Key != s.key(name) || e.Node.ModifiedIndex != last.Index+1+kv.Index(i) {
				t.Errorf("got %s of %s at %d", e.Action, e.Node.Key, e.Node.ModifiedIndex)
			}
		}
		for what, call := range map[string]func() error{
			"get":        func() error { _, err := s.leases.Lease(s.context(), l.ID); return err },
			"keep-alive": func() error { _, err := s.leases.KeepAlive(s.context(), l.ID); return err },
			"revoke":     func() error { _, err := s.leases.Revoke(s.context(), l.ID); return err },
		} {
			s.wantError(what, call(), kv.NoLease, l.ID.String())
		}
	},
	"a directory goes with its lease and takes what is below": func(t *testing.T, s *leaser) {
		l := s.grant(100 * time.Second)
		s.do(kv.Write{Op: kv.OpCreate, Key: "/d", Dir: true, Lease: l.ID})
		s.attach(kv.OpSet, "/d/leased", l.ID)
		last := s.set("/d/other", "")
		watch := s.watch("", true, last.Index+1)
		if _, err := s.leases.Revoke(s.context(), l.ID); err != nil {
			t.Fatal(err)
		}
		if e := watch.next(); e.Action != kv.ActionDelete || !e.Node.Dir || e.Node.Key != s.key("/d") {
			t.Errorf("got %s of %+v", e.Action, e.Node)
		}
		s.refuseRead("/d", kv.NotFound, "")
	},
	"leases are listed by id": func(t *testing.T, s *leaser) {
		a, b := s.grant(time.Minute), s.grant(time.Minute)
		if b.ID < a.ID {
			a, b = b, a
		}
		s.attach(kv.OpSet, "/a", b.ID)
		for _, from := range []kv.LeaseID{a.ID - 1, a.ID} {
			list, index, err := s.leases.Leases(s.context(), from)
			if err != nil || index == 0 || !slices.IsSortedFunc(list, func(x, y kv.Lease) int { return cmp.Compare(x.ID, y.ID) }) {
				t.Fatalf("%v at %d, %v", list, index, err)
			}
			hasA := slices.ContainsFunc(list, func(l kv.Lease) bool { return l.ID == a.ID })
			hasB := slices.ContainsFunc(list, func(l kv.Lease) bool { return l.ID == b.ID && l.Attached == 1 && l.Keys == nil })
			if hasA != (from != a.ID) || !hasB {
				t.Errorf("above %v: %v", from, list)
			}
		}
	},
}
