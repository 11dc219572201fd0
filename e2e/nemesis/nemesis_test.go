package nemesis

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
	"github.com/kvd-io/kvd/e2e/history"
	"github.com/kvd-io/kvd/e2e/parts"
)

const (
	programVariable = "KVD_CLUSTER_PROGRAM"
	faultsVariable  = "KVD_CLUSTER_FAULTS"
	seedVariable    = "KVD_CLUSTER_SEED"
	membersVariable = "KVD_CLUSTER_MEMBERS"
	argsVariable    = "KVD_CLUSTER_ARGS"
	classVariable   = "KVD_CLUSTER_CLASS"

	faultsPerChapter = 10
	// recoverMax bounds the time from the end of a fault until every member writes again.
	recoverMax = 30 * time.Second
	// settleMax bounds each wait at the end of a chapter.
	settleMax = 30 * time.Second
	// judgeMax bounds the search for an order of the ops on one register.
	judgeMax = 30 * time.Second
)

// nemesis is a cluster and what happens to it. It belongs to one goroutine.
type nemesis struct {
	t       *testing.T
	program cluster.Program
	cluster *cluster.Cluster
	caller  *cluster.Caller
	random  *rand.Rand
	seed    uint64
	chapter int
	tally   map[string]*tally // by class
	faults  int               // that have happened
	found   int               // violations

	// Writes of earlier chapters whose outcome is unknown. They may happen at any time: what a client
	// has sent before it gave up can be on its way for many seconds.
	open map[string]bool // by key and value
}

// tally is what is known of a class of faults.
type tally struct {
	gaps       []time.Duration
	violations int // in chapters that had it
}

func (n *nemesis) anyone() *cluster.Member {
	members := n.cluster.Members()
	return members[n.random.IntN(len(members))]
}

// setting returns a number from the environment.
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

// subject is the program that is tried.
func subject(t *testing.T) cluster.Program {
	t.Helper()
	switch name := os.Getenv(programVariable); name {
	case "", "kvd":
		return cluster.KVD(filepath.Join(parts.Build(t), "kvd"))
	case "etcd":
		return cluster.Etcd(parts.Path(t, "etcd"))
	default:
		t.Fatalf("%s=%s: there are kvd and etcd", programVariable, name)
		panic("unreachable")
	}
}

