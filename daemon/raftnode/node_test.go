package raftnode

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestANewMemberLeadsAndAppliesWhatIsProposed(t *testing.T) {
	for _, store := range []string{LogStoreWAL, LogStoreBoltDB} {
		t.Run(store, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			cfg.LogStore = store
			node, machine := open(t, cfg)
			result := propose(t, node, "/a")
			if result.Index != 1 || result.RaftIndex == 0 || result.RaftTerm == 0 {
				t.Errorf("result %+v: want index 1 and the position in the log", result)
			}
			if got := machine.keys(); !slices.Equal(got, []string{"/a"}) {
				t.Errorf("applied %v", got)
			}
			eventually(t, func() bool { return node.Status().AppliedIndex >= result.RaftIndex }) // the result comes first
			status := node.Status()
			if status.State != "leader" || status.Leader != status.MemberID || status.Since.IsZero() {
				t.Errorf("status %+v", status)
			}
		})
	}
}

func TestARestartKeepsMemberAndData(t *testing.T) {
	for _, store := range []string{LogStoreWAL, LogStoreBoltDB} {
		t.Run(store, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			cfg.LogStore = store
			node, _ := open(t, cfg)
			first := node.Status()
			for i := range 50 {
				propose(t, node, numbered(i))
			}
			if err := node.Close(); err != nil {
				t.Fatal(err)
			}
			again, machine := open(t, cfg)
			if got := machine.keys(); len(got) != 50 || got[49] != numbered(49) {
				t.Errorf("%d keys came back: %v", len(got), got)
			}
			if s := again.Status(); s.MemberID != first.MemberID || s.ClusterID != first.ClusterID || s.Term <= first.Term {
				t.Errorf("after the restart %+v, before it %+v", s, first)
			}
		})
	}
}

func TestASnapshotReplacesTheLog(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SnapshotLogBytes = 1 // each batch is too much
	node, _ := open(t, cfg)
	for i := range 100 {
		propose(t, node, numbered(i))
	}
	eventually(t, func() bool {
		list, err := node.snapshots.List()
		return err == nil && len(list) > 0
	})
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	_, machine := open(t, cfg)
	if got := machine.keys(); len(got) != 100 || got[99] != numbered(99) {
		t.Errorf("%d keys came back", len(got))
	}
}

func TestCommandsThatArriveTogetherShareAnEntry(t *testing.T) {
	machine := &ledger{}
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	machine.onApply = func(*command.Batch) {
		once.Do(func() { close(entered); <-release })
	}
	node := openWith(t, testConfig(t.TempDir()), machine)

	const writers = 500
	var done sync.WaitGroup
	results := make([]command.Result, writers)
	failures := make([]error, writers)
	start := func(i int, key string) {
		done.Go(func() { results[i], failures[i] = node.Propose(context.Background(), write(key)) })
	}
	start(0, "/first")
	<-entered // the first entry is on its way: the others have to wait for it together
	for i := 1; i < writers; i++ {
		key := numbered(i)
		if i%10 == 0 {
			key = "/refused"
		}
		start(i, key)
	}
	eventually(t, func() bool { return len(node.collector.queue) == writers-1 })
	close(release)
	done.Wait()

	if want := []int{1, writers - 1}; !slices.Equal(machine.batches, want) {
		t.Errorf("batches of %v commands, want %v", machine.batches, want)
	}
	seen := map[uint64]bool{}
	for i := range writers {
		switch {
		case failures[i] != nil:
			t.Fatalf("proposal %d: %v", i, failures[i])
		case i%10 == 0 && i > 0:
			if !kv.Is(results[i].Err, kv.Exists) {
				t.Errorf("command %d: error %v, want its own refusal", i, results[i].Err)
			}
		case results[i].Err != nil || seen[results[i].Index]:
			t.Errorf("command %d: %+v, want an index of its own", i, results[i])
		default:
			seen[results[i].Index] = true
		}
	}
}

func TestABatchIsCutAtItsLimits(t *testing.T) {
	q := newCollector()
	enqueue := func(c command.Command) {
		q.queue <- newProposal(c)
	}
	for range batchCommands + 1 {
		enqueue(write("/a"))
	}
	if got := len(q.gather(nil)); got != batchCommands {
		t.Errorf("a batch of %d small commands, want %d", got, batchCommands)
	}
	if got := len(q.gather(nil)); got != 1 {
		t.Errorf("then a batch of %d commands, want the last one", got)
	}
	large := command.Command{Body: kv.Write{Op: kv.OpSet, Key: "/a", Value: string(make([]byte, batchBytes/2))}}
	for range 5 {
		enqueue(large)
	}
	if got := len(q.gather(nil)); got != 2 {
		t.Errorf("a batch of %d large commands, want 2", got)
	}
}

