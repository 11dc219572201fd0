package store

import (
	"math"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// implicitLease marks the ids of leases that a TTL made; the low 48 bits are the index that the
// lease was made at. Such a lease has exactly one attachment and dies with it. The range is
// closed to ids that clients choose.
const implicitLease = uint64(0x7E76) << 48

// lease ends at its deadline and takes what is attached to it with it.
type lease struct {
	id       uint64
	ttl      int64 // ns
	deadline int64 // lease clock, ns
}

func (l lease) implicit() bool { return l.id>>48 == implicitLease>>48 }

// deadline orders leases by the time at which they end.
type deadline struct {
	at int64
	id uint64
}

func (a deadline) less(b deadline) bool {
	if a.at != b.at {
		return a.at < b.at
	}
	return a.id < b.id
}

// attachment is a record or a directory that goes when its lease ends.
type attachment struct {
	lease uint64
	path  string
	dir   bool
}

func (a attachment) less(b attachment) bool {
	if a.lease != b.lease {
		return a.lease < b.lease
	}
	if a.path != b.path {
		return a.path < b.path
	}
	return !a.dir && b.dir
}

// grant returns the lease for a node that is written with ttl while it holds the lease held. An
// implicit lease is kept and gets a new deadline; without a ttl there is no lease.
func (s *state) grant(held uint64, ttl time.Duration, index kv.Index) uint64 {
	if ttl == 0 {
		return 0
	}
	next := lease{id: implicitLease | index, ttl: int64(max(ttl, 0)), deadline: s.clock}
	if ttl > 0 {
		next.deadline = saturatingAdd(s.clock, int64(ttl))
	}
	prev, ok := s.leases.Get(held)
	if ok && prev.implicit() {
		next.id = held
		s.putLease(&prev, &next)
	} else {
		s.putLease(nil, &next)
	}
	return next.id
}

// putLease is the one place where a lease changes.
func (s *state) putLease(prev, next *lease) {
	if prev != nil {
		s.exclude(prev)
		s.deadlines.Delete(deadline{prev.deadline, prev.id})
	}
	if next != nil {
		s.include(next)
		s.deadlines.Set(deadline{next.deadline, next.id})
		s.leases.Set(next.id, *next)
	} else {
		s.leases.Delete(prev.id)
	}
}

// attach moves a node from one lease to another; 0 is none. An implicit lease that loses its node
// is gone.
func (s *state) attach(a attachment, before, after uint64) {
	if before == after {
		return
	}
	if before != 0 {
		a.lease = before
		s.attached.Delete(a)
		if l, ok := s.leases.Get(before); ok && l.implicit() {
			s.putLease(&l, nil)
		}
	}
	if after != 0 {
		a.lease = after
		s.attached.Set(a)
	}
}

// expire removes what is attached to a lease. A lease that was renewed after the leader looked,
// or that is not due by the replicated clock, stays.
func (s *state) expire(e command.Expire) {
	l, ok := s.leases.Get(e.Lease)
	if !ok || l.deadline != e.Deadline || l.deadline > s.clock {
		return
	}
	var due []attachment
	s.attached.Ascend(attachment{lease: l.id}, func(a attachment) bool {
		if a.lease == l.id {
			due = append(due, a)
		}
		return a.lease == l.id
	})
	for _, a := range due {
		if a.dir {
			if d, ok := s.dirs.Get(a.path); ok {
				s.remove(kv.ActionExpire, nil, d)
			}
		} else if rec, ok := s.records.Get(a.path); ok {
			s.remove(kv.ActionExpire, rec, nil)
		}
	}
}

// Due returns commands for up to limit leases that have ended by now on the lease clock, the
// earliest first, and when the next lease after those ends; math.MaxInt64 when there is none.
func (m *Machine) Due(now int64, limit int) (due []command.Expire, next int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	next = math.MaxInt64
	m.state.deadlines.Scan(func(d deadline) bool {
		if d.at > now || len(due) == limit {
			next = d.at
			return false
		}
		due = append(due, command.Expire{Lease: d.id, Deadline: d.at})
		return true
	})
	return due, next
}

// Leases returns how many leases there are.
func (m *Machine) Leases() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.leases.Len()
}

func saturatingAdd(a, b int64) int64 {
	if b > 0 && a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
