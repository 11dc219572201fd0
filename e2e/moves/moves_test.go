package moves

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

const (
	movesVariable = "KVD_MOVES"
	seedVariable  = "KVD_MOVES_SEED"

	movesDefault = 20
	chapter      = 25 // moves after which the judge looks

	service  = "web"
	instance = "the-one"
	ttl      = 2 * time.Second

	// rightMax is how long after a move, when nothing is broken any more, the record may be wrong: what a
	// dead agent has left goes with its TTL, and so does what a request brings back that was held.
	rightMax = ttl + 5*time.Second
	faultMax = 3 // moves that a fault may last

	// answerMax is how long an answer of the store may be on its way to a link.
	answerMax = 5 * time.Second

	longEvery = 8 // moves, about, of which one takes longer than a TTL
)

// views are the layouts in which each record is written, and their directories. They name their owner in
// different ways, or not at all.
var views = map[string]string{
	"json:/services": "/services", "registrator:/plain": "/plain", "skydns:example.test": "/skydns/test/example", "coreos:/website": "/website",
}

// fault is something that goes wrong at one host. begin breaks it, end mends it.
type fault struct {
	name  string
	begin func(h *host)
	end   func(h *host)
}

var faults = []fault{
	{"none", func(*host) {}, func(*host) {}},
	{"kill -9", (*host).kill, (*host).start},
	{"restart", func(h *host) { h.stop(); h.start() }, func(*host) {}},
	{"kill -9 and restart", func(h *host) { h.kill(); h.start() }, func(*host) {}},
	{"requests held", func(h *host) { h.link.hold(true, false) }, func(h *host) { h.link.open() }},
	{"answers held", func(h *host) { h.link.hold(false, true) }, func(h *host) { h.link.open() }},
	{"both held", func(h *host) { h.link.hold(true, true) }, func(h *host) { h.link.open() }},
	{"requests held, then kill -9", func(h *host) { h.link.hold(true, false); pause(200 * time.Millisecond); h.kill() }, func(h *host) { h.start(); h.link.open() }},
	{"engine away", func(h *host) { h.engine.Stop() }, func(h *host) { h.engine.Restart() }},
}

// pause lets real time pass: the moments at which things happen are what is tried.
func pause(d time.Duration) { time.Sleep(d) }

// broken is a fault that has not ended.
type broken struct {
	fault fault
	host  *host
	until int // the move before which it ends
}

// orders are how a container that moves overlaps with itself.
var orders = []string{"there first", "here last", "at once"}

// journey is one run. It belongs to one goroutine.
type journey struct {
	t       *testing.T
	random  *rand.Rand
	hosts   [2]*host
	at      int // index of the host where the container runs
	id      string
	moves   int
	broken  []broken
	keys    []string
	watcher *watcher

	worst map[string]time.Duration // until the record was right, by the faults that there were
	tally map[string]int
	since []string // faults since it was right
}

