package store

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// implicitLease marks the ids of leases that a TTL made; the low 48 bits are the index that the
// lease was made at. Such a lease has exactly one attachment and dies with it. The range is
// closed to shared leases, whose ids their proposers choose.
const implicitLease = uint64(snapfile.ImplicitLease) << 48

// checkpointMin is what a shared lease must have left by the log for its leader to tell the others
// that it has less.
const checkpointMin = int64(time.Minute)

// lease ends at its deadline and takes what is attached to it with it.
type lease struct {
	id       uint64
	ttl      int64 // ns
	deadline int64 // lease clock, ns: exact for an implicit lease, the least for a shared one

	// remaining is what a shared lease had left when the log last told of it: its ttl, unless there
	// was a checkpoint since it was renewed. 0 for an implicit lease.
	remaining int64
}

func implicit(id uint64) bool { return id>>48 == implicitLease>>48 }

// deadline orders leases by the time at which the leader has to see to them: see wake.
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

// leaseFor returns the lease for a node that w writes while it holds the lease held: the shared one
// that w names, or one for its TTL, or none. An implicit lease is kept and gets a new deadline.
func (s *state) leaseFor(w kv.Write, held uint64, index kv.Index) uint64 {
	if w.Lease != 0 {
		return uint64(w.Lease)
	}
	if w.TTL == 0 {
		return 0
	}
	next := lease{id: implicitLease | index, ttl: int64(max(w.TTL, 0))}
	next.deadline = saturatingAdd(s.clock, next.ttl)
	prev, ok := s.leases.Get(held)
	if ok && implicit(held) {
		next.id = held
		s.putLease(&prev, &next)
	} else {
		s.putLease(nil, &next)
	}
	return next.id
}

// shared returns the shared lease with an id, or the error that there is none.
func (s *state) shared(op, key string, id uint64) (lease, error) {
	if l, ok := s.leases.Get(id); ok && !implicit(id) {
		return l, nil
	}
	return lease{}, &kv.Error{Op: op, Key: key, Kind: kv.NoLease, Cause: kv.LeaseID(id).String(), Index: s.revision}
}

// grant makes a shared lease.
func (s *state) grant(g command.LeaseGrant) error {
	refuse := func(kind kv.Kind, cause string) error {
		return &kv.Error{Op: "lease grant", Kind: kind, Cause: cause, Index: s.revision}
	}
	if ttl, err := kv.LeaseTTL(g.TTL); err != nil || ttl != g.TTL {
		return refuse(kv.Invalid, "a lease does not last that long")
	}
	if g.ID == 0 || implicit(g.ID) {
		return refuse(kv.Invalid, "the id is one that no shared lease can have")
	}
	if _, taken := s.leases.Get(g.ID); taken {
		return refuse(kv.Exists, kv.LeaseID(g.ID).String())
	}
	s.putLease(nil, &lease{id: g.ID, ttl: int64(g.TTL), deadline: saturatingAdd(s.clock, int64(g.TTL)), remaining: int64(g.TTL)})
	return nil
}

// revoke ends a shared lease whatever it has left.
func (s *state) revoke(r command.LeaseRevoke) error {
	l, err := s.shared("lease revoke", "", r.ID)
	if err != nil {
		return err
	}
	s.end(l, kv.ActionDelete)
	return nil
}

// checkpoint notes what the leader knows of shared leases.
func (s *state) checkpoint(c command.LeaseCheckpoint) {
	for _, told := range c.Leases {
		l, err := s.shared("", "", told.Lease)
		if err != nil {
			continue
		}
		next := l
		next.deadline, next.remaining = told.Deadline, min(max(told.Deadline-s.clock, 0), l.ttl)
		if told.Deadline == 0 {
			next.deadline, next.remaining = saturatingAdd(s.clock, l.ttl), l.ttl
		}
		s.putLease(&l, &next)
	}
}

// endOf returns when a lease ends as far as this member knows. Only for reads and for what a leader
// proposes: members know of different renewals.
func (s *state) endOf(l lease) int64 { return max(l.deadline, s.renewed[l.id]) }

// wake returns when the leader has to see to a lease: when it ends, or, if the log says that a
// shared one has more than checkpointMin left, when it has only half of that.
func (s *state) wake(l lease) int64 {
	if l.remaining > checkpointMin {
		return s.endOf(l) - l.remaining/2
	}
	return s.endOf(l)
}

