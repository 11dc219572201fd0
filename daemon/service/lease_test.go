package service

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

func grant(t *testing.T, s *Service, ttl time.Duration) kv.LeaseID {
	t.Helper()
	l, err := s.Grant(t.Context(), ttl)
	if err != nil {
		t.Fatal(err)
	}
	return l.ID
}

func attach(t *testing.T, s *Service, key string, id kv.LeaseID) {
	t.Helper()
	write(t, s, kv.Write{Op: kv.OpSet, Key: key, Lease: id})
}

func TestAKeepAliveProposesNothingAndAsksWhetherThisMemberLeads(t *testing.T) {
	s, log := open()
	id := grant(t, s, time.Minute)
	log.take()
	before := log.barriers
	for range 100 {
		if l, err := s.KeepAlive(t.Context(), id); err != nil || l.Remaining != time.Minute {
			t.Fatal(l, err)
		}
	}
	if proposed := log.take(); len(proposed) != 0 || log.barriers != before+100 {
		t.Errorf("%d barriers, proposed %v", log.barriers-before, proposed)
	}
	log.fail(&kv.Error{Kind: kv.NoLeader})
	if _, err := s.KeepAlive(t.Context(), id); !kv.Is(err, kv.NoLeader) {
		t.Errorf("by a member that does not lead: %v", err)
	}
}

func TestALeaseLivesWhileItIsKeptAliveAndEndsToTheMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := open()
		lead(t, s)
		id := grant(t, s, 5*time.Second)
		attach(t, s, "/a", id)
		for range 10 {
			time.Sleep(4 * time.Second)
			if _, err := s.KeepAlive(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5*time.Second - time.Millisecond)
		synctest.Wait()
		if r, err := s.Read(t.Context(), kv.Read{Key: "/a"}); err != nil || r.Node.TTL != 1 {
			t.Fatalf("before its end: %+v, %v", r.Node, err)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if _, err := s.Read(t.Context(), kv.Read{Key: "/a"}); !kv.Is(err, kv.NotFound) {
			t.Fatalf("after its end: %v", err)
		}
	})
}

// gatedLog lets no expiry pass before it is told to.
type gatedLog struct {
	*memoryLog
	arrived, pass chan struct{}
}

func (l *gatedLog) Propose(ctx context.Context, c command.Command) (command.Result, error) {
	if _, ok := c.Body.(command.Expire); ok {
		l.arrived <- struct{}{}
		<-l.pass
	}
	return l.memoryLog.Propose(ctx, c)
}

func (l *gatedLog) ProposeWithin(ctx context.Context, _ time.Duration, c command.Command) (command.Result, error) {
	return l.Propose(ctx, c)
}

func (l *gatedLog) ProposeLeading(ctx context.Context, c command.Command) (command.Result, error) {
	return l.Propose(ctx, c)
}

func TestAKeepAliveThatMeetsAnExpiryWaitsForItsOutcome(t *testing.T) {
	for name, refused := range map[string]bool{"the lease ends": false, "the log refuses the expiry": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, plain := open()
				log := &gatedLog{memoryLog: plain, arrived: make(chan struct{}, 1), pass: make(chan struct{}, 1)}
				s.log = log
				lead(t, s)
				id := grant(t, s, time.Second)
				attach(t, s, "/a", id)
				<-log.arrived
				var kept error
				var keeping sync.WaitGroup
				keeping.Go(func() { _, kept = s.KeepAlive(t.Context(), id) })
				synctest.Wait() // it waits
				late, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := s.KeepAlive(late, id); !kv.Is(err, kv.Timeout) {
					t.Errorf("a keep-alive that cannot wait: %v", err)
				}
				if refused {
					plain.fail(&kv.Error{Kind: kv.Unavailable})
					log.pass <- struct{}{}
					synctest.Wait()
					plain.fail(nil)
				} else {
					log.pass <- struct{}{}
				}
				keeping.Wait()
				_, read := s.Read(t.Context(), kv.Read{Key: "/a"})
				switch {
				case !refused && (!kv.Is(kept, kv.NoLease) || !kv.Is(read, kv.NotFound)):
					t.Errorf("kept alive: %v, read: %v", kept, read)
				case refused && kept == nil && read != nil:
					t.Errorf("it was kept alive and then ended: %v", read)
				}
			})
		})
	}
}

