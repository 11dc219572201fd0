package raftnode

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/kvd-io/kvd/daemon/wal"
)

// openLogReadOnly opens the log store of the given kind below dir and changes nothing there: what
// the store would mend after a crash is mended in memory.
func openLogReadOnly(kind, dir string) (logStore, error) {
	switch kind {
	case LogStoreWAL:
		path := filepath.Join(dir, walDir)
		log, err := wal.Open(wal.Config{Dir: wal.ReadOnlyDirAt(path), ReadOnly: true})
		if err != nil {
			return nil, cannotRead(path, err)
		}
		return log, nil
	case LogStoreBoltDB:
		return openBoltReadOnly(filepath.Join(dir, boltLogFile))
	}
	return nil, mismatch("unknown log store %q", kind)
}

// openStableReadOnly opens the stable store that goes with the log store of the given kind below dir
// and changes nothing there.
func openStableReadOnly(kind, dir string) (*guardedStable, error) {
	if err := refuseOldLog(dir); err != nil {
		return nil, err
	}
	if kind == LogStoreBoltDB {
		store, err := openBoltReadOnly(filepath.Join(dir, boltStableFile))
		if err != nil {
			return nil, err
		}
		return &guardedStable{stableStore: store}, nil
	}
	store, err := wal.OpenStable(wal.StableConfig{Dir: wal.ReadOnlyDirAt(dir), Name: stableFile, ReadOnly: true})
	if err != nil {
		return nil, cannotRead(filepath.Join(dir, stableFile), err)
	}
	return &guardedStable{stableStore: store}, nil
}

// cannotRead is damage unless the file system refuses to show the file to this user.
func cannotRead(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return dirError(path, err)
	}
	var damaged *wal.DamageError
	if errors.As(err, &damaged) {
		return &DamageError{Path: damaged.Path, Err: fmt.Errorf("at byte %d: %s", damaged.Offset, damaged.Problem)}
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
