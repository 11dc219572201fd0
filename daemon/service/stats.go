package service

import (
	"sync/atomic"

	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/daemon/watch"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Stats is what this member has done since it began to serve, and what it holds. What changes the
// store is counted on every member, reads and watches by the member that was asked.
type Stats struct {
	store.Counts
	store.Extent
	Gets, RecursiveGets Tally
	Watches             watch.Stats
	Index               kv.Index // of the last change
	Quota               int64    // in bytes
	Refused             uint64   // writes that there was no room for
	Alarmed             bool     // writes that make the store grow are refused
	Corrupt             bool     // linearizable reads are refused: see AlarmCorrupt
}

// Tally counts how an operation went.
type Tally = store.Tally

// Stats returns the figures of this moment. Asking costs a few locks that are held briefly.
func (s *Service) Stats() Stats {
	return Stats{
		Counts: s.state.machine.Counts().Since(s.replayed), Extent: s.state.machine.Extent(),
		Gets: s.gets.load(), RecursiveGets: s.recursiveGets.load(), Watches: s.state.hub.Stats(),
		Index: s.Index(), Quota: s.quota.bytes, Refused: s.quota.refused.Load(), Alarmed: s.quota.alarmed(),
		Corrupt: s.checks.corrupt.Load() != nil,
	}
}

// tally is a Tally that many readers may add to.
type tally struct{ done, failed atomic.Uint64 }

func (t *tally) note(err error) {
	if err == nil {
		t.done.Add(1)
	} else {
		t.failed.Add(1)
	}
}

func (t *tally) load() Tally { return Tally{Done: t.done.Load(), Failed: t.failed.Load()} }
