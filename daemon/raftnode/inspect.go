package raftnode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
)

// Replayer is the state that Inspect builds: a Machine with nobody to tell.
type Replayer interface {
	// Apply executes a batch: see Machine.
	Apply(index, term uint64, batch *command.Batch) []command.Result
	// Restore replaces the state with one that a snapshot holds.
	Restore(r io.Reader) error
	// Applied returns the index of the last batch executed, and its term.
	Applied() (index, term uint64)
}

// Inspection is what Inspect has found in a data directory.
type Inspection struct {
	Identity
	FirstEntry, LastEntry uint64 // of the log; 0 when it is empty
	Snapshots             []SnapshotFile
	Replayed              int    // entries executed on top of the newest snapshot
	End                   uint64 // index of the last entry that the state holds, whatever its kind
}

// SnapshotFile is one snapshot on disk.
type SnapshotFile struct {
	Path        string
	Index, Term uint64 // of the last entry it stands for
	Bytes       int64
}

// DamageError is what makes a data directory unfit to start from.
type DamageError struct {
	Path string // file or directory
	Err  error
}

func (e *DamageError) Error() string { return fmt.Sprintf("%s is damaged: %v", e.Path, e.Err) }

// Unwrap returns the reason.
func (e *DamageError) Unwrap() error { return e.Err }

func damage(path, format string, args ...any) error {
	return &DamageError{Path: path, Err: fmt.Errorf(format, args...)}
}

// Inspect reads everything in a data directory that no process uses, or in a copy of one, as a start
// would, and changes nothing: it checks each entry and snapshot against its checksums and executes on
// machine, which must be new, what the member had committed or stored, up to entry last; 0 means
// all. A log entry whose write was cut short by a crash is no damage: it was never acknowledged.
// Errors: *DamageError; *MismatchError for what is not a data directory, or of a newer version; others
// say why the directory cannot be read.
func Inspect(dir string, last uint64, machine Replayer) (found Inspection, err error) {
	if last == 0 {
		last = math.MaxUint64
	}
	lock, err := shareDataDir(dir)
	if err != nil {
		return Inspection{}, err
	}
	defer lock.Close()
	if found.Identity, err = readIdentity(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return found, mismatch("%s is not a data directory of kvd: there is no %s in it", dir, identityFile)
		}
		var mismatched *MismatchError
		if errors.As(err, &mismatched) || errors.Is(err, fs.ErrPermission) {
			return found, err
		}
		return found, &DamageError{Path: filepath.Join(dir, identityFile), Err: err}
	}
	if !found.Bootstrapped {
		return found, mismatch("%s holds nothing yet: its first start was cut short", dir)
	}
	// The libraries below panic on some kinds of damage, and touch pages of files that are too short.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damage(filepath.Join(dir, raftDir), "reading it ends in: %v", p)
		}
	}()
	i := inspector{Inspection: found, dir: filepath.Join(dir, raftDir), last: last, machine: machine}
	err = i.run()
	return i.Inspection, err
}

// shareDataDir keeps a daemon from starting on dir, unless one runs there already, which is an error.
// A copy of a data directory may lack the file for that.
func shareDataDir(dir string) (io.Closer, error) {
	lock, err := os.Open(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, mismatch("there is no directory %s: name the one that holds the data with --data-dir", absolute(dir))
		}
		if err != nil {
			return nil, err
		}
		return io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, dirError(dir, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(lock)
		lock.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
		}
		return nil, fmt.Errorf("the data directory %s is in use by another process (%s); stop it, or look at a copy", dir, strings.TrimSpace(string(holder)))
	}
	return lock, nil
}

// absolute returns path as it is found from everywhere.
func absolute(path string) string {
	if whole, err := filepath.Abs(path); err == nil {
		return whole
	}
	return path
}

type inspector struct {
	Inspection
	dir     string // raftDir
	last    uint64
	machine Replayer
}

func (i *inspector) run() error {
	stable, err := openStableReadOnly(i.LogStore, i.dir)
	if err != nil {
		return err
	}
	defer stable.Close()
	log, err := openLogReadOnly(i.LogStore, i.dir)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := i.readStable(stable, log); err != nil {
		return err
	}
	base, err := i.restore()
	if err != nil {
		return err
	}
	if i.LastEntry == 0 && len(i.Snapshots) == 0 {
		return damage(i.dir, "there are neither log entries nor a snapshot, though the member had its data there")
	}
	return i.replay(log, base)
}

// readStable checks term and vote, and that the log is as long as it was at the last clean stop.
func (i *inspector) readStable(stable *guardedStable, log logStore) error {
	if _, _, err := stable.vote(); err != nil && !isNotFound(err) {
		return damage(i.dir, "term and vote: %w", err)
	}
	first, err := log.FirstIndex()
	last, err2 := log.LastIndex()
	if err := errors.Join(err, err2); err != nil {
		return &DamageError{Path: i.dir, Err: err}
	}
	i.FirstEntry, i.LastEntry = first, last
	if err := checkEnd(stable, log); err != nil {
		return &DamageError{Path: i.dir, Err: err}
	}
	return nil
}

