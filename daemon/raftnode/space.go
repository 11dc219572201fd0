package raftnode

import (
	"errors"
	"fmt"
	"syscall"
)

// littleSpace is when a start warns. The log grows by files of walSegmentBytes, and a snapshot
// needs room beside the one before.
const littleSpace = 64 << 20

// freeSpace returns how many bytes this user may still write below path.
func freeSpace(path string) (uint64, error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(path, &stat); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	return stat.Bavail * uint64(stat.Bsize), nil
}

// warnOfLittleSpace tells of a disk that will soon be full.
func (n *Node) warnOfLittleSpace() {
	free, err := freeSpace(n.dir.path)
	switch {
	case err != nil:
		n.log.Warn("cannot tell how much space there is for data", "err", err)
	case free < littleSpace:
		n.log.Warn("there is little space for data; kvd stops when there is none", "data", n.dir.path,
			"free_mib", free>>20, "try", fmt.Sprintf("make room for at least %d MiB", littleSpace>>20))
	}
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
