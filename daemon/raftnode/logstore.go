package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/kvd-io/kvd/daemon/wal"
)

// The log stores to choose from.
const (
	// LogStoreWAL appends to segment files with one sync for each append: see package wal.
	LogStoreWAL = "wal"
	// LogStoreBoltDB keeps entries in one bbolt file: slower, and longer in use.
	LogStoreBoltDB = "boltdb"
)

// logStore is what the node needs of a log store.
type logStore interface {
	raft.LogStore
	io.Closer
}

// openLogStore opens the log store of the given kind below dir. Unless a new one may be made, there
// must be one.
func openLogStore(kind, dir string, create bool, stop *failStop) (logStore, error) {
	switch kind {
	case LogStoreWAL:
		path := filepath.Join(dir, walDir)
		if err := refuseOldLog(dir); err != nil {
			return nil, err
		}
		if err := makeDirs(path); err != nil {
			return nil, err
		}
		log, err := wal.Open(wal.Config{Dir: wal.DirAt(path), Create: create})
		if err != nil {
			return nil, err
		}
		return &walStore{Log: log, stop: stop}, nil
	case LogStoreBoltDB:
		return openBolt(dir, boltLogFile, create)
	}
	return nil, fmt.Errorf("unknown log store %q: use %s or %s", kind, LogStoreWAL, LogStoreBoltDB)
}

// refuseOldLog refuses what versions before the first release kept below dir.
func refuseOldLog(dir string) error {
	entries, err := os.ReadDir(filepath.Join(dir, walDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if name := entry.Name(); name == "wal-meta.db" || strings.HasSuffix(name, ".wal") {
			return mismatch("%s holds a log in the form of a development version of kvd (%s), which this one does not read: write a snapshot with that version and restore it, or start a new member with an empty --data-dir",
				filepath.Join(dir, walDir), name)
		}
	}
	return nil
}

// walStore is a wal.Log whose end is marked under the eyes of the failStop.
type walStore struct {
	*wal.Log
	stop *failStop
}

// Close marks the end of the log and closes it.
func (s *walStore) Close() error {
	return s.stop.Guard("mark the end of the log", s.Log.Close)
}

func openBolt(dir, name string, create bool) (*raftboltdb.BoltStore, error) {
	if _, err := os.Stat(filepath.Join(dir, name)); err != nil && !create {
		return nil, err
	}
	store, err := raftboltdb.New(raftboltdb.Options{
		Path:                    filepath.Join(dir, name),
		BoltOptions:             &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: boltLockTimeout},
		MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return nil, err
	}
	return store, syncDir(dir)
}

// guardLog puts guards, and a cache if need be, before a log store.
func (n *Node) guardLog(kind string, disk logStore) (raft.LogStore, error) {
	guarded := &guardedLog{logStore: disk, stop: n.stop, written: n.written, meters: n.meters, stored: &n.stored, overlap: &n.overlap, verify: kind != LogStoreWAL, keep: n.trailingBytes}
	if kind == LogStoreWAL { // it has what was read lately in memory, and checks the rest itself
		return guarded, nil
	}
	return raft.NewLogCache(logCacheEntries, guarded)
}

// guardedLog is a log store that stops the node on a fault and gives every entry a checksum, which
// travels and rests with it.
type guardedLog struct {
	logStore
	stop    *failStop
	written *byteTrigger
	meters  *meters
	stored  *watermark // highest index that was ever appended since the start; may be nil
	overlap *overlap   // nil: every append is durable when it returns
	verify  bool       // the store does not check itself on reading what it wrote

	// keep returns how many bytes of the log stay behind a snapshot, for members that lag; nil is all.
	keep func() int64
}

// sized is a log store that knows how much room it takes.
type sized interface {
	Bytes() int64
	FirstWithin(size int64) uint64
}

// IsMonotonic tells raft whether the store refuses gaps between entries.
func (l *guardedLog) IsMonotonic() bool {
	m, ok := l.logStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// GetLog reads the entry at index. An entry that does not match its checksum is an error.
func (l *guardedLog) GetLog(index uint64, entry *raft.Log) error {
	if err := l.logStore.GetLog(index, entry); err != nil {
		// Raft measures the log now and then, and does not wait for that when it stops.
		if !errors.Is(err, raft.ErrLogNotFound) && !errors.Is(err, wal.ErrClosed) && !errors.Is(err, bbolterrors.ErrDatabaseNotOpen) {
			l.stop.Trip(fmt.Errorf("read log entry %d: %w", index, err))
		}
		return err
	}
	if !l.verify {
		return nil
	}
	err := verifyEntry(entry)
	if err == nil && entry.Index != index {
		err = fmt.Errorf("log entry %d is damaged: entry %d stands in its place", index, entry.Index)
	}
	if err != nil {
		l.stop.Trip(err)
	}
	return err
}

// StoreLog appends one entry.
func (l *guardedLog) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs appends entries. Those from another leader, which come with their checksum, are durable when
// it returns; those that this member appends as the leader get theirs here, and may be synced later: see
// overlap.
func (l *guardedLog) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	begun := time.Now()
	own := len(entries[0].Extensions) == 0
	if !own {
		l.meters.appends.received.add(begun, sizeOf(entries))
	}
	for _, entry := range entries {
		if own {
			entry.Extensions = checksum(entry)
		}
		l.written.Add(len(entry.Data))
	}
	err := l.store(entries, own, begun)
	if err == nil && l.stored != nil {
		l.stored.Advance(entries[len(entries)-1].Index)
	}
	return err
}

const appending = "append to the log" // as a fault is told of

func (l *guardedLog) store(entries []*raft.Log, own bool, begun time.Time) error {
	if disk, ok := l.logStore.(halving); ok && own && l.overlap != nil && l.overlap.allows(entries) {
		var sync func() error
		err := l.stop.Guard(appending, func() (err error) { sync, err = disk.Begin(entries); return err })
		if sync == nil {
			return err
		}
		l.overlap.sync(entries[0].Index, func() error {
			defer observeSince(l.meters.logSync, begun)
			return l.stop.Finish(appending, sync)
		})
		return err
	}
	defer observeSince(l.meters.logSync, begun)
	return l.stop.Guard(appending, func() error { return l.logStore.StoreLogs(entries) })
}

// DeleteRange removes the entries from first to last, both included. Of those behind a snapshot, which raft
// leaves all but one of to be removed, some stay.
func (l *guardedLog) DeleteRange(first, last uint64) error {
	if l.keep != nil {
		var err error
		if last, err = l.needless(first, last); err != nil || last < first {
			return err
		}
	}
	return l.stop.Guard("truncate the log", func() error { return l.logStore.DeleteRange(first, last) })
}

// needless returns up to where the entries from first to last are to be removed. What is behind a snapshot
// stays as long as it is not more than trailingLogs entries, and no more than keep says; whatever else is
// removed, such as all of the log, is removed whole.
func (l *guardedLog) needless(first, last uint64) (uint64, error) {
	begin, err := l.FirstIndex()
	end, err2 := l.LastIndex()
	if err := errors.Join(err, err2); err != nil || first > begin || last >= end {
		return last, err
	}
	limit := end - min(end, trailingLogs)
	if store, ok := l.logStore.(sized); ok {
		limit = max(limit, store.FirstWithin(l.keep())-1)
	}
	return min(last, limit), nil
}

// checksum returns the CRC-32C of an entry's index, term, type and data.
func checksum(entry *raft.Log) []byte {
	var head [17]byte
	binary.LittleEndian.PutUint64(head[0:], entry.Index)
	binary.LittleEndian.PutUint64(head[8:], entry.Term)
	head[16] = byte(entry.Type)
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the standard library
	sum := crc32.Update(crc32.Checksum(head[:], table), table, entry.Data)
	return binary.LittleEndian.AppendUint32(nil, sum)
}

// verifyEntry compares an entry with its checksum.
func verifyEntry(entry *raft.Log) error {
	if want := checksum(entry); string(entry.Extensions) != string(want) {
		return fmt.Errorf("log entry %d is damaged: its checksum is %x, its content has %x", entry.Index, entry.Extensions, want)
	}
	return nil
}

// dropCovered removes a log that ends before what a snapshot stands for: the next entry would leave a
// gap. A crash leaves it so while a snapshot of the leader is installed.
func dropCovered(logs raft.LogStore, snapshot uint64) error {
	first, err := logs.FirstIndex()
	last, err2 := logs.LastIndex()
	if err := errors.Join(err, err2); err != nil || last == 0 || last >= snapshot {
		return err
	}
	return logs.DeleteRange(first, last)
}

// keyEnd keeps where the log ended at the last clean stop: its last index, and its last batch if it
// counts them.
const keyEnd = "kvd.end"

// counting is a log store that knows how often it was changed.
type counting interface{ LastBatch() uint64 }

// noteEnd notes where the log ends.
func noteEnd(stable *guardedStable, logs raft.LogStore) error {
	last, err := logs.LastIndex()
	if err != nil {
		return err
	}
	var batch uint64
	if c, ok := logs.(counting); ok {
		batch = c.LastBatch()
	}
	record := binary.LittleEndian.AppendUint64(nil, last)
	return stable.Set([]byte(keyEnd), binary.LittleEndian.AppendUint64(record, batch))
}

// endError is a log that has lost its end.
type endError struct{ last, want uint64 }

func (e *endError) Error() string {
	return fmt.Sprintf("the log ends with entry %d, but had %d when it was closed: its end is damaged", e.last, e.want)
}

// explainDamage adds to an error of a log or stable store what can be done about it.
func (n *Node) explainDamage(err error) error {
	var damaged *wal.DamageError
	var cut *endError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w; member %s (id %s) had its data there: restore it from a backup, or start a new member with an empty --data-dir", err, n.identity.Name, n.identity.MemberID)
	case errors.As(err, &damaged), errors.As(err, &cut):
		return fmt.Errorf("%w; restore this member from a backup, or start a new one with an empty --data-dir", err)
	}
	return err
}

