package raftnode

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
)

// Machine is the replicated state that the log drives. Apply, Flush, Snapshot, Restore and
// LeaseClock are called from one goroutine at a time.
type Machine interface {
	// Apply executes a batch in log order and returns one result for each command. It depends on
	// nothing but its arguments and what it has executed before. It panics on a command that
	// it does not know: skipping one would make this member differ from the others.
	Apply(index, term uint64, batch *command.Batch) []command.Result
	// Flush publishes what was applied since the last Flush and wakes who waits for it.
	Flush()
	// Snapshot returns the state as it is now, at once.
	Snapshot() Snapshot
	// Restore replaces the state with one that WriteTo has written.
	Restore(r io.Reader) error
	// LeaseClock returns the clock and wall offset of the newest batch: see command.Batch.
	LeaseClock() (clock, wallOffset int64)
	// Members returns the members that the log has made known, by ascending id; Removed reports
	// whether there was one with this id, which never comes back. Safe for concurrent use.
	Members() []command.Member
	Removed(id uint64) bool
	// Executed reports whether a command was executed, or counts as executed.
	Executed(origin, sequence uint64) bool
}

// Snapshot is a state at rest, which is written while Apply goes on.
type Snapshot interface {
	WriteTo(w io.Writer) (int64, error)
	Release()
}

// fsm drives the Machine with what raft commits. An entry without data is the mark that a
// leader has opened its term; it is not for the machine.
type fsm struct {
	machine Machine
	stop    *failStop
	meters  *meters
	applied watermark // index of the last entry applied, whose results registry has

	registry *registry  // of who waits for results
	results  []executed // of this process's commands, since registry was told

	clock      atomic.Int64 // as the machine has it
	wallOffset atomic.Int64

	logBytes *byteTrigger // what a restart would have to read again
}

var _ raft.BatchingFSM = (*fsm)(nil)

// Apply is never called: raft prefers ApplyBatch.
func (f *fsm) Apply(entry *raft.Log) any { return f.ApplyBatch([]*raft.Log{entry})[0] }

// ApplyBatch applies committed entries. The answer of each is a []command.Result, nil if there was nothing to
// execute.
func (f *fsm) ApplyBatch(entries []*raft.Log) []any {
	start := time.Now()
	answers := make([]any, len(entries))
	for i, entry := range entries {
		results, err := f.apply(entry)
		if err != nil {
			// To go on would be to skip an entry, and to differ from the others ever after.
			f.stop.Trip(err)
			panic(err)
		}
		answers[i] = results
	}
	f.machine.Flush()
	f.readClock()
	if observeSince(f.meters.apply, start) > slowApply {
		f.meters.slowApplies.Add(1)
	}
	// Results first: who has waited for the entry and finds none takes his for lost.
	if len(f.results) > 0 {
		f.registry.deliver(f.results)
		clear(f.results)
		f.results = f.results[:0]
	}
	f.applied.Advance(entries[len(entries)-1].Index)
	return answers
}

// batchOf returns what an entry has for the machine, nil if that is nothing: an entry of raft's own, the mark
// that opens a term, or a batch that its leader made in another term than it came into the log in. Raft takes
// an entry in whatever term it leads then, and the leader that made the batch may have been deposed and
// elected again since: what it knew, of renewed leases above all, does not hold any more.
func batchOf(entry *raft.Log) (*command.Batch, error) {
	if entry.Type != raft.LogCommand || len(entry.Data) == 0 {
		return nil, nil
	}
	batch, err := command.Decode(entry.Data)
	if err != nil || batch.Term != 0 && batch.Term != entry.Term {
		return nil, err
	}
	return batch, nil
}

func (f *fsm) apply(entry *raft.Log) (results []command.Result, err error) {
	if err := verifyEntry(entry); err != nil {
		return nil, err
	}
	f.logBytes.Add(len(entry.Data))
	batch, err := batchOf(entry)
	if err != nil {
		return nil, fmt.Errorf("entry %d: %w; if a newer kvd wrote it, start that version", entry.Index, err)
	}
	if batch == nil {
		return nil, nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("log entry %d cannot be applied: %v\n%s", entry.Index, p, debug.Stack())
		}
	}()
	results = f.machine.Apply(entry.Index, entry.Term, batch)
	if len(results) != len(batch.Commands) {
		return nil, fmt.Errorf("log entry %d: %d commands, %d results", entry.Index, len(batch.Commands), len(results))
	}
	at := mark{index: entry.Index, term: entry.Term}
	for i := range batch.Commands {
		if c := &batch.Commands[i]; c.Origin == f.registry.origin {
			o := outcome{result: located(results[i], at), index: at.index, term: at.term}
			if results[i].Repeated {
				o = outcome{err: outcomeLost()}
			}
			f.results = append(f.results, executed{c.Sequence, o})
		}
	}
	return results, nil
}

func (f *fsm) readClock() {
	clock, wallOffset := f.machine.LeaseClock()
	f.clock.Store(clock)
	f.wallOffset.Store(wallOffset)
}

// Snapshot captures the state for raft to persist.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.logBytes.Reset()
	return fsmSnapshot{f.machine.Snapshot()}, nil
}

// Restore replaces the state with a persisted one.
func (f *fsm) Restore(r io.ReadCloser) error {
	end := endOfSnapshot(r)
	if err := errors.Join(f.machine.Restore(r), r.Close()); err != nil {
		return err
	}
	f.machine.Flush()
	f.readClock()
	f.logBytes.Reset()
	// Entries that the snapshot stands for never come: who waits for one has it now, and who waits for a
	// result will not get it.
	f.registry.overtake(func(sequence uint64) bool { return f.machine.Executed(f.registry.origin, sequence) })
	f.applied.Advance(end)
	return nil
}

type fsmSnapshot struct{ Snapshot }

// Persist writes the state and makes it durable with the sink's Close.
func (s fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if sink, ok := sink.(*snapshotSink); ok {
		sink.leisurely()
	}
	if _, err := s.WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}