// putLease is the one place where a lease changes.
func (s *state) putLease(prev, next *lease) {
	if prev != nil {
		s.exclude(prev)
		s.deadlines.Delete(deadline{s.wake(*prev), prev.id})
	}
	if next != nil {
		s.include(next)
		s.deadlines.Set(deadline{s.wake(*next), next.id})
		s.leases.Set(next.id, *next)
	} else {
		s.leases.Delete(prev.id)
		delete(s.renewed, prev.id)
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
		if l, ok := s.leases.Get(before); ok && implicit(before) {
			s.putLease(&l, nil)
		} else if ok {
			s.count(before, -1)
		}
	}
	if after != 0 {
		a.lease = after
		s.attached.Set(a)
		if !implicit(after) {
			s.count(after, 1)
		}
	}
}

// count keeps the number of attachments of a shared lease.
func (s *state) count(id uint64, delta int) {
	if n := s.uses[id] + delta; n > 0 {
		s.uses[id] = n
	} else {
		delete(s.uses, id)
	}
}

// attachments calls each for what is attached to a lease, by path, until it returns false.
func (s *state) attachments(id uint64, each func(attachment) bool) {
	s.attached.Ascend(attachment{lease: id}, func(a attachment) bool { return a.lease == id && each(a) })
}

// expire ends leases. One that was renewed after the leader looked, or that is not due by the
// replicated clock, stays.
func (s *state) expire(e command.Expire) {
	for _, seen := range e.Leases {
		if l, ok := s.leases.Get(seen.Lease); ok && l.deadline == seen.Deadline && l.deadline <= s.clock {
			s.end(l, kv.ActionExpire)
		}
	}
}

// end removes what is attached to a lease and the lease: one change, with a number and an event for
// each attachment, in key order. What lay in a directory that was attached goes with that.
func (s *state) end(l lease, action kv.Action) {
	var due []attachment
	s.attachments(l.id, func(a attachment) bool {
		due = append(due, a)
		return true
	})
	first := len(s.changes.Records)
	for _, a := range due {
		if a.dir {
			if d, ok := s.dirs.Get(a.path); ok {
				s.remove(action, nil, d)
			}
		} else if rec, ok := s.records.Get(a.path); ok {
			s.remove(action, rec, nil)
		}
	}
	if len(due) > 1 { // a directory's content lies among its siblings
		slices.SortFunc(s.changes.Records[first:], func(a, b RecordChange) int { return cmp.Compare(a.key(), b.key()) })
	}
	if !implicit(l.id) {
		s.putLease(&l, nil)
	}
}

// Due is what the leader has to propose.
type Due struct {
	Ended   []command.LeaseEnd // for an Expire
	Silent  []command.LeaseEnd // for a LeaseCheckpoint: shared leases that were not renewed for long
	Changes int                // nodes that go with Ended
	Next    int64              // when something else will be due, on the lease clock; math.MaxInt64 for never
}

// Due returns what is due by now on the lease clock, the earliest first: leases that end until
// they take limit nodes with them, and as many of the silent ones at most. A lease that alone has
// more nodes than that is the last.
func (m *Machine) Due(now int64, limit int) Due {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := m.state
	due := Due{Next: math.MaxInt64}
	s.deadlines.Scan(func(d deadline) bool {
		if d.at > now || due.Changes >= limit || len(due.Silent) >= limit {
			due.Next = d.at
			return false
		}
		l, _ := s.leases.Get(d.id)
		if end := s.endOf(l); end > now {
			due.Silent = append(due.Silent, command.LeaseEnd{Lease: d.id, Deadline: end})
		} else {
			due.Ended = append(due.Ended, command.LeaseEnd{Lease: d.id, Deadline: l.deadline})
			due.Changes += max(1, s.uses[d.id])
		}
		return true
	})
	return due
}

// Renew lets a shared lease end its full TTL after now, by this member's knowledge alone: no command
// depends on it, so that members may differ in it. It returns the lease as it is then, and whether
// the log says that it has less than its TTL left; a member that leads later would believe that,
// until a LeaseCheckpoint tells otherwise. Errors by Kind: NoLease.
func (m *Machine) Renew(id kv.LeaseID, now int64) (_ kv.Lease, checkpointed bool, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	l, err := s.shared("lease keep-alive", "", uint64(id))
	if err != nil {
		return kv.Lease{}, false, err
	}
	s.prolong(l, saturatingAdd(now, l.ttl))
	return s.showLease(l, now), l.remaining < l.ttl, nil
}

