package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kvd-io/kvd/daemon/wal"
)

// The keys under which raft keeps its vote, and the one under which we do.
const (
	keyVoteTerm      = "LastVoteTerm"
	keyVoteCandidate = "LastVoteCand"
	keyVote          = "kvd.vote"
)

// stableStore is what the node needs of a stable store.
type stableStore interface {
	raft.StableStore
	io.Closer
}

// openStable opens the stable store that goes with the log store of the given kind, below dir. Unless a
// new one may be made, there must be one: a member that has forgotten its vote could vote twice. sync, which
// may be nil, observes how long writes take.
func openStable(kind, dir string, create bool, stop *failStop, sync prometheus.Observer) (*guardedStable, error) {
	if kind == LogStoreBoltDB {
		store, err := openBolt(dir, boltStableFile, create)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", boltStableFile, err)
		}
		return &guardedStable{stableStore: store, stop: stop, sync: sync}, nil
	}
	if err := refuseOldLog(dir); err != nil {
		return nil, err
	}
	store, err := wal.OpenStable(wal.StableConfig{Dir: wal.DirAt(dir), Name: stableFile, Create: create})
	if err != nil {
		return nil, err
	}
	return &guardedStable{stableStore: store, stop: stop, sync: sync}, nil
}

// isNotFound says whether a stable store does not have a key.
func isNotFound(err error) bool {
	return errors.Is(err, wal.ErrKeyNotFound) || errors.Is(err, raftboltdb.ErrKeyNotFound)
}

// guardedStable is a stable store that stops the node on a fault and keeps a vote in one piece.
//
// raft writes a vote as two records: term, then candidate. After a crash between the two, the
// candidate of an earlier term would look as if it had this term's vote, and would get it again
// without the check of its log. Here the term waits in memory for its candidate.
type guardedStable struct {
	stableStore
	stop *failStop
	sync prometheus.Observer // of the time that a write takes; nil: nobody asks

	mu       sync.Mutex
	voteTerm uint64 // set, not yet written
}

// Set writes a value durably.
func (s *guardedStable) Set(key, value []byte) error {
	if string(key) != keyVoteCandidate {
		return s.write(key, value)
	}
	s.mu.Lock()
	record := binary.LittleEndian.AppendUint64(nil, s.voteTerm)
	s.mu.Unlock()
	return s.write([]byte(keyVote), append(record, value...))
}

// SetUint64 writes a number durably, except the term of a vote, which waits for the candidate.
func (s *guardedStable) SetUint64(key []byte, value uint64) error {
	if string(key) == keyVoteTerm {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.voteTerm = value
		return nil
	}
	return s.guard(func() error { return s.stableStore.SetUint64(key, value) })
}

func (s *guardedStable) write(key, value []byte) error {
	return s.guard(func() error { return s.stableStore.Set(key, value) })
}

func (s *guardedStable) guard(write func() error) error {
	if s.sync != nil {
		defer observeSince(s.sync, time.Now())
	}
	return s.stop.Guard("write term and vote", write)
}

// Get reads a value.
func (s *guardedStable) Get(key []byte) ([]byte, error) {
	if string(key) != keyVoteCandidate {
		return s.stableStore.Get(key)
	}
	_, candidate, err := s.vote()
	return candidate, err
}

// GetUint64 reads a number.
func (s *guardedStable) GetUint64(key []byte) (uint64, error) {
	if string(key) != keyVoteTerm {
		return s.stableStore.GetUint64(key)
	}
	term, _, err := s.vote()
	return term, err
}

func (s *guardedStable) vote() (term uint64, candidate []byte, err error) {
	record, err := s.stableStore.Get([]byte(keyVote))
	if err != nil {
		return 0, nil, err
	}
	if len(record) < 8 {
		return 0, nil, fmt.Errorf("the vote record is %d bytes long, expected at least 8", len(record))
	}
	return binary.LittleEndian.Uint64(record), record[8:], nil
}