// begun returns a cluster that has started, whose data is kept if the test fails. On loopback, nothing
// can be cut.
func begun(t *testing.T, program cluster.Program, members int, loopback bool, args ...string) *cluster.Cluster {
	t.Helper()
	if !loopback {
		parts.Need(t, "netns")
	}
	dir, err := os.MkdirTemp("", "kvd-nemesis-")
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.New(cluster.Config{Program: program, Members: members, Dir: dir, Loopback: loopback, Args: append(strings.Fields(os.Getenv(argsVariable)), args...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if t.Failed() {
			t.Logf("data and logs of the members: %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNothingIsLostAndNoReadIsStaleWhateverBreaks(t *testing.T) {
	parts.Need(t, "strace")
	parts.Need(t, "etcdctl")
	count := int(setting(t, faultsVariable, 8))
	seed := setting(t, seedVariable, uint64(time.Now().UnixNano()&0xffffff))
	members := int(setting(t, membersVariable, 3))
	program := subject(t)
	t.Logf("replay: %s=%s %s=%d %s=%d %s=%d %s=%q %s=%q go test ./e2e/nemesis -count=1 -v -run %s", programVariable, program.Name,
		faultsVariable, count, seedVariable, seed, membersVariable, members, classVariable, os.Getenv(classVariable), argsVariable, os.Getenv(argsVariable), t.Name())
	n := &nemesis{t: t, program: program, cluster: begun(t, program, members, false), caller: cluster.NewCaller(4),
		random: rand.New(rand.NewPCG(seed, 0)), seed: seed, tally: map[string]*tally{}, open: map[string]bool{}}
	defer n.caller.Close()
	defer n.report()
	possible := slices.DeleteFunc(slices.Clone(faults), func(f fault) bool {
		return slices.Contains(notFor[program.Name], f.name) || !strings.Contains(f.name, os.Getenv(classVariable))
	})
	if len(possible) == 0 {
		t.Fatalf("%s: no class of faults has that in its name", classVariable)
	}
	var order []fault
	for len(order) < count {
		for _, i := range n.random.Perm(len(possible)) {
			order = append(order, possible[i])
		}
	}
	for chapter := range slices.Chunk(order[:count], faultsPerChapter) {
		n.play(chapter)
		if t.Failed() {
			return
		}
	}
}

// play has the faults of a chapter happen under load, and judges it.
func (n *nemesis) play(chapter []fault) {
	n.chapter++
	from := n.index()
	ctx, cancel := context.WithCancel(n.t.Context())
	defer cancel()
	w := begin(ctx, n.t, n.cluster.Members(), fmt.Sprintf("/chapter-%d", n.chapter), n.seed+uint64(n.chapter))
	defer w.close()
	w.watch(ctx, from, func(member int) bool { // a stream of etcd leaves out what was before it, but for the first event
		return n.program.Name == "kvd" && (member+n.chapter)%2 == 0
	})
	var names []string
	for i := 0; i < len(chapter) && !n.t.Failed(); i++ {
		together := chapter[i : i+1]
		if i+1 < len(chapter) && !chapter[i].alone && !chapter[i+1].alone && n.random.IntN(4) == 0 {
			together = chapter[i : i+2]
			i++
		}
		names = append(names, n.strike(ctx, w, together))
	}
	if n.t.Failed() {
		return
	}
	violations := n.settle(ctx, w)
	n.found += len(violations)
	for _, name := range names {
		n.tally[name].violations += len(violations)
	}
	for i, v := range violations {
		const most = 20
		if i == most {
			n.t.Errorf("... and %d more", len(violations)-most)
			break
		}
		n.t.Errorf("chapter %d (%s): %v", n.chapter, strings.Join(names, ", "), v)
	}
}

// strike has one or two faults happen at once and waits until every member writes again. It returns
// the name under which they are counted.
func (n *nemesis) strike(ctx context.Context, w *workload, together []fault) string {
	name := together[0].name
	if len(together) > 1 {
		name = "two of these at once"
	}
	begun := w.log.Now()
	var heals []func() error
	for _, f := range together {
		heal, err := f.begin(ctx, n)
		if err != nil {
			n.t.Fatalf("%s: %v", f.name, err)
		}
		heals = append(heals, heal)
	}
	sleep(ctx, time.Duration(200+n.random.IntN(1800))*time.Millisecond)
	for i, heal := range heals {
		if err := heal(); err != nil {
			n.t.Fatalf("the end of %q: %v", together[i].name, err)
		}
	}
	n.await(ctx, w)
	n.faults += len(together)
	if n.tally[name] == nil {
		n.tally[name] = &tally{}
	}
	gap := w.longestGap(begun, w.log.Now())
	n.tally[name].gaps = append(n.tally[name].gaps, gap)
	words := together[0].name
	if len(together) > 1 {
		words += ", " + together[1].name
	}
	n.t.Logf("chapter %d at %8v: %s: %v without a write", n.chapter, begun.Round(time.Millisecond), words, gap.Round(time.Millisecond))
	return name
}

// await waits until every member is healthy and has acknowledged a write.
func (n *nemesis) await(ctx context.Context, w *workload) {
	ctx, cancel := context.WithTimeout(ctx, recoverMax)
	defer cancel()
	healed := w.log.Now()
	if err := n.cluster.AwaitHealthy(ctx); err != nil {
		n.t.Fatalf("after a fault was over: %v", err)
	}
	for !w.writesEverywhere(healed) {
		if !sleep(ctx, 5*time.Millisecond) {
			n.t.Fatalf("%v after a fault was over, not every member acknowledges writes", recoverMax)
		}
	}
	for _, m := range n.cluster.Members() {
		if err := m.Died(); err != nil {
			n.t.Fatal(err)
		}
	}
}

// settle waits until everything has come to rest, and judges the chapter.
func (n *nemesis) settle(ctx context.Context, w *workload) []history.Violation {
	w.end()
	last := n.mark(ctx, w)
	n.until("all keys with a TTL are gone", func() bool {
		return len(n.read(w.home+mortal)) == 0
	})
	found := n.awaitWatches(w, last.Index)
	for _, watch := range w.watches {
		watch.end()
	}
	ops := w.log.Ops()
	watches := make([]history.Watch, len(w.watches))
	for i, watch := range w.watches {
		var strangers []history.Violation
		watches[i], strangers = n.ofChapter(w.home, watch.watched())
		found = append(found, strangers...)
	}
	found = slices.Concat(found,
		history.CheckWrites(below(w.home+acked, ops), n.read(w.home+acked)),
		history.CheckOrder(ops),
		history.CheckRegisters(below(w.home+shared, ops), judgeMax),
		history.CheckWatches(ops, watches, last.Index),
		history.CheckExpiry(ops, watches, n.read(w.home+mortal)),
		n.compareMembers())
	n.t.Logf("chapter %d: %s", n.chapter, summary(ops, watches))
	n.until("the keys of a chapter are deleted", func() bool {
		reply, err := n.caller.Keys(ctx, http.MethodDelete, n.anyone().ClientURL, w.home, url.Values{"recursive": {"true"}})
		return err == nil && (reply.Status == http.StatusOK || reply.Code == keyNotFound)
	})
	for _, op := range ops {
		if op.Kind != history.Get && op.Outcome == history.Unknown {
			n.open[op.Key+" "+op.Value] = true
		}
	}
	return found
}

// ofChapter takes out of a watch what belongs to earlier chapters: writes that were open when those
// ended, and the ends of keys that such a write has made. Anything else is from nowhere.
func (n *nemesis) ofChapter(home string, w history.Watch) (history.Watch, []history.Violation) {
	var found []history.Violation
	var mine []history.Event
	late := map[string]bool{}
	for _, e := range w.Events {
		switch {
		case strings.HasPrefix(e.Key, home+"/"):
			mine = append(mine, e)
		case n.open[e.Key+" "+e.Value]:
			late[e.Key] = true
		case e.Action != "expire" || !late[e.Key]:
			found = append(found, history.Violation{Kind: history.FromNowhere, Text: fmt.Sprintf("%s: %v", w.Member, e)})
		}
	}
	w.Events = mine
	return w, found
}

func below(prefix string, ops []history.Op) []history.Op {
	return slices.DeleteFunc(slices.Clone(ops), func(op history.Op) bool { return !strings.HasPrefix(op.Key, prefix) })
}

// mark writes until a write is acknowledged: the last of the chapter.
func (n *nemesis) mark(ctx context.Context, w *workload) (last history.Op) {
	for i := 0; ; i++ {
		value := fmt.Sprintf("mark-%d", i)
		last = w.ask(ctx, n.anyone(), history.Op{Client: -1, Kind: history.Put, Key: w.home + acked + value, Value: value})
		if last.Outcome == history.Done {
			return last
		}
		if i == 100 {
			n.t.Fatal("no write is acknowledged at the end of a chapter")
		}
	}
}

// awaitWatches waits until each watch has come to an index.
func (n *nemesis) awaitWatches(w *workload, index uint64) []history.Violation {
	var found []history.Violation
	deadline := time.Now().Add(settleMax)
	for _, watch := range w.watches {
		for watch.index() <= index {
			if time.Now().After(deadline) {
				found = append(found, history.Violation{Kind: history.WatchGap,
					Text: fmt.Sprintf("the watch on %s waits for %d, and the last write has index %d", watch.member.Name, watch.index(), index)})
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return found
}

// until waits until something is true, or fails the test.
func (n *nemesis) until(what string, ok func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(settleMax); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("%v after everything was healed it is not true that %s", settleMax, what)
		}
	}
}

// index returns the index from which everything is still to come.
func (n *nemesis) index() (next uint64) {
	n.until("a quorum read is answered", func() bool {
		reply, err := n.caller.Keys(n.t.Context(), http.MethodGet, n.anyone().ClientURL, "/", url.Values{"quorum": {"true"}})
		next = reply.At + 1
		return err == nil && reply.Status == http.StatusOK
	})
	return next
}

// read returns the keys below a directory, by a quorum read.
func (n *nemesis) read(directory string) map[string]history.Entry {
	there := map[string]history.Entry{}
	n.until("a read is answered", func() bool {
		reply, err := n.caller.Keys(n.t.Context(), http.MethodGet, n.anyone().ClientURL, directory, url.Values{"quorum": {"true"}, "recursive": {"true"}})
		clear(there)
		if reply.Node != nil {
			collect(there, *reply.Node, func(node cluster.Node) history.Entry {
				return history.Entry{Value: node.Value, Index: node.ModifiedIndex}
			}, false)
		}
		return err == nil && (reply.Status == http.StatusOK || reply.Code == keyNotFound)
	})
	return there
}

// collect adds what is below node, with its directories or without.
func collect(into map[string]history.Entry, node cluster.Node, entry func(cluster.Node) history.Entry, dirs bool) {
	if !node.Dir || dirs {
		into[node.Key] = entry(node)
	}
	for _, child := range node.Nodes {
		collect(into, child, entry, dirs)
	}
}

// compareMembers waits until all members hold the same, or tells in what they differ.
func (n *nemesis) compareMembers() (found []history.Violation) {
	for deadline := time.Now().Add(settleMax); ; time.Sleep(50 * time.Millisecond) {
		held := map[string]map[string]history.Entry{}
		for _, m := range n.cluster.Members() {
			held[m.Name] = map[string]history.Entry{}
			reply, err := n.caller.Keys(n.t.Context(), http.MethodGet, m.ClientURL, "/", url.Values{"recursive": {"true"}})
			if err != nil || reply.Node == nil {
				n.t.Fatalf("read everything on %s: %d %v", m.Name, reply.Status, err)
			}
			collect(held[m.Name], *reply.Node, func(node cluster.Node) history.Entry {
				return history.Entry{Value: fmt.Sprintf("%q, dir %v, created %d", node.Value, node.Dir, node.CreatedIndex), Index: node.ModifiedIndex}
			}, true)
		}
		found = append(history.CheckSame(held), n.compareSums()...)
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
	}
}

// compareSums compares what kvd's members say of their states. A sum is compared with one of the same
// entry of the log; it is taken again as long as members stand at different ones.
func (n *nemesis) compareSums() []history.Violation {
	if n.program.Name != "kvd" {
		return nil
	}
	type state struct {
		Index     uint64 `json:"index"`
		RaftIndex uint64 `json:"raftIndex"`
		Sum       string `json:"sum"`
	}
	var states []state
	for _, m := range n.cluster.Members() {
		var s state
		if err := n.caller.JSON(n.t.Context(), http.MethodGet, m.ClientURL+"/debug/state", nil, &s); err != nil {
			n.t.Fatal(err)
		}
		states = append(states, s)
	}
	for i, s := range states {
		if s != states[0] {
			return []history.Violation{{Kind: history.MembersDiffer, Text: fmt.Sprintf("%s is at %+v, %s at %+v",
				n.cluster.Members()[0].Name, states[0], n.cluster.Members()[i].Name, s)}}
		}
	}
	return nil
}

// summary says how much was seen.
func summary(ops []history.Op, watches []history.Watch) string {
	outcomes := map[history.Outcome]int{}
	for _, op := range ops {
		outcomes[op.Outcome]++
	}
	events, holes := 0, 0
	for _, w := range watches {
		events += len(w.Events)
		holes += len(w.Holes)
	}
	return fmt.Sprintf("%d ops (%d done, %d mismatched, %d refused, %d unknown), %d events, %d holes in watches", len(ops),
		outcomes[history.Done], outcomes[history.Mismatch], outcomes[history.Refused], outcomes[history.Unknown], events, holes)
}

// report prints the table of all classes.
func (n *nemesis) report() {
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "fault\tcount\tgap p50\tp99\tmax\tviolations")
	total := 0
	for _, f := range append(slices.Clone(faults), fault{name: "two of these at once"}) {
		t := n.tally[f.name]
		if t == nil {
			continue
		}
		slices.Sort(t.gaps)
		at := func(percent int) time.Duration { return t.gaps[(len(t.gaps)*percent+99)/100-1].Round(time.Millisecond) }
		fmt.Fprintf(table, "%s\t%d\t%v\t%v\t%v\t%d\n", f.name, len(t.gaps), at(50), at(99), at(100), t.violations)
		total += len(t.gaps)
	}
	fmt.Fprintf(table, "together %d faults\t%d\t\t\t\t%d\n", n.faults, total, n.found)
	table.Flush()
	n.t.Logf("%s, %d members\n%s", n.program.Name, len(n.cluster.Members()), text.String())
}
