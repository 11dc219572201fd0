package raftnode

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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

func createSnapshot(t *testing.T, s *snapshotStore) *snapshotSink {
	t.Helper()
	_, transport := raft.NewInmemTransport("")
	sink, err := s.Create(raft.SnapshotVersionMax, 9, 3, raft.Configuration{}, 1, transport)
	if err != nil {
		t.Fatal(err)
	}
	return sink.(*snapshotSink)
}

func TestASnapshotOfManyPartsIsReadAsItWasWritten(t *testing.T) {
	s := openSnapshots(t, t.TempDir())
	sink := createSnapshot(t, s)
	var want []byte
	for i := range 40 {
		part := bytes.Repeat([]byte{byte(i)}, 100_000*i%(2*snapshotChunk)+1)
		want = append(want, part...)
		if n, err := sink.Write(part); n != len(part) || err != nil {
			t.Fatalf("wrote %d of %d bytes: %v", n, len(part), err)
		}
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	meta, r, err := s.Open(sink.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) || meta.Size != int64(len(want)) || s.size.Load() != meta.Size {
		t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
	}
	if again := openSnapshots(t, filepath.Dir(s.dir)); again.size.Load() != meta.Size {
		t.Errorf("opened again, the size is %d", again.size.Load())
	}
}

func TestASnapshotThatIsGivenUpLeavesNothing(t *testing.T) {
	s := openSnapshots(t, t.TempDir())
	sink := createSnapshot(t, s)
	if _, err := sink.Write(make([]byte, 3*snapshotChunk/2)); err != nil {
		t.Fatal(err)
	}
	if err := sink.Cancel(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
	if _, err := sink.file.Write(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is still open: %v", err)
	}
}

func TestASnapshotIsWrittenAtLeisureUnlessThereIsHurry(t *testing.T) {
	const chunks = 8
	write := func(s *snapshotStore, leisurely bool) time.Duration {
		sink := createSnapshot(t, s)
		defer sink.Cancel()
		if leisurely {
			sink.leisurely()
		}
		begun := time.Now()
		if _, err := sink.Write(make([]byte, chunks*snapshotChunk)); err != nil {
			t.Fatal(err)
		}
		return time.Since(begun)
	}
	synctest.Test(t, func(t *testing.T) {
		s := openSnapshots(t, t.TempDir())
		if took, want := write(s, true), chunks*snapshotChunk*time.Second/snapshotRate; took != want {
			t.Errorf("at leisure it took %v, want %v", took, want)
		}
		if took := write(s, false); took != 0 {
			t.Errorf("what comes from a leader took %v", took)
		}
		s.size.Store(int64(snapshotTime.Seconds()) * 4 * snapshotRate)
		if took, want := write(s, true), chunks*snapshotChunk*time.Second/(4*snapshotRate); took != want {
			t.Errorf("a large one took %v, want %v", took, want)
		}
		close(s.hurry)
		if took := write(s, true); took != 0 {
			t.Errorf("in a hurry it took %v", took)
		}
	})
}

func TestWhoWritesASnapshotRestsLongerThanItWorks(t *testing.T) {
	const pieces, work = 64, 5 * ms // more than the rate asks for
	write := func(s *snapshotStore) time.Duration {
		sink := createSnapshot(t, s)
		defer sink.Cancel()
		sink.leisurely()
		begun := time.Now()
		for range pieces {
			time.Sleep(work)
			if _, err := sink.Write(make([]byte, snapshotPiece)); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(begun)
	}
	synctest.Test(t, func(t *testing.T) {
		s := openSnapshots(t, t.TempDir())
		if took, want := write(s), pieces*work*(1+snapshotRest); took != want {
			t.Errorf("it took %v, want %v", took, want)
		}
		close(s.hurry)
		if took, want := write(s), pieces*work; took != want {
			t.Errorf("in a hurry it took %v, want %v", took, want)
		}
	})
}
