package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// byteTrigger counts bytes and tells when there are too many.
type byteTrigger struct {
	limit atomic.Int64
	count atomic.Int64
	due   chan struct{} // holds one signal
}

func newByteTrigger(limit int64) *byteTrigger {
	t := &byteTrigger{due: make(chan struct{}, 1)}
	t.limit.Store(limit)
	return t
}

// Add counts n bytes and signals due while the limit is passed.
func (t *byteTrigger) Add(n int) {
	if t.count.Add(int64(n)) >= t.limit.Load() {
		select {
		case t.due <- struct{}{}:
		default:
		}
	}
}

// Reset begins to count anew.
func (t *byteTrigger) Reset() {
	t.count.Store(0)
	select {
	case <-t.due:
	default:
	}
}

// snapshotLoop writes a snapshot when so much log has grown that a restart would become slow, and
// now and then when there is anything worth it. It returns when ctx ends.
func (n *Node) snapshotLoop(ctx context.Context) {
	idle := time.NewTicker(snapshotIdleInterval)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			if n.fsm.logBytes.count.Load() < snapshotIdleBytes {
				continue
			}
		case <-n.fsm.logBytes.due:
		case <-n.tight:
		}
		if err := n.snapshot(); err != nil && ctx.Err() == nil {
			n.log.Error("cannot write a snapshot: the log keeps growing", "err", err, "retry", snapshotRetry)
			select {
			case <-ctx.Done():
				return
			case <-time.After(snapshotRetry):
				n.fsm.logBytes.Add(int(n.fsm.logBytes.limit.Load()))
			}
		}
	}
}

// snapshot writes a snapshot and drops the log entries that it makes needless.
func (n *Node) snapshot() error {
	start := time.Now()
	err := n.raft.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	if err != nil {
		return err
	}
	newest, err := n.snapshots.List()
	if err != nil || len(newest) == 0 {
		return fmt.Errorf("list snapshots: %w", err)
	}
	// To write the state once for each time its own size has gone through the log is enough.
	observeSince(n.meters.snapshot, start)
	n.snapshotBytes.Store(newest[0].Size)
	n.fsm.logBytes.limit.Store(max(n.config.SnapshotLogBytes, newest[0].Size))
	n.log.Info("snapshot written", "index", newest[0].Index, "bytes", newest[0].Size, "took", time.Since(start).String())
	return nil
}

// snapshotStore is raft's file store, which leaves three things to the file system's mercy: it syncs
// the files of a snapshot and the directory above, but not the directory that names the files; the
// file that says which entries a snapshot stands for has no checksum; and a removal that is cut short
// leaves half a snapshot under its full name. So old snapshots lose their name first here.
type snapshotStore struct {
	*raft.FileSnapshotStore
	dir      string
	meters   *meters
	size     atomic.Int64       // of the snapshot finished last, 0 for none
	hurry    chan struct{}      // closed when snapshots are to be written as fast as the disk can
	finished func(index uint64) // is told of every snapshot that has become whole; may be nil
}

func newSnapshotStore(dir string, log hclog.Logger, m *meters) (*snapshotStore, error) {
	path := filepath.Join(dir, snapshotDir)
	if err := makeDirs(path); err != nil {
		return nil, err
	}
	if err := removeUnfinished(path); err != nil {
		return nil, err
	}
	const keepAll = math.MaxInt // snapshotSink.Close removes what is too old
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, keepAll, log)
	if err != nil {
		return nil, err
	}
	s := &snapshotStore{FileSnapshotStore: files, dir: path, meters: m, hurry: make(chan struct{})}
	if newest, err := files.List(); err == nil && len(newest) > 0 {
		s.size.Store(newest[0].Size)
	}
	return s, nil
}

// unfinished ends the name of a snapshot that is being written or removed.
const unfinished = ".tmp"

// removeUnfinished removes what a crash has left of snapshots that were being written or removed.
func removeUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if strings.HasSuffix(entry.Name(), unfinished) {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeOld removes all but the newest snapshots. One that is being removed has no name any more under
// which it could be taken for whole.
func (s *snapshotStore) removeOld() error {
	list, err := s.List()
	if err != nil {
		return err
	}
	old := list[min(len(list), snapshotsKept):]
	for _, meta := range old {
		path := filepath.Join(s.dir, meta.ID)
		if err := os.Rename(path, path+unfinished); err != nil {
			return err
		}
	}
	if err := syncDir(s.dir); err != nil {
		return err
	}
	for _, meta := range old {
		if err := os.RemoveAll(filepath.Join(s.dir, meta.ID+unfinished)); err != nil {
			return err
		}
	}
	return nil
}

// Create begins a snapshot. It is durable once Close of the sink has returned without an error.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.FileSnapshotStore.Create(version, index, term, configuration, configurationIndex, trans)
	if err != nil {
		return nil, err
	}
	// The sink does not show its file, and what is written to it is to reach the disk bit by bit.
	file, err := os.OpenFile(filepath.Join(s.dir, sink.ID()+unfinished, snapshotStateFile), os.O_WRONLY, 0)
	if err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return &snapshotSink{SnapshotSink: sink, store: s, file: file, index: index}, nil
}

// Open returns a snapshot to read.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, content, err := s.FileSnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, &openSnapshot{content, meta.Index}, nil
}

