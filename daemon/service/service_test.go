package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kv/kvtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memoryLog is a log of one member without a disk: what is proposed is applied at once.
type memoryLog struct {
	state *State
	start time.Time

	mu       sync.Mutex // guards the fields below
	index    uint64
	proposed []command.Body
	barriers int
	space    raftnode.Space
	err      error // of Propose and ReadBarrier while it is not nil
}

func (l *memoryLog) Propose(ctx context.Context, c command.Command) (command.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.proposed = append(l.proposed, c.Body)
	if err := errors.Join(l.err, ctx.Err()); err != nil {
		return command.Result{}, err
	}
	batch := command.Batch{Level: command.Level, Clock: l.LeaseNow(), WallOffset: l.start.UnixNano(), Commands: []command.Command{c}}
	decoded, err := command.Decode(batch.Append(nil))
	if err != nil {
		panic(err) // what the service proposes must never stop a member
	}
	l.index++
	results := l.state.Apply(l.index, 3, decoded)
	l.state.Flush()
	return results[0], nil
}

func (l *memoryLog) ReadBarrier(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.barriers++
	return l.err
}

func (l *memoryLog) ProposeLeading(ctx context.Context, c command.Command) (command.Result, error) {
	return l.Propose(ctx, c)
}

func (l *memoryLog) ProposeWithin(ctx context.Context, _ time.Duration, c command.Command) (command.Result, error) {
	return l.Propose(ctx, c)
}

func (l *memoryLog) ReadBarrierWithin(ctx context.Context, _ time.Duration) error {
	return l.ReadBarrier(ctx)
}

func (l *memoryLog) WhileLeading(ctx context.Context, do func() error) error {
	if err := l.ReadBarrier(ctx); err != nil {
		return err
	}
	return do()
}

func (l *memoryLog) AskLeader(context.Context, raftnode.Method, []byte) ([]byte, error) {
	return nil, &kv.Error{Kind: kv.NoLeader}
}

func (l *memoryLog) LeaseNow() int64 { return int64(time.Since(l.start)) }

func (l *memoryLog) Position() (index, term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index, 3
}

func (l *memoryLog) Space() raftnode.Space {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.space
}

// fail makes the log refuse everything with err, or work again.
func (l *memoryLog) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

// take returns what was proposed since the last call.
func (l *memoryLog) take() []command.Body {
	l.mu.Lock()
	defer l.mu.Unlock()
	proposed := l.proposed
	l.proposed = nil
	return proposed
}

func open() (*Service, *memoryLog) {
	log := &memoryLog{state: NewState(), start: time.Now()}
	return New(log.state, log, Config{}), log
}

// lead runs the leader's work until the test ends.
func lead(t *testing.T, s *Service) {
	ctx, cancel := context.WithCancel(context.Background())
	var led sync.WaitGroup
	led.Go(func() { s.Lead(ctx) })
	t.Cleanup(func() { cancel(); led.Wait() })
}

func write(t *testing.T, s *Service, w kv.Write) kv.Result {
	t.Helper()
	result, err := s.Write(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func set(key, value string, ttl time.Duration) kv.Write {
	return kv.Write{Op: kv.OpSet, Key: key, Value: value, TTL: ttl}
}

func TestServiceIsAStore(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store {
		s, _ := open()
		lead(t, s)
		return s
	})
}

func TestServiceIsALeaser(t *testing.T) {
	kvtest.RunLeaser(t, func(t *testing.T) kvtest.Leaser {
		s, _ := open()
		lead(t, s)
		return s
	})
}

func TestASessionIsALeaser(t *testing.T) {
	kvtest.RunLeaser(t, func(t *testing.T) kvtest.Leaser {
		s, _ := open()
		lead(t, s)
		session, err := s.Open(t.Context(), Credentials{})
		if err != nil {
			t.Fatal(err)
		}
		return session
	})
}

func TestAKeyExpiresWhenItsTTLIsOverAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := open()
		lead(t, s)
		w, err := s.Watch(t.Context(), kv.WatchFrom{Key: "/a"})
		if err != nil {
			t.Fatal(err)
		}
		write(t, s, set("/a", "1", 5*time.Second))
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
		for _, want := range []kv.Action{kv.ActionSet, kv.ActionExpire} {
			if e, err := w.Next(t.Context()); err != nil || e.Action != want {
				t.Errorf("got %v, %v, want %v", e.Action, err, want)
			}
		}
	})
}

func TestARefreshedKeyLivesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := open()
		lead(t, s)
		write(t, s, set("/a", "1", 5*time.Second))
		for range 10 {
			time.Sleep(4 * time.Second)
			write(t, s, kv.Write{Op: kv.OpUpdate, Key: "/a", TTL: 5 * time.Second, Refresh: true})
		}
		if r, err := s.Read(t.Context(), kv.Read{Key: "/a"}); err != nil || r.Node.Value != "1" || r.Node.TTL != 5 {
			t.Fatalf("%+v, %v", r.Node, err)
		}
	})
}

func TestAShorterTTLWakesTheLeaderInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := open()
		lead(t, s)
		write(t, s, set("/long", "", time.Hour))
		time.Sleep(300 * time.Millisecond)
		write(t, s, set("/short", "", 10*time.Millisecond))
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if _, err := s.Read(t.Context(), kv.Read{Key: "/short"}); !kv.Is(err, kv.NotFound) {
			t.Errorf("it is still there: %v", err)
		}
	})
}

func TestThousandsThatAreDueTogetherAllExpireInSlicesAtABoundedRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := open()
		const keys = 25*expireSlice + 50
		for i := range keys {
			write(t, s, set(fmt.Sprintf("/a/%d", i), "", time.Second))
		}
		time.Sleep(time.Second)
		log.take()
		lead(t, s)
		time.Sleep(keys*time.Second/expireRate/2 + time.Millisecond)
		synctest.Wait()
		r, err := s.Read(t.Context(), kv.Read{Key: "/a"})
		if n := len(r.Node.Nodes); err != nil || n < keys/3 || n > 2*keys/3 {
			t.Errorf("%d of %d are left after half of the time, %v", n, keys, err)
		}
		time.Sleep(keys*time.Second/expireRate/2 + time.Millisecond)
		synctest.Wait()
		if r, err = s.Read(t.Context(), kv.Read{Key: "/a"}); err != nil || len(r.Node.Nodes) != 0 {
			t.Errorf("%d are left, %v", len(r.Node.Nodes), err)
		}
		proposed := log.take()
		for _, body := range proposed {
			if e, ok := body.(command.Expire); !ok || len(e.Leases) > expireSlice {
				t.Errorf("%d leases end with one command", len(e.Leases))
			}
		}
		if len(proposed) != keys/expireSlice+1 {
			t.Errorf("%d commands were proposed", len(proposed))
		}
	})
}

func TestTheLeaderIsIdleWithoutLeasesAndTicksOnceASecondWithSome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := open()
		lead(t, s)
		write(t, s, set("/a", "1", 0))
		log.take()
		time.Sleep(time.Hour)
		if idle := log.take(); len(idle) != 0 {
			t.Errorf("without leases it proposed %v", idle)
		}
		write(t, s, set("/a", "1", 10*time.Second+time.Millisecond))
		log.take()
		time.Sleep(time.Minute)
		synctest.Wait()
		ticks, expires := 0, 0
		for _, body := range log.take() {
			switch body.(type) {
			case command.Tick:
				ticks++
			case command.Expire:
				expires++
			}
		}
		if ticks != 10 || expires != 1 {
			t.Errorf("%d ticks and %d expiries in the 10 s of the lease, want 10 and 1", ticks, expires)
		}
	})
}

func TestTheLeaderTriesAgainWhenTheLogRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log := open()
		write(t, s, set("/a", "1", 1500*time.Millisecond))
		log.fail(&kv.Error{Kind: kv.NoLeader})
		log.take()
		lead(t, s)
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if n := len(log.take()); n < 10 || n > 40 {
			t.Errorf("%d proposals in 3 s of trouble, want about one in %v", n, proposeRetry)
		}
		log.fail(nil)
		time.Sleep(proposeRetry)
		synctest.Wait()
		if _, err := s.Read(t.Context(), kv.Read{Key: "/a"}); !kv.Is(err, kv.NotFound) {
			t.Errorf("it is still there: %v", err)
		}
	})
}