// restore reads every snapshot and leaves the machine in the state of the newest one that is not
// beyond the last entry wanted. It returns the index that the state stands for.
func (i *inspector) restore() (base uint64, err error) {
	folder := filepath.Join(i.dir, snapshotDir)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return 0, &DamageError{Path: folder, Err: err}
	}
	for _, entry := range entries {
		if !entry.IsDir() || strings.HasSuffix(entry.Name(), unfinished) {
			continue
		}
		path := filepath.Join(folder, entry.Name())
		meta, size, err := readSnapshotMeta(path)
		if err != nil {
			return 0, err
		}
		i.Snapshots = append(i.Snapshots, SnapshotFile{Path: path, Index: meta.Index, Term: meta.Term, Bytes: size})
	}
	slices.SortFunc(i.Snapshots, func(a, b SnapshotFile) int { // newest last, so that the machine is left in it
		return compareUint(a.Index, b.Index)
	})
	for _, snapshot := range i.Snapshots {
		if snapshot.Index > i.last {
			continue
		}
		if err := i.restoreFile(snapshot); err != nil {
			return 0, err
		}
		base = snapshot.Index
	}
	return base, nil
}

func compareUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// readSnapshotMeta reads what the snapshot in the directory at path says about itself, and checks
// that against its name, and its state against the checksum in it.
func readSnapshotMeta(path string) (raft.SnapshotMeta, int64, error) {
	file := filepath.Join(path, snapshotMetaFile)
	text, err := os.ReadFile(file)
	if err != nil {
		return raft.SnapshotMeta{}, 0, &DamageError{Path: path, Err: err}
	}
	var meta struct {
		raft.SnapshotMeta
		CRC []byte
	}
	if err := json.Unmarshal(text, &meta); err != nil {
		return raft.SnapshotMeta{}, 0, &DamageError{Path: file, Err: err}
	}
	if meta.ID != filepath.Base(path) {
		return raft.SnapshotMeta{}, 0, damage(file, "it is about a snapshot %q", meta.ID)
	}
	if err := checkSnapshotName(filepath.Dir(path), &meta.SnapshotMeta); err != nil {
		return raft.SnapshotMeta{}, 0, &DamageError{Path: file, Err: err}
	}
	if meta.Version < raft.SnapshotVersionMin || meta.Version > raft.SnapshotVersionMax {
		return raft.SnapshotMeta{}, 0, damage(file, "it has version %d", meta.Version)
	}
	state, err := os.Open(filepath.Join(path, snapshotStateFile))
	if err != nil {
		return raft.SnapshotMeta{}, 0, &DamageError{Path: path, Err: err}
	}
	defer state.Close()
	sum := crc64.New(crc64.MakeTable(crc64.ECMA))
	size, err := io.Copy(sum, state)
	if err != nil {
		return raft.SnapshotMeta{}, 0, err
	}
	if got := sum.Sum(nil); !bytes.Equal(got, meta.CRC) {
		return raft.SnapshotMeta{}, 0, damage(state.Name(), "its checksum is %x, its content has %x", meta.CRC, got)
	}
	return meta.SnapshotMeta, size, nil
}

func (i *inspector) restoreFile(snapshot SnapshotFile) error {
	path := filepath.Join(snapshot.Path, snapshotStateFile)
	state, err := os.Open(path)
	if err != nil {
		return err
	}
	defer state.Close()
	if err := i.machine.Restore(state); err != nil {
		return &DamageError{Path: path, Err: err}
	}
	if index, _ := i.machine.Applied(); index > snapshot.Index {
		return damage(path, "its state is of entry %d, its name says %d", index, snapshot.Index)
	}
	return nil
}

// replay checks every entry of the log and executes those behind base.
func (i *inspector) replay(log logStore, base uint64) error {
	switch {
	case i.LastEntry > 0 && i.last > i.LastEntry && i.last != math.MaxUint64 && i.last != base:
		return fmt.Errorf("there is no entry %d: the log ends with entry %d", i.last, i.LastEntry)
	case i.FirstEntry <= base+1 || i.last == base:
	case base == 0 && len(i.Snapshots) > 0:
		return fmt.Errorf("the state at entry %d cannot be had any more: the oldest snapshot is of entry %d", i.last, i.Snapshots[0].Index)
	default:
		return damage(i.dir, "the log begins with entry %d, and no snapshot holds what was before", i.FirstEntry)
	}
	applied, _ := i.machine.Applied()
	i.End = max(base, applied)
	for index := max(i.FirstEntry, 1); index <= i.LastEntry; index++ {
		var entry raft.Log
		if err := log.GetLog(index, &entry); err != nil {
			return damage(i.dir, "log entry %d cannot be read: %w", index, err)
		}
		if err := verifyEntry(&entry); err != nil {
			return &DamageError{Path: i.dir, Err: err}
		}
		if entry.Index != index {
			return damage(i.dir, "entry %d stands in the place of entry %d", entry.Index, index)
		}
		if err := i.execute(&entry, base); err != nil {
			return err
		}
	}
	return nil
}

// execute decodes an entry and, if the state does not hold it yet and is to hold it, applies it.
func (i *inspector) execute(entry *raft.Log, base uint64) error {
	batch, err := batchOf(entry)
	if err != nil {
		return damage(i.dir, "entry %d: %w", entry.Index, err)
	}
	applied, _ := i.machine.Applied()
	switch {
	case entry.Index > i.last:
		return nil
	case entry.Index <= base:
		if batch != nil && entry.Index > applied {
			return damage(i.dir, "the snapshot stands for entry %d, but its state lacks entry %d", base, entry.Index)
		}
		return nil
	}
	i.End = entry.Index
	if batch == nil {
		return nil
	}
	i.Replayed++
	return i.apply(entry, batch)
}

func (i *inspector) apply(entry *raft.Log, batch *command.Batch) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = damage(i.dir, "entry %d cannot be applied: %v", entry.Index, p)
		}
	}()
	i.machine.Apply(entry.Index, entry.Term, batch)
	return nil
}
