package nemesis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
	"github.com/kvd-io/kvd/e2e/history"
)

const (
	// Below the home of a chapter: keys that are written once, registers, and keys with a TTL.
	acked  = "/acked/"
	shared = "/reg/"
	mortal = "/ttl/"

	registerClients = 6
	registers       = 3
	// opsPerEpoch is after how many ops the clients go on to fresh registers: what is known of a
	// register gets no clearer after that, and its judgement takes longer.
	opsPerEpoch = 600

	// thinkTime is a client's pause between two ops, on average.
	thinkTime = 20 * time.Millisecond
	// askMax is when a client gives up; what became of a write is unknown then.
	askMax = time.Second
)

// workload is the clients of a cluster during one chapter.
type workload struct {
	t       *testing.T
	members []*cluster.Member
	caller  *cluster.Caller
	log     *history.Log
	home    string       // the directory of all keys
	ops     atomic.Int64 // on registers
	latest  sync.Map     // register to a value it has had
	watches []*watcher

	running sync.WaitGroup
	cancel  context.CancelFunc // ends the clients, each after its op

	mu   sync.Mutex // guards acks
	acks []ack
}

// ack is an acknowledged write.
type ack struct {
	member string
	call   time.Duration
	at     time.Duration
}

// client is one of those who write and read.
type client struct {
	*workload
	number int
	random *rand.Rand
	count  int
	ttls   []history.Op // acknowledged, and short-lived
}

// begin starts the clients: one writer for each member, so that one that does not answer keeps nobody
// from writing elsewhere, and some who ask a member by chance.
func begin(ctx context.Context, t *testing.T, members []*cluster.Member, home string, seed uint64) *workload {
	w := &workload{t: t, members: members, caller: cluster.NewCaller(32), log: history.NewLog(), home: home}
	clients, cancel := context.WithCancel(ctx)
	w.cancel = cancel
	number := 0
	start := func(act func(ctx context.Context, c *client)) {
		c := &client{workload: w, number: number, random: rand.New(rand.NewPCG(seed, uint64(number)))}
		number++
		w.running.Go(func() {
			for clients.Err() == nil {
				act(ctx, c)
				sleep(clients, thinkTime/2+time.Duration(c.random.Int64N(int64(thinkTime))))
			}
		})
	}
	for _, m := range members {
		start(func(ctx context.Context, c *client) { c.write(ctx, m) })
	}
	for range registerClients {
		start(func(ctx context.Context, c *client) { c.register(ctx) })
	}
	start(func(ctx context.Context, c *client) { c.mortal(ctx) })
	return w
}

// watch begins to watch every member, from an index on, with long polls or with streams.
func (w *workload) watch(ctx context.Context, from uint64, stream func(member int) bool) {
	for i, m := range w.members {
		w.watches = append(w.watches, follow(ctx, w, m, from, stream(i)))
	}
}

// end waits for the clients.
func (w *workload) end() {
	w.cancel()
	w.running.Wait()
}

// close waits for everybody.
func (w *workload) close() {
	w.end()
	for _, watch := range w.watches {
		watch.end()
	}
	w.caller.Close()
}

// sleep waits for d or the end of ctx, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// value returns one that nobody has written.
func (c *client) value() string {
	c.count++
	return fmt.Sprintf("%d-%d", c.number, c.count)
}

func (c *client) anyone() *cluster.Member { return c.members[c.random.IntN(len(c.members))] }

// write writes a key of its own, and looks whether the member that has acknowledged it shows it to a
// plain read, unless that is another process by then.
func (c *client) write(ctx context.Context, m *cluster.Member) {
	value, pid := c.value(), m.PID()
	op := c.ask(ctx, m, history.Op{Client: c.number, Kind: history.Put, Key: c.home + acked + strconv.Itoa(c.number) + "/" + value, Value: value})
	if op.Outcome != history.Done || c.random.IntN(4) != 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	reply, err := c.caller.Keys(ctx, http.MethodGet, m.ClientURL, op.Key, nil)
	if err == nil && pid == m.PID() && (reply.Code == keyNotFound || reply.Node != nil && reply.Node.Value != value) {
		c.t.Errorf("%v is not shown by the member that acknowledged it, but %+v", op, reply)
	}
}

// register does something to one of the keys that all share.
func (c *client) register(ctx context.Context) {
	op := history.Op{Client: c.number, Kind: history.Kind(c.random.IntN(3))}
	op.Key = fmt.Sprintf("%s%s%d/%d", c.home, shared, c.ops.Add(1)/opsPerEpoch, c.random.IntN(registers))
	if op.Kind != history.Get {
		op.Value = c.value()
	}
	if op.Kind == history.Swap {
		op.Prev = "nothing"
		if known, ok := c.latest.Load(op.Key); ok {
			op.Prev = known.(string)
		}
	}
	op = c.ask(ctx, c.anyone(), op)
	switch {
	case op.Outcome == history.Done && op.Kind != history.Get:
		c.latest.Store(op.Key, op.Value)
	case op.Saw != "":
		c.latest.Store(op.Key, op.Saw)
	}
}

