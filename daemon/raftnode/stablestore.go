package raftnode

import (
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// The keys under which raft keeps its vote, and the one under which we do.
const (
	keyVoteTerm      = "LastVoteTerm"
	keyVoteCandidate = "LastVoteCand"
	keyVote          = "kvd.vote"
)

// guardedStable is a stable store that stops the node on a fault and keeps a vote in one piece.
//
// raft writes a vote as two records: term, then candidate. After a crash between the two, the
// candidate of an earlier term would look as if it had this term's vote, and would get it again
// without the check of its log. Here the term waits in memory for its candidate.
type guardedStable struct {
	raft.StableStore
	stop *failStop

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
	return s.stop.Guard("write to "+stableFile, func() error { return s.StableStore.SetUint64(key, value) })
}

func (s *guardedStable) write(key, value []byte) error {
	return s.stop.Guard("write to "+stableFile, func() error { return s.StableStore.Set(key, value) })
}

// Get reads a value.
func (s *guardedStable) Get(key []byte) ([]byte, error) {
	if string(key) != keyVoteCandidate {
		return s.StableStore.Get(key)
	}
	_, candidate, err := s.vote()
	return candidate, err
}

// GetUint64 reads a number.
func (s *guardedStable) GetUint64(key []byte) (uint64, error) {
	if string(key) != keyVoteTerm {
		return s.StableStore.GetUint64(key)
	}
	term, _, err := s.vote()
	return term, err
}

func (s *guardedStable) vote() (term uint64, candidate []byte, err error) {
	record, err := s.StableStore.Get([]byte(keyVote))
	if err != nil {
		return 0, nil, err
	}
	if len(record) < 8 {
		return 0, nil, fmt.Errorf("%s: the vote record is %d bytes long, expected at least 8", stableFile, len(record))
	}
	return binary.LittleEndian.Uint64(record), record[8:], nil
}