func TestASilentLeaseIsCheckpointedAndItsFirstRenewalIsWrittenDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := open()
		lead(t, s)
		id := grant(t, s, 10*time.Minute)
		log.take()
		checkpoints := func() (list []command.LeaseCheckpoint) {
			for _, body := range log.take() {
				if c, ok := body.(command.LeaseCheckpoint); ok {
					list = append(list, c)
				}
			}
			return list
		}
		for range 20 { // renewed in time
			time.Sleep(200 * time.Second)
			if _, err := s.KeepAlive(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if list := checkpoints(); len(list) != 0 {
			t.Errorf("a lease that is kept alive caused %v", list)
		}
		time.Sleep(5*time.Minute + time.Second)
		synctest.Wait()
		if list := checkpoints(); len(list) != 1 || list[0].Leases[0].Lease != uint64(id) || list[0].Leases[0].Deadline == 0 {
			t.Fatalf("silent for half of its time: %v", list)
		}
		for range 3 {
			if _, err := s.KeepAlive(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		if list := checkpoints(); len(list) != 1 || list[0].Leases[0].Deadline != 0 {
			t.Errorf("renewed three times: %v", list)
		}
	})
}

func TestALeaderThatComesAfterOneGivesLeasesTheirTimeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := open()
		term, end := context.WithCancel(t.Context())
		var led sync.WaitGroup
		led.Go(func() { s.Lead(term) })
		id := grant(t, s, 10*time.Second)
		attach(t, s, "/a", id)
		time.Sleep(9 * time.Second)
		end()
		led.Wait()
		time.Sleep(time.Minute) // nobody leads, nobody can renew
		lead(t, s)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if _, err := s.Read(t.Context(), kv.Read{Key: "/a"}); err != nil {
			t.Errorf("it ended early: %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := s.Read(t.Context(), kv.Read{Key: "/a"}); !kv.Is(err, kv.NotFound) {
			t.Errorf("it lives on: %v", err)
		}
	})
}

func TestAnIDThatIsTakenIsDrawnAgain(t *testing.T) {
	s, _ := open()
	ids := []uint64{7, 7, 0, 8}
	s.leases.draw = func() uint64 {
		id := ids[0]
		ids = ids[1:]
		return id
	}
	for _, want := range []kv.LeaseID{7, 8} {
		if got := grant(t, s, time.Minute); got != want {
			t.Errorf("granted %v, want %v", got, want)
		}
	}
}

func TestALeaseOfManyKeysEndsAsAWholeAndOthersWaitTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := open()
		id, other := grant(t, s, time.Second), grant(t, s, time.Second)
		for i := range 10 * expireSlice {
			attach(t, s, fmt.Sprintf("/a/%d", i), id)
		}
		attach(t, s, "/b", other)
		time.Sleep(2 * time.Second)
		log.take()
		lead(t, s)
		time.Sleep(time.Second + 10*expireSlice*time.Second/expireRate)
		synctest.Wait()
		most := 0
		for _, body := range log.take() {
			if e, ok := body.(command.Expire); ok {
				most = max(most, len(e.Leases))
			}
		}
		if r, err := s.Read(t.Context(), kv.Read{Key: "/a"}); err != nil || len(r.Node.Nodes) != 0 || s.state.machine.Leases() != 0 {
			t.Errorf("%v, %d leases are left", err, s.state.machine.Leases())
		}
		if most > 2 {
			t.Errorf("%d leases ended with one command", most)
		}
	})
}