// mortal writes a key that lasts for some seconds, or reads one that may be over.
func (c *client) mortal(ctx context.Context) {
	if len(c.ttls) > 0 && c.random.IntN(2) == 0 {
		c.ask(ctx, c.anyone(), history.Op{Client: c.number, Kind: history.Get, Key: c.ttls[c.random.IntN(len(c.ttls))].Key})
	} else {
		value := c.value()
		op := c.ask(ctx, c.anyone(), history.Op{Client: c.number, Kind: history.Put, Key: c.home + mortal + value, Value: value,
			TTL: time.Duration(1+c.random.IntN(3)) * time.Second})
		if op.Outcome == history.Done {
			c.ttls = append(c.ttls[max(0, len(c.ttls)-9):], op)
		}
	}
	sleep(ctx, 5*thinkTime)
}

// ask does op on a member, adds it to the log, and returns it with its outcome.
func (w *workload) ask(ctx context.Context, m *cluster.Member, op history.Op) history.Op {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	method, form := http.MethodPut, url.Values{"value": {op.Value}}
	switch {
	case op.Kind == history.Get:
		method, form = http.MethodGet, url.Values{"quorum": {"true"}}
	case op.Kind == history.Swap:
		form.Set("prevValue", op.Prev)
	case op.TTL != 0:
		form.Set("ttl", strconv.Itoa(int(op.TTL/time.Second)))
	}
	op.Member, op.Call = m.Name, w.log.Now()
	reply, err := w.caller.Keys(ctx, method, m.ClientURL, op.Key, form)
	op.Return = w.log.Now()
	w.judge(&op, reply, err)
	w.log.Add(op)
	if op.Kind != history.Get && op.Outcome == history.Done {
		w.mu.Lock()
		w.acks = append(w.acks, ack{m.Name, op.Call, op.Return})
		w.mu.Unlock()
	}
	return op
}

// Codes of the v2 API.
const (
	keyNotFound   = 100
	compareFailed = 101
	eventsCleared = 401
)

// judge fills in what an answer means.
func (w *workload) judge(op *history.Op, reply cluster.Reply, err error) {
	switch {
	case errors.Is(err, cluster.ErrNotSent):
		op.Outcome = history.Refused
	case err != nil || reply.Status >= http.StatusInternalServerError:
		op.Outcome = history.Unknown
	case reply.Code == keyNotFound && op.Kind == history.Get:
		op.Outcome = history.Done
	case reply.Code == keyNotFound && op.Kind == history.Swap:
		op.Outcome = history.Mismatch
	case reply.Code == compareFailed:
		op.Outcome = history.Mismatch
		_, op.Saw, _ = strings.Cut(strings.Trim(reply.Cause, "[]"), " != ")
	case reply.Status < http.StatusMultipleChoices && reply.Node != nil && op.Kind == history.Get:
		op.Outcome, op.Saw = history.Done, reply.Node.Value
	case reply.Status < http.StatusMultipleChoices && reply.Node != nil:
		op.Outcome, op.Index = history.Done, reply.Node.ModifiedIndex
		if reply.PrevNode != nil {
			op.Saw = reply.PrevNode.Value
		}
	default:
		op.Outcome = history.Unknown
		w.t.Errorf("%v was answered with %d: %+v", *op, reply.Status, reply)
	}
}

// longestGap returns the longest time without an acknowledged write between two moments.
func (w *workload) longestGap(from, to time.Duration) time.Duration {
	w.mu.Lock()
	acks := slices.Clone(w.acks)
	w.mu.Unlock()
	slices.SortFunc(acks, func(a, b ack) int { return cmp.Compare(a.at, b.at) })
	last, longest := from, time.Duration(0)
	for _, a := range acks {
		if a.at > from && a.at <= to {
			longest = max(longest, a.at-last)
			last = a.at
		}
	}
	return max(longest, to-last)
}

// writesEverywhere reports whether each member has acknowledged a write that was begun since a moment.
func (w *workload) writesEverywhere(since time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := map[string]bool{}
	for i := len(w.acks) - 1; i >= 0 && len(names) < len(w.members) && w.acks[i].at >= since; i-- {
		if w.acks[i].call >= since {
			names[w.acks[i].member] = true
		}
	}
	return len(names) == len(w.members)
}
