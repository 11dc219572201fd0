package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"
)

// Each operation on the disk fails once, in the life of one log after the other.
func TestAfterAnyFailedOperationNothingIsWrittenAndNothingIsLost(t *testing.T) {
	synctest.Test(t, failEachOperation)
}

func failEachOperation(t *testing.T) {
	for n := 0; ; n++ {
		random := rand.New(rand.NewPCG(uint64(n), 1))
		d := newDisk()
		left := n
		failed := ""
		d.fail = func(op operation) error { // under the disk's lock
			if left--; left == -1 && op.what != "note" {
				failed = op.what
				return syscall.EIO
			}
			return nil
		}
		m, refused := model{}, false
		term := uint64(1)
		log, err := Open(testConfig(d, random))
		now := moment{m, m}
		var c change
		for i := 0; err == nil && i < 40; i++ {
			c = draw(random, m, &term)
			now = moment{m, c.of(m)}
			if err = c.do(log); err == nil {
				m = now.after
				now = moment{m, m}
			}
		}
		if log != nil {
			if err != nil {
				refused = true
				synctest.Wait() // for a segment that was being made when the fault came
				operations := len(d.operations())
				next := m.last() + 1
				if err := log.StoreLog(&raft.Log{Index: max(next, 1)}); !errors.Is(err, syscall.EIO) {
					t.Errorf("operation %d: after the fault an append returned %v", n, err)
				}
				synctest.Wait()
				if len(d.operations()) != operations {
					t.Errorf("operation %d: something was done after the fault", n)
				}
				problem := m.difference(log)
				if problem != "" && c.halves { // its entries may be read before they are durable
					problem = now.after.difference(log)
				}
				if problem != "" {
					t.Errorf("operation %d, reading after the fault: %s", n, problem)
				}
			}
			if err := log.Close(); err != nil && failed == "" {
				t.Fatal(err)
			}
		}
		d.fail = nil
		again, _, problem := recovered(d, random, now)
		if problem != "" {
			t.Fatalf("operation %d (%s) failed, refused %v: %s", n, failed, refused, problem)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if left >= 0 { // no operation was left to fail
			t.Logf("%d operations", n)
			return
		}
	}
}

// failSync has the next sync of a file of that name fail.
func (d *disk) failSync(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = func(op operation) error { // under the disk's lock
		if op.what == "sync" && op.inode == d.names[name] {
			d.fail = nil
			return syscall.EIO
		}
		return nil
	}
}

// stopped returns what is on the disk of d after the machine has stopped.
func stopped(d *disk) *disk {
	w := newWreck(nil)
	for _, op := range d.operations() {
		w.follow(op)
	}
	return w.crash(loseAll, nil)
}

// After a failed sync the kernel shows data that the disk does not have. Whoever starts next must not
// build on it before it is on the disk.
func TestWhatTheKernelStillShowsAfterAFailedSyncIsWrittenAgain(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	d := newDisk()
	log, err := Open(testConfig(d, random))
	if err != nil {
		t.Fatal(err)
	}
	if err := log.StoreLog(&raft.Log{Index: 1}); err != nil {
		t.Fatal(err)
	}
	d.failSync(segmentName(1))
	if err := log.StoreLog(&raft.Log{Index: 2}); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(testConfig(d, random))
	if err != nil {
		t.Fatal(err)
	}
	shown := must(again.LastIndex())
	if shown != 2 {
		t.Fatalf("the kernel shows the log up to entry %d: the test has lost its case", shown)
	}
	onDisk, err := Open(testConfig(stopped(d), random))
	if err != nil {
		t.Fatal(err)
	}
	if last := must(onDisk.LastIndex()); last != shown {
		t.Errorf("the log showed entry %d, the disk holds %d", shown, last)
	}
	if err := errors.Join(again.Close(), onDisk.Close()); err != nil {
		t.Fatal(err)
	}

	d = newDisk()
	cfg := StableConfig{Dir: d, Name: "stable", Create: true}
	stable, err := OpenStable(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := stable.SetUint64([]byte("term"), 1); err != nil {
		t.Fatal(err)
	}
	d.failSync("stable")
	for term := range uint64(2) { // nothing is tried again
		if err := stable.SetUint64([]byte("term"), 2+term); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
	}
	if stable, err = OpenStable(cfg); err != nil {
		t.Fatal(err)
	}
	defer stable.Close()
	term := must(stable.GetUint64([]byte("term")))
	if term != 2 {
		t.Fatalf("the kernel shows term %d: the test has lost its case", term)
	}
	safe, err := held(stopped(d), true)
	if err != nil || safe["term"] != string(binary.BigEndian.AppendUint64(nil, term)) {
		t.Errorf("term %d was shown, the disk holds %q, %v", term, safe["term"], err)
	}
}

func TestASegmentThatCannotBeMadeAheadIsTriedAgainWhenItIsNeeded(t *testing.T) {
	d := newDisk()
	var room bool // under the disk's lock
	failures := 0
	d.fail = func(op operation) error {
		if op.what == "create" && !room && len(d.names) > 0 {
			failures++
			return fmt.Errorf("create %s: %w", op.name, syscall.ENOSPC)
		}
		return nil
	}
	log, err := Open(testConfig(d, rand.New(rand.NewPCG(1, 1))))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	store := func(index uint64) error { return log.StoreLog(&raft.Log{Index: index}) }
	for index := range uint64(6) { // the segment has room for six
		if err := store(index + 1); err != nil {
			t.Fatal(err)
		}
	}
	m := <-log.keeping.made // it has been tried
	log.keeping.made <- m
	if !errors.Is(m.err, syscall.ENOSPC) {
		t.Fatalf("%v, %d failures", m.err, failures)
	}
	d.mu.Lock()
	room = true
	d.mu.Unlock()
	if err := store(7); err != nil {
		t.Fatalf("there is room now: %v", err)
	}
	d.mu.Lock()
	room = false
	d.mu.Unlock()
	for index := uint64(8); err == nil && index < 30; index++ {
		err = store(index)
	}
	if !errors.Is(err, syscall.ENOSPC) || err.Error() != "make a file of 4 KiB for the log: create next.tmp: no space left on device" {
		t.Errorf("without room: %v", err)
	}
}

func TestALogThatIsNotThereIsAnErrorUnlessItIsToBeMade(t *testing.T) {
	for _, cfg := range []Config{{Dir: newDisk()}, {Dir: newDisk(), ReadOnly: true}, {Dir: DirAt(t.TempDir())}, {Dir: ReadOnlyDirAt(t.TempDir()), ReadOnly: true}} {
		if _, err := Open(cfg); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestEntriesThatLeaveAGapAreRefusedAndTheLogGoesOn(t *testing.T) {
	log, err := Open(Config{Dir: newDisk(), Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for _, c := range []struct {
		indices []uint64
		good    bool
	}{{[]uint64{5, 6}, true}, {[]uint64{8}, false}, {[]uint64{6}, false}, {[]uint64{7, 9}, false}, {[]uint64{7}, true}, {nil, true}, {[]uint64{0}, false}} {
		var entries []*raft.Log
		for _, index := range c.indices {
			entries = append(entries, &raft.Log{Index: index})
		}
		if err := log.StoreLogs(entries); (err == nil) != c.good {
			t.Errorf("entries %d: %v", c.indices, err)
		}
	}
	if err := log.DeleteRange(6, 6); err == nil {
		t.Error("an entry was removed from the middle")
	}
	if first, last := must(log.FirstIndex()), must(log.LastIndex()); first != 5 || last != 7 {
		t.Errorf("the log goes from %d to %d", first, last)
	}
}

func must(n uint64, err error) uint64 {
	if err != nil {
		panic(err)
	}
	return n
}

// On a real disk: segments fill, old ones are used again, and the log is read meanwhile.
func TestReadersSeeEveryEntryWhileOthersAreAppendedAndRemoved(t *testing.T) {
	dir := t.TempDir()
	log, err := Open(Config{Dir: DirAt(dir), SegmentBytes: 64 << 10, RecentBytes: 32 << 10, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	content := func(index uint64) string { return fmt.Sprintf("%4096d", index) }
	const total = 300
	var reading sync.WaitGroup
	done := make(chan struct{})
	for range 3 {
		reading.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				first, last := must(log.FirstIndex()), must(log.LastIndex())
				for index := first; index <= last && index > 0; index++ {
					var entry raft.Log
					switch err := log.GetLog(index, &entry); {
					case errors.Is(err, raft.ErrLogNotFound) && index < must(log.FirstIndex()):
					case err != nil || string(entry.Data) != content(index):
						t.Errorf("entry %d: %.20q, %v", index, entry.Data, err)
						return
					}
				}
			}
		})
	}
	for index := uint64(1); index <= total; index++ {
		if err := log.StoreLog(&raft.Log{Index: index, Data: []byte(content(index))}); err != nil {
			t.Fatal(err)
		}
		if index%50 == 0 {
			if err := log.DeleteRange(1, index-30); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(done)
	reading.Wait()
	if err := errors.Join(log.Close(), log.Close()); err != nil {
		t.Fatal(err)
	}
	if err := log.GetLog(total, new(raft.Log)); err == nil {
		t.Error("a closed log was read")
	}
	segments, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(segments) > 12 {
		t.Errorf("%d segments are left, %v: those that hold nothing should be gone", len(segments), err)
	}
	again, err := Open(Config{Dir: DirAt(dir)})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if first, last := must(again.FirstIndex()), must(again.LastIndex()); first != total-29 || last != total {
		t.Errorf("the log goes from %d to %d", first, last)
	}
}

// What a start reads as damage, and what as a crash, rests on that: see reading.
func TestNothingIsWrittenBehindAnAppendThatIsNotSynced(t *testing.T) {
	log, err := Open(testConfig(newDisk(), rand.New(rand.NewPCG(1, 2))))
	if err != nil {
		t.Fatal(err)
	}
	for _, failing := range []bool{false, true} {
		last := must(log.LastIndex())
		sync, err := log.Begin([]*raft.Log{{Index: last + 1}})
		if err != nil {
			t.Fatal(err)
		}
		if log.writing.TryLock() {
			t.Fatal("another append, or a deletion, may go on")
		}
		if failing {
			log.dir.(*disk).failSync(segmentName(1))
		}
		if err := sync(); (err != nil) != failing {
			t.Fatal(err)
		}
		if !log.writing.TryLock() {
			t.Fatal("nothing may be written after the sync")
		}
		log.writing.Unlock()
	}
	if err := log.StoreLog(&raft.Log{Index: 3}); !errors.Is(err, syscall.EIO) {
		t.Errorf("after the fault an append returned %v", err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
}
