package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

// model is what a log must hold.
type model struct {
	first   uint64 // of the entries; where there are none, any
	entries []raft.Log
}

func (m model) last() uint64 { return m.first + uint64(len(m.entries)) - 1 }

func (m model) with(entries []*raft.Log) model {
	after := model{first: m.first, entries: slices.Clone(m.entries)}
	if len(m.entries) == 0 {
		after.first = entries[0].Index
	}
	for _, entry := range entries {
		after.entries = append(after.entries, *entry)
	}
	return after
}

func (m model) without(first, last uint64) model {
	after := model{first: m.first}
	for _, entry := range m.entries {
		if entry.Index < first || entry.Index > last {
			if len(after.entries) == 0 {
				after.first = entry.Index
			}
			after.entries = append(after.entries, entry)
		}
	}
	return after
}

// difference says how log differs from m, "" if it does not.
func (m model) difference(log *Log) string {
	first, err := log.FirstIndex()
	last, err2 := log.LastIndex()
	if err := errors.Join(err, err2); err != nil {
		return err.Error()
	}
	if len(m.entries) == 0 {
		if first != 0 || last != 0 {
			return fmt.Sprintf("it holds entries %d to %d, want none", first, last)
		}
		return ""
	}
	if first != m.first || last != m.last() {
		return fmt.Sprintf("it holds entries %d to %d, want %d to %d", first, last, m.first, m.last())
	}
	for _, want := range m.entries {
		var got raft.Log
		if err := log.GetLog(want.Index, &got); err != nil {
			return err.Error()
		}
		if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || !got.AppendedAt.Equal(want.AppendedAt) ||
			!bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Extensions, want.Extensions) {
			return fmt.Sprintf("entry %d is %+v, want %+v", want.Index, got, want)
		}
	}
	for _, index := range []uint64{m.first - 1, m.last() + 1} {
		if err := log.GetLog(index, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			return fmt.Sprintf("entry %d: %v, want that it is not there", index, err)
		}
	}
	return ""
}

// change is one call that changes a log.
type change struct {
	entries     []*raft.Log // to append, or
	first, last uint64      // to delete
	halves      bool        // the append is begun, and then synced
}

func (c change) do(log *Log) error {
	if c.halves {
		sync, err := log.Begin(c.entries)
		if err != nil {
			return err
		}
		for _, entry := range c.entries {
			if err := log.GetLog(entry.Index, new(raft.Log)); err != nil {
				return fmt.Errorf("begun and not to be read: %w", err)
			}
		}
		return sync()
	}
	if c.entries != nil {
		return log.StoreLogs(c.entries)
	}
	return log.DeleteRange(c.first, c.last)
}

func (c change) of(m model) model {
	if c.entries != nil {
		return m.with(c.entries)
	}
	return m.without(c.first, c.last)
}

// draw makes up the next change of a log that holds m. Leaders change often.
func draw(random *rand.Rand, m model, term *uint64) change {
	n := uint64(len(m.entries))
	switch random.IntN(8) {
	case 0:
		if n > 1 { // a follower gives in to a new leader
			*term++
			return change{first: m.last() - random.Uint64N(min(n-1, 6)), last: m.last()}
		}
	case 1:
		if n > 3 { // a snapshot was written
			return change{first: m.first, last: m.first + random.Uint64N(n-1)}
		}
	case 2:
		if n > 0 && random.IntN(3) == 0 { // a snapshot came from the leader
			*term++
			return change{first: m.first, last: m.last()}
		}
	}
	next := m.last() + 1
	if n == 0 {
		next = m.first + n + random.Uint64N(10)
		next = max(next, 1)
	}
	var entries []*raft.Log
	for range 1 + random.IntN(4) {
		size := random.IntN(300)
		if random.IntN(20) == 0 {
			size = 3000 + random.IntN(3000) // more than a segment
		}
		entry := &raft.Log{Index: next, Term: *term, Type: raft.LogType(random.IntN(6)), Data: make([]byte, size)}
		for i := range entry.Data {
			entry.Data[i] = byte(random.IntN(256))
		}
		if random.IntN(4) > 0 {
			entry.Extensions = []byte{1, 2, byte(random.IntN(256)), 4}
		}
		entries = append(entries, entry)
		next++
	}
	return change{entries: entries, halves: random.IntN(2) == 0}
}

