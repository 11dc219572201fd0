package loss

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// The rounds and their seed. In each a kvd under load is killed, looked at while it is down, and
// started again on the same data.
const (
	roundsVariable = "KVD_LOSS_ROUNDS" // default 20
	seedVariable   = "KVD_LOSS_SEED"   // default: by the clock, printed

	ownersPerRound = 6
	keysPerOwner   = 12
	shortTTL       = 2 * time.Second
)

// place is where a member stands: see /debug/state and kvd verify.
type place struct {
	Index     uint64 `json:"index"`
	RaftIndex uint64 `json:"raftIndex"`
	Sum       string `json:"sum"`
	Snapshot  uint64 `json:"snapshot"` // kvd verify only
}

// node is what an owner knows about one of its keys.
type node struct {
	value string
	index kv.Index
	there bool
}

// owner writes to keys that nobody else writes to, so that it knows what they must be.
type owner struct {
	folder string
	random *rand.Rand
	count  int
	nodes  map[string]node

	// The write whose answer never came: it may have happened or not.
	open             string // its key; "" for none
	openFrom, openTo node
}

// told is an acknowledged write that watchers must have seen.
type told struct {
	key    string
	action kv.Action
	value  string
}

// trial is one data directory through all its rounds.
type trial struct {
	t      *testing.T
	member *member
	client *kvclient.Client
	random *rand.Rand
	owners []*owner

	mu      sync.Mutex // guards the fields below
	acked   map[kv.Index]told
	highest kv.Index // acknowledged to anybody, shown to a watcher, or told as the state's
	marks   []place
	mortal  map[string]time.Time // keys with shortTTL: when their write was begun
	seen    map[kv.Index]kv.Event
	watched kv.Index
	writes  int
}

func (tr *trial) reach(index kv.Index) {
	tr.highest = max(tr.highest, index)
}

func TestKillingAMemberBetweenAnyTwoWritesLosesNothing(t *testing.T) {
	rounds := number(t, roundsVariable, 20)
	seed := uint64(number(t, seedVariable, int(time.Now().UnixNano()&0xffffff)))
	t.Logf("%s=%d %s=%d", roundsVariable, rounds, seedVariable, seed)
	for _, c := range []struct {
		logStore string
		rounds   int
	}{{"wal", rounds - rounds/4}, {"boltdb", rounds / 4}} {
		t.Run(c.logStore, func(t *testing.T) {
			member := prepareMember(t, "--experimental-log-store", c.logStore)
			tr := newTrial(t, member, seed)
			tr.run(c.rounds)
		})
	}
}

