// Package wal keeps the log of a raft member on disk: entries in segment files, one write and one
// sync for each append, and term and vote in a small file of their own (Stable).
//
// What StoreLogs has acknowledged is there after any crash of the process or of the machine, whole;
// an append that was cut short is gone without a trace, or there as a whole. What was acknowledged and
// is damaged is found: by Open, or by GetLog when it reads it. Nothing is retried: after an error the
// log takes no more writes, because it is not known what the disk holds.
//
// It knows no command, no cluster, and not what to do about a fault: its caller stops the process.
//
//	log, err := wal.Open(wal.Config{Dir: wal.DirAt(path), Create: true})
//	err = log.StoreLogs(entries)  // durable when it returns
//	sync, err := log.Begin(more)  // there when it returns, durable when sync has returned
//	err = log.GetLog(7, &entry)   // from memory if it is recent, else read and checked
package wal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/hashicorp/raft"
)

// Config says where a log is and how it is kept. The zero value of each field but Dir has a default.
type Config struct {
	Dir          Dir           // the directory, which belongs to the log alone
	SegmentBytes int64         // size of a segment file; the first ones are smaller; default 16 MiB, at least 4 KiB
	RecentBytes  int           // of the newest entries that are kept in memory; default 16 MiB
	Create       bool          // make a new log if there is none; otherwise that is an error that is fs.ErrNotExist
	ReadOnly     bool          // change nothing: what Open would mend after a crash is mended in memory
	Random       func() uint64 // for the ids of segments; default: of cryptographic quality
}

func (c Config) withDefaults() Config {
	if c.SegmentBytes == 0 {
		c.SegmentBytes = 16 << 20
	}
	c.SegmentBytes = align(max(c.SegmentBytes, 8*blockBytes), blockBytes)
	if c.RecentBytes == 0 {
		c.RecentBytes = 16 << 20
	}
	if c.Random == nil {
		c.Random = func() uint64 {
			var b [8]byte
			rand.Read(b[:]) // never fails: it ends the process instead
			return binary.LittleEndian.Uint64(b[:])
		}
	}
	return c
}

// DamageError is acknowledged data that is not what was written.
type DamageError struct {
	Path    string // of the file
	Offset  int64  // in it, in bytes
	Problem string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s", e.Path, e.Offset, e.Problem)
}

// ErrClosed is what a Log says after Close.
var ErrClosed = errors.New("the log is closed")

var errReadOnly = errors.New("opened only to be read")

// Log is a raft log on disk. It implements raft.LogStore and raft.MonotonicLogStore, and is safe for
// concurrent use. Entries that it is given or returns are shared with it: their data must not be
// changed.
type Log struct {
	dir     Dir
	config  Config
	keeping keeper

	writing sync.Mutex // guards the fields below; held by an append or a deletion, until it is synced
	batch   uint64     // number of the last batch
	marked  bool       // the last batch changes nothing: it marks the end of the log
	asked   bool       // the keeper makes the next segment, or has made it
	buffer  []byte

	mu       sync.RWMutex // guards the fields below; who changes them holds writing, too
	bounds   bounds
	segments []*segment // oldest first; the last one is appended to
	places   []place    // of the entries from bounds.first on
	recent   recent
	closed   bool
}

// place is where an entry's frame is.
type place struct {
	seq   uint32 // of the segment
	bytes uint32
	off   int64
}

var (
	_ raft.LogStore          = (*Log)(nil)
	_ raft.MonotonicLogStore = (*Log)(nil)
)

