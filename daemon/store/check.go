package store

import (
	"maps"
	"slices"

	"github.com/kvd-io/kvd/daemon/command"
)

// marksKept is how many log entries back a member can say what its state amounted to: more than
// come between the moment at which a member looks at its sum and that at which all execute its Check.
const marksKept = 1024

// marks are the sums after the last entries.
type marks struct {
	ring [marksKept]struct {
		index uint64
		sum   Sum
	}
}

func (k *marks) note(index uint64, sum Sum) {
	at := &k.ring[index%marksKept]
	at.index, at.sum = index, sum
}

func (k *marks) at(index uint64) (Sum, bool) {
	at := &k.ring[index%marksKept]
	return at.sum, at.index == index && index != 0
}

// Comparison is what this member's state and that of a member, this or another one, amounted to at one
// place in the log.
type Comparison struct {
	Member       uint64 // 0 for the records of this member themselves: see Scrub
	Index        uint64 // of the last log entry executed
	Ours, Theirs Sum
}

// Same reports whether both were the same.
func (c Comparison) Same() bool { return c.Ours == c.Theirs }

// compare does what a Check is for. The verdict is this member's own: it is no part of the state, and
// no command depends on it.
func (m *Machine) compare(check command.Check) {
	ours, known := m.marks.at(check.Index)
	if _, member := m.state.members[check.Member]; !known || !member {
		return
	}
	c := Comparison{Member: check.Member, Index: check.Index, Ours: ours, Theirs: sumOf(check.Sum)}
	if !c.Same() && !m.disputed() {
		m.comparisons = map[uint64]Comparison{} // who agreed before this may have changed their mind
	}
	m.comparisons[c.Member] = c
}

func (m *Machine) disputed() bool {
	// In any order: one is enough.
	for _, c := range m.comparisons {
		if !c.Same() {
			return true
		}
	}
	return false
}

// Disputed reports whether some member's state was found to differ from this one's. Every member is to
// propose a Check of its own then, so that all can tell which one is the odd one out.
func (m *Machine) Disputed() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.disputed()
}

// Corrupt returns why the state of this member, which is self, is not to be trusted: what it keeps is
// not what it has once stored, or of the members that have told their sums as many differ from it as
// agree with it, itself among these. It is then the odd one out, or one of two that nobody can decide
// between. A Restore of a sound state ends it.
func (m *Machine) Corrupt(self uint64) (Comparison, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.rotten != nil {
		return *m.rotten, true
	}
	var first Comparison
	agree, differ := 1, 0
	for _, id := range slices.Sorted(maps.Keys(m.comparisons)) {
		c := m.comparisons[id]
		switch {
		case id == self:
		case c.Same():
			agree++
		default:
			differ++
			if first.Index == 0 || c.Index < first.Index {
				first = c
			}
		}
	}
	return first, differ > 0 && differ >= agree
}

// scrubSlice is how many items Scrub reads between two calls of pause.
const scrubSlice = 1024

// Scrub sums up all that this member holds as it is now, and compares that with the sum that it keeps
// as it goes: what memory or a defect has changed unseen is found. It calls pause now and then, which
// may take its time; writes go on meanwhile. What pause returns ends it. A difference is what
// Corrupt returns from then on.
func (m *Machine) Scrub(pause func() error) error {
	m.mu.Lock()
	s := m.copyLocked()
	origins := m.state.origins.list()
	state := m.state
	m.mu.Unlock()

	found, err := s.sumUp(pause)
	if err != nil {
		return err
	}
	recounted := newOrigins()
	for i := range origins {
		recounted.include(&origins[i])
	}
	c := Comparison{Index: s.applied, Ours: found.plus(recounted.sum), Theirs: s.sum()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !c.Same() && m.state == state { // not replaced by a Restore since
		m.rotten = &c
	}
	return nil
}

// sumUp sums up the items of a copy of the state.
func (s *state) sumUp(pause func() error) (sum Sum, err error) {
	var scratch []byte
	n := 0
	add := func(i item) bool {
		scratch = i.appendTo(scratch[:0])
		sum.add(scratch)
		if n++; n%scrubSlice == 0 {
			err = pause()
		}
		return err == nil
	}
	s.records.Scan(func(r *record) bool { return add(r) })
	if err == nil {
		s.dirs.Scan(func(_ string, d *dir) bool { return add(d) })
	}
	if err == nil {
		s.leases.Scan(func(_ uint64, l lease) bool { return add(&l) })
	}
	for _, i := range s.auth.items() {
		if err == nil {
			add(i)
		}
	}
	return sum, err
}