func number(t *testing.T, variable string, otherwise int) int {
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

func newTrial(t *testing.T, m *member, seed uint64) *trial {
	tr := &trial{
		t: t, member: m, random: rand.New(rand.NewPCG(seed, 0)),
		acked: map[kv.Index]told{}, mortal: map[string]time.Time{}, seen: map[kv.Index]kv.Event{},
	}
	for i := range ownersPerRound {
		tr.owners = append(tr.owners, &owner{
			folder: fmt.Sprintf("/o/%d", i), random: rand.New(rand.NewPCG(seed, uint64(i+1))), nodes: map[string]node{},
		})
	}
	return tr
}

func (tr *trial) run(rounds int) {
	t := tr.t
	tr.member.start()
	tr.client = tr.member.client()
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watch, err := tr.client.Watch(ctx, kv.WatchFrom{Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	watching.Go(func() { tr.follow(ctx, watch) })
	start := time.Now()
	for round := range rounds {
		tr.load()
		tr.judge(round)
		if t.Failed() {
			tr.keep(round)
			return
		}
		tr.restart()
		tr.settle(ctx, round)
		if t.Failed() {
			tr.keep(round)
			return
		}
	}
	tr.awaitExpiry(ctx)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	t.Logf("%d rounds in %v: %d acknowledged writes, index %d", rounds, time.Since(start).Round(time.Second), tr.writes, tr.highest)
}

// keep saves the evidence of a failed round.
func (tr *trial) keep(round int) {
	folder := filepath.Join(os.TempDir(), fmt.Sprintf("kvd-loss-%d", os.Getpid()))
	tr.member.kill()
	if err := os.CopyFS(folder, os.DirFS(filepath.Dir(tr.member.data))); err != nil {
		tr.t.Logf("the data cannot be kept: %v", err)
		return
	}
	tr.t.Logf("round %d failed; data and log are kept in %s", round, folder)
}

// load writes until the member is killed at some moment.
func (tr *trial) load() {
	ctx, cancel := context.WithCancel(tr.t.Context())
	defer cancel()
	var writing sync.WaitGroup
	for _, o := range tr.owners {
		writing.Go(func() { o.write(ctx, tr) })
	}
	writing.Go(func() { tr.mark(ctx) })
	writing.Go(func() { tr.writeMortal(ctx) })
	time.Sleep(time.Duration(tr.random.IntN(250_000)) * time.Microsecond) // the moment, which no level could tell
	if tr.random.IntN(8) == 0 {
		// In the middle of a clean stop, or of the snapshot that it writes.
		syscall.Kill(tr.member.process.Process.Pid, syscall.SIGTERM)
		time.Sleep(time.Duration(tr.random.IntN(60_000)) * time.Microsecond)
	}
	tr.member.kill()
	cancel()
	writing.Wait()
}

// mark notes where the member stands as it goes.
func (tr *trial) mark(ctx context.Context) {
	for ctx.Err() == nil {
		if p, err := tr.state(ctx); err == nil {
			tr.mu.Lock()
			tr.marks = append(tr.marks, p)
			tr.reach(p.Index)
			tr.mu.Unlock()
		}
		pause(ctx, 3*time.Millisecond)
	}
}

func (tr *trial) state(ctx context.Context) (p place, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, tr.member.url+"/debug/state", nil)
	if err != nil {
		return p, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return p, err
	}
	defer response.Body.Close()
	return p, json.NewDecoder(response.Body).Decode(&p)
}

// writeMortal writes keys that live a short time, some of them while the member is down.
func (tr *trial) writeMortal(ctx context.Context) {
	for ctx.Err() == nil {
		begun := time.Now()
		key := fmt.Sprintf("/mortal/%d", begun.UnixNano())
		result, err := tr.client.Write(ctx, kv.Write{Op: kv.OpSet, Key: key, Value: "m", TTL: shortTTL})
		tr.mu.Lock()
		if err == nil {
			tr.mortal[key] = begun
			tr.acked[result.Index] = told{key, kv.ActionSet, "m"}
			tr.reach(result.Index)
			tr.writes++
		}
		tr.mu.Unlock()
		pause(ctx, 10*time.Millisecond)
	}
}

// write makes one write after the other until one gets no answer.
func (o *owner) write(ctx context.Context, tr *trial) {
	for ctx.Err() == nil {
		key := fmt.Sprintf("%s/%d", o.folder, o.random.IntN(keysPerOwner))
		w, next, refusal := o.choose(key, o.nodes[key])
		result, err := tr.client.Write(ctx, w)
		var e *kv.Error
		switch {
		case err == nil && refusal == 0:
			next.index = result.Index
			o.nodes[key] = next
			tr.note(w, result, next)
		case err == nil:
			tr.t.Errorf("%+v succeeded at %d, the key is %+v", w, result.Index, o.nodes[key])
			return
		case errors.As(err, &e) && e.Kind == refusal && refusal != 0:
		case refusal != 0 || errors.As(err, &e) && (e.Kind == kv.Unknown || e.Kind == kv.Timeout || e.Kind == kv.Unavailable || e.Kind == kv.NoLeader || e.Kind == kv.Closed || e.Kind == kv.Internal):
			if refusal == 0 {
				o.open, o.openFrom, o.openTo = key, o.nodes[key], next
			}
			return
		default:
			tr.t.Errorf("%+v on %+v: %v", w, o.nodes[key], err)
			return
		}
	}
}

// choose returns a write to key, what the key will be after it, and, for one that must be refused,
// the kind of the refusal.
func (o *owner) choose(key string, now node) (w kv.Write, next node, refusal kv.Kind) {
	o.count++
	length := o.random.IntN(2000)
	if o.random.IntN(20) == 0 {
		length = 100_000 // so that the log grows long enough for snapshots
	}
	value := fmt.Sprintf("%s-%d-%s", key, o.count, strings.Repeat("v", length))
	next = node{value: value, there: true}
	w = kv.Write{Op: kv.OpSet, Key: key, Value: value}
	if o.random.IntN(4) == 0 {
		w.TTL = time.Hour
	}
	if !now.there {
		switch o.random.IntN(4) {
		case 0:
			return kv.Write{Op: kv.OpDelete, Key: key}, now, kv.NotFound
		case 1:
			w.Op = kv.OpUpdate
			return w, now, kv.NotFound
		case 2:
			w.Op = kv.OpCreate
		}
		return w, next, 0
	}
	switch o.random.IntN(9) {
	case 0:
		return kv.Write{Op: kv.OpDelete, Key: key}, node{}, 0
	case 1:
		return kv.Write{Op: kv.OpCompareAndDelete, Key: key, PrevIndex: now.index}, node{}, 0
	case 2:
		w.Op, w.PrevIndex = kv.OpCompareAndSwap, now.index
	case 3:
		w.Op, w.PrevValue = kv.OpCompareAndSwap, now.value
	case 4:
		w.Op, w.PrevIndex = kv.OpCompareAndSwap, now.index-1
		return w, now, kv.CompareFailed
	case 5:
		w.Op = kv.OpCreate
		return w, now, kv.Exists
	case 6:
		return kv.Write{Op: kv.OpSet, Key: key, Refresh: true, TTL: time.Hour}, node{value: now.value, there: true}, 0
	}
	return w, next, 0
}

func (tr *trial) note(w kv.Write, result kv.Result, next node) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if other, taken := tr.acked[result.Index]; taken {
		tr.t.Errorf("index %d was given to %s and to %s", result.Index, w.Key, other.key)
	}
	if !w.Refresh { // nobody is told of a refresh
		tr.acked[result.Index] = told{w.Key, result.Action, next.value}
	}
	tr.reach(result.Index)
	tr.writes++
}

// follow collects what a watcher is told, over all restarts.
func (tr *trial) follow(ctx context.Context, watch kv.Watch) {
	defer watch.Close()
	for {
		event, err := watch.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		tr.mu.Lock()
		if err != nil {
			tr.t.Errorf("the watch has ended after index %d: %v", tr.watched, err)
			tr.mu.Unlock()
			return
		}
		index := event.Node.ModifiedIndex
		if index <= tr.watched {
			tr.t.Errorf("the watch tells of index %d after %d", index, tr.watched)
		}
		if begun, ok := tr.mortal[event.Node.Key]; ok && event.Action == kv.ActionExpire {
			if age := time.Since(begun); age < shortTTL {
				tr.t.Errorf("%s expired after %v, before its time", event.Node.Key, age)
			}
			delete(tr.mortal, event.Node.Key)
		}
		tr.seen[index], tr.watched = event, index
		tr.reach(index)
		tr.mu.Unlock()
	}
}

// judge looks at the data while the member is down: it is sound, nothing that was told is missing,
// and reading the log up to a place leads to the sum that the member had there.
func (tr *trial) judge(round int) {
	down := tr.verify(0)
	tr.mu.Lock()
	marks := tr.marks
	tr.marks = nil
	highest := tr.highest
	tr.mu.Unlock()
	if down.Index < highest {
		tr.t.Errorf("round %d: the data ends at index %d, %d was told", round, down.Index, highest)
	}
	if len(marks) == 0 {
		return
	}
	for _, mark := range []place{marks[len(marks)-1], marks[tr.random.IntN(len(marks))]} {
		if mark.RaftIndex < down.Snapshot {
			continue // no longer in the log
		}
		if got := tr.verify(mark.RaftIndex); got.Sum != mark.Sum || got.Index != mark.Index || got.RaftIndex != mark.RaftIndex {
			tr.t.Errorf("round %d: the member was at %+v, its log says %+v", round, mark, got)
		}
	}
}

// verify asks kvd verify for the state that the data leads to, up to a log entry.
func (tr *trial) verify(last uint64) (p place) {
	args := []string{"verify", "--data-dir", tr.member.data, "--json", "--raft-index", strconv.FormatUint(last, 10)}
	out, err := exec.Command(filepath.Join(parts.Build(tr.t), "kvd"), args...).Output()
	if err == nil {
		err = json.Unmarshal(out, &p)
	}
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		tr.t.Errorf("kvd verify --raft-index %d: %v", last, err)
	}
	return p
}

