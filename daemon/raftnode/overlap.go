package raftnode

import (
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// overlap has the disk of the leader work at the same time as those of the followers. What a leader
// appends goes to the followers as soon as it is written, before it is synced here. In return no follower's
// answer counts before it is: see wait. Raft counts the leader's own vote for an entry at once, but where
// there are other voters that is never a majority, so nothing is committed that is not on a majority of
// the disks, this one among them.
//
// A leader that loses an entry in a crash cannot contradict what it has sent: it voted for itself, durably, and
// leads that term no more. One that is deposed syncs before it appends or removes anything, and raft commits by
// counting entries of the new term alone, which come behind. So an older entry that a follower has, and has
// not synced yet, is in no majority.
//
// These wait for the disk as ever: what a sole voter appends, whom nobody's answer holds back; a new
// configuration, which raft counts by at once, with all that is before it; and what comes from another leader.
type overlap struct {
	voters func() bool       // there are others, by the configuration that raft counts by
	start  func(func()) bool // runs a goroutine that has an owner; false when that is stopping

	newest atomic.Pointer[unsynced] // append; older ones are durable. nil: there was none
}

// unsynced is an append that is written, and not known to be durable until done is closed.
type unsynced struct {
	first uint64 // index
	done  chan struct{}
	err   error // to be read after that
}

// halving is a log store that can append without waiting for the disk: see wal.Log.Begin.
type halving interface {
	Begin(entries []*raft.Log) (sync func() error, err error)
}

// allows reports whether the leader's entries may be synced while they are sent.
func (o *overlap) allows(entries []*raft.Log) bool {
	for _, entry := range entries {
		if entry.Type == raft.LogConfiguration {
			return false
		}
	}
	return o.voters()
}

// sync has what was written from the entry at index first on synced beside the caller.
func (o *overlap) sync(first uint64, sync func() error) {
	a := &unsynced{first: first, done: make(chan struct{})}
	// Raft sends the entries when this has returned.
	o.newest.Store(a)
	work := func() {
		a.err = sync()
		close(a.done)
	}
	if !o.start(work) {
		work()
	}
}

// wait returns when the entries up to that at index, which a follower has, are on this member's disk, too.
func (o *overlap) wait(index uint64) error {
	a := o.newest.Load()
	if a == nil || index < a.first {
		return nil
	}
	<-a.done
	return a.err
}
