package store

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// One goroutine applies batches, each of which writes its round into every key of one directory.
// Between two batches all keys agree, so a reader that finds two rounds in one answer, or a round
// that does not fit the index, has read a state that never was.
func TestReadersSeeTheStateOfOneMoment(t *testing.T) {
	const rounds, readers = 150, 2
	for _, c := range []struct {
		name string
		keys int
		read kv.Read
	}{
		{"a short listing", shortListing - 1, kv.Read{Key: "/d/k"}},
		{"a long listing", shortListing + 1, kv.Read{Key: "/d/k"}},
		{"a recursive listing", 20, kv.Read{Recursive: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReplica(t)
			var writes []command.Body
			fill := func(round int) []command.Body {
				writes = writes[:0]
				for i := range c.keys {
					writes = append(writes, lasting(time.Hour, set(fmt.Sprintf("/d/k/%03d", i), fmt.Sprint(round))))
				}
				return writes
			}
			first := kv.Index(firstRevision + c.keys)
			r.apply(fill(0)...)

			done := make(chan struct{})
			var group sync.WaitGroup
			for range readers {
				group.Go(func() {
					last := kv.Index(0)
					for finished := false; !finished; {
						select {
						case <-done:
							finished = true
						default:
						}
						res, err := r.Read(c.read, 0)
						if err != nil {
							t.Error(err)
							return
						}
						node := res.Node
						for node.Nodes[0].Dir {
							node = node.Nodes[0]
						}
						want := fmt.Sprint((res.Index - first) / uint64(c.keys))
						if res.Index < last || (res.Index-first)%uint64(c.keys) != 0 || len(node.Nodes) != c.keys {
							t.Errorf("%d keys at index %d after %d", len(node.Nodes), res.Index, last)
							return
						}
						last = res.Index
						for i, n := range node.Nodes {
							if n.Value != want || n.ModifiedIndex != res.Index-uint64(c.keys-1-i) || n.TTL != 3600 {
								t.Errorf("%s=%s {%d} in the reading of round %s at index %d", n.Key, n.Value, n.ModifiedIndex, want, res.Index)
								return
							}
						}
					}
				})
			}
			group.Go(func() {
				for finished := false; !finished; {
					select {
					case <-done:
						finished = true
					default:
					}
					res, err := r.Read(kv.Read{Key: "/d/k/000"}, 0)
					if want := fmt.Sprint((res.Index - first) / uint64(c.keys)); err != nil || res.Node.Value != want {
						t.Errorf("%s at index %d: %v", res.Node.Value, res.Index, err)
						return
					}
					events, _, index := r.History()
					if last := events[len(events)-1].Node.ModifiedIndex; last != index {
						t.Errorf("the history ends at %d, the store is at %d", last, index)
						return
					}
					r.Due(1<<62, 10)
					r.Applied()
					r.LeaseClock()
					r.Members()
					r.Sum()
				}
			})
			for round := 1; round <= rounds; round++ {
				r.apply(fill(round)...)
				if round%50 == 0 { // a snapshot is written while the log goes on
					taken, sum := r.Snapshot(), r.Sum()
					group.Go(func() {
						var b bytes.Buffer
						if _, err := taken.WriteTo(&b); err != nil {
							t.Error(err)
							return
						}
						restored := New(0)
						if err := restored.Restore(&b); err != nil || restored.Sum() != sum {
							t.Errorf("restoring what was written meanwhile: %v", err)
						}
					})
				}
			}
			close(done)
			group.Wait()
		})
	}
}