// restart starts the member again, sometimes at the second or third attempt.
func (tr *trial) restart() {
	for tr.random.IntN(5) == 0 {
		tr.member.launch()
		time.Sleep(time.Duration(tr.random.IntN(80_000)) * time.Microsecond)
		tr.member.kill()
	}
	before := tr.verify(0)
	tr.member.start()
	now, err := tr.state(tr.t.Context())
	if err != nil {
		tr.t.Fatal(err)
	}
	if now.Index < before.Index || now.Index == before.Index && now.Sum != before.Sum {
		tr.t.Errorf("the data leads to %+v, the member has started at %+v", before, now)
	}
	tr.mu.Lock()
	tr.marks = append(tr.marks, now) // a later log has to lead there as well
	tr.mu.Unlock()
}

// settle compares what is there with what was acknowledged, and waits for the watch.
func (tr *trial) settle(ctx context.Context, round int) {
	for _, o := range tr.owners {
		result, err := tr.client.Read(ctx, kv.Read{Key: o.folder, Quorum: true})
		if err != nil && !kv.Is(err, kv.NotFound) {
			tr.t.Fatalf("round %d: %v", round, err)
		}
		found := map[string]node{}
		if err == nil {
			for _, n := range result.Node.Nodes {
				found[n.Key] = node{n.Value, n.ModifiedIndex, true}
			}
		}
		o.compare(tr.t, round, found)
	}
	tr.checkMortal(ctx)
	marker, err := tr.client.Write(ctx, kv.Write{Op: kv.OpSet, Key: "/marker", Value: strconv.Itoa(round)})
	if err != nil {
		tr.t.Fatalf("round %d: %v", round, err)
	}
	tr.awaitWatch(ctx, round, marker.Index)
}

