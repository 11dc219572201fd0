package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/wal"
)

// brokenStore fails each write while fault is set, and counts them.
type brokenStore struct {
	*raft.InmemStore
	fault  error
	writes int
}

func (s *brokenStore) StoreLogs(entries []*raft.Log) error {
	s.writes++
	return errors.Join(s.InmemStore.StoreLogs(entries), s.fault)
}

func (s *brokenStore) Set(key, value []byte) error {
	s.writes++
	return errors.Join(s.InmemStore.Set(key, value), s.fault)
}

func (s *brokenStore) Close() error { return nil }

func newBrokenStore() *brokenStore { return &brokenStore{InmemStore: raft.NewInmemStore()} }

func TestAfterOneFailedWriteNoOtherIsTried(t *testing.T) {
	disk := newBrokenStore()
	var faults []error
	stop := &failStop{deadline: time.Minute, fatal: func(err error) { faults = append(faults, err) }}
	logs := &guardedLog{logStore: disk, stop: stop, written: newByteTrigger(spaceBytes), meters: newMeters()}
	stable := &guardedStable{stableStore: disk, stop: stop}

	if err := logs.StoreLog(&raft.Log{Index: 1}); err != nil {
		t.Fatal(err)
	}
	disk.fault = errors.New("no space left on device")
	if err := logs.StoreLog(&raft.Log{Index: 2}); err == nil {
		t.Error("a failed write was reported as done")
	}
	disk.fault = nil // a retry of a failed sync reports success for data that is gone
	writes := disk.writes
	if logs.StoreLog(&raft.Log{Index: 3}) == nil || logs.DeleteRange(1, 1) == nil || stable.Set([]byte("k"), nil) == nil {
		t.Error("a write went on after the fault")
	}
	if disk.writes != writes {
		t.Error("a write reached the disk after the fault")
	}
	if len(faults) != 1 || !strings.Contains(faults[0].Error(), "append to the log: no space left on device") {
		t.Errorf("the process was told of %q, want the first fault, once", faults)
	}
}

func TestAVoteIsReadBackInOnePiece(t *testing.T) {
	disk := newBrokenStore()
	stop := &failStop{deadline: time.Minute}
	stable := &guardedStable{stableStore: disk, stop: stop}
	if _, err := stable.GetUint64([]byte(keyVoteTerm)); err == nil || err.Error() != "not found" {
		t.Errorf("without a vote: %v; raft compares the text with \"not found\"", err)
	}
	vote := func(term uint64, candidate string) {
		if err := stable.SetUint64([]byte(keyVoteTerm), term); err != nil {
			t.Fatal(err)
		}
		if candidate == "" {
			return // the process dies between raft's two writes
		}
		if err := stable.Set([]byte(keyVoteCandidate), []byte(candidate)); err != nil {
			t.Fatal(err)
		}
	}
	vote(7, "n1")
	vote(8, "")
	again := &guardedStable{stableStore: disk, stop: stop}
	term, err := again.GetUint64([]byte(keyVoteTerm))
	candidate, err2 := again.Get([]byte(keyVoteCandidate))
	if err := errors.Join(err, err2); err != nil || term != 7 || string(candidate) != "n1" {
		t.Errorf("term %d, candidate %q, %v: want the last whole vote, 7 for n1", term, candidate, err)
	}
}

func TestAnEntryThatIsNotWhatWasWrittenIsRefused(t *testing.T) {
	disk := newBrokenStore()
	stop := &failStop{deadline: time.Minute}
	logs := &guardedLog{logStore: disk, stop: stop, written: newByteTrigger(spaceBytes), meters: newMeters()}
	if err := logs.StoreLog(&raft.Log{Index: 1, Term: 3, Data: []byte("value")}); err != nil {
		t.Fatal(err)
	}
	var entry raft.Log
	if err := logs.GetLog(1, &entry); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*raft.Log){
		"data":     func(e *raft.Log) { e.Data = []byte("valve") },
		"term":     func(e *raft.Log) { e.Term++ },
		"type":     func(e *raft.Log) { e.Type = raft.LogNoop },
		"index":    func(e *raft.Log) { e.Index++ },
		"checksum": func(e *raft.Log) { e.Extensions = nil },
	} {
		spoilt := entry
		spoil(&spoilt)
		if err := verifyEntry(&spoilt); err == nil {
			t.Errorf("another %s was not noticed", name)
		}
	}
}

func TestADamagedLogIsRefusedAtTheStart(t *testing.T) {
	for store, file := range map[string]string{LogStoreWAL: filepath.Join(raftDir, walDir, "*.segment"), LogStoreBoltDB: filepath.Join(raftDir, boltLogFile)} {
		t.Run(store, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			cfg.LogStore = store
			node, _ := open(t, cfg)
			propose(t, node, "/the-damaged-key")
			for i := range 20 {
				propose(t, node, numbered(i))
			}
			if err := node.Close(); err != nil {
				t.Fatal(err)
			}
			paths, err := filepath.Glob(filepath.Join(cfg.DataDir, file))
			if err != nil || len(paths) != 1 {
				t.Fatalf("log files %v, %v", paths, err)
			}
			data, err := os.ReadFile(paths[0])
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(data, []byte("/the-damaged-key")) {
				t.Fatal("the key is not in the log file")
			}
			data = bytes.ReplaceAll(data, []byte("/the-damaged-key"), []byte("/the-dAmaged-key"))
			if err := os.WriteFile(paths[0], data, 0o600); err != nil {
				t.Fatal(err)
			}
			err = openError(t, cfg)
			for _, want := range []string{"is damaged", cfg.DataDir, "restore this member from a backup"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q, want %q in it", err, want)
				}
			}
		})
	}
}

