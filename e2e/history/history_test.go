package history

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

const judgeMax = 10 * time.Second

// world is everything that checkers look at, as an honest store would have made it.
type world struct {
	ops     []Op
	watches []Watch
	there   map[string]Entry
	members map[string]map[string]Entry
	last    uint64
}

// honest lets clients ask a store that executes each op at one moment between its call and its return,
// or, without an answer, at any later one.
func honest(seed uint64) *world {
	random := rand.New(rand.NewPCG(seed, 0))
	type planned struct {
		op    Op
		acts  time.Duration
		never bool
	}
	var plan []planned
	const clients, each = 6, 60
	for client := range clients {
		var now time.Duration
		for n := range each {
			now += time.Duration(random.IntN(2000)) * time.Microsecond
			op := Op{Client: client, Member: "m1", Call: now, Value: fmt.Sprintf("%d-%d", client, n)}
			switch client {
			case 0, 1:
				op.Key = fmt.Sprintf("/acked/%d/%d", client, n)
				if n%10 == 9 {
					op.Key, op.TTL = fmt.Sprintf("/ttl/%d-%d", client, n), 5*time.Millisecond
				}
			default:
				op.Key, op.Kind = fmt.Sprintf("/reg/%d", random.IntN(3)), Kind(random.IntN(3))
			}
			acts := now + time.Duration(random.IntN(1000))*time.Microsecond
			op.Return = acts + time.Duration(random.IntN(1000))*time.Microsecond
			p := planned{op: op, acts: acts}
			switch random.IntN(20) {
			case 0:
				p.op.Outcome, p.acts = Unknown, acts+time.Duration(random.IntN(50))*time.Millisecond
				p.never = random.IntN(2) == 0
			case 1:
				p.op.Outcome, p.never = Refused, true
			}
			plan = append(plan, p)
			now = op.Return
		}
	}
	slices.SortFunc(plan, func(a, b planned) int { return cmp.Compare(a.acts, b.acts) })
	w := &world{there: map[string]Entry{}, last: 10}
	var events []Event
	for _, p := range plan {
		if !p.never {
			if e, ok := w.execute(&p.op, random); ok {
				e.At = p.op.Return
				events = append(events, e)
			}
		}
		w.ops = append(w.ops, p.op)
	}
	for _, op := range w.ops {
		if there, ok := w.there[op.Key]; ok && op.TTL != 0 {
			w.last++
			events = append(events, Event{Index: w.last, Action: "expire", Key: op.Key, Prev: there.Value, At: op.Return + op.TTL})
			delete(w.there, op.Key)
		}
	}
	w.members = map[string]map[string]Entry{}
	for _, name := range []string{"m1", "m2", "m3"} {
		w.watches = append(w.watches, Watch{Member: name, From: 11, Events: slices.Clone(events)})
		w.members[name] = map[string]Entry{}
		for key, entry := range w.there {
			w.members[name][key] = entry
		}
	}
	w.watches[2].Events = slices.DeleteFunc(w.watches[2].Events, func(e Event) bool { return 30 <= e.Index && e.Index <= 40 })
	w.watches[2].Holes = []Hole{{30, 40}}
	return w
}

// execute executes an op and fills in its answer, unless nobody gets that.
func (w *world) execute(op *Op, random *rand.Rand) (Event, bool) {
	value := w.there[op.Key].Value
	if op.Kind == Swap {
		op.Prev = value
		if value == "" || random.IntN(3) == 0 {
			op.Prev = "something else"
		}
	}
	if op.Outcome == Done {
		op.Saw = value
		if op.Kind == Swap && op.Prev != value {
			op.Outcome = Mismatch
		}
	}
	if op.Kind == Get || op.Kind == Swap && op.Prev != value {
		return Event{}, false
	}
	w.last++
	if op.Outcome == Done {
		op.Index = w.last
	}
	w.there[op.Key] = Entry{op.Value, w.last}
	action := map[Kind]string{Put: "set", Swap: "compareAndSwap"}[op.Kind]
	return Event{Index: w.last, Action: action, Key: op.Key, Value: op.Value, Prev: value}, true
}