// checkEnd says what is wrong with a log that has lost its end since the last clean stop. A log store
// takes a damaged last append for one that a crash cut short, and drops it; after a clean stop there can
// be none of those.
func checkEnd(stable *guardedStable, logs raft.LogStore) error {
	record, err := stable.Get([]byte(keyEnd))
	if isNotFound(err) || err == nil && len(record) == 0 {
		return nil
	}
	last, err2 := logs.LastIndex()
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if len(record) != 16 {
		return fmt.Errorf("the record of where the log ended is %d bytes long, expected 16", len(record))
	}
	want, batch := binary.LittleEndian.Uint64(record), binary.LittleEndian.Uint64(record[8:])
	lost := last < want
	if c, ok := logs.(counting); ok && batch > 0 {
		lost = c.LastBatch() < batch
	}
	if lost {
		return &endError{last: last, want: want}
	}
	return nil
}

// forgetEnd makes room for a log that ends earlier, if only the index says where it ended: a follower
// gives up what its leader does not have.
func forgetEnd(stable *guardedStable, logs raft.LogStore) error {
	if _, ok := logs.(counting); ok {
		return nil
	}
	if record, err := stable.Get([]byte(keyEnd)); isNotFound(err) || err == nil && len(record) == 0 {
		return nil
	} else if err != nil {
		return err
	}
	return stable.Set([]byte(keyEnd), nil)
}