func TestALogThatLostItsEndAfterACleanStopIsRefused(t *testing.T) {
	cfg := testConfig(t.TempDir())
	node, _ := open(t, cfg)
	for i := range 20 {
		propose(t, node, numbered(i))
	}
	last := node.raft.LastIndex()
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(cfg.DataDir, raftDir, walDir, "*.segment"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("log files %v, %v", paths, err)
	}
	data, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndexFunc(data, func(r rune) bool { return r != 0 })
	clear(data[(end/512-1)*512:]) // the mark of the end, and the append before it
	if err := os.WriteFile(paths[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openError(t, cfg); !strings.Contains(err.Error(), fmt.Sprintf("but had %d when it was closed", last+1)) {
		t.Errorf("error %q", err)
	}
}

// replayed is a ledger for Inspect, on directories that hold no entry to ask it about.
type replayed struct{ ledger }

func (*replayed) Applied() (index, term uint64) { return 0, 0 }

func TestALogThatIsGoneAfterACrashIsRefused(t *testing.T) {
	node, _ := open(t, testConfig(t.TempDir()))
	propose(t, node, "/a")
	cfg := testConfig(filepath.Join(t.TempDir(), "data"))
	if err := os.CopyFS(cfg.DataDir, os.DirFS(node.dir.path)); err != nil {
		t.Fatal(err)
	}
	paths, err := filepath.Glob(filepath.Join(cfg.DataDir, raftDir, walDir, "*.segment"))
	if err != nil || len(paths) != 1 {
		t.Fatalf("log files %v, %v", paths, err)
	}
	if err := os.Remove(paths[0]); err != nil {
		t.Fatal(err)
	}
	var damaged *DamageError
	if _, err := Inspect(cfg.DataDir, 0, &replayed{}); !errors.As(err, &damaged) || !strings.Contains(err.Error(), "there is no log in") {
		t.Errorf("inspection: %v", err)
	}
	if err := openError(t, cfg); !strings.Contains(err.Error(), "member n1 (id "+node.identity.MemberID.String()+") had its data there") {
		t.Errorf("start: %v", err)
	}
}

func TestALogOfADevelopmentVersionIsRefusedInWords(t *testing.T) {
	cfg := testConfig(t.TempDir())
	node, _ := open(t, cfg)
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(cfg.DataDir, raftDir, walDir, "wal-meta.db")
	if err := errors.Join(os.Remove(filepath.Join(cfg.DataDir, raftDir, stableFile)), os.WriteFile(old, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, inspected := Inspect(cfg.DataDir, 0, &replayed{})
	for _, err := range []error{openError(t, cfg), inspected} {
		var mismatched *MismatchError
		if !errors.As(err, &mismatched) || !strings.Contains(err.Error(), "development version of kvd (wal-meta.db)") {
			t.Errorf("error %v", err)
		}
	}
}

func TestALogThatASnapshotHasOvertakenIsDroppedAtTheStart(t *testing.T) {
	for index, want := range map[uint64]uint64{2: 3, 3: 3, 4: 0} {
		logs := raft.NewInmemStore()
		for i := range uint64(3) {
			if err := logs.StoreLog(&raft.Log{Index: i + 1}); err != nil {
				t.Fatal(err)
			}
		}
		if err := dropCovered(logs, index); err != nil {
			t.Fatal(err)
		}
		if last, err := logs.LastIndex(); err != nil || last != want {
			t.Errorf("with a snapshot of entry %d the log ends with entry %d, %v, want %d", index, last, err, want)
		}
	}
}

func TestBehindASnapshotStaysAsMuchLogAsThereIsRoomFor(t *testing.T) {
	disk, err := wal.Open(wal.Config{Dir: wal.DirAt(t.TempDir()), SegmentBytes: 256 << 10, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	room := int64(1 << 30)
	logs := &guardedLog{logStore: disk, stop: &failStop{deadline: time.Minute}, written: newByteTrigger(1 << 40), meters: newMeters(), keep: func() int64 { return room }}
	for i := range uint64(100) {
		if err := logs.StoreLog(&raft.Log{Index: i + 1, Term: 1, Data: make([]byte, 50<<10)}); err != nil {
			t.Fatal(err)
		}
	}
	first := func() uint64 {
		t.Helper()
		index, err := logs.FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		return index
	}
	remove := func(last uint64) {
		t.Helper()
		if err := logs.DeleteRange(first(), last); err != nil {
			t.Fatal(err)
		}
	}
	if remove(99); first() != 1 {
		t.Errorf("with room for all, the log begins with entry %d", first())
	}
	room = 1 << 20
	if remove(10); first() != 11 {
		t.Errorf("what no snapshot stands for yet is removed, up to entry %d", first())
	}
	if remove(99); disk.Bytes() > room || first() < 50 || first() > 99 {
		t.Errorf("with room for %d bytes, the log from entry %d has %d", room, first(), disk.Bytes())
	}
	if err := logs.DeleteRange(90, 100); err != nil {
		t.Fatal(err)
	}
	if last, err := logs.LastIndex(); err != nil || last != 89 {
		t.Errorf("what the leader does not have stays, up to entry %d, %v", last, err)
	}
	if remove(89); first() != 0 {
		t.Errorf("of what is to go as a whole, entry %d stays", first())
	}
}
