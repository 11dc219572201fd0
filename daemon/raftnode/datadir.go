package raftnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Names inside the data directory. Everything in it belongs to one member and one process.
const (
	lockFile     = "kvd.lock"    // held with flock while a process uses the directory; says which
	identityFile = "member.json" // who the member is
	raftDir      = "raft"

	stableFile = "stable" // term and vote, LogStoreWAL
	walDir     = "wal"    // log entries

	boltStableFile = "stable.db" // term and vote, LogStoreBoltDB
	boltLogFile    = "log.db"    // log entries

	snapshotDir       = "snapshots" // below raftDir, with the names of raft's file store
	snapshotMetaFile  = "meta.json"
	snapshotStateFile = "state.bin"
)

// dataDir is a data directory that this process holds.
type dataDir struct {
	path string
	lock *os.File
}

// openDataDir makes path, readable by its owner only, unless it exists, and takes the lock in it.
// An existing directory must be a data directory or empty: the permissions of anything else are
// not ours to change.
func openDataDir(path, owner string) (*dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := makeDirs(path); err != nil {
		return nil, dirError(path, err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, dirError(path, err)
	}
	if foreign := foreignEntry(entries); foreign != "" {
		return nil, mismatch("%s is not a data directory of kvd: it holds %q but no %s; give --data-dir a new or empty directory", path, foreign, identityFile)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return nil, dirError(path, err)
	}
	lock, err := takeLock(filepath.Join(path, lockFile), owner)
	if err != nil {
		return nil, err
	}
	return &dataDir{path: path, lock: lock}, nil
}

// Close lets other processes use the directory.
func (d *dataDir) Close() error { return d.lock.Close() }

// foreignEntry returns the name of something that does not belong into a data directory that has
// no identity yet, "" if there is none.
func foreignEntry(entries []fs.DirEntry) string {
	foreign := ""
	for _, e := range entries {
		switch name := e.Name(); {
		case name == identityFile:
			return ""
		case name == lockFile, name == "lost+found":
		case strings.HasPrefix(name, "."+identityFile): // of a first start that was cut short
		default:
			foreign = name
		}
	}
	return foreign
}

// dirError explains why a directory cannot be used and what to do about it.
func dirError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		if _, hidden := os.Stat(path); hidden != nil {
			return fmt.Errorf("cannot make or reach the data directory: %w; %s does not let uid %d do that; let its owner make %s for that user, or choose another --data-dir",
				err, nearestVisible(path), os.Getuid(), path)
		}
		return fmt.Errorf("cannot use the data directory: %w; it must belong to the user that runs kvd (uid %d): chown it, or choose another --data-dir", err, os.Getuid())
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, fs.ErrExist):
		return fmt.Errorf("cannot use the data directory %s: %w; choose another --data-dir", path, err)
	}
	return fmt.Errorf("cannot use the data directory %s: %w", path, err)
}

// nearestVisible returns the lowest directory above path that this user can see.
func nearestVisible(path string) string {
	parent := filepath.Dir(path)
	if _, err := os.Stat(parent); err != nil && parent != path {
		return nearestVisible(parent)
	}
	return parent
}

// takeLock locks the file at path for this process and writes into it who holds it. The lock ends
// with the process, however it ends.
func takeLock(path, owner string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, dirError(filepath.Dir(path), err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, fmt.Errorf("the data directory %s is in use by another process (%s); stop it, or choose another --data-dir",
			filepath.Dir(path), strings.TrimSpace(string(holder)))
	}
	text := fmt.Sprintf("pid %d, member %s\n", os.Getpid(), owner)
	if err := errors.Join(f.Truncate(0), writeAt(f, text)); err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return f, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// makeDirs makes path and its missing parents, each readable by its owner only and each entered
// durably into its parent: a crash must not take back a directory that holds acknowledged data.
func makeDirs(path string) error {
	info, err := os.Stat(path)
	if err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := makeDirs(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// syncDir makes the entries of a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