func TestWhatTheQueueCannotHoldIsRefusedAtOnce(t *testing.T) {
	machine := &ledger{}
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	machine.onApply = func(*command.Batch) {
		once.Do(func() { close(entered); <-release })
	}
	node := openWith(t, testConfig(t.TempDir()), machine)
	var done sync.WaitGroup
	defer done.Wait()
	defer close(release)
	done.Go(func() { node.Propose(context.Background(), write("/first")) })
	<-entered
	large := command.Command{Body: kv.Write{Op: kv.OpSet, Key: "/a", Value: string(make([]byte, queueBytes/2))}}
	done.Go(func() { node.Propose(context.Background(), large) })
	eventually(t, func() bool { return len(node.collector.queue) == 1 })
	if _, err := node.Propose(context.Background(), large); !kv.Is(err, kv.Unavailable) {
		t.Errorf("error %v, want a refusal that surely was not applied", err)
	}
}

func TestACallerThatGivesUpInTheQueueIsNotApplied(t *testing.T) {
	machine := &ledger{}
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	machine.onApply = func(*command.Batch) {
		once.Do(func() { close(entered); <-release })
	}
	node := openWith(t, testConfig(t.TempDir()), machine)
	var done sync.WaitGroup
	done.Go(func() { node.Propose(context.Background(), write("/first")) })
	<-entered
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := node.Propose(ctx, write("/given-up")); !kv.Is(err, kv.NoLeader) {
		t.Errorf("error %v, want one that means not applied", err)
	}
	close(release)
	done.Wait()
	propose(t, node, "/last")
	if got := machine.keys(); !slices.Equal(got, []string{"/first", "/last"}) {
		t.Errorf("applied %v", got)
	}
}

func TestAReadBarrierWaitsForWhatIsCommitted(t *testing.T) {
	machine := &ledger{}
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	machine.onApply = func(*command.Batch) {
		once.Do(func() { close(entered); <-release })
	}
	node := openWith(t, testConfig(t.TempDir()), machine)
	if err := node.ReadBarrier(context.Background()); err != nil {
		t.Fatalf("idle: %v", err)
	}
	var done sync.WaitGroup
	done.Go(func() { node.Propose(context.Background(), write("/a")) })
	<-entered // committed, not applied
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := node.ReadBarrier(ctx); !kv.Is(err, kv.Timeout) {
		t.Errorf("error %v while the write is not applied, want a timeout", err)
	}
	close(release)
	if err := node.ReadBarrier(context.Background()); err != nil {
		t.Error(err)
	}
	if got := machine.keys(); !slices.Equal(got, []string{"/a"}) {
		t.Errorf("after the barrier the machine holds %v", got)
	}
	done.Wait()
}

func TestTheLeaseClockStandsStillWhileTheMemberIsDown(t *testing.T) {
	dir := t.TempDir()
	node, _ := open(t, testConfig(dir))
	propose(t, node, "/a")
	before := node.LeaseNow()
	eventually(t, func() bool { return node.LeaseNow() > before })
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	stopped := node.LeaseNow()
	if stopped <= before {
		t.Errorf("the clock stood at %d when the node closed, had been %d before", stopped, before)
	}
	time.Sleep(50 * time.Millisecond) // an outage that must not count
	start := time.Now()
	again, _ := open(t, testConfig(dir))
	now := again.LeaseNow()
	if gone := now - stopped; gone < 0 || gone > time.Since(start).Nanoseconds() {
		t.Errorf("the clock went from %d to %d across an outage", stopped, now)
	}
}

func TestWorkRunsWhileTheMemberLeadsAndEndsBeforeItCloses(t *testing.T) {
	node, machine := open(t, testConfig(t.TempDir()))
	ended := make(chan error, 1)
	started := make(chan struct{})
	node.LeadWhile(func(ctx context.Context) {
		_, err := node.Propose(ctx, write("/from-work"))
		close(started)
		<-ctx.Done()
		ended <- err
	})
	<-started
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("propose from the work: %v", err)
		}
	default:
		t.Error("Close returned before the work had ended")
	}
	if got := machine.keys(); !slices.Equal(got, []string{"/from-work"}) {
		t.Errorf("applied %v", got)
	}
}

func TestAClosedNodeSaysSo(t *testing.T) {
	node, _ := open(t, testConfig(t.TempDir()))
	if err := errors.Join(node.Close(), node.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Propose(context.Background(), write("/a")); !kv.Is(err, kv.Closed) {
		t.Errorf("propose: %v", err)
	}
	if err := node.ReadBarrier(context.Background()); !kv.Is(err, kv.Closed) {
		t.Errorf("read barrier: %v", err)
	}
}

// eventually waits for a condition that is on its way.
func eventually(t testing.TB, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen in 10 s")
		}
		time.Sleep(time.Millisecond)
	}
}
