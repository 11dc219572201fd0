package raftnode

import (
	"context"
	"testing"
	"time"
)

func TestOverALinkOf300MillisecondsALeaderLeadsOn(t *testing.T) {
	inWorld(t, func(*Config) {}, 300*ms, func(w *world, nodes []*Node) {
		w.leads(nodes, time.Minute)
		time.Sleep(20 * time.Second) // the first seconds may take more than one election
		leader := w.leads(nodes, time.Second)
		term, changes := leader.Status().Term, w.changes.Load()
		time.Sleep(2 * time.Minute)
		if again := w.leads(nodes, time.Second); again != leader || leader.Status().Term != term || w.changes.Load() != changes {
			w.t.Errorf("in two minutes the term went from %d to %d, with %d losses and finds of a leader", term, again.Status().Term, w.changes.Load()-changes)
		}
		for _, n := range nodes {
			if got := n.ElectionTimeout(); got != 3*time.Second {
				w.t.Errorf("an election timeout is %v, want 3 s", got)
			}
		}
		w.trip.Store(int64(ms))
		time.Sleep(3 * time.Minute)
		if got := leader.ElectionTimeout(); got != time.Second {
			w.t.Errorf("when the link is good again the election timeout is %v", got)
		}
		if again := w.leads(nodes, time.Second); again != leader || w.changes.Load() != changes {
			w.t.Errorf("that cost the leader: %d losses and finds", w.changes.Load()-changes)
		}
	})
}

func TestOverALinkOf300MillisecondsAGivenTimeoutOfASecondIsTooShort(t *testing.T) {
	inWorld(t, func(c *Config) { c.ElectionTimeout = time.Second }, 300*ms, func(w *world, nodes []*Node) {
		time.Sleep(time.Minute)
		if w.changes.Load() < 10 {
			w.t.Errorf("%d losses and finds of a leader: the link is no trouble, and the test beside this one shows nothing", w.changes.Load())
		}
	})
}

func TestTheLeadershipLeavesAMemberWhoseDiskIsSlow(t *testing.T) {
	for name, keep := range map[string]bool{"by itself": false, "unless told otherwise": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(c *Config) { c.KeepLeader = keep }, ms, func(w *world, nodes []*Node) {
				slow := w.leads(nodes, time.Minute)
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan struct{})
				go func() { defer close(done); writes(ctx, nodes[0]) }()
				time.Sleep(40 * time.Second)
				if w.leads(nodes, time.Second) != slow {
					w.t.Error("the leadership moves though nothing is slow")
				}
				w.setSlow(slow, 60*ms)
				time.Sleep(25 * time.Second)
				if moved := w.leads(nodes, time.Second) != slow; moved == keep {
					w.t.Errorf("after 25 seconds it has moved: %v", moved)
				}
				changes := w.changes.Load()
				for range 3 {
					time.Sleep(20 * time.Second)
					if leader := w.leads(nodes, time.Second); !keep && leader == slow {
						w.t.Error("the slow member leads again")
					}
				}
				if got := w.changes.Load() - changes; got != 0 {
					w.t.Errorf("it did not stay where it is: %d losses and finds", got)
				}
				cancel()
				<-done
			})
		})
	}
}

func TestWhereAllDisksAreSlowNobodyHandsOver(t *testing.T) {
	inWorld(t, func(*Config) {}, ms, func(w *world, nodes []*Node) {
		leader := w.leads(nodes, time.Minute)
		for _, n := range nodes {
			w.setSlow(n, 200*ms)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); writes(ctx, nodes[1]) }()
		time.Sleep(10 * time.Second)
		term := w.leads(nodes, time.Second).Status().Term
		time.Sleep(time.Minute)
		if again := w.leads(nodes, time.Second); again.Status().Term != term {
			w.t.Errorf("the term went from %d to %d", term, again.Status().Term)
		}
		if got := leader.ElectionTimeout(); got < 2*time.Second {
			w.t.Errorf("with syncs of 200 ms the election timeout is %v", got)
		}
		cancel()
		<-done
	})
}

func TestAMemberThatWasCutOffForLongDisturbsNobodyWhenItComesBack(t *testing.T) {
	inWorld(t, func(*Config) {}, ms, func(w *world, nodes []*Node) {
		leader := w.leads(nodes, time.Minute)
		term := leader.Status().Term
		var away *Node
		var rest []*Node
		for _, n := range nodes {
			if n != leader && away == nil {
				away = n
			} else {
				rest = append(rest, n)
			}
		}
		w.setCut(away, true)
		time.Sleep(30 * time.Second)
		w.leads(rest, time.Second)
		w.setCut(away, false)
		if again := w.leads(nodes, 20*time.Second); again != leader {
			w.t.Error("another member leads")
		}
		time.Sleep(10 * time.Second)
		if w.leads(nodes, time.Second) != leader || leader.Status().Term != term {
			w.t.Errorf("the term went from %d to %d", term, leader.Status().Term)
		}
	})
}
