package raftnode

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"go.etcd.io/bbolt"
)

// openLogReadOnly opens the log store of the given kind below dir and changes nothing there: what
// the store would repair after a crash is repaired in memory.
func openLogReadOnly(kind, dir string) (logStore, error) {
	switch kind {
	case LogStoreWAL:
		path := filepath.Join(dir, walDir)
		store, err := wal.Open(path, wal.WithLogger(hclog.NewNullLogger()), wal.WithSegmentSize(walSegmentBytes),
			wal.WithMetaStore(readOnlyList{}), wal.WithSegmentFiler(segment.NewFiler(path, readOnlyFiles{walfs.New()})))
		if err != nil {
			return nil, cannotRead(path, err)
		}
		return store, nil
	case LogStoreBoltDB:
		return openBoltReadOnly(filepath.Join(dir, boltLogFile))
	}
	return nil, mismatch("unknown log store %q", kind)
}

// cannotRead is damage unless the file system refuses to show the file to this user.
func cannotRead(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return dirError(path, err)
	}
	return &DamageError{Path: path, Err: err}
}

func openBoltReadOnly(path string) (*raftboltdb.BoltStore, error) {
	store, err := raftboltdb.New(raftboltdb.Options{
		Path: path, BoltOptions: &bbolt.Options{ReadOnly: true, Timeout: boltLockTimeout}, MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return nil, cannotRead(path, err)
	}
	if _, err := store.FirstIndex(); err != nil { // both buckets are in every file that kvd makes
		return nil, errors.Join(cannotRead(path, err), store.Close())
	}
	return store, nil
}

// errReadOnly is what a log store gets that tries to change something.
var errReadOnly = errors.New("opened only to be read")

// readOnlyFiles are the segments of a log on disk, none of which can be changed.
type readOnlyFiles struct{ *walfs.FS }

// OpenWriter opens a file for the store to find its end.
func (readOnlyFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	return readOnlyFile{f}, nil
}

// Create stands for a segment that a crash left on the list of segments but not on disk: it is
// empty, and nothing was acknowledged that would be in it.
func (readOnlyFiles) Create(string, string, uint64) (types.WritableFile, error) {
	return emptyFile{}, nil
}

// Delete leaves a file that is on no list where it is.
func (readOnlyFiles) Delete(string, string) error { return nil }

type readOnlyFile struct{ *os.File }

func (readOnlyFile) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }
func (readOnlyFile) Sync() error                        { return errReadOnly }

type emptyFile struct{}

func (emptyFile) ReadAt([]byte, int64) (int, error)  { return 0, io.EOF }
func (emptyFile) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }
func (emptyFile) Sync() error                        { return errReadOnly }
func (emptyFile) Close() error                       { return nil }

// readOnlyList is the list of the segments of a log.
type readOnlyList struct{}

// Load reads the list in dir.
func (readOnlyList) Load(dir string) (state types.PersistentState, err error) {
	db, err := bbolt.Open(filepath.Join(dir, metadb.FileName), 0, &bbolt.Options{ReadOnly: true, Timeout: boltLockTimeout})
	if err != nil {
		return state, fmt.Errorf("%s: %w", metadb.FileName, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return state, db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(metadb.MetaBucket))
		if bucket == nil {
			return fmt.Errorf("%s holds no list of segments", metadb.FileName)
		}
		text := bucket.Get([]byte(metadb.MetaKey))
		if text == nil {
			return nil
		}
		if err := json.Unmarshal(text, &state); err != nil {
			return fmt.Errorf("%s: %w", metadb.FileName, err)
		}
		return nil
	})
}

func (readOnlyList) CommitState(types.PersistentState) error { return nil }
func (readOnlyList) GetStable([]byte) ([]byte, error)        { return nil, nil }
func (readOnlyList) SetStable([]byte, []byte) error          { return errReadOnly }
func (readOnlyList) Close() error                            { return nil }