func setting(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

func TestAServiceThatMovesIsNeverRemovedByTheHostThatItLeft(t *testing.T) {
	moves := int(setting(t, movesVariable, movesDefault))
	seed := setting(t, seedVariable, rand.Uint64())
	t.Logf("%s=%d repeats the choices", seedVariable, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	store := daemontest.Start(t, 1).URL()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{store}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	watch, err := client.Watch(t.Context(), kv.WatchFrom{Key: "/", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	j := &journey{t: t, random: random, watcher: &watcher{now: map[string]*kv.Node{}},
		worst: map[string]time.Duration{}, tally: map[string]int{}}
	watching.Go(func() { j.watcher.follow(ctx, watch) })
	var layouts []string
	for layout, directory := range views {
		layouts = append(layouts, "--layout", layout)
		j.keys = append(j.keys, directory+"/"+service+"/"+instance)
	}
	for i := range j.hosts {
		name := fmt.Sprintf("h%d", i+1)
		j.hosts[i] = newHost(t, name, fmt.Sprintf("10.99.0.%d", i+1), store, random, layouts...)
	}
	j.id = "c0"
	j.hosts[0].run(j.id)
	j.settle()
	for j.moves < moves && !t.Failed() {
		j.move()
		if j.moves%chapter == 0 {
			j.judge()
		}
	}
	j.settle()
	j.judge()
	j.report()
}

// move moves the container to the other host, with a fault or two.
func (j *journey) move() {
	j.moves++
	here, there := j.hosts[j.at], j.hosts[1-j.at]
	j.mend(func(b broken) bool { return b.until <= j.moves })
	for range 1 + j.random.IntN(2) {
		j.breakSomething()
	}
	order := orders[j.random.IntN(len(orders))]
	j.tally[order]++
	gap, grace := j.upTo(200*time.Millisecond), j.upTo(100*time.Millisecond)
	old := j.id
	j.id = fmt.Sprintf("c%d", j.moves)
	start := func() { there.run(j.id) }
	stop := func() { here.engine.Signal(old); pause(grace); here.engine.End(old) }
	switch order {
	case "there first":
		start()
		pause(gap)
		stop()
	case "here last":
		stop()
		pause(gap)
		start()
	case "at once":
		var both sync.WaitGroup
		both.Go(start)
		both.Go(stop)
		both.Wait()
	}
	j.at = 1 - j.at
	pause(j.upTo(300 * time.Millisecond))
	if j.random.IntN(longEvery) == 0 { // what was there expires meanwhile, if nobody renews it
		j.tally["long"]++
		pause(ttl + j.upTo(ttl))
	}
	if j.random.IntN(2) == 0 {
		j.settle()
	}
}

func (j *journey) upTo(d time.Duration) time.Duration {
	return time.Duration(j.random.Int64N(int64(d)))
}

// breakSomething begins a fault at a host that has none.
func (j *journey) breakSomething() {
	h := j.hosts[j.random.IntN(len(j.hosts))]
	f := faults[j.random.IntN(len(faults))]
	lasts := j.random.IntN(faultMax + 1)
	if slices.ContainsFunc(j.broken, func(b broken) bool { return b.host == h }) {
		return
	}
	f.begin(h)
	j.tally[f.name]++
	j.since = append(j.since, f.name)
	j.broken = append(j.broken, broken{f, h, j.moves + lasts})
}

func (j *journey) mend(which func(broken) bool) {
	j.broken = slices.DeleteFunc(j.broken, func(b broken) bool {
		if which(b) {
			b.fault.end(b.host)
			return true
		}
		return false
	})
}

// settle mends everything and waits until the record is that of the host where the container runs.
func (j *journey) settle() {
	j.t.Helper()
	j.mend(func(broken) bool { return true })
	began := time.Now()
	for {
		wrong, err := j.wrong()
		if err != nil {
			j.t.Fatalf("the watch: %v", err)
		}
		if wrong == "" {
			break
		}
		for _, h := range j.hosts {
			h.revive()
		}
		if time.Since(began) > rightMax {
			j.t.Fatalf("%v after move %d to %s, with %s: %s", rightMax, j.moves, j.hosts[j.at].name, strings.Join(j.since, ", "), wrong)
		}
		time.Sleep(2 * time.Millisecond)
	}
	took := time.Since(began)
	for _, name := range j.since {
		j.worst[name] = max(j.worst[name], took)
	}
	j.since = nil
}

// wrong says which key does not name the host where the container runs.
func (j *journey) wrong() (string, error) {
	for _, key := range j.keys {
		value, err := j.watcher.at(key)
		if err != nil {
			return "", err
		}
		isUp := !strings.Contains(value, `"state":`) || strings.Contains(value, `"state":"up"`)
		if j.hostOf(value) != j.hosts[j.at].name || !isUp {
			return fmt.Sprintf("%s holds %q", key, value), nil
		}
	}
	return "", nil
}

// hostOf names the host whose address a value holds, in whatever layout.
func (j *journey) hostOf(value string) string {
	for _, h := range j.hosts {
		if strings.Contains(value, h.address) {
			return h.name
		}
	}
	return ""
}

func (j *journey) judge() {
	j.t.Helper()
	j.watcher.mu.Lock()
	events := slices.Clone(j.watcher.events)
	j.watcher.mu.Unlock()
	links := []*link{j.hosts[0].link, j.hosts[1].link}
	violations, expiries := judge(events, links, j.keys, j.hostOf)
	// The watch may tell of a write before its answer has reached the link, which names who has done it.
	for deadline := time.Now().Add(answerMax); len(violations) > 0 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		violations, expiries = judge(events, links, j.keys, j.hostOf)
	}
	for _, v := range violations {
		j.t.Error(v)
	}
	j.tally["events"], j.tally["expiries"] = len(events), expiries
}

func (j *journey) report() {
	j.t.Logf("%d moves, %d events, of which %d expiries; %d, %d and %d %q, %d longer than a TTL", j.moves, j.tally["events"], j.tally["expiries"],
		j.tally[orders[0]], j.tally[orders[1]], j.tally[orders[2]], orders, j.tally["long"])
	j.t.Logf("%d agents had to be started again, for they had found no engine", j.hosts[0].revived+j.hosts[1].revived)
	for _, f := range slices.SortedFunc(slices.Values(faults), func(a, b fault) int { return cmp.Compare(a.name, b.name) }) {
		j.t.Logf("%-28s %4d times, right again after %v at most", f.name, j.tally[f.name], j.worst[f.name].Round(time.Millisecond))
	}
}