// judge runs all checkers.
func (w *world) judge() []Violation {
	acked, registers := []Op{}, []Op{}
	for _, op := range w.ops {
		if strings.HasPrefix(op.Key, "/reg/") {
			registers = append(registers, op)
		} else {
			acked = append(acked, op)
		}
	}
	there := map[string]Entry{}
	for key, entry := range w.there {
		if !strings.HasPrefix(key, "/reg/") {
			there[key] = entry
		}
	}
	return slices.Concat(CheckWrites(acked, there), CheckOrder(w.ops), CheckRegisters(registers, judgeMax),
		CheckWatches(w.ops, w.watches, w.last), CheckExpiry(w.ops, w.watches, w.there), CheckSame(w.members))
}

func TestAnHonestStoreIsAcquitted(t *testing.T) {
	for seed := range uint64(200) {
		if found := honest(seed).judge(); len(found) > 0 {
			t.Fatalf("seed %d: %d violations, the first: %v", seed, len(found), found[0])
		}
	}
}

// pick returns the place of the first op that fits, from the middle of the history on.
func (w *world) pick(t *testing.T, fits func(Op) bool) *Op {
	t.Helper()
	for i := range w.ops {
		if op := &w.ops[(i+len(w.ops)/2)%len(w.ops)]; fits(*op) {
			return op
		}
	}
	t.Fatal("no op fits")
	return nil
}

func done(kind Kind, folder string) func(Op) bool {
	return func(op Op) bool {
		return op.Kind == kind && op.Outcome == Done && strings.HasPrefix(op.Key, folder)
	}
}

// eventOf returns the place in a watch of the event of an op.
func (w *world) eventOf(op *Op, watch int) int {
	return slices.IndexFunc(w.watches[watch].Events, func(e Event) bool { return e.Index == op.Index })
}

func TestEveryPlantedViolationIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		want  string
		plant func(t *testing.T, w *world)
	}{
		"an acknowledged write is gone": {Lost, func(t *testing.T, w *world) {
			delete(w.there, w.pick(t, done(Put, "/acked/")).Key)
		}},
		"an acknowledged write has the value of another": {WrongValue, func(t *testing.T, w *world) {
			key := w.pick(t, done(Put, "/acked/")).Key
			w.there[key] = Entry{"other", w.there[key].Index}
		}},
		"an acknowledged write is repeated later": {WrongIndex, func(t *testing.T, w *world) {
			key := w.pick(t, done(Put, "/acked/")).Key
			w.there[key] = Entry{w.there[key].Value, w.last + 1}
		}},
		"a key that nobody wrote": {FromNowhere, func(t *testing.T, w *world) { w.there["/acked/x"] = Entry{"x", 5} }},
		"a refused write is there": {RefusedDone, func(t *testing.T, w *world) {
			op := w.pick(t, func(op Op) bool { return op.Outcome == Refused && strings.HasPrefix(op.Key, "/acked/") })
			w.there[op.Key] = Entry{op.Value, 5}
		}},
		"a later write has the smaller index": {Disorder, func(t *testing.T, w *world) {
			a := w.pick(t, done(Put, "/acked/"))
			b := w.pick(t, func(op Op) bool { return done(Put, "/acked/")(op) && op.Call > a.Return })
			a.Index, b.Index = b.Index, a.Index
		}},
		"two writes have the same index": {Disorder, func(t *testing.T, w *world) {
			a := w.pick(t, done(Put, "/acked/"))
			b := w.pick(t, func(op Op) bool { return op.happened() && op.Key != a.Key && op.Index == a.Index+1 })
			b.Index = a.Index
		}},
		"a stale read": {NotLinear, func(t *testing.T, w *world) {
			read := w.pick(t, func(op Op) bool {
				return done(Get, "/reg/")(op) && w.older(op) != nil
			})
			read.Saw = w.older(*read).Saw
		}},
		"a read of what nobody wrote": {NotLinear, func(t *testing.T, w *world) { w.pick(t, done(Get, "/reg/")).Saw = "made up" }},
		"a swap of what was not there": {NotLinear, func(t *testing.T, w *world) {
			w.pick(t, func(op Op) bool { return op.Kind == Swap && op.Outcome == Mismatch && op.Saw != "" }).Outcome = Done
		}},
		"a swap that failed although it was there": {NotLinear, func(t *testing.T, w *world) {
			w.pick(t, done(Swap, "/reg/")).Outcome = Mismatch
		}},
		"an event is told twice": {WatchTwice, func(t *testing.T, w *world) {
			events := w.watches[1].Events
			w.watches[1].Events = slices.Insert(events, 21, events[20])
		}},
		"an event comes late": {WatchOrder, func(t *testing.T, w *world) {
			events := w.watches[1].Events
			events[20], events[21] = events[21], events[20]
		}},
		"one watcher is not told": {WatchGap, func(t *testing.T, w *world) {
			w.watches[1].Events = slices.Delete(w.watches[1].Events, 20, 21)
		}},
		"one watcher is not told of the end": {WatchGap, func(t *testing.T, w *world) {
			w.watches[0].Events = w.watches[0].Events[:len(w.watches[0].Events)-1]
		}},
		"nobody is told": {WatchGap, func(t *testing.T, w *world) {
			op := w.pick(t, done(Put, "/acked/"))
			for i := range w.watches {
				if at := w.eventOf(op, i); at >= 0 {
					w.watches[i].Events = slices.Delete(w.watches[i].Events, at, at+1)
				}
			}
		}},
		"one watcher is told another value": {WatchDiffers, func(t *testing.T, w *world) { w.watches[1].Events[20].Value += "x" }},
		"all are told another value before it": {WatchDiffers, func(t *testing.T, w *world) {
			op := w.pick(t, done(Put, "/reg/"))
			for i := range w.watches {
				if at := w.eventOf(op, i); at >= 0 {
					w.watches[i].Events[at].Prev = "x"
				}
			}
		}},
		"an event of nothing": {FromNowhere, func(t *testing.T, w *world) {
			w.tell(Event{Index: w.last + 1, Action: "set", Key: "/acked/x", Value: "x"})
		}},
		"a key without a TTL expires": {FromNowhere, func(t *testing.T, w *world) {
			w.tell(Event{Index: w.last + 1, Action: "expire", Key: w.pick(t, done(Put, "/acked/")).Key})
		}},
		"a write is executed twice": {Twice, func(t *testing.T, w *world) {
			op := w.pick(t, done(Put, "/reg/"))
			w.tell(Event{Index: w.last + 1, Action: "set", Key: op.Key, Value: op.Value})
		}},
		"a refused write is told": {RefusedDone, func(t *testing.T, w *world) {
			op := w.pick(t, func(op Op) bool { return op.Outcome == Refused && op.Kind == Put })
			w.tell(Event{Index: w.last + 1, Action: "set", Key: op.Key, Value: op.Value})
		}},
		"a key expires too early": {Early, func(t *testing.T, w *world) {
			at := slices.IndexFunc(w.watches[0].Events, func(e Event) bool { return e.Action == "expire" })
			w.watches[0].Events[at].At -= 10 * time.Millisecond
		}},
		"a key is not found before its time": {Early, func(t *testing.T, w *world) {
			put := w.pick(t, func(op Op) bool { return op.TTL != 0 && op.Outcome == Done })
			w.ops = append(w.ops, Op{Kind: Get, Key: put.Key, Call: put.Return + 1, Return: put.Return + 2})
		}},
		"a key never expires": {Immortal, func(t *testing.T, w *world) {
			put := w.pick(t, func(op Op) bool { return op.TTL != 0 && op.Outcome == Done })
			w.there[put.Key] = Entry{put.Value, put.Index}
		}},
		"a member lacks a key": {MembersDiffer, func(t *testing.T, w *world) {
			delete(w.members["m3"], w.pick(t, done(Put, "/acked/")).Key)
		}},
		"a member has one more": {MembersDiffer, func(t *testing.T, w *world) { w.members["m2"]["/x"] = Entry{"x", 1} }},
		"a member has another index": {MembersDiffer, func(t *testing.T, w *world) {
			key := w.pick(t, done(Put, "/acked/")).Key
			w.members["m2"][key] = Entry{w.there[key].Value, 1}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(10) {
				w := honest(seed)
				c.plant(t, w)
				if found := w.judge(); !slices.ContainsFunc(found, func(v Violation) bool { return v.Kind == c.want }) {
					t.Fatalf("seed %d: no %q among %d violations: %v", seed, c.want, len(found), found)
				}
			}
		})
	}
}