func TestOnlyAQuorumReadAsksTheLog(t *testing.T) {
	s, log := open()
	write(t, s, set("/a", "1", 0))
	refusal := &kv.Error{Kind: kv.NoLeader}
	log.fail(refusal)
	r, err := s.Read(t.Context(), kv.Read{Key: "a/"})
	if err != nil || r.Node.Value != "1" || r.Index != 2 || r.RaftIndex != 1 || r.RaftTerm != 3 || log.barriers != 0 {
		t.Errorf("local: %+v, %v, %d barriers", r, err, log.barriers)
	}
	if _, err := s.Read(t.Context(), kv.Read{Key: "/a", Quorum: true}); !errors.Is(err, refusal) {
		t.Errorf("quorum, refused: %v", err)
	}
	log.fail(nil)
	if r, err := s.Read(t.Context(), kv.Read{Key: "/a", Quorum: true}); err != nil || r.Node.Value != "1" || log.barriers != 2 {
		t.Errorf("quorum: %+v, %v, %d barriers", r, err, log.barriers)
	}
}

func TestAWriteReturnsTheErrorOfTheLogOrOfTheStore(t *testing.T) {
	s, log := open()
	if r := write(t, s, set("a//b/", "1", 0)); r.Node.Key != "/a/b" || r.RaftIndex != 1 {
		t.Errorf("%+v", r)
	}
	if _, err := s.Write(t.Context(), set("/a", "1", 0)); !kv.Is(err, kv.NotFile) {
		t.Errorf("the store's: %v", err)
	}
	refusal := &kv.Error{Kind: kv.Timeout}
	log.fail(refusal)
	if _, err := s.Write(t.Context(), set("/c", "1", 0)); !errors.Is(err, refusal) {
		t.Errorf("the log's: %v", err)
	}
}

func TestAnUnknownOperationNeverReachesTheLog(t *testing.T) {
	s, log := open()
	for _, op := range []kv.Op{0, kv.OpCompareAndDelete + 1, 255} {
		if _, err := s.Write(t.Context(), kv.Write{Op: op, Key: "/a"}); !kv.Is(err, kv.Invalid) {
			t.Errorf("%v: got %v, want the kind %q", op, err, kv.Invalid)
		}
	}
	if proposed := log.take(); len(proposed) != 0 {
		t.Errorf("proposed: %v", proposed)
	}
}

