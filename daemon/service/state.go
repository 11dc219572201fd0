package service

import (
	"io"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/daemon/watch"
)

// State is the replicated state and those who watch it, as one machine for raft to drive. What is
// applied becomes visible to reads at once and to watchers at the next Flush.
type State struct {
	machine *store.Machine
	hub     *watch.Hub

	guards guards

	// applied has a token after each Flush: deadlines may have changed.
	applied chan struct{}
}

var _ raftnode.Machine = (*State)(nil)

// NewState returns the state of an empty store.
func NewState() *State {
	s := &State{
		machine: store.New(store.DefaultHistoryLength),
		hub:     watch.NewHub(store.DefaultHistoryLength),
		applied: make(chan struct{}, 1),
	}
	s.hub.Reset(s.machine.History()) // an empty store has an index, too
	return s
}

// LimitWatchers sets how many watchers there may be at a time, 0 for any number. Call it before the
// first Watch.
func (s *State) LimitWatchers(n int) { s.hub.LimitWatchers(n) }

// Apply implements raftnode.Machine.
func (s *State) Apply(index, term uint64, batch *command.Batch) []command.Result {
	return s.machine.Apply(index, term, batch)
}

// Flush implements raftnode.Machine.
func (s *State) Flush() {
	s.guards.check(s.machine.Auth()) // before events that a watch has lost the right to see
	s.hub.Publish(s.machine.TakeEvents())
	select {
	case s.applied <- struct{}{}:
	default:
	}
}

// Snapshot implements raftnode.Machine.
func (s *State) Snapshot() raftnode.Snapshot { return s.machine.Snapshot() }

// Restore implements raftnode.Machine.
func (s *State) Restore(r io.Reader) error {
	if err := s.machine.Restore(r); err != nil {
		return err
	}
	s.guards.check(s.machine.Auth())
	s.hub.Reset(s.machine.History())
	return nil
}

// LeaseClock implements raftnode.Machine.
func (s *State) LeaseClock() (clock, wallOffset int64) { return s.machine.LeaseClock() }

// Members implements raftnode.Machine.
func (s *State) Members() []command.Member { return s.machine.Members() }

// Executed implements raftnode.Machine.
func (s *State) Executed(origin, sequence uint64) bool { return s.machine.Executed(origin, sequence) }

// Removed implements raftnode.Machine.
func (s *State) Removed(id uint64) bool { return s.machine.Removed(id) }