// Open opens the log in a directory and mends what a crash has left half done. It reads all of the
// log and checks it. Errors: *DamageError; fs.ErrNotExist if there is no log and none is to be made;
// others are those of the file system.
func Open(cfg Config) (*Log, error) {
	cfg = cfg.withDefaults()
	l := &Log{dir: cfg.Dir, config: cfg, recent: recent{limit: cfg.RecentBytes}}
	l.keeping.factory = factory{dir: cfg.Dir, random: cfg.Random}
	found, err := read(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if !cfg.ReadOnly {
		err = l.mend(found)
	} else if len(found.segments) == 0 {
		err = l.none()
	}
	l.bounds, l.batch, l.marked, l.segments, l.places = found.bounds, found.batch, found.marked, found.segments, found.places
	if err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	if !cfg.ReadOnly {
		l.keeping.start()
	}
	return l, nil
}

func (l *Log) none() error {
	return fmt.Errorf("there is no log in %s: %w", l.dir.Path(""), fs.ErrNotExist)
}

// mend makes the files what read has made of them: the end of the log is where read found it, for
// good, and what read saw is on the disk.
func (l *Log) mend(found *reading) error {
	if len(found.segments) == 0 && !l.config.Create {
		return l.none()
	}
	for _, name := range found.leftover {
		if err := l.dir.Remove(name); err != nil {
			return err
		}
	}
	if len(found.segments) == 0 {
		first, err := l.keeping.factory.produce(1, segmentSize(1, l.config.SegmentBytes))
		if err != nil {
			return err
		}
		found.segments = append(found.segments, first)
		return nil
	}
	if err := found.settle(); err != nil {
		return err
	}
	return l.dir.SyncDir()
}

// IsMonotonic tells raft that entries follow each other without gaps here.
func (l *Log) IsMonotonic() bool { return true }

// FirstIndex returns the index of the first entry, 0 if there is none.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.bounds.empty() {
		return 0, nil
	}
	return l.bounds.first, nil
}

// LastIndex returns the index of the last entry, 0 if there is none.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.bounds.empty() {
		return 0, nil
	}
	return l.bounds.last, nil
}

// LastBatch returns how many appends and deletions the log has seen in its life. It never falls: a log
// that has seen fewer than it once had has lost its end.
func (l *Log) LastBatch() uint64 {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.batch
}

// Bytes returns how much room the segments of the log take on the disk.
func (l *Log) Bytes() (total int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, s := range l.segments {
		total += s.size
	}
	return total
}

// FirstWithin returns the lowest index from which on the entries are in segments of at most size bytes
// together, the last one counted in any case: what is before can be removed to make the log so small. It is
// 0 for an empty log.
func (l *Log) FirstWithin(size int64) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.bounds.empty() {
		return 0
	}
	at := len(l.segments) - 1
	for size -= l.segments[at].size; at > 0 && size >= l.segments[at-1].size; size -= l.segments[at].size {
		at--
	}
	if at == 0 {
		return l.bounds.first
	}
	return min(max(l.segments[at-1].last+1, l.bounds.first), l.bounds.last)
}

// GetLog reads an entry and compares it with its checksum, unless it is still in memory. Errors:
// raft.ErrLogNotFound; ErrClosed; *DamageError; others are those of the file system.
func (l *Log) GetLog(index uint64, entry *raft.Log) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch {
	case l.closed:
		return ErrClosed
	case index < l.bounds.first || index > l.bounds.last:
		return raft.ErrLogNotFound
	case l.recent.get(index, entry):
		return nil
	}
	at := l.places[index-l.bounds.first]
	s := l.segments[uint64(at.seq)-l.segments[0].seq]
	b := make([]byte, at.bytes)
	if _, err := s.file.ReadAt(b, at.off); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read entry %d: %w", index, err)
	}
	f, ok := parseFrame(b, s.id)
	if !ok || f.kind != kindEntry || f.index != index {
		return &DamageError{Path: l.dir.Path(segmentName(s.seq)), Offset: at.off, Problem: fmt.Sprintf("entry %d is not what was written", index)}
	}
	f.entry(b, entry)
	return nil
}

// StoreLog appends one entry: see StoreLogs.
func (l *Log) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs appends entries, all or none, and returns when they are durable. Their indices follow
// each other and the last one in the log; in an empty log they begin anywhere. It waits for a new
// segment when the disk is slower than those who append. After an error of the file system the log
// takes no more writes.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	at, err := l.append(entries)
	if err != nil {
		return err
	}
	if err := l.sync(at.segment); err != nil {
		return err
	}
	l.show(entries, at)
	return nil
}