// compare checks the keys of an owner, and learns what became of the write without an answer.
func (o *owner) compare(t *testing.T, round int, found map[string]node) {
	for i := range keysPerOwner {
		key := fmt.Sprintf("%s/%d", o.folder, i)
		got, want := found[key], o.nodes[key]
		if !want.there {
			want = node{}
		}
		happened := key == o.open && got.there == o.openTo.there && got.value == o.openTo.value && (!got.there || got.index > want.index)
		if got != want && !happened {
			t.Errorf("round %d: %s is %s, want %s; the write without an answer was of %q, to %s", round, key, got, want, o.open, o.openTo)
		}
		o.nodes[key] = got
	}
	o.open = ""
}

func (n node) String() string {
	if !n.there {
		return "absent"
	}
	return fmt.Sprintf("%.40q (%d bytes) of index %d", n.value, len(n.value), n.index)
}

// checkMortal finds keys that have gone before their time.
func (tr *trial) checkMortal(ctx context.Context) {
	result, err := tr.client.Read(ctx, kv.Read{Key: "/mortal", Quorum: true})
	now := time.Now()
	if err != nil && !kv.Is(err, kv.NotFound) {
		tr.t.Fatal(err)
	}
	there := map[string]bool{}
	if err == nil {
		for _, n := range result.Node.Nodes {
			there[n.Key] = true
		}
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for key, begun := range tr.mortal {
		if age := now.Sub(begun); !there[key] && age < shortTTL {
			tr.t.Errorf("%s is gone after %v", key, age)
		}
	}
}

// awaitWatch waits until the watch has come to index, and compares what it told with what was
// acknowledged.
func (tr *trial) awaitWatch(ctx context.Context, round int, index kv.Index) {
	deadline := time.Now().Add(time.Minute)
	for {
		tr.mu.Lock()
		watched := tr.watched
		tr.mu.Unlock()
		if watched >= index {
			break
		}
		if time.Now().After(deadline) || !pause(ctx, time.Millisecond) || tr.t.Failed() {
			tr.t.Errorf("round %d: the watch is at %d, the store at %d", round, watched, index)
			return
		}
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for index, want := range tr.acked {
		got, ok := tr.seen[index]
		switch {
		case !ok:
			tr.t.Errorf("round %d: the watch never told of index %d: %s %s", round, index, want.action, want.key)
		case got.Node.Key != want.key || got.Action != want.action || got.Node.Value != want.value:
			tr.t.Errorf("round %d: at index %d the watch told %s %s, acknowledged was %s %s", round, index, got.Action, got.Node.Key, want.action, want.key)
		}
	}
	clear(tr.acked)
	clear(tr.seen)
}

// awaitExpiry waits until every key that was to expire has: an expiry is never forgotten.
func (tr *trial) awaitExpiry(ctx context.Context) {
	deadline := time.Now().Add(time.Minute)
	for {
		result, err := tr.client.Read(ctx, kv.Read{Key: "/mortal", Quorum: true})
		if err != nil || len(result.Node.Nodes) == 0 {
			return
		}
		if time.Now().After(deadline) || !pause(ctx, 20*time.Millisecond) {
			tr.t.Errorf("%d keys have not expired", len(result.Node.Nodes))
			return
		}
	}
}
