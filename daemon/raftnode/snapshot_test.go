package raftnode

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// storeSnapshot writes a snapshot that stands for the entry index.
func storeSnapshot(t *testing.T, s *snapshotStore, index uint64) {
	t.Helper()
	_, transport := raft.NewInmemTransport("")
	sink, err := s.Create(raft.SnapshotVersionMax, index, 3, raft.Configuration{}, 1, transport)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(sink, "state"); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}

func openSnapshots(t *testing.T, dir string) *snapshotStore {
	t.Helper()
	s, err := newSnapshotStore(dir, hclog.NewNullLogger(), newMeters())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTheNewestSnapshotsAreKeptAndNothingIsLeftOfOthers(t *testing.T) {
	dir := t.TempDir()
	s := openSnapshots(t, dir)
	for index := uint64(1); index <= 4; index++ {
		storeSnapshot(t, s, index)
	}
	// A crash while one was written, and while another was removed.
	for _, left := range []string{"3-5-100.tmp", "3-2-100.tmp"} {
		if err := os.MkdirAll(filepath.Join(s.dir, left), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, left, snapshotStateFile), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openSnapshots(t, dir)
	list, err := s.List()
	if err != nil || len(list) != snapshotsKept || list[0].Index != 4 || list[1].Index != 3 {
		t.Errorf("snapshots %v, %v", list, err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != snapshotsKept {
		t.Errorf("on disk are %v, %v", entries, err)
	}
}

func TestASnapshotThatIsRemovedLosesItsNameFirst(t *testing.T) {
	s := openSnapshots(t, t.TempDir())
	storeSnapshot(t, s, 1)
	storeSnapshot(t, s, 2)
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	// A removal that cannot go on after the first step, as after a kill.
	oldest := filepath.Join(s.dir, list[1].ID)
	if err := os.MkdirAll(filepath.Join(oldest+unfinished, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, transport := raft.NewInmemTransport("")
	sink, err := s.Create(raft.SnapshotVersionMax, 3, 3, raft.Configuration{}, 1, transport)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err == nil {
		t.Fatal("the removal went on")
	}
	left, err := os.ReadDir(oldest)
	if err != nil || !slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() == snapshotMetaFile }) || len(left) != 2 {
		t.Errorf("of the oldest snapshot %v are left, %v", left, err)
	}
}

func TestASnapshotThatSaysSomethingElseThanItsNameIsRefused(t *testing.T) {
	s := openSnapshots(t, t.TempDir())
	storeSnapshot(t, s, 7)
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.dir, list[0].ID, snapshotMetaFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), `"Index":7`, `"Index":8`, 1)
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil || changed == string(text) {
		t.Fatalf("%s, %v", text, err)
	}
	if _, err := s.List(); err == nil || !strings.Contains(err.Error(), "stands for entry 8") {
		t.Errorf("a snapshot of entry 7 that says 8: %v", err)
	}
}
