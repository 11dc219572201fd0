package store

import (
	"fmt"
	"slices"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// Audit counts everything again, from the records, directories and leases alone, and returns the
// first thing that does not agree with what the machine keeps up to date as it goes: child counts,
// deadlines, attachments, size, sum. nil means that the state is what a sound history leads to. It
// takes time and memory by the size of the state, and holds up writes.
func (m *Machine) Audit() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := m.state

	var sum Sum
	var bytes int64
	children := map[string]uint64{}
	var attached []attachment
	missingParent := ""
	count := func(path string) {
		if _, ok := s.dirs.Get(kv.Parent(path)); !ok {
			missingParent = path
		}
		children[kv.Parent(path)]++
	}
	s.records.Scan(func(r *record) bool {
		sum.add(r.appendTo(nil))
		bytes += r.size()
		count(r.key)
		if r.lease != 0 {
			attached = append(attached, attachment{r.lease, r.key, false})
		}
		if r.create > r.mod || r.mod > s.revision || r.modified > s.revision || r.created > r.modified || r.version == 0 {
			missingParent = fmt.Sprintf("%s (impossible record %+v)", r.key, *r)
		}
		return true
	})
	s.dirs.Scan(func(path string, d *dir) bool {
		sum.add(d.appendTo(nil))
		bytes += d.size()
		if path != "" {
			count(path)
		}
		if d.lease != 0 {
			attached = append(attached, attachment{d.lease, path, true})
		}
		return true
	})
	if missingParent != "" {
		return fmt.Errorf("no directory above %s", missingParent)
	}
	var wrong error
	s.dirs.Scan(func(path string, d *dir) bool {
		if _, both := s.records.Get(path); both {
			wrong = fmt.Errorf("%q is a directory and a value", path)
		}
		if d.children != children[path] {
			wrong = fmt.Errorf("directory %q counts %d children, it has %d", path, d.children, children[path])
		}
		return true
	})
	if wrong != nil {
		return wrong
	}

	var deadlines []deadline
	var counted, renewed int // shared leases
	uses := map[uint64]int{}
	for _, a := range attached {
		uses[a.lease]++
		if _, ok := s.leases.Get(a.lease); !ok {
			return fmt.Errorf("%q holds lease %x, which does not exist", a.path, a.lease)
		}
	}
	s.leases.Scan(func(id uint64, l lease) bool {
		sum.add(l.appendTo(nil))
		bytes += l.size()
		at := max(l.deadline, s.renewed[id])
		if l.remaining > checkpointMin {
			at -= l.remaining / 2
		}
		deadlines = append(deadlines, deadline{at, id})
		switch {
		case l.id != id || implicit(id) && (uses[id] != 1 || l.remaining != 0):
			wrong = fmt.Errorf("lease %x (%+v) has %d attachments, want 1", id, l, uses[id])
		case !implicit(id) && s.uses[id] != uses[id]:
			wrong = fmt.Errorf("lease %x counts %d attachments, it has %d", id, s.uses[id], uses[id])
		case !implicit(id):
			counted++
			if _, ok := s.renewed[id]; ok {
				renewed++
			}
		}
		return true
	})
	if wrong != nil {
		return wrong
	}
	if empty := counted - len(s.uses); empty < 0 || renewed != len(s.renewed) {
		return fmt.Errorf("of %d shared leases %d are counted and %d renewed, of which %d exist", counted, len(s.uses), len(s.renewed), renewed)
	}
	slices.SortFunc(deadlines, func(a, b deadline) int { return order(a.less(b)) })
	slices.SortFunc(attached, func(a, b attachment) int { return order(a.less(b)) })
	if got := s.deadlines.Items(); !slices.Equal(got, deadlines) {
		return fmt.Errorf("deadlines are %v, want %v", got, deadlines)
	}
	if got := s.attached.Items(); !slices.Equal(got, attached) {
		return fmt.Errorf("attachments are %v, want %v", got, attached)
	}
	for _, i := range s.auth.items() {
		sum.add(i.appendTo(nil))
		bytes += i.size()
	}
	if s.bytes != bytes {
		return fmt.Errorf("the running size is %d bytes, recomputed it is %d", s.bytes, bytes)
	}
	if !s.items.Equal(sum) {
		return fmt.Errorf("the running sum is %v, recomputed it is %v", s.items, sum)
	}
	return s.origins.audit()
}

// audit is Audit for the origins.
func (os *origins) audit() error {
	recounted := newOrigins()
	for _, o := range os.list() {
		again := snapfile.NewItem(o.appendTo(nil))
		if read := readOrigin(again); again.Failed() || *read != o || os.at[o.id].id != o.id || !recounted.load(read) {
			return fmt.Errorf("impossible origin %x: newest %d", o.id, o.newest)
		}
	}
	if recounted.used > os.used || !recounted.sum.Equal(os.sum) {
		return fmt.Errorf("origins have executed %d commands, sum %v; recomputed %d, %v", os.used, os.sum, recounted.used, recounted.sum)
	}
	return nil
}

// order returns what a comparison function does for two things that differ.
func order(less bool) int {
	if less {
		return -1
	}
	return 1
}