// openSnapshot is a snapshot that is read. The state in it knows of the last entry that was for the
// machine: there may be others behind it that the snapshot stands for as well.
type openSnapshot struct {
	io.ReadCloser
	index uint64 // of the last entry that the snapshot stands for
}

// endOfSnapshot returns the index of what raft, which wraps it, has opened to restore; 0 if it is none of
// snapshotStore's.
func endOfSnapshot(r io.ReadCloser) uint64 {
	if wrapper, ok := r.(raft.ReadCloserWrapper); ok {
		r = wrapper.WrappedReadCloser()
	}
	if s, ok := r.(*openSnapshot); ok {
		return s.index
	}
	return 0
}

// List returns the snapshots, newest first, and an error if one of them says something else than its
// name about the entries that it stands for: others would be left out, or executed twice.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	list, err := s.FileSnapshotStore.List()
	for _, meta := range list {
		err = errors.Join(err, checkSnapshotName(s.dir, meta))
	}
	return list, err
}

// checkSnapshotName compares what a snapshot says about itself with its name, which the file store
// makes of term, index and time.
func checkSnapshotName(dir string, meta *raft.SnapshotMeta) error {
	want := fmt.Sprintf("%d-%d-", meta.Term, meta.Index)
	if !strings.HasPrefix(meta.ID, want) || meta.ConfigurationIndex > meta.Index {
		return fmt.Errorf("the snapshot %s is damaged: it says that it stands for entry %d of term %d", filepath.Join(dir, meta.ID), meta.Index, meta.Term)
	}
	return nil
}

const (
	// snapshotChunk is after how many bytes a snapshot is synced. The disk has little to do at a time, and
	// the log, which is synced beside it, does not have to wait for all of it.
	snapshotChunk = 1 << 20
	// snapshotRate is how many bytes of a state are written in a second at least, while others use the disk.
	snapshotRate = 32 << 20
	// snapshotPiece is after how many bytes the writer rests, and snapshotRest for how many times the time
	// that they have taken: to encode a state takes a processor, which those who write need as well.
	snapshotPiece = 64 << 10
	snapshotRest  = 3
	// snapshotTime is how long the writing takes at most at its leisure, if the state has not grown since
	// the last snapshot and the disk is fast enough.
	snapshotTime = time.Minute
)

// rateOf returns the bytes a second at which a state of about size bytes is written.
func rateOf(size int64) float64 {
	return max(snapshotRate, float64(size)/snapshotTime.Seconds())
}

// snapshotSink is a snapshot that is being written. What raft receives from the leader is written as
// fast as it comes, for the member can do nothing else meanwhile; what it writes itself, at leisure.
type snapshotSink struct {
	raft.SnapshotSink
	store    *snapshotStore
	index    uint64   // that the snapshot stands for
	file     *os.File // of the sink
	written  int64
	unsynced int
	unrested int
	begun    time.Time // when the writing at leisure began, zero for none
	resumed  time.Time // when the last rest ended
	closed   bool
	err      error
}

// leisurely lets the sink take its time, so that writes to the log go on as ever.
func (s *snapshotSink) leisurely() {
	s.begun = time.Now()
	s.resumed = s.begun
}

// Write implements io.Writer.
func (s *snapshotSink) Write(b []byte) (total int, err error) {
	for len(b) > 0 {
		part := b[:min(len(b), snapshotChunk-s.unsynced)]
		n, err := s.SnapshotSink.Write(part)
		total, b = total+n, b[n:]
		s.written, s.unsynced = s.written+int64(n), s.unsynced+n
		if err != nil {
			return total, err
		}
		if s.unsynced == snapshotChunk {
			if err := s.file.Sync(); err != nil {
				return total, err
			}
			s.unsynced = 0
		}
		if s.unrested += n; s.unrested >= snapshotPiece {
			s.unrested = 0
			s.rest()
		}
	}
	return total, nil
}

// rest waits until what was written may have been, and, while the snapshot takes no longer than it may, for as
// long as those who write are owed for the work that it was.
func (s *snapshotSink) rest() {
	if s.begun.IsZero() {
		return
	}
	defer func() { s.resumed = time.Now() }()
	due := s.begun.Add(time.Duration(float64(s.written) / rateOf(s.store.size.Load()) * float64(time.Second)))
	pause := time.Until(due)
	if time.Since(s.begun) < snapshotTime {
		pause = max(pause, snapshotRest*time.Since(s.resumed))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.store.hurry:
	}
}

// Cancel gives the snapshot up.
func (s *snapshotSink) Cancel() error { return errors.Join(s.file.Close(), s.SnapshotSink.Cancel()) }

// Close finishes the snapshot and removes those that are too old. Raft truncates the log after it. It
// may be called twice.
func (s *snapshotSink) Close() error {
	if !s.closed {
		s.closed = true
		s.err = s.finish()
	}
	return s.err
}

func (s *snapshotSink) finish() error {
	start := time.Now()
	if err := errors.Join(s.file.Close(), s.SnapshotSink.Close()); err != nil {
		return err
	}
	s.store.size.Store(s.written)
	if err := syncDir(filepath.Join(s.store.dir, s.ID())); err != nil {
		return err
	}
	observeSince(s.store.meters.snapshotSync, start)
	if s.store.finished != nil {
		s.store.finished(s.index)
	}
	return s.store.removeOld()
}
