package store

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// from returns a write as a member forwards it.
func from(origin, sequence uint64, w kv.Write) command.Command {
	return command.Command{Origin: origin, Sequence: sequence, Body: w}
}

func TestACommandThatComesAgainChangesNothing(t *testing.T) {
	r := newReplica(t)
	r.apply(create("/n", "0"))
	add := from(7, 1, cas("/n", "1", "0", 0))
	if res := r.applyAll(add)[0]; res.Repeated || res.Err != nil || res.Index != 3 {
		t.Fatalf("the first time: %+v", res)
	}
	r.apply(set("/n", "0")) // so that the comparison would hold again
	r.TakeEvents()
	sum, bytes := r.Sum(), r.Bytes()
	for range 3 {
		res := r.applyAll(add)[0]
		if !res.Repeated || res.Err != nil || res.Node != nil || res.RaftIndex != r.index {
			t.Fatalf("repeated: %+v", res)
		}
	}
	if twice := r.applyAll(from(7, 2, set("/n", "2")), from(7, 2, set("/n", "2"))); twice[0].Repeated || !twice[1].Repeated {
		t.Errorf("twice in one entry: %+v", twice)
	}
	if got := r.get("/n", false); got != "get /n=2 {5,5} @5" {
		t.Error(got)
	}
	if got := fmt.Sprint(r.seen()); got != "[set /n=2 {5,5} <- /n=0 {4,4}]" {
		t.Errorf("events of what was repeated: %s", got)
	}
	if r.Sum() == sum || r.Bytes() != bytes {
		t.Error("the sum is to tell which commands were executed, the size is not")
	}
}

func TestACommandThatFailedIsNotTriedAgain(t *testing.T) {
	r := newReplica(t)
	if res := r.applyAll(from(7, 1, update("/n", "1")))[0]; !kv.Is(res.Err, kv.NotFound) {
		t.Fatal(res)
	}
	r.apply(set("/n", "0"))
	if res := r.applyAll(from(7, 1, update("/n", "1")))[0]; !res.Repeated {
		t.Error("executed after its failure was told")
	}
}

func TestCommandsWithoutOriginAreAlwaysExecuted(t *testing.T) {
	r := newReplica(t)
	for range 2 {
		if res := r.applyAll(from(0, 5, set("/n", "1")))[0]; res.Repeated {
			t.Error("not executed")
		}
	}
}

func TestCommandsOfOneOriginMayComeInAnyOrderWithinTheWindow(t *testing.T) {
	r := newReplica(t)
	first := func(sequence uint64) bool { return !r.applyAll(from(7, sequence, set("/n", "")))[0].Repeated }
	for i, step := range []struct {
		sequence uint64
		first    bool
	}{
		{10_000, true}, {10_000, false}, {9_000, true}, {9_000, false}, {9_001, true},
		{10_000 - window + 1, true}, {10_000 - window, false}, {1, false}, {0, false},
		{10_001, true}, {10_000 - window + 1, false}, {10_000 - window + 2, true}, {10_000, false},
		{10_001 + window - 1, true}, {10_001, false}, {10_002, true}, {9_000, false}, // nearly a whole window on
		{1 << 62, true}, {10_001 + window - 1, false}, {1<<62 - window + 1, true}, {1<<62 - window, false},
		{^uint64(0), true}, {^uint64(0), false}, {^uint64(0) - 1, true}, {1, false},
	} {
		if r.Executed(7, step.sequence) == step.first {
			t.Fatalf("step %d: command %d counts as executed: %v", i, step.sequence, step.first)
		}
		if got := first(step.sequence); got != step.first {
			t.Fatalf("step %d: command %d is new: %v", i, step.sequence, got)
		}
		if err := r.Audit(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
}

func TestTheOriginThatWasSilentLongestIsForgotten(t *testing.T) {
	r := newReplica(t)
	tick := func(origin, sequence uint64) bool {
		return !r.applyAll(command.Command{Origin: origin, Sequence: sequence, Body: command.Tick{}})[0].Repeated
	}
	for origin := range uint64(originsMax) {
		tick(origin+1, 1)
	}
	tick(1, 2) // it goes on
	tick(originsMax+1, 1)
	if tick(1, 2) || tick(1, 1) {
		t.Error("an origin that was at work was forgotten")
	}
	if !r.Executed(3, 1) || r.Executed(2, 1) {
		t.Error("not the one that was silent longest was forgotten")
	}
	if err := r.Audit(); err != nil {
		t.Error(err)
	}
	restored := newReplica(t)
	if err := restored.Restore(bytes.NewReader(r.snapshot())); err != nil {
		t.Fatal(err)
	}
	restored.index = r.index
	for _, m := range []*replica{r, restored} {
		m.applyAll(command.Command{Origin: 1000, Sequence: 1, Body: command.Tick{}})
		if m.Executed(3, 1) || !m.Executed(4, 1) {
			t.Error("the order of use is not what it was")
		}
	}
	if r.Sum() != restored.Sum() {
		t.Error("what was restored goes another way")
	}
}

func TestASnapshotFromBeforeOriginsIsRestored(t *testing.T) {
	r := newReplica(t)
	r.apply(set("/a", "1"), command.Member{ID: 5})
	head, parts := dismantle(unpacked(t, r.snapshot()))
	parts[0].data[4] = snapfile.LevelOrigins - 1
	end := len(parts) - 1
	counts, sum := parts[end].data[4:4+7], parts[end].data[4+9:4+9+16]
	parts[end] = items(snapfile.End, string(counts)+string(sum))
	got := newReplica(t)
	if err := got.Restore(bytes.NewReader(assemble(head, parts))); err != nil {
		t.Fatal(err)
	}
	if evidence(got) != evidence(r) {
		t.Errorf("got %s\nwant %s", evidence(got), evidence(r))
	}
}

func BenchmarkOverwriteAmong100kWithAnOrigin(b *testing.B) {
	r := filled(b, 100_000)
	batch := command.Batch{Commands: make([]command.Command, 1)}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		batch.Commands[0] = from(uint64(i%3+1), uint64(i), set(instance(i*7919%100_000), "value"))
		i++
		r.index++
		if res := r.Apply(r.index, 1, &batch); res[0].Err != nil || res[0].Repeated {
			b.Fatal(res[0])
		}
		r.TakeEvents()
	}
}

func BenchmarkTakeOfACommand(b *testing.B) {
	os := newOrigins()
	b.ReportAllocs()
	sequence := uint64(0)
	for b.Loop() {
		sequence++
		if !os.take(sequence%3+1, sequence) {
			b.Fatal(sequence)
		}
	}
}