// Begin is StoreLogs in two halves: when it returns the entries are written and can be read, and when
// sync has returned nil they are durable. Who gets a sync calls it once, from any goroutine. Until it has
// returned, all that would change the log waits: never more than one append is without its sync.
func (l *Log) Begin(entries []*raft.Log) (sync func() error, err error) {
	if len(entries) == 0 {
		return func() error { return nil }, nil
	}
	l.writing.Lock()
	at, err := l.append(entries)
	if err != nil {
		l.writing.Unlock()
		return nil, err
	}
	l.show(entries, at)
	return func() error {
		defer l.writing.Unlock()
		return l.sync(at.segment)
	}, nil
}

// written is where an append is: its segment, and where there its entries begin.
type written struct {
	segment *segment
	offsets []int64
}

// append writes entries that follow the last one.
func (l *Log) append(entries []*raft.Log) (written, error) {
	if err := l.writable(); err != nil {
		return written{}, err
	}
	first := entries[0].Index
	if first == 0 || !l.bounds.empty() && first != l.bounds.last+1 {
		return written{}, fmt.Errorf("entry %d cannot be appended to a log that ends with entry %d", first, l.bounds.last)
	}
	for i, entry := range entries {
		if entry.Index != first+uint64(i) {
			return written{}, fmt.Errorf("entry %d cannot follow entry %d", entry.Index, first+uint64(i)-1)
		}
		if err := checkEntry(entry); err != nil {
			return written{}, err
		}
	}
	return l.write(nil, entries)
}

// show makes entries that were appended a part of what is read.
func (l *Log) show(entries []*raft.Log, at written) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := entries[0].Index; l.bounds.empty() {
		l.bounds = bounds{first, first - 1}
	}
	for i, entry := range entries {
		n := frameBytes + len(entry.Data) + len(entry.Extensions)
		l.places = append(l.places, place{seq: uint32(at.segment.seq), bytes: uint32(n), off: at.offsets[i]})
		l.recent.add(entry)
	}
	l.bounds.last += uint64(len(entries))
	at.segment.last = max(at.segment.last, l.bounds.last)
}

// DeleteRange removes the entries from first to last, both included, durably, from one end of the log;
// what is not there need not be removed. The files of entries removed from the beginning are used
// again or removed later. After an error of the file system the log takes no more writes.
func (l *Log) DeleteRange(first, last uint64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.writable(); err != nil {
		return err
	}
	now := l.bounds
	switch {
	case now.empty() || first > last || last < now.first || first > now.last:
		return nil
	case first > now.first && last < now.last:
		return fmt.Errorf("entries %d to %d are in the middle of the log, which goes from %d to %d", first, last, now.first, now.last)
	case last >= now.last && first > now.first:
		now.last = first - 1
	default:
		now.first = min(last, now.last) + 1
	}
	if err := l.mark(now); err != nil {
		return err
	}
	l.mu.Lock()
	l.places = cut(l.places, l.bounds.first, now)
	l.recent.cut(now)
	l.bounds = now
	var gone []*segment
	for len(l.segments) > 1 && l.segments[0].last < now.first {
		gone, l.segments = append(gone, l.segments[0]), l.segments[1:]
	}
	l.mu.Unlock()
	l.keeping.retire(gone, l.config.SegmentBytes)
	return nil
}

// cut returns those of the places, which begin with that of entry first, that are within now. It
// does not keep the memory of the others.
func cut(places []place, first uint64, now bounds) []place {
	if now.empty() {
		return nil
	}
	places = places[:min(uint64(len(places)), now.last+1-first)]
	if now.first > first {
		places = append([]place(nil), places[now.first-first:]...)
	}
	return places
}