// moment is a note in a trace: a call begins, which leads from before to after, or has returned.
type moment struct{ before, after model }

func testConfig(d Dir, random *rand.Rand) Config {
	ids := rand.New(rand.NewPCG(random.Uint64(), 0)) // of its own: the keeper draws from it
	return Config{Dir: d, SegmentBytes: 4096, RecentBytes: 1500, Create: true, Random: ids.Uint64}
}

// live has a log on d take n random changes and returns what it holds then. The log is closed.
func live(t testing.TB, d *disk, random *rand.Rand, m model, term *uint64, n int) model {
	log, err := Open(testConfig(d, random))
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		c := draw(random, m, term)
		after := c.of(m)
		d.note(moment{m, after})
		if err := c.do(log); err != nil {
			t.Fatal(err)
		}
		m = after
		d.note(moment{m, m})
	}
	if problem := m.difference(log); problem != "" {
		t.Fatal(problem)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return m
}

// recovered opens the log on d, which must hold one of the two, and says which. It must hold the same
// when it is opened again.
func recovered(d *disk, random *rand.Rand, now moment) (log *Log, is model, problem string) {
	var err error
	reader, err := Open(Config{Dir: d, ReadOnly: true})
	if err != nil && !(errors.Is(err, fs.ErrNotExist) && len(now.before.entries) == 0) {
		return nil, model{}, fmt.Sprintf("to read: %v", err)
	}
	if log, err = Open(testConfig(d, random)); err != nil {
		return nil, model{}, err.Error()
	}
	is = now.before
	problem = is.difference(log)
	if problem != "" {
		is = now.after
		if other := is.difference(log); other != "" {
			return nil, model{}, fmt.Sprintf("neither before the call: %s; nor after: %s", problem, other)
		}
	}
	if reader != nil {
		if problem := is.difference(reader); problem != "" {
			return nil, model{}, "the same opened to read: " + problem
		}
		if err := reader.Close(); err != nil {
			return nil, model{}, err.Error()
		}
	}
	return log, is, ""
}

// seedsVariable says from which seed to which, "100-200", the lives of logs are drawn; default 0-4.
const seedsVariable = "KVD_WAL_SEEDS"

func TestAfterACrashAtAnyMomentTheLogHoldsWhatItAcknowledged(t *testing.T) {
	const variants = 6
	from, to := uint64(0), uint64(4)
	if testing.Short() {
		to = 2
	}
	if text := os.Getenv(seedsVariable); text != "" {
		if _, err := fmt.Sscanf(text, "%d-%d", &from, &to); err != nil {
			t.Fatalf("%s=%q: %v", seedsVariable, text, err)
		}
	}
	states := 0
	for seed := from; seed < to; seed++ {
		random := rand.New(rand.NewPCG(seed, 1))
		term := uint64(1)
		d := newDisk()
		m := live(t, d, random, model{}, &term, 60)
		live(t, d, random, m, &term, 20) // after a clean stop
		w := newWreck(nil)
		var now moment
		for i, op := range d.operations() {
			if m, ok := op.note.(moment); ok {
				now = m
				continue
			}
			w.follow(op)
			for variant := range variants {
				kind := min(variant, loseSome)
				states++
				after := w.crash(kind, random)
				start := newWreck(after)
				log, is, problem := recovered(after, random, now)
				if problem != "" {
					t.Fatalf("seed %d, operation %d (%s %s), kind %d, variant %d: %s", seed, i, op.what, op.name, kind, variant, problem)
				}
				if variant == loseSome && i%5 == 0 {
					states += crashAgain(t, after, start, log, random, now, is, term, fmt.Sprintf("seed %d, operation %d", seed, i))
				}
				if err := log.Close(); err != nil {
					t.Fatal(err)
				}
			}
			states += crashAfterAKill(t, w, random, now, term, fmt.Sprintf("seed %d, operation %d", seed, i))
		}
	}
	t.Logf("%d states", states)
	if states < 10_000 && !testing.Short() {
		t.Errorf("%d states are few", states)
	}
}

