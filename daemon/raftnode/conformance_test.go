package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// journal is a log store of some kind that can be closed and opened again, beside what it must hold.
type journal struct {
	t       *testing.T
	kind    string
	dir     string
	store   logStore
	first   uint64
	entries []raft.Log
}

func newJournal(t *testing.T, kind string) *journal {
	j := &journal{t: t, kind: kind, dir: t.TempDir(), first: 1}
	j.open(true)
	t.Cleanup(func() { j.store.Close() })
	return j
}

func (j *journal) open(create bool) {
	j.t.Helper()
	var err error
	if j.store, err = openLogStore(j.kind, j.dir, create, &failStop{deadline: time.Minute}); err != nil {
		j.t.Fatal(err)
	}
}

func (j *journal) reopen() {
	j.t.Helper()
	if err := j.store.Close(); err != nil {
		j.t.Fatal(err)
	}
	j.open(false)
	j.check()
}

func (j *journal) last() uint64 { return j.first + uint64(len(j.entries)) - 1 }

// append stores n entries of a term behind the last one, or from index on if there is none.
func (j *journal) append(index, term uint64, n int) {
	j.t.Helper()
	if len(j.entries) > 0 {
		index = j.last() + 1
	} else {
		j.first = index
	}
	var batch []*raft.Log
	for i := range uint64(n) {
		entry := raft.Log{Index: index + i, Term: term, Type: raft.LogType(term % 6), Data: fmt.Appendf(nil, "entry %d of term %d", index+i, term), Extensions: []byte{1, 2, 3, 4}, AppendedAt: time.Unix(int64(index), 5).UTC()}
		j.entries = append(j.entries, entry)
		batch = append(batch, &entry)
	}
	if err := j.store.StoreLogs(batch); err != nil {
		j.t.Fatal(err)
	}
}

func (j *journal) remove(first, last uint64) {
	j.t.Helper()
	if err := j.store.DeleteRange(first, last); err != nil {
		j.t.Fatal(err)
	}
	var kept []raft.Log
	for _, entry := range j.entries {
		if entry.Index < first || entry.Index > last {
			kept = append(kept, entry)
		}
	}
	j.entries = kept
	if len(kept) > 0 {
		j.first = kept[0].Index
	}
}

func (j *journal) check() {
	j.t.Helper()
	first, err := j.store.FirstIndex()
	last, err2 := j.store.LastIndex()
	wantFirst, wantLast := j.first, j.last()
	if len(j.entries) == 0 {
		wantFirst, wantLast = 0, 0
	}
	if err := errors.Join(err, err2); err != nil || first != wantFirst || last != wantLast {
		j.t.Fatalf("the log goes from %d to %d, %v, want %d to %d", first, last, err, wantFirst, wantLast)
	}
	for _, want := range j.entries {
		var got raft.Log
		if err := j.store.GetLog(want.Index, &got); err != nil {
			j.t.Fatal(err)
		}
		if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) || !bytes.Equal(got.Extensions, want.Extensions) || !got.AppendedAt.Equal(want.AppendedAt) {
			j.t.Fatalf("entry %d is %+v, want %+v", want.Index, got, want)
		}
	}
	for _, index := range []uint64{wantFirst - 1, wantLast + 1} {
		if err := j.store.GetLog(index, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			j.t.Fatalf("entry %d: %v", index, err)
		}
	}
}