// writable returns why nothing can be written, nil if it can.
func (l *Log) writable() error {
	switch {
	case l.closed:
		return ErrClosed
	case l.config.ReadOnly:
		return errReadOnly
	}
	return l.keeping.fault()
}

// mark writes what the bounds of the log are from now on, durably.
func (l *Log) mark(now bounds) error {
	at, err := l.write([]bounds{now}, nil)
	if err != nil {
		return err
	}
	return l.sync(at.segment)
}

// write writes one batch, which is to be synced.
func (l *Log) write(marks []bounds, entries []*raft.Log) (written, error) {
	s := l.segments[len(l.segments)-1]
	need := batchBytes(entries, len(marks))
	// A block is left for the seal. A batch that is larger than a whole segment makes its file longer.
	if s.end > blockBytes && s.end+need > s.size-blockBytes {
		next, err := l.nextSegment(s)
		if err != nil {
			return written{}, l.keeping.fail(err)
		}
		s = next
	}
	if s.end == blockBytes { // each segment begins with the bounds of what was before
		marks = append([]bounds{l.bounds}, marks...)
		need = batchBytes(entries, len(marks))
	}
	if int64(cap(l.buffer)) < need {
		l.buffer = make([]byte, need)
	}
	b := l.buffer[:need]
	if need > 4<<20 {
		l.buffer = nil
	}
	offsets := putBatch(b, s.id, l.batch+1, marks, entries)
	if _, err := s.file.WriteAt(b, s.end); err != nil {
		return written{}, l.keeping.fail(fmt.Errorf("write to %s: %w", l.dir.Path(segmentName(s.seq)), err))
	}
	for i := range offsets {
		offsets[i] += s.end
	}
	s.end += need
	l.batch++
	l.marked = len(entries) == 0 && marks[len(marks)-1] == l.bounds
	return written{s, offsets}, nil
}

// sync makes durable what was written to s.
func (l *Log) sync(s *segment) error {
	if err := s.file.Sync(); err != nil {
		return l.keeping.fail(fmt.Errorf("sync %s: %w", l.dir.Path(segmentName(s.seq)), err))
	}
	if s.end > s.size/2 {
		l.askForNext(s)
	}
	return nil
}

// askForNext has the keeper make the segment behind s, unless it does so already.
func (l *Log) askForNext(s *segment) {
	if !l.asked {
		l.asked = true
		l.keeping.requests <- request{seq: s.seq + 1, size: segmentSize(s.seq+1, l.config.SegmentBytes)}
	}
}

// nextSegment seals segment s and returns the next one.
func (l *Log) nextSegment(s *segment) (*segment, error) {
	var m made
	for range 2 { // when it was asked for ahead there may have been no room, and is now
		l.askForNext(s)
		m = <-l.keeping.made
		l.asked = false
		if m.err == nil {
			break
		}
	}
	if m.err != nil {
		return nil, m.err
	}
	// The seal says that there must be a next segment. It need not be durable: the batch number with
	// which the next segment begins says that nothing is missing before.
	seal := make([]byte, blockBytes)
	f := frame{kind: kindSealed, batch: l.batch + 1}
	f.put(seal, s.id, nil, nil)
	if _, err := s.file.WriteAt(seal, s.end); err != nil {
		m.segment.file.Close()
		return nil, fmt.Errorf("write to %s: %w", l.dir.Path(segmentName(s.seq)), err)
	}
	l.mu.Lock()
	l.segments = append(l.segments, m.segment)
	l.mu.Unlock()
	return m.segment, nil
}

// Close marks the end of the log, so that the next Open finds any damage to it, and closes the files.
// It may be called twice.
func (l *Log) Close() error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.closed {
		return nil
	}
	var err error
	if l.writable() == nil && !l.marked {
		err = l.mark(l.bounds)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return errors.Join(err, l.closeFiles())
}

func (l *Log) closeFiles() error {
	err := l.keeping.stop()
	for _, s := range l.segments {
		err = errors.Join(err, s.file.Close())
	}
	return err
}
