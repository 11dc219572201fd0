package raftnode

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

const (
	// littleSpace is what a member needs beside the room for a snapshot: its log grows by files of 16 MiB,
	// one of them ahead, and what removes keys grows it too.
	littleSpace = 64 << 20
	// spaceInterval and spaceBytes are how often the disk is looked at: by time, and by what was
	// written to the log.
	spaceInterval = time.Second
	spaceBytes    = 4 << 20

	// noSpace is what two files of the log take, the next one and the one ahead.
	noSpace = 32 << 20

	// trailingLeast is how much of the log stays behind a snapshot at least, and trailingTight how much does
	// while space is tight. A log of more than logTight is then made smaller at once.
	trailingLeast = 128 << 20
	trailingTight = 16 << 20
	logTight      = 64 << 20
)

// Space is how much room there is for the data of a member, in bytes.
type Space struct {
	Free    uint64 // what this user may still write
	Reserve uint64 // what the member needs to go on: for its log, and for a snapshot beside the last one
	Short   bool   // there is less than Reserve, or was and there is not a quarter more yet
	Full    bool   // there is less than the log needs for its next file
}

// tight reports whether there is so little space that the log is kept as small as can be.
func (s Space) tight() bool { return s.Free < 2*s.Reserve }

// trailingBytes returns how much of the log stays behind a snapshot: to send it takes a member that lags
// no longer than to be sent the snapshot.
func (n *Node) trailingBytes() int64 {
	if n.Space().tight() {
		return trailingTight
	}
	return max(trailingLeast, n.snapshotBytes.Load())
}

// freeSpace returns how many bytes this user may still write below path.
func freeSpace(path string) (uint64, error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(path, &stat); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	return stat.Bavail * uint64(stat.Bsize), nil
}

// Space returns how much room there was when last looked, at most a second ago. It never blocks.
func (n *Node) Space() Space { return *n.space.Load() }

// spaceLoop looks at the disk until ctx ends.
func (n *Node) spaceLoop(ctx context.Context) {
	ticker := time.NewTicker(spaceInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-n.written.due:
		}
		n.written.Reset()
		n.lookAtSpace()
		if store, ok := n.logs.(sized); ok && n.Space().tight() && store.Bytes() > logTight {
			select {
			case n.tight <- struct{}{}:
			default:
			}
		}
	}
}

// lookAtSpace notes how much room there is, and tells when there is too little, or enough again. If
// it cannot be known it stays as it was.
func (n *Node) lookAtSpace() {
	before := n.Space()
	free, err := freeSpace(n.dir.path)
	if err != nil {
		if before.Reserve == 0 { // the first time
			n.log.Warn("cannot tell how much space there is for data", "err", err)
			n.space.Store(&Space{Reserve: littleSpace})
		}
		return
	}
	now := Space{Free: free, Reserve: littleSpace + uint64(n.snapshotBytes.Load())}
	now.Full = free < noSpace
	now.Short = free < now.Reserve || before.Short && free < now.Reserve+now.Reserve/4
	n.space.Store(&now)
	switch {
	case now.Short && !before.Short:
		n.log.Warn("there is little space for data: what makes the store grow is refused, and later all but removals and refreshes", "data", n.dir.path,
			"free_mib", free>>20, "try", fmt.Sprintf("make room for at least %d MiB", now.Reserve>>20))
	case before.Short && !now.Short:
		n.log.Info("there is space for data again", "data", n.dir.path, "free_mib", free>>20)
	}
}

// fitsSnapshot returns why a snapshot of so many bytes that another member offers is not taken, nil if there
// is room for it. One that does not fit would end with a full disk, and with that of this process.
func (n *Node) fitsSnapshot(bytes int64) error {
	if free := n.Space().Free; free > 0 && uint64(bytes) > free {
		return fmt.Errorf("a snapshot of %d MiB is offered, and %d MiB are free below %s: make room for it", bytes>>20, free>>20, n.dir.path)
	}
	return nil
}

// explainNoSpace adds to an error of a full disk how much is needed there.
func (n *Node) explainNoSpace(err error) error {
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	free, statErr := freeSpace(n.dir.path)
	if statErr != nil {
		return errors.Join(err, statErr)
	}
	return fmt.Errorf("%w; %d MiB are free: make room for at least %d MiB, or choose another --data-dir for a new member", err, free>>20, littleSpace>>20)
}