// Whatever kvd is told with --experimental-log-store, raft must see the same log.
func TestEveryLogStoreKeepsALogAsRaftExpectsIt(t *testing.T) {
	for _, kind := range []string{LogStoreWAL, LogStoreBoltDB} {
		for name, story := range map[string]func(j *journal){
			"empty":                       func(j *journal) { j.reopen() },
			"one entry":                   func(j *journal) { j.append(1, 1, 1); j.check(); j.reopen() },
			"a tail gives way to another": func(j *journal) { j.append(1, 1, 10); j.remove(6, 10); j.append(0, 2, 3); j.check(); j.reopen() },
			"a tail gives way across a restart": func(j *journal) {
				j.append(1, 1, 10)
				j.reopen()
				j.remove(6, 10)
				j.reopen()
				j.append(0, 2, 3)
				j.reopen()
				j.append(0, 3, 1)
				j.reopen()
			},
			"a tail gives way twice": func(j *journal) {
				j.append(1, 1, 10)
				j.remove(9, 10)
				j.append(0, 2, 5)
				j.remove(4, 13)
				j.append(0, 3, 1)
				j.reopen()
			},
			"a head is dropped": func(j *journal) {
				j.append(1, 1, 10)
				j.remove(1, 7)
				j.check()
				j.reopen()
				j.append(0, 1, 1)
				j.reopen()
			},
			"more is dropped than there is":       func(j *journal) { j.append(5, 1, 10); j.remove(1, 6); j.remove(13, 99); j.check(); j.reopen() },
			"nothing of what is dropped is there": func(j *journal) { j.append(5, 1, 3); j.remove(1, 4); j.remove(8, 9); j.check(); j.reopen() },
			"all gives way to a snapshot": func(j *journal) {
				j.append(1, 1, 10)
				j.remove(1, 10)
				j.check()
				j.reopen()
				j.append(501, 2, 2)
				j.check()
				j.reopen()
			},
			"large entries": func(j *journal) {
				j.append(1, 1, 1)
				large := raft.Log{Index: 2, Term: 1, Data: bytes.Repeat([]byte("x"), 3<<20)}
				if err := j.store.StoreLog(&large); err != nil {
					j.t.Fatal(err)
				}
				j.entries = append(j.entries, large)
				j.append(0, 1, 1)
				j.reopen()
			},
		} {
			t.Run(kind+"/"+name, func(t *testing.T) { story(newJournal(t, kind)) })
		}
		t.Run(kind+"/by chance", func(t *testing.T) {
			j := newJournal(t, kind)
			random := rand.New(rand.NewPCG(1, 1))
			for term := range uint64(150) {
				switch n := uint64(len(j.entries)); random.IntN(6) {
				case 0:
					j.reopen()
				case 1:
					if n > 0 {
						j.remove(j.last()-random.Uint64N(n), j.last())
					}
				case 2:
					if n > 0 {
						j.remove(j.first, j.first+random.Uint64N(n))
					}
				default:
					j.append(j.last()+1+random.Uint64N(5), term+1, 1+random.IntN(5))
				}
				j.check()
			}
			j.reopen()
		})
	}
}

func TestEveryStableStoreKeepsTermAndVote(t *testing.T) {
	for _, kind := range []string{LogStoreWAL, LogStoreBoltDB} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := openStable(kind, dir, false, &failStop{}, nil); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("where there is none: %v", err)
			}
			for life := range uint64(4) {
				s, err := openStable(kind, dir, life == 0, &failStop{deadline: time.Minute}, nil)
				if err != nil {
					t.Fatal(err)
				}
				if life > 0 {
					term, err := s.GetUint64([]byte("CurrentTerm"))
					voteTerm, err2 := s.GetUint64([]byte(keyVoteTerm))
					candidate, err3 := s.Get([]byte(keyVoteCandidate))
					if err := errors.Join(err, err2, err3); err != nil || term != life || voteTerm != life || string(candidate) != fmt.Sprint("n", life) {
						t.Errorf("life %d: term %d, vote in %d for %q, %v", life, term, voteTerm, candidate, err)
					}
				} else if _, err := s.GetUint64([]byte("CurrentTerm")); err == nil || err.Error() != "not found" {
					t.Errorf("at first: %v", err)
				}
				err = errors.Join(s.SetUint64([]byte("CurrentTerm"), life+1), s.SetUint64([]byte(keyVoteTerm), life+1), s.Set([]byte(keyVoteCandidate), fmt.Append(nil, "n", life+1)), s.Close())
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestWhoReadsAClosedLogIsRefusedAndNothingStops(t *testing.T) {
	for _, kind := range []string{LogStoreWAL, LogStoreBoltDB} {
		stop := &failStop{deadline: time.Minute}
		store, err := openLogStore(kind, t.TempDir(), true, stop)
		if err != nil {
			t.Fatal(err)
		}
		guarded := &guardedLog{logStore: store, stop: stop, written: newByteTrigger(spaceBytes), meters: newMeters()}
		if err := errors.Join(guarded.StoreLog(&raft.Log{Index: 1}), store.Close()); err != nil {
			t.Fatal(err)
		}
		if err := guarded.GetLog(1, new(raft.Log)); err == nil || errors.Is(err, raft.ErrLogNotFound) {
			t.Errorf("%s: %v", kind, err)
		}
		if err := stop.Err(); err != nil {
			t.Errorf("%s: the node stops: %v", kind, err)
		}
	}
}
