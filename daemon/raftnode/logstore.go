package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"go.etcd.io/bbolt"
)

// The log stores to choose from.
const (
	// LogStoreWAL appends to segment files with one fsync for each append. Its release 0.4.0 can
	// leave an unsealed segment behind after truncating the tail of the log (fixed later, but
	// 0.4.0 is what can be had). Only a follower that disagrees with a leader truncates its tail,
	// and a cluster of one voter has no follower.
	LogStoreWAL = "wal"
	// LogStoreBoltDB keeps entries in one bbolt file: slower, and longer in use.
	LogStoreBoltDB = "boltdb"
)

// logStore is what the node needs of a log store.
type logStore interface {
	raft.LogStore
	io.Closer
}

// openLogStore opens the log store of the given kind below dir.
func openLogStore(kind, dir string, log hclog.Logger, stop *failStop) (logStore, error) {
	switch kind {
	case LogStoreWAL:
		path := filepath.Join(dir, walDir)
		if err := makeDirs(path); err != nil {
			return nil, err
		}
		meta := &segmentList{stop: stop}
		files := &segmentFiles{SegmentFiler: segment.NewFiler(path, walfs.New()), stop: stop}
		store, err := wal.Open(path, wal.WithLogger(log), wal.WithSegmentSize(walSegmentBytes), wal.WithMetaStore(meta), wal.WithSegmentFiler(files))
		if err != nil {
			return nil, errors.Join(err, meta.Close())
		}
		return &walStore{WAL: store, meta: meta}, syncDir(path)
	case LogStoreBoltDB:
		return openBolt(dir, boltLogFile)
	}
	return nil, fmt.Errorf("unknown log store %q: use %s or %s", kind, LogStoreWAL, LogStoreBoltDB)
}

// walStore closes what the library leaves open: the list of its segments, with the lock on it.
type walStore struct {
	*wal.WAL
	meta *segmentList
}

func (s *walStore) Close() error { return errors.Join(s.WAL.Close(), s.meta.Close()) }

// segmentFiles and segmentList stop the node when the log cannot begin its next segment. The
// library does that behind the back of its caller, only logs the error, and refuses the next
// append with "sealed", which says nothing of a full disk.
type segmentFiles struct {
	types.SegmentFiler
	stop *failStop
}

// Create makes the file of a new segment.
func (f *segmentFiles) Create(info types.SegmentInfo) (w types.SegmentWriter, err error) {
	what := fmt.Sprintf("make a file of %d MiB for the log", info.SizeLimit>>20)
	err = f.stop.Guard(what, func() error {
		w, err = f.SegmentFiler.Create(info)
		return err
	})
	return w, err
}

type segmentList struct {
	metadb.BoltMetaDB
	stop *failStop
}

// CommitState writes the list of segments.
func (l *segmentList) CommitState(state types.PersistentState) error {
	return l.stop.Guard("write the list of the log's files", func() error { return l.BoltMetaDB.CommitState(state) })
}

func openBolt(dir, name string) (*raftboltdb.BoltStore, error) {
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

// guardedLog is a log store that stops the node on a fault and gives every entry a checksum, which
// travels and rests with it: neither library store checks on reading what it wrote.
type guardedLog struct {
	logStore
	stop    *failStop
	written *byteTrigger
	meters  *meters
}

// IsMonotonic tells raft whether the store refuses gaps between entries.
func (l *guardedLog) IsMonotonic() bool {
	m, ok := l.logStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// GetLog reads the entry at index. An entry that does not match its checksum is an error.
func (l *guardedLog) GetLog(index uint64, entry *raft.Log) error {
	if err := l.logStore.GetLog(index, entry); err != nil {
		if !errors.Is(err, raft.ErrLogNotFound) {
			l.stop.Trip(fmt.Errorf("read log entry %d: %w", index, err))
		}
		return err
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

// StoreLogs appends entries durably. The leader's entries get their checksum here; a follower's
// come with it.
func (l *guardedLog) StoreLogs(entries []*raft.Log) error {
	for _, entry := range entries {
		if len(entry.Extensions) == 0 {
			entry.Extensions = checksum(entry)
		}
		l.written.Add(len(entry.Data))
	}
	defer observeSince(l.meters.logSync, time.Now())
	return l.stop.Guard("append to the log", func() error { return l.logStore.StoreLogs(entries) })
}

// DeleteRange removes the entries from first to last, both included.
func (l *guardedLog) DeleteRange(first, last uint64) error {
	return l.stop.Guard("truncate the log", func() error { return l.logStore.DeleteRange(first, last) })
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