func TestAMemberIsPublishedOnlyIfTheOthersKnowOtherwise(t *testing.T) {
	s, log := open()
	m := command.Member{ID: 4, Name: "n", PeerURLs: []string{"http://p"}, ClientURLs: []string{"http://c"}, Voter: true}
	for i, change := range []func(){
		func() {}, func() { m.Name = "other" }, func() { m.PeerURLs = []string{"http://q"} }, func() { m.ClientURLs = nil }, func() { m.Voter = false }, func() { m.ID = 5 },
	} {
		change()
		for again := range 2 {
			if err := s.Publish(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if n := len(log.take()); n != 1-again {
				t.Errorf("change %d, time %d: %d proposals", i, again+1, n)
			}
		}
	}
	if got := s.Members(); len(got) != 2 || got[0].ID != 4 || !reflect.DeepEqual(got[1], m) {
		t.Errorf("members: %+v", got)
	}
	log.fail(&kv.Error{Kind: kv.NoLeader})
	if err := s.Publish(t.Context(), command.Member{ID: 6}); !kv.Is(err, kv.NoLeader) {
		t.Errorf("got %v, want the log's error", err)
	}
}

func TestAMemberThatIsAnnouncedKeepsWhatOthersHaveSaidOfIt(t *testing.T) {
	s, log := open()
	m := command.Member{ID: 4, PeerURLs: []string{"http://p"}, Voter: true}
	if err := s.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	log.take()
	self := command.Member{ID: 4, Name: "n", PeerURLs: []string{"http://old"}, ClientURLs: []string{"http://c"}}
	for range 2 {
		if err := s.Announce(t.Context(), self); err != nil {
			t.Fatal(err)
		}
	}
	m.Name, m.ClientURLs = "n", []string{"http://c"}
	if got, proposed := s.Members(), log.take(); len(proposed) != 1 || len(got) != 1 || !reflect.DeepEqual(got[0], m) {
		t.Errorf("after %d proposals the members are %+v", len(proposed), got)
	}
}

func TestAWatchOfAnEmptyStoreBeginsAtItsIndex(t *testing.T) {
	s, _ := open()
	w, err := s.Watch(t.Context(), kv.WatchFrom{Key: "/a"})
	if err != nil || w.Index() != s.Index() {
		t.Errorf("registered at %d, the store is at %d: %v", w.Index(), s.Index(), err)
	}
}

func TestARefusedWatchIsNil(t *testing.T) {
	s, _ := open()
	for i := range 1100 {
		write(t, s, set("/a", fmt.Sprint(i), 0))
	}
	w, err := s.Watch(t.Context(), kv.WatchFrom{Key: "/a", Index: 101})
	if w != nil || !kv.Is(err, kv.HistoryGone) {
		t.Errorf("from 101: %v, %v", w, err)
	}
	w, err = s.Watch(t.Context(), kv.WatchFrom{Key: "/a", Index: 102})
	if err != nil {
		t.Fatalf("from 102: %v", err)
	}
	s.Close()
	if _, err := w.Next(t.Context()); !kv.Is(err, kv.Closed) {
		t.Errorf("after Close: %v", err)
	}
	if w, err := s.Watch(t.Context(), kv.WatchFrom{Key: "/a"}); w != nil || !kv.Is(err, kv.Closed) {
		t.Errorf("after Close: %v, %v", w, err)
	}
}

// follow reads n events and renders them.
func follow(t *testing.T, w kv.Watch, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var list []string
	for range n {
		e, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %q: %v", list, err)
		}
		list = append(list, fmt.Sprintf("%s %s=%s %d", e.Action, e.Node.Key, e.Node.Value, e.Node.ModifiedIndex))
	}
	return list
}

func TestWatchersLiveOfThePastAndOverARestoreSeeTheSame(t *testing.T) {
	s, log := open()
	from := kv.WatchFrom{Key: "/a", Recursive: true}
	live, err := s.Watch(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s, set("/a/b", "1", time.Hour))
	write(t, s, kv.Write{Op: kv.OpUpdate, Key: "/a/b", TTL: time.Hour, Refresh: true})
	write(t, s, set("/a/_h", "hidden", 0))
	write(t, s, set("/ab", "beside", 0))
	write(t, s, kv.Write{Op: kv.OpDelete, Key: "/a", Recursive: true})
	write(t, s, set("/a", "2", 0))
	want := []string{"set /a/b=1 2", "delete /a= 6", "set /a=2 7"}
	if got := follow(t, live, 3); !slices.Equal(got, want) {
		t.Errorf("live: %q, want %q", got, want)
	}

	var image bytes.Buffer
	snapshot := log.state.Snapshot()
	if _, err := snapshot.WriteTo(&image); err != nil {
		t.Fatal(err)
	}
	snapshot.Release()
	restored, restoredLog := open()
	waiting, err := restored.Watch(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	if err := restoredLog.state.Restore(&image); err != nil {
		t.Fatal(err)
	}
	from.Index = 1
	for name, open := range map[string]func() (kv.Watch, error){
		"of the past":                   func() (kv.Watch, error) { return s.Watch(t.Context(), from) },
		"of the past after a restore":   func() (kv.Watch, error) { return restored.Watch(t.Context(), from) },
		"registered before the restore": func() (kv.Watch, error) { return waiting, nil },
	} {
		w, err := open()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := follow(t, w, 3); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if err := restoredLog.state.Restore(bytes.NewReader([]byte("nonsense"))); err == nil || restored.Index() != 7 {
		t.Errorf("restoring nonsense: %v, the store is at %d", err, restored.Index())
	}
}
