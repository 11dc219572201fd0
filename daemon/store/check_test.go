package store

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/kvd-io/kvd/daemon/command"
)

// trio are members of one cluster with ids from 1: they execute the same entries.
type trio []*replica

func newTrio(t *testing.T, members int) trio {
	var c trio
	for range members {
		c = append(c, newReplica(t))
	}
	for id := range members {
		c.apply(command.Member{ID: uint64(id + 1)})
	}
	return c
}

func (c trio) apply(bodies ...command.Body) {
	for _, r := range c {
		r.apply(bodies...)
	}
}

// check has a member tell what its state amounts to now, after some entries more if after is not nil.
func (c trio) check(member int, after func()) {
	mark := c[member-1].Mark()
	if after != nil {
		after()
	}
	c.apply(command.Check{Member: uint64(member), Index: mark.RaftIndex, Sum: mark.Sum.Bytes()})
}

// spoil makes the state of a member another one than its log leads to.
func (c trio) spoil(member int) {
	r := c[member-1]
	rec, _ := r.state.records.Get("/a")
	next := *rec
	next.value = "spoilt"
	r.state.putRecord(rec, &next)
	c.apply(command.Tick{}) // the next entry is what a sum is noted after
}

// verdicts returns the members that take themselves for corrupt.
func (c trio) verdicts() string {
	var corrupt []int
	for i, r := range c {
		if _, ok := r.Corrupt(uint64(i + 1)); ok {
			corrupt = append(corrupt, i+1)
		}
	}
	return fmt.Sprint(corrupt)
}

func TestMembersThatAgreeAreNotCorrupt(t *testing.T) {
	c := newTrio(t, 3)
	c.apply(set("/a", "1"))
	sum := c[0].Sum()
	for member := range 3 {
		c.check(member+1, func() { c.apply(set("/a", "2"), set("/b", "")) })
	}
	if got := c.verdicts(); got != "[]" || c[0].Disputed() {
		t.Errorf("corrupt: %s", got)
	}
	if c[0].Sum() == sum {
		t.Error("the state never changed")
	}
	before := c[0].snapshot()
	c.check(1, nil)
	if after := c[0].snapshot(); len(after) != len(before) || c[0].Sum() != c[1].Sum() {
		t.Error("a check has changed what is replicated")
	}
}

func TestTheOddOneOutOfThreeIsCorruptWhoeverLeads(t *testing.T) {
	for odd := 1; odd <= 3; odd++ {
		c := newTrio(t, 3)
		c.apply(set("/a", "1"))
		for member := range 3 {
			c.check(member+1, nil)
		}
		c.spoil(odd)
		for _, member := range []int{1, 2, 3, 1, 2, 3} { // who sees a dispute tells its sum again
			c.check(member, nil)
		}
		if got := c.verdicts(); got != fmt.Sprint([]int{odd}) {
			t.Errorf("member %d is the odd one out, corrupt: %s", odd, got)
		}
		for i, r := range c {
			if !r.Disputed() {
				t.Errorf("member %d sees no dispute", i+1)
			}
		}
		why, _ := c[odd-1].Corrupt(uint64(odd))
		if index, _ := c[0].Applied(); why.Same() || why.Member == 0 || why.Member == uint64(odd) || why.Index == 0 || why.Index >= index {
			t.Errorf("because of %+v", why)
		}
	}
}

func TestOfTwoMembersThatDifferBothAreCorrupt(t *testing.T) {
	c := newTrio(t, 3) // the third is down: it says nothing, and what it said before the dispute is void
	c.apply(set("/a", "1"))
	c.check(3, nil)
	c.spoil(2)
	c.check(1, nil)
	c.check(2, nil)
	if got := c[:2].verdicts(); got != "[1 2]" {
		t.Errorf("corrupt: %s", got)
	}
}

func TestAMemberThatWasReplacedIsNoMoreReasonForDoubt(t *testing.T) {
	c := newTrio(t, 2)
	c.apply(set("/a", "1"))
	c.spoil(2)
	c.check(1, nil)
	c.check(2, nil)
	if c.verdicts() != "[1 2]" {
		t.Fatal(c.verdicts())
	}
	c.apply(command.MemberRemove{ID: 2})
	if _, corrupt := c[0].Corrupt(1); corrupt || c[0].Disputed() {
		t.Error("still corrupt")
	}
}

func TestARestoreOfASoundStateEndsTheDoubt(t *testing.T) {
	c := newTrio(t, 3)
	c.apply(set("/a", "1"))
	c.spoil(2)
	for member := range 3 {
		c.check(member+1, nil)
	}
	if err := c[1].Restore(bytes.NewReader(c[0].snapshot())); err != nil {
		t.Fatal(err)
	}
	c[0].comparisons[2] = Comparison{} // what the others think of it is not what this test is about
	mark := c[0].Mark()
	c.check(1, nil)
	if got := c.verdicts(); got != "[]" {
		t.Errorf("corrupt: %s", got)
	}
	if sum, known := c[1].marks.at(mark.RaftIndex); !known || sum != mark.Sum {
		t.Error("what was restored was not compared")
	}
}

func TestAPlaceInTheLogThatIsNotRememberedIsNotCompared(t *testing.T) {
	c := newTrio(t, 2)
	c.apply(set("/a", "1"))
	wrong := command.Check{Member: 2, Index: 1, Sum: [16]byte{1}}
	for range marksKept {
		c.apply(command.Tick{})
	}
	c.apply(wrong)
	index, _ := c[0].Applied()
	for _, at := range []uint64{0, index + 100, 1 << 62} {
		wrong.Index = at
		c.apply(wrong)
	}
	wrong.Index, wrong.Member = index, 77 // nobody
	c.apply(wrong)
	if got := c.verdicts(); got != "[]" {
		t.Errorf("corrupt: %s", got)
	}
	wrong.Member = 2
	c.apply(wrong)
	if got := c.verdicts(); got != "[1]" {
		t.Errorf("a place that is remembered: %s", got)
	}
}

func TestAScrubFindsWhatHasChangedUnseen(t *testing.T) {
	r := furnished(t)
	for i := range 2 * scrubSlice {
		r.apply(set(fmt.Sprintf("/many/%d", i), "1"))
	}
	slices := 0
	if err := r.Scrub(func() error {
		slices++
		r.apply(set("/a/b", "written meanwhile"))
		return nil
	}); err != nil || slices < 2 {
		t.Fatalf("%v after %d slices", err, slices)
	}
	if why, corrupt := r.Corrupt(1); corrupt {
		t.Fatalf("a sound state is corrupt: %+v", why)
	}
	stop := errors.New("stop")
	if err := r.Scrub(func() error { return stop }); err != stop {
		t.Errorf("got %v", err)
	}

	rec, _ := r.state.records.Get("/many/77")
	rec.value = "9"
	if err := r.Scrub(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if why, corrupt := r.Corrupt(1); !corrupt || why.Same() || why.Member != 0 {
		t.Errorf("corrupt %v: %+v", corrupt, why)
	}
	if err := r.Restore(bytes.NewReader(furnished(t).snapshot())); err != nil {
		t.Fatal(err)
	}
	if _, corrupt := r.Corrupt(1); corrupt {
		t.Error("corrupt after a restore")
	}
}

func TestAScrubFindsOriginsThatChanged(t *testing.T) {
	r := furnished(t)
	r.state.origins.at[9].executed[0] ^= 1 << 40
	if err := r.Scrub(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, corrupt := r.Corrupt(1); !corrupt {
		t.Error("not found")
	}
}