// tell tells all watchers of one more event.
func (w *world) tell(e Event) {
	for i := range w.watches {
		e.At = time.Hour
		w.watches[i].Events = append(w.watches[i].Events, e)
	}
}

// older returns a write that had returned before read began and replaced a value that a read may not
// return any more.
func (w *world) older(read Op) *Op {
	for i, op := range w.ops {
		if op.happened() && op.Key == read.Key && op.Return < read.Call && op.Saw != read.Saw {
			return &w.ops[i]
		}
	}
	return nil
}

func TestAReportShowsTheOpsUpToTheOneThatCannotBe(t *testing.T) {
	ops := []Op{
		{Key: "/r", Kind: Put, Value: "a", Call: 1, Return: 2},
		{Key: "/r", Kind: Put, Value: "b", Saw: "a", Call: 3, Return: 4},
		{Key: "/r", Kind: Get, Saw: "a", Call: 5, Return: 6},
		{Key: "/r", Kind: Put, Value: "c", Saw: "b", Call: 7, Return: 8},
	}
	found := CheckRegisters(ops, judgeMax)
	if len(found) != 1 || !strings.Contains(found[0].Text, `get /r`) || strings.Contains(found[0].Text, "put /r to c") {
		t.Errorf("got %v", found)
	}
}

// Many reads of the same value at the same time can be put into an order in too many ways to try.
func TestAThousandReadsAtOnceAreJudgedAtOnce(t *testing.T) {
	for _, saw := range []string{"b", "a"} {
		ops := []Op{
			{Key: "/r", Kind: Put, Value: "a", Call: 1, Return: 2},
			{Key: "/r", Kind: Put, Value: "b", Saw: "a", Call: 3, Return: 20},
		}
		for i := range time.Duration(1000) {
			ops = append(ops, Op{Key: "/r", Kind: Get, Saw: []string{"a", "b"}[i%2], Call: 4 + i%10, Return: 15 + i%10})
		}
		ops = append(ops, Op{Key: "/r", Kind: Get, Saw: saw, Call: 21, Return: 22})
		if found := CheckRegisters(ops, judgeMax); (len(found) == 0) != (saw == "b") || len(found) > 0 && found[0].Kind != NotLinear {
			t.Errorf("the last read %q: %v", saw, found)
		}
	}
}

func TestAWriteWithoutAnAnswerMayHappenAtAnyLaterTime(t *testing.T) {
	read := func(saw string, at time.Duration) Op {
		return Op{Key: "/r", Kind: Get, Saw: saw, Call: at, Return: at + 1}
	}
	lost := Op{Key: "/r", Kind: Put, Value: "late", Call: 1, Outcome: Unknown}
	for _, c := range []struct {
		name  string
		reads []Op
		good  bool
	}{
		{"never", []Op{read("", 10), read("", 100)}, true},
		{"much later", []Op{read("", 10), read("late", 100)}, true},
		{"and then not any more", []Op{read("late", 10), read("", 100)}, false},
		{"before it was asked for", []Op{{Key: "/r", Kind: Get, Saw: "late", Call: 0, Return: 0}}, false},
	} {
		if found := CheckRegisters(append(c.reads, lost), judgeMax); (len(found) == 0) != c.good {
			t.Errorf("%s: %v", c.name, found)
		}
	}
}