func TestReadersAreNotDisturbedByARestore(t *testing.T) {
	small, large := newReplica(t), newReplica(t)
	small.apply(set("/d/a", "small"))
	for i := range 2 * shortListing {
		large.apply(set(fmt.Sprintf("/d/%d", i), "large"))
	}
	images := [][]byte{small.snapshot(), large.snapshot()}
	m := New(0)
	if err := m.Restore(bytes.NewReader(images[0])); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for finished := false; !finished; {
			select {
			case <-done:
				finished = true
			default:
			}
			res, err := m.Read(kv.Read{Key: "/d", Recursive: true}, 0)
			if err != nil {
				t.Error(err)
				return
			}
			n := len(res.Node.Nodes)
			if !(n == 1 && res.Index == small.Index()) && !(n == 2*shortListing && res.Index == large.Index()) {
				t.Errorf("%d nodes at index %d", n, res.Index)
				return
			}
		}
	})
	for i := range 60 {
		if err := m.Restore(bytes.NewReader(images[i%2])); err != nil {
			t.Error(err)
		}
	}
	close(done)
	group.Wait()
}

// A follower that was away for long gets a snapshot in place of entries, while it answers clients.
func TestEverythingGoesOnWhileSnapshotsAreRestored(t *testing.T) {
	const rounds = 40
	leader := furnished(t)
	for i := range 2 * shortListing {
		leader.apply(lasting(time.Hour, set(fmt.Sprintf("/d/%d", i), "1")))
	}
	m := New(0)
	if err := m.Restore(bytes.NewReader(leader.snapshot())); err != nil {
		t.Fatal(err)
	}
	all := (&Auth{}).Rights("")
	done := make(chan struct{})
	var group sync.WaitGroup
	for name, do := range map[string]func() error{
		"reads": func() error {
			for _, r := range []kv.Read{{Key: "/d"}, {Key: "/d", Recursive: true}, {Key: "/a/b"}, {Recursive: true}} {
				if _, err := m.Read(r, 1); err != nil {
					return err
				}
			}
			return nil
		},
		"figures": func() error {
			m.Growth(set("/d/new", "1"))
			m.Bytes()
			m.Extent()
			m.Counts()
			m.Mark()
			m.Applied()
			m.LeaseClock()
			m.History()
			m.Auth()
			return nil
		},
		"leases": func() error {
			m.Due(1<<62, 100)
			m.Resume(1, time.Second)
			m.SharedLeases(0, 1, 10)
			m.MayEnd(all, 77)
			m.Forget()
			_, _, err := m.Renew(77, 1)
			if err == nil {
				_, err = m.Lease(77, 1, 10)
			}
			return err
		},
		"members": func() error {
			m.Members()
			m.Removed(12)
			m.Executed(9, 1)
			m.Disputed()
			_, corrupt := m.Corrupt(1)
			if corrupt {
				return fmt.Errorf("corrupt")
			}
			return m.Scrub(func() error { return nil })
		},
		"snapshots": func() error {
			var written bytes.Buffer
			taken := m.Snapshot()
			defer taken.Release()
			if _, err := taken.WriteTo(&written); err != nil {
				return err
			}
			again := New(0)
			if err := again.Restore(&written); err != nil {
				return err
			}
			return audit(again)
		},
	} {
		group.Go(func() {
			for finished := false; !finished; {
				select {
				case <-done:
					finished = true
				default:
				}
				if err := do(); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	follower := &replica{t: t, Machine: m, now: leader.now}
	for i := range rounds {
		leader.applyAll(command.Command{Origin: 5, Sequence: uint64(i), Body: set(fmt.Sprintf("/d/%d", i), "2")})
		if i%3 == 0 {
			if err := m.Restore(bytes.NewReader(leader.snapshot())); err != nil {
				t.Error(err)
			}
		} else {
			follower.index = leader.index - 1
			follower.applyAll(command.Command{Origin: 5, Sequence: uint64(i), Body: set(fmt.Sprintf("/d/%d", i), "2")})
		}
		m.TakeEvents()
		if m.Sum() != leader.Sum() {
			t.Fatalf("round %d: the follower differs", i)
		}
	}
	close(done)
	group.Wait()
	if err := audit(m); err != nil {
		t.Error(err)
	}
}
