// Package backup gives the state of this member away: over HTTP, as a stream that can be taken up
// again where it broke off, and into a directory, by a schedule.
//
// It knows files, how much of a machine it may use, and how long it keeps what. It knows neither keys
// nor what is in a snapshot; whoever made it has put checksums into it.
package backup

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"syscall"
	"time"
)

const (
	// dutyRestMax bounds one pause of a paced writer.
	dutyRestMax = 100 * time.Millisecond
	// reserve is what must stay free on a disk beside what is about to be written.
	reserve = 64 << 20
)

// Taken is a snapshot to be written, once.
type Taken struct {
	io.WriterTo
	Release   func() // after WriteTo
	Index     uint64 // of the store
	RaftIndex uint64
	Bytes     int64 // that it may take at most, about
}

// Config says where snapshots come from. All fields are needed, except where a default is given.
type Config struct {
	Take func() Taken // the state as it is now; it does not block
	// Current returns when Take returns everything that was acknowledged before the call, or why it cannot;
	// nil: at once.
	Current func(ctx context.Context) error
	Spool   string // directory for what is being sent, of this process alone; nothing stays there

	Schedule Schedule // zero: none

	Log  *slog.Logger
	Now  func() time.Time                       // default time.Now
	Free func(directory string) (uint64, error) // bytes that may be written there; default: asks the file system
}

// Backups is safe for concurrent use.
type Backups struct {
	config Config
	spools spools
	counts counts

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// New returns Backups that keep to their schedule until Close.
func New(cfg Config) *Backups {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Current == nil {
		cfg.Current = func(context.Context) error { return nil }
	}
	if cfg.Free == nil {
		cfg.Free = freeSpace
	}
	b := &Backups{config: cfg}
	b.removeLeftovers()
	b.ctx, b.cancel = context.WithCancel(context.Background())
	if cfg.Schedule.Interval > 0 {
		b.work.Go(func() { b.keepSchedule(b.ctx) })
	}
	return b
}

// Close ends streams and what is being written, and waits for it. It may be called twice.
func (b *Backups) Close() {
	b.cancel()
	b.spools.closeAll()
	b.work.Wait()
}

// freeSpace returns how many bytes this user may still write below path.
func freeSpace(path string) (uint64, error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(path, &stat); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	return stat.Bavail * uint64(stat.Bsize), nil
}

// checkSpace returns an error if there is no room for t in directory.
func (b *Backups) checkSpace(directory string, t Taken) error {
	free, err := b.config.Free(directory)
	if err != nil {
		return err
	}
	if need := uint64(t.Bytes) + reserve; free < need {
		return fmt.Errorf("no room for a snapshot in %s: %d MiB are free, it may take %d MiB, and %d MiB must stay free", directory, free>>20, t.Bytes>>20+1, reserve>>20)
	}
	return nil
}

// pacedWriter rests after each write as long as it has taken to come to it, so that what is written
// through it takes half a processor and half a disk at most.
type pacedWriter struct {
	ctx  context.Context
	w    io.Writer
	last time.Time // when the last write ended
}

func newPacedWriter(ctx context.Context, w io.Writer) *pacedWriter {
	return &pacedWriter{ctx: ctx, w: w, last: time.Now()}
}

// Write writes and rests. Errors: that of the writer, or ctx's.
func (p *pacedWriter) Write(data []byte) (int, error) {
	n, err := p.w.Write(data)
	if err != nil {
		return n, err
	}
	if err := rest(p.ctx, min(time.Since(p.last), dutyRestMax)); err != nil {
		return n, err
	}
	p.last = time.Now()
	return n, nil
}

// rest waits for d. It returns ctx's error if that ends first.
func rest(ctx context.Context, d time.Duration) error {
	if d < 50*time.Microsecond { // shorter than a timer takes
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
