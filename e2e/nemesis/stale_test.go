package nemesis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
	"github.com/kvd-io/kvd/e2e/history"
)

const (
	staleVariable = "KVD_STALE_ROUNDS"

	// staleReaders ask the leader all the time, before it is paused and after; as many more have an open
	// connection each, and use it once while the leader is paused and another one has written.
	staleReaders = 32
	staleWriters = 8
	// patience bounds a read of a leader that is paused.
	patience = 20 * time.Second
)

// A leader is paused, by SIGSTOP, until the others have elected another one and that one has
// acknowledged new values. Then it goes on, with requests that have come meanwhile, and with answers of
// the others to what it had asked before. Any of them may make it believe that it still leads.
func TestAPausedLeaderNeverAnswersAQuorumReadWithTheOldValue(t *testing.T) {
	seed := setting(t, seedVariable, uint64(time.Now().UnixNano()&0xffffff))
	rounds := int(setting(t, staleVariable, 3))
	program := subject(t)
	t.Logf("replay: %s=%s %s=%d %s=%d", programVariable, program.Name, staleVariable, rounds, seedVariable, seed)
	s := &stale{t: t, cluster: begun(t, program, 3, true), random: rand.New(rand.NewPCG(seed, 0)), quorum: true}
	for range rounds {
		for _, v := range s.round() {
			t.Error(v)
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%s: %v", program.Name, s)
	if s.late == 0 {
		t.Error("no read was answered that had been sent to a paused leader: nothing was tried")
	}
}

// What would be seen if quorum reads were no better than plain ones, which may be stale.
func TestAPausedLeaderThatAnswersWithTheOldValueIsCaught(t *testing.T) {
	s := &stale{t: t, cluster: begun(t, subject(t), 3, true), random: rand.New(rand.NewPCG(1, 0))}
	for range 5 {
		if found := s.round(); len(found) > 0 && found[0].Kind == history.NotLinear {
			t.Logf("%v: %.800v", s, found[0])
			return
		}
	}
	t.Errorf("%v, and none of the plain reads was stale", s)
}

// stale pauses leaders.
type stale struct {
	t       *testing.T
	cluster *cluster.Cluster
	random  *rand.Rand
	quorum  bool

	rounds   int
	reads    int // answered
	late     int // of them, asked while the leader was paused and a newer value acknowledged
	crossing int // answered with an old value after a newer one was acknowledged, asked before that: no harm
}

func (s *stale) String() string {
	return fmt.Sprintf("%d rounds, %d reads; %d of them asked of a paused leader after a newer value was acknowledged; %d asked before that, and answered after it with an older value, as they may",
		s.rounds, s.reads, s.late, s.crossing)
}

// round pauses the leader once.
func (s *stale) round() []history.Violation {
	t := s.t
	s.rounds++
	old, err := s.cluster.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := &staleRound{stale: s, old: old, key: fmt.Sprintf("/stale/%d", s.rounds), log: history.NewLog(), caller: cluster.NewCaller(3 * staleReaders)}
	defer r.caller.Close()
	r.mustPut(old)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var busy sync.WaitGroup
	defer busy.Wait()
	defer cancel()
	for i := range staleReaders {
		busy.Go(func() {
			for ctx.Err() == nil {
				r.read(i)
				sleep(ctx, time.Millisecond)
			}
		})
	}
	for i := range staleWriters {
		busy.Go(func() { r.load(ctx, i) })
	}
	r.openConnections()
	sleep(ctx, time.Duration(s.random.IntN(60))*time.Millisecond)

	if err := old.Pause(); err != nil {
		t.Fatal(err)
	}
	others := s.cluster.Others(old)
	for i := range 3 {
		r.mustPut(others[i%len(others)])
	}
	committed := r.log.Now()
	var late sync.WaitGroup
	for i := range staleReaders {
		late.Go(func() { r.read(staleReaders + i) })
	}
	sleep(ctx, time.Duration(20+s.random.IntN(300))*time.Millisecond) // the requests are on their way
	resumed := r.log.Now()
	if err := old.Resume(); err != nil {
		t.Fatal(err)
	}
	late.Wait()
	sleep(ctx, 200*time.Millisecond)
	cancel()
	busy.Wait()
	if err := s.cluster.AwaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r.judge(committed, resumed)
}

// staleRound is one pause of one leader.
type staleRound struct {
	*stale
	old    *cluster.Member
	key    string
	log    *history.Log
	caller *cluster.Caller
	values int
}

// mustPut writes a new value until a member acknowledges it. Every attempt has a value of its own.
func (r *staleRound) mustPut(m *cluster.Member) {
	for deadline := time.Now().Add(settleMax); ; {
		r.values++
		op := history.Op{Client: -1, Member: m.Name, Kind: history.Put, Key: r.key, Value: fmt.Sprintf("v%d", r.values), Call: r.log.Now(), Outcome: history.Unknown}
		ctx, cancel := context.WithTimeout(r.t.Context(), askMax)
		reply, err := r.caller.Keys(ctx, http.MethodPut, m.ClientURL, r.key, url.Values{"value": {op.Value}})
		cancel()
		op.Return = r.log.Now()
		if err == nil && reply.Status < http.StatusMultipleChoices && reply.Node != nil {
			op.Outcome, op.Index = history.Done, reply.Node.ModifiedIndex
			if reply.PrevNode != nil {
				op.Saw = reply.PrevNode.Value
			}
		}
		r.log.Add(op)
		if op.Outcome == history.Done {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s does not write: %d %v", m.Name, reply.Status, err)
		}
	}
}

// read asks the old leader, and waits as long as it is paused.
func (r *staleRound) read(client int) {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	form := url.Values{}
	if r.quorum {
		form.Set("quorum", "true")
	}
	op := history.Op{Client: client, Member: r.old.Name, Kind: history.Get, Key: r.key, Call: r.log.Now(), Outcome: history.Unknown}
	reply, err := r.caller.Keys(ctx, http.MethodGet, r.old.ClientURL, r.key, form)
	op.Return = r.log.Now()
	if err == nil && reply.Status == http.StatusOK && reply.Node != nil {
		op.Outcome, op.Saw = history.Done, reply.Node.Value
	}
	r.log.Add(op)
}

// load writes to another key on the leader, so that it has much to ask the others when it is paused.
func (r *staleRound) load(ctx context.Context, writer int) {
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, patience)
		r.caller.Keys(once, http.MethodPut, r.old.ClientURL, fmt.Sprintf("/load/%d", writer), url.Values{"value": {"x"}})
		cancel()
	}
}

// openConnections has connections ready for those who read while the leader is paused.
func (r *staleRound) openConnections() {
	var opening sync.WaitGroup
	for i := range staleReaders {
		opening.Go(func() { r.read(staleReaders + i) })
	}
	opening.Wait()
}

// judge counts the reads of a round and finds those that no register could have answered so.
func (r *staleRound) judge(committed, resumed time.Duration) []history.Violation {
	ops := r.log.Ops()
	last := slices.IndexFunc(ops, func(op history.Op) bool { return op.Value == fmt.Sprintf("v%d", r.values) })
	for _, op := range ops {
		if op.Kind != history.Get || op.Outcome != history.Done {
			continue
		}
		r.reads++
		switch {
		case op.Call > committed && op.Call < resumed:
			r.late++
		case op.Return > committed && op.Saw != ops[last].Value:
			r.crossing++
		}
	}
	return history.CheckRegisters(ops, judgeMax)
}