// prolong lets this member believe that a lease ends no earlier than end.
func (s *state) prolong(l lease, end int64) {
	if end <= s.endOf(l) {
		return
	}
	s.deadlines.Delete(deadline{s.wake(l), l.id})
	s.renewed[l.id] = end
	s.deadlines.Set(deadline{s.wake(l), l.id})
}

// Resume lets every shared lease live on after now as a new leader must, who knows nothing of the
// last one's renewals: for what the log says that it has left and grace, but no longer than its TTL.
func (m *Machine) Resume(now int64, grace time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leads = true
	s := m.state
	s.leases.Scan(func(_ uint64, l lease) bool {
		if !implicit(l.id) {
			s.prolong(l, saturatingAdd(now, min(l.ttl, saturatingAdd(l.remaining, int64(grace)))))
		}
		return true
	})
}

// Forget drops what this member knows of renewals, because it does not lead any more.
func (m *Machine) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leads = false
	s := m.state
	s.leases.Scan(func(_ uint64, l lease) bool {
		if _, ok := s.renewed[l.id]; ok {
			s.deadlines.Delete(deadline{s.wake(l), l.id})
			delete(s.renewed, l.id)
			s.deadlines.Set(deadline{s.wake(l), l.id})
		}
		return true
	})
}

// Lease returns a shared lease with the first keys, up to limit, at now on the lease clock. Errors by
// Kind: NoLease.
func (m *Machine) Lease(id kv.LeaseID, now int64, limit int) (kv.Lease, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	l, err := m.state.shared("lease get", "", uint64(id))
	if err != nil {
		return kv.Lease{}, err
	}
	shown := m.state.showLease(l, now)
	shown.Keys = make([]string, 0, min(limit, shown.Attached))
	m.state.attachments(l.id, func(a attachment) bool {
		if len(shown.Keys) < limit {
			shown.Keys = append(shown.Keys, a.path)
		}
		return len(shown.Keys) < limit
	})
	return shown, nil
}

// SharedLeases returns the shared leases above after by ascending id, up to limit, without keys,
// and the index of the store.
func (m *Machine) SharedLeases(after kv.LeaseID, now int64, limit int) ([]kv.Lease, kv.Index) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := []kv.Lease{}
	for it, more := m.state.seekLease(uint64(after)); more && len(list) < limit; {
		switch id := it.Key(); {
		case implicit(id):
			it, more = m.state.seekLease(implicitLease | 1<<48 - 1) // past all of them
		default:
			list = append(list, m.state.showLease(it.Value(), now))
			more = it.Next()
		}
	}
	return list, m.state.revision
}

// seekLease returns an iterator at the first lease above after, false if there is none.
func (s *state) seekLease(after uint64) (btree.MapIter[uint64, lease], bool) {
	it := s.leases.Iter()
	found := after < math.MaxUint64 && it.Seek(after+1)
	return it, found
}

// MayEnd reports whether somebody with these rights may write all that goes with a shared lease; for
// a lease that does not exist it is true.
func (m *Machine) MayEnd(rights *Rights, id kv.LeaseID) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.mayEnd(rights, uint64(id))
}

// left returns what a lease has left at now, negative if it is over: no more than its TTL, though it may have
// been renewed since the clock was looked at.
func (s *state) left(l lease, now int64) int64 { return min(s.endOf(l)-now, l.ttl) }

func (s *state) showLease(l lease, now int64) kv.Lease {
	left := max(s.left(l, max(now, s.clock)), 0)
	return kv.Lease{ID: kv.LeaseID(l.id), TTL: time.Duration(l.ttl), Remaining: time.Duration(left), Attached: s.uses[l.id], Index: s.revision}
}

// showTimeLeft tells in a node that was read, and in its children, when their shared leases end. A member
// that does not lead knows of no renewals. By the log's deadline alone a lease that lives for long would
// seem to be over, so it says what the log says that the lease has left, as if it were to lead now: that is
// too much by the time since the last renewal.
func (m *Machine) showTimeLeft(n *kv.Node, now int64) {
	if n.Lease != 0 {
		m.mu.RLock()
		if l, ok := m.state.leases.Get(uint64(n.Lease)); ok {
			now := max(now, m.state.clock)
			left := m.state.left(l, now)
			if !m.leads {
				left = l.remaining
			}
			n.Expiration, n.TTL = m.state.timeLeft(saturatingAdd(now, left), now)
		}
		m.mu.RUnlock()
	}
	for _, child := range n.Nodes {
		m.showTimeLeft(child, now)
	}
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