// crashAgain lets a log that was mended on d, which was as start when it was opened, go on, and stops
// the machine at every moment of the mending and of what followed.
func crashAgain(t *testing.T, d *disk, start *wreck, log *Log, random *rand.Rand, now moment, m model, term uint64, where string) (states int) {
	d.note(moment{m, m})
	for range 3 {
		term++
		c := draw(random, m, &term)
		after := c.of(m)
		d.note(moment{m, after})
		if err := c.do(log); err != nil {
			t.Fatalf("%s, going on: %v", where, err)
		}
		m = after
		d.note(moment{m, m})
	}
	if problem := m.difference(log); problem != "" {
		t.Fatalf("%s, going on: %s", where, problem)
	}
	for i, op := range d.operations() {
		if m, ok := op.note.(moment); ok {
			now = m
			continue
		}
		start.follow(op)
		for range 2 {
			states++
			again, _, problem := recovered(start.crash(loseSome, random), random, now)
			if problem != "" {
				t.Fatalf("%s, then operation %d (%s %s): %s", where, i, op.what, op.name, problem)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return states
}

// crashAfterAKill opens the log that a killed process leaves, has it go on or not, and then stops the
// machine: what the log shows must be on the disk by then.
func crashAfterAKill(t *testing.T, w *wreck, random *rand.Rand, now moment, term uint64, where string) (states int) {
	d, after := w.killed()
	log, is, problem := recovered(d, random, now)
	if problem != "" {
		t.Fatalf("%s, killed: %s", where, problem)
	}
	if random.IntN(2) == 0 {
		c := draw(random, is, &term)
		if err := c.do(log); err != nil {
			t.Fatalf("%s, killed and opened: %v", where, err)
		}
		is = c.of(is)
	}
	for _, op := range d.operations() {
		after.follow(op)
	}
	for range 2 {
		states++
		again, _, problem := recovered(after.crash(loseSome, random), random, moment{is, is})
		if problem != "" {
			t.Fatalf("%s, killed, opened, and the machine stopped: %s", where, problem)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	return states
}

// An append that was cut short may leave its second half. One that comes to the same place later, and
// is cut short as well, must not find it there.
func TestTwoAppendsThatWereCutShortDoNotMakeAWholeOne(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 9))
	d := newDisk()
	log, err := Open(testConfig(d, random))
	if err != nil {
		t.Fatal(err)
	}
	if err := log.StoreLog(&raft.Log{Index: 1, Term: 1}); err != nil {
		t.Fatal(err)
	}
	sound := d.names[segmentName(1)].content
	start := log.segments[0].end
	two := func(term uint64) []*raft.Log { // the second begins with a block
		return []*raft.Log{{Index: 2, Term: term, Data: make([]byte, blockBytes-frameBytes)}, {Index: 3, Term: term, Data: []byte("second")}}
	}
	// half returns the disk on which of an append of two there is one block of two.
	half := func(before *disk, term uint64, block int64) *disk {
		before = copyOf(before)
		log, err := Open(testConfig(before, random))
		if err != nil {
			t.Fatal(err)
		}
		lost := slices.Clone(before.names[segmentName(1)].content)
		if err := log.StoreLogs(two(term)); err != nil {
			t.Fatal(err)
		}
		after := copyOf(before)
		content := after.names[segmentName(1)].content
		copy(content[start+(1-block)*blockBytes:][:blockBytes], lost[start+(1-block)*blockBytes:])
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		return after
	}
	first := newDisk()
	first.names[segmentName(1)] = &inode{slices.Clone(sound)}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	after := half(half(first, 2, 1), 3, 0)
	again, err := Open(testConfig(after, random))
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if last, err := again.LastIndex(); err != nil || last != 1 {
		var second raft.Log
		t.Errorf("the log ends with entry %d, %v: %v %+v", last, err, again.GetLog(3, &second), second)
	}
}
