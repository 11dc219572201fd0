package backup

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	// spoolsMax is how many snapshots are being sent, or kept for whom the connection broke.
	spoolsMax = 2
	// spoolKept is how long a snapshot is kept for somebody to go on with it.
	spoolKept = 5 * time.Minute
)

// spoolPrefix begins the names of spools in the moment in which they have one.
const spoolPrefix = ".sending-"

var errBusy = errors.New("this member sends as many snapshots as it can: try again later, or ask another member")

// spool is a snapshot on its way from the state to those who read it: a file without a name, which
// goes with the process. So a slow reader holds up nothing but its connection.
type spool struct {
	id               string
	index, raftIndex uint64
	file             *os.File

	mu      sync.Mutex // guards the fields below
	size    int64      // written so far
	ended   bool       // the file is whole, or err says why not
	err     error
	grown   chan struct{} // closed and replaced when size or ended changes
	readers int
	expiry  *time.Timer // runs while there are no readers
}

// spools are all that there are. The zero value is ready.
type spools struct {
	mu     sync.Mutex // guards the fields below, and comes before that of a spool
	all    []*spool   // oldest first
	closed bool
}

// newSpool takes a snapshot and begins to write it into a spool, which counts one reader. Errors: errBusy,
// and others that say why there is none.
func (b *Backups) newSpool() (*spool, error) {
	b.spools.mu.Lock()
	defer b.spools.mu.Unlock()
	if b.spools.closed {
		return nil, errors.New("this member is stopping")
	}
	if len(b.spools.all) >= spoolsMax && !b.spools.dropIdle() {
		return nil, errBusy
	}
	t := b.config.Take()
	s, err := b.openSpool(t)
	if err != nil {
		t.Release()
		return nil, err
	}
	b.spools.all = append(b.spools.all, s)
	b.work.Go(func() {
		defer t.Release()
		_, err := t.WriteTo(newPacedWriter(b.ctx, s))
		s.end(err)
		if err != nil && b.ctx.Err() == nil && !errors.Is(err, os.ErrClosed) { // closed: nobody reads it any more
			b.config.Log.Error("cannot write a snapshot that a client has asked for", "err", err)
		}
	})
	return s, nil
}

// removeLeftovers removes the spools of a process that was killed before they had lost their names.
func (b *Backups) removeLeftovers() {
	entries, err := os.ReadDir(b.config.Spool)
	if err != nil {
		b.config.Log.Warn("cannot look for what is left of snapshots that were being sent", "directory", b.config.Spool, "err", err)
		return
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), spoolPrefix) || !entry.Type().IsRegular() {
			continue
		}
		if err := os.Remove(filepath.Join(b.config.Spool, entry.Name())); err != nil {
			b.config.Log.Warn("cannot remove what is left of a snapshot that was being sent", "err", err)
		}
	}
}

func (b *Backups) openSpool(t Taken) (*spool, error) {
	if err := b.checkSpace(b.config.Spool, t); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(b.config.Spool, spoolPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("cannot keep a snapshot to send: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	id := make([]byte, 16)
	rand.Read(id) // never fails
	s := &spool{id: hex.EncodeToString(id), index: t.Index, raftIndex: t.RaftIndex, file: file, grown: make(chan struct{}), readers: 1}
	s.expiry = time.AfterFunc(spoolKept, func() { b.spools.drop(s) })
	s.expiry.Stop()
	return s, nil
}

// resume returns the spool with an id, which counts one reader more, nil if it is gone.
func (l *spools) resume(id string) *spool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.all {
		if s.id == id {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.readers++
			s.expiry.Stop()
			return s
		}
	}
	return nil
}

// leave ends the part of one reader.
func (l *spools) leave(s *spool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers--; s.readers > 0 {
		return
	}
	if l.closed || s.err != nil {
		l.dropLocked(s)
		return
	}
	s.expiry.Reset(spoolKept)
}

// drop removes a spool that nobody reads.
func (l *spools) drop(s *spool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readers == 0 {
		l.dropLocked(s)
	}
}

// dropIdle removes the oldest spool that nobody reads, if there is one. The caller holds mu.
func (l *spools) dropIdle() bool {
	for _, s := range l.all {
		s.mu.Lock()
		idle := s.readers == 0
		if idle {
			l.dropLocked(s)
		}
		s.mu.Unlock()
		if idle {
			return true
		}
	}
	return false
}

// dropLocked takes s off the list; its file goes when nobody writes it any more.
func (l *spools) dropLocked(s *spool) {
	for i, other := range l.all {
		if other == s {
			l.all = append(l.all[:i:i], l.all[i+1:]...)
			s.expiry.Stop()
			s.file.Close() // a writer finds it closed and ends
			return
		}
	}
}

// closeAll makes leave drop every spool, and drops those without readers.
func (l *spools) closeAll() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	for l.dropOne() {
	}
}

func (l *spools) dropOne() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropIdle()
}

// Write appends to the spool.
func (s *spool) Write(p []byte) (int, error) {
	n, err := s.file.Write(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size += int64(n)
	s.wake()
	return n, err
}

// end says that nothing more will be written; err is why the file is not whole, nil if it is.
func (s *spool) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.err = true, err
	s.wake()
}

func (s *spool) wake() {
	close(s.grown)
	s.grown = make(chan struct{})
}

// readAt reads what there is at offset, once there is something. Errors: io.EOF at the end, ctx's, and
// why the file is not whole.
func (s *spool) readAt(ctx context.Context, p []byte, offset int64) (int, error) {
	for {
		s.mu.Lock()
		size, ended, err, grown := s.size, s.ended, s.err, s.grown
		s.mu.Unlock()
		switch {
		case err != nil:
			return 0, err
		case offset < size:
			return s.file.ReadAt(p[:min(int64(len(p)), size-offset)], offset)
		case ended:
			return 0, io.EOF
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// place returns how much there is, and whether that is all.
func (s *spool) place() (size int64, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size, s.ended
}
