package store

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// longDir fills a directory that is just too long to be listed under the lock.
func longDir(r *replica, path string) {
	for i := range shortListing + 1 {
		r.apply(set(fmt.Sprintf("%s/%03d", path, i), "old"))
	}
}

func list(t *testing.T, m *Machine, path string) *kv.Node {
	t.Helper()
	res, err := m.Read(kv.Read{Key: path}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if res.Index != m.Index() {
		t.Errorf("%s is listed at index %d, the store is at %d", path, res.Index, m.Index())
	}
	return res.Node
}

func TestALongListingIsTheSameNodeWhileNothingInItChanges(t *testing.T) {
	r := newReplica(t)
	longDir(r, "/d/k")
	longDir(r, "/d/k/000-below")
	first := list(t, r.Machine, "/d/k")
	for name, w := range map[string]kv.Write{
		"a key beside it": set("/d/other", "new"), "a key below it": set("/d/k/000-below/000", "new"), "a new key below it": set("/d/k/000-below/new", "new"),
		"a directory beside it": {Op: kv.OpSet, Key: "/d/dir", Dir: true}, "a key far away": set("/x/y/z", "new"),
	} {
		r.apply(w)
		if list(t, r.Machine, "/d/k") != first {
			t.Errorf("%s changed, and the listing is built anew", name)
		}
	}
}

func TestAChangeIsInTheNextListing(t *testing.T) {
	r := newReplica(t)
	longDir(r, "/k")
	steps := []struct {
		name string
		w    kv.Write
		want func(n *kv.Node) bool
	}{
		{"a value", set("/k/007", "new"), func(n *kv.Node) bool { return n.Nodes[7].Value == "new" }},
		{"a new key", set("/k/0070", "v"), func(n *kv.Node) bool { return n.Nodes[8].Key == "/k/0070" }},
		{"a removed key", kv.Write{Op: kv.OpDelete, Key: "/k/0070"}, func(n *kv.Node) bool { return n.Nodes[8].Key == "/k/008" }},
		{"a new directory", kv.Write{Op: kv.OpSet, Key: "/k/0070", Dir: true}, func(n *kv.Node) bool { return n.Nodes[8].Dir }},
		{"a directory with a TTL", kv.Write{Op: kv.OpUpdate, Key: "/k/0070", TTL: time.Minute}, func(n *kv.Node) bool { return n.Nodes[8].TTL == 60 }},
		{"a directory without one again", kv.Write{Op: kv.OpUpdate, Key: "/k/0070"}, func(n *kv.Node) bool { return n.Nodes[8].TTL == 0 }},
		{"a key with a TTL", lasting(time.Hour, set("/k/007", "new")), func(n *kv.Node) bool { return n.Nodes[7].TTL == 3600 }},
		{"a refreshed key", kv.Write{Op: kv.OpUpdate, Key: "/k/007", Refresh: true, TTL: 2 * time.Hour}, func(n *kv.Node) bool { return n.Nodes[7].TTL == 7200 }},
		{"a key made permanent", set("/k/007", "new"), func(n *kv.Node) bool { return n.Nodes[7].TTL == 0 }},
		{"a parent made on the way", set("/k/zz/a", "v"), func(n *kv.Node) bool { return n.Nodes[len(n.Nodes)-1].Key == "/k/zz" }},
		{"the directory with a TTL", kv.Write{Op: kv.OpUpdate, Key: "/k", TTL: time.Minute}, func(n *kv.Node) bool { return n.TTL == 60 }},
		{"the directory without one", kv.Write{Op: kv.OpUpdate, Key: "/k"}, func(n *kv.Node) bool { return n.TTL == 0 }},
	}
	for _, s := range steps {
		before := list(t, r.Machine, "/k")
		if s.want(before) {
			t.Fatalf("%s: there before it was written", s.name)
		}
		if res := r.apply(s.w)[0]; res.Err != nil {
			t.Fatalf("%s: %v", s.name, res.Err)
		}
		if n := list(t, r.Machine, "/k"); !s.want(n) {
			t.Errorf("%s is not in the listing after it", s.name)
		}
	}
	r.apply(rmr("/k"))
	if got := r.get("/k", false); got != render(kv.Result{}, &kv.Error{Op: "get", Key: "/k", Kind: kv.NotFound, Cause: "/k", Index: r.Index()}) {
		t.Errorf("a directory that was removed is listed: %s", got)
	}
}

func TestAListingWithATTLCountsTheSecondsDown(t *testing.T) {
	r := newReplica(t)
	longDir(r, "/k")
	r.Resume(0, 0)
	r.apply(lasting(time.Minute, set("/k/000", "v")))
	r.apply(command.LeaseGrant{ID: shared, TTL: time.Hour}, attached(shared, set("/k/001", "v")))
	for _, left := range []int64{60, 59, 30} {
		res, err := r.Read(kv.Read{Key: "/k"}, (60-left)*int64(time.Second))
		if err != nil || res.Node.Nodes[0].TTL != left {
			t.Errorf("%d seconds are left instead of %d: %v", res.Node.Nodes[0].TTL, left, err)
		}
		if got := res.Node.Nodes[1].TTL; got != 3540+left {
			t.Errorf("%d seconds of a shared lease are left instead of %d", got, 3540+left)
		}
	}
}

func TestListingsThatAreKeptAreBounded(t *testing.T) {
	r := newReplica(t)
	r.shortListing = 0
	const dirs = 50
	for i := range dirs {
		r.apply(set(fmt.Sprintf("/%d/a", i), "v"))
	}
	kept := &r.state.listings
	for i := range dirs {
		list(t, r.Machine, fmt.Sprintf("/%d", i))
	}
	if len(kept.at) != dirs || kept.children != dirs {
		t.Errorf("%d listings of %d children are kept, want %d", len(kept.at), kept.children, dirs)
	}
	kept.keep("/long", &listing{children: keptChildren})
	if len(kept.at) != 1 || kept.children != keptChildren {
		t.Errorf("%d listings of %d children are kept beside one of %d", len(kept.at), kept.children, keptChildren)
	}
	kept.drop("/long")
	kept.drop("/long")
	if len(kept.at) != 0 || kept.children != 0 {
		t.Errorf("%d listings of %d children are kept after all were dropped", len(kept.at), kept.children)
	}
	r.apply(rmr("/1"))
	if list(t, r.Machine, "/2"); len(kept.at) != 1 || kept.at["/2"].from != nil {
		t.Errorf("%d listings are kept, want one, without the copy that it was built from", len(kept.at))
	}
}

// Writers overwrite the keys of two long directories. Whoever lists one of them finds in every key
// at least what was acknowledged when the reading began, and never goes back.
func TestAListingShowsWhatWasAcknowledgedBeforeIt(t *testing.T) {
	const rounds, readers = 300, 3
	r := newReplica(t)
	r.shortListing = 8
	const keys = 20
	dirs := []string{"/a", "/a/b"}
	var acknowledged [2][keys]atomic.Uint64 // index of the last write of a key that is done
	write := func(i int) {
		dir, key := i/keys%2, i%keys
		res := r.apply(set(fmt.Sprintf("%s/%02d", dirs[dir], key), fmt.Sprint(i)))[0]
		acknowledged[dir][key].Store(res.Index)
	}
	for i := range 2 * keys {
		write(i)
	}
	done := make(chan struct{})
	var group sync.WaitGroup
	for reader := range readers {
		group.Go(func() {
			for n := reader; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				dir := n % 2
				var want [keys]uint64
				for key := range want {
					want[key] = acknowledged[dir][key].Load()
				}
				res, err := r.Read(kv.Read{Key: dirs[dir]}, 0)
				if err != nil {
					t.Error(err)
					return
				}
				files := 0
				for _, child := range res.Node.Nodes {
					if child.Dir {
						continue
					}
					if child.ModifiedIndex < want[files] || child.ModifiedIndex > res.Index {
						t.Errorf("%s is of index %d in a listing at index %d, %d was acknowledged before", child.Key, child.ModifiedIndex, res.Index, want[files])
						return
					}
					files++
				}
				if files != keys {
					t.Errorf("%d keys in %s", files, dirs[dir])
					return
				}
			}
		})
	}
	for i := range rounds * keys {
		write(i)
	}
	close(done)
	group.Wait()
}
