// Package store is the replicated state: records, directories, leases, users, roles and the sum over
// them, members, the history of events, and which commands were executed. It executes committed batches and answers reads.
//
// It is a deterministic machine: the same batches lead to the same state on every member, so it
// knows no raft, network, disk, clock, randomness or goroutine. Time comes with each batch and is
// the lease clock, which stands still while there is no leader. It imports the commands and the
// vocabulary, nothing of the rooms around it.
//
// # One keyspace for two APIs
//
// Keys are a flat ordered map of records. Each record keeps the numbers of both generations of
// etcd's API: create, mod and version as v3 counts them, createdIndex and modifiedIndex as v2 does;
// all are drawn from one counter, the revision. Directories are a table of their own which v3 will
// never see. See docs/explanation/store.md.
package store

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// firstRevision is that of a fresh store; the first change takes the next.
const firstRevision = 1

// DefaultHistoryLength is how many events a watcher can look back on.
const DefaultHistoryLength = 1000

// Machine is the state behind a lock. Apply, TakeEvents and Restore are for the one
// goroutine that applies the log; all other methods are safe from any goroutine.
type Machine struct {
	mu     sync.RWMutex // guards the state and all that has no other guard
	state  *state
	counts Counts

	// What this member knows of its own and of others' sums. It is no part of the state.
	marks       marks
	comparisons map[uint64]Comparison // by member, the last of each
	rotten      *Comparison           // what Scrub has found

	// view is a copy of the state for long reads, made when one asks and dropped at the next
	// change, so that writing pays for copies only while somebody reads.
	view atomic.Pointer[state]

	auth atomic.Pointer[Auth] // that of the state

	leased atomic.Bool // some node is attached to a shared lease
	leads  bool        // this member knows of renewals of shared leases: see Resume

	events []kv.Event // since the last TakeEvents, for the watch hub

	shortListing uint64 // see the constant; tests have a smaller one
}

// New returns a machine with an empty store that keeps the last historyLength events, or
// DefaultHistoryLength for 0.
func New(historyLength int) *Machine {
	if historyLength == 0 {
		historyLength = DefaultHistoryLength
	}
	m := &Machine{state: newState(historyLength), shortListing: shortListing, comparisons: map[uint64]Comparison{}}
	m.auth.Store(m.state.auth)
	return m
}

// Apply executes the batch of log entry index and returns a result for each of its commands.
// It panics on what a member must not survive: an entry out of order or an unknown command.
func (m *Machine) Apply(index, term uint64, batch *command.Batch) []command.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	if index <= s.applied {
		panic(fmt.Sprintf("log entry %d after entry %d", index, s.applied))
	}
	m.view.Store(nil)
	s.applied, s.term = index, term
	s.advance(batch.Clock, batch.WallOffset)
	results := make([]command.Result, len(batch.Commands))
	for i := range batch.Commands {
		changes, result := s.execute(&batch.Commands[i])
		result.RaftIndex, result.RaftTerm = index, term
		results[i] = result
		if !result.Repeated {
			m.note(batch.Commands[i].Body, result.Err, changes.Events)
		}
		for _, event := range changes.Events {
			s.history.append(event)
			m.events = append(m.events, event)
		}
	}
	m.marks.note(index, s.sum())
	m.auth.Store(s.auth)
	m.leased.Store(len(s.uses) > 0)
	return results
}

// note does what a command that was executed means to this member alone.
func (m *Machine) note(body command.Body, err error, events []kv.Event) {
	switch body := body.(type) {
	case command.Check:
		m.compare(body)
	case command.Tick:
	case command.MemberRemove:
		delete(m.comparisons, body.ID)
		m.counts.note(body, err, events)
	default:
		m.counts.note(body, err, events)
	}
}

// Auth returns the access control data. It does not block.
func (m *Machine) Auth() *Auth { return m.auth.Load() }

// TakeEvents returns the events since the last call, in order, and the index that the store has
// reached. The slice is the caller's.
func (m *Machine) TakeEvents() ([]kv.Event, kv.Index) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	events := m.events
	m.events = nil
	return events, m.state.revision
}

// History returns the events kept, oldest first, the index of the newest event that is no longer
// kept (0 for none), and the index of the store.
func (m *Machine) History() (events []kv.Event, dropped, index kv.Index) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.history.list(), m.state.history.dropped, m.state.revision
}

// Index returns the number of the last change.
func (m *Machine) Index() kv.Index {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.revision
}

// Applied returns the log index of the last entry applied, and its term.
func (m *Machine) Applied() (index, term uint64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.applied, m.state.term
}

// LeaseClock returns the replicated clock that leases run on and what to add to it for unix time,
// both in ns.
func (m *Machine) LeaseClock() (clock, wallOffset int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.clock, m.state.wallOffset
}

// Sum returns the sum of the state; members that hold the same have the same sum.
func (m *Machine) Sum() Sum {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.sum()
}

// Mark is what the state amounts to at one place of the log.
type Mark struct {
	Index     kv.Index // of the last change
	RaftIndex uint64   // of the last log entry executed
	Sum       Sum
}

// Mark returns the sum of the state and the place in the log that it belongs to. Members that have
// executed the same entries have the same mark.
func (m *Machine) Mark() Mark {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return Mark{Index: m.state.revision, RaftIndex: m.state.applied, Sum: m.state.sum()}
}

// current returns a copy of the state that no change will touch. It is shared: read only.
func (m *Machine) current() *state {
	if v := m.view.Load(); v != nil {
		return v
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.copyLocked()
}

// copyLocked is current for a caller that holds the lock for writing.
func (m *Machine) copyLocked() *state {
	v := m.view.Load()
	if v == nil {
		v = m.state.copy()
		m.view.Store(v)
	}
	return v
}
