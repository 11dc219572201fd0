package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

const (
	segmentSuffix = ".segment"
	// unfinished ends the names of files that are no part of the log: one that is being made, and one
	// that waits to be used again.
	unfinished = ".tmp"
	makingName = "next" + unfinished
	spareName  = "spare" + unfinished

	segmentMagic = "kvd log\x01"

	firstSegmentBytes = 256 << 10 // a new log is made in no time
	segmentGrowth     = 4         // and each segment is so much larger than the last, up to the configured size
	zeroBytes         = 1 << 20   // zeros written between two syncs: an append waits for that much at most
)

// segment is one file of the log.
type segment struct {
	seq  uint64 // from 1 on, without gaps
	id   uint64 // by chance: tells its frames from those of any other file
	size int64  // that was written when it was made
	file File

	end  int64  // where the next batch goes
	last uint64 // highest index of an entry in it, or higher
}

func segmentName(seq uint64) string { return fmt.Sprintf("%010d%s", seq, segmentSuffix) }

// parseSegmentName returns the number in the name of a segment.
func parseSegmentName(name string) (seq uint64, ok bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false
	}
	seq, err := strconv.ParseUint(digits, 10, 32)
	return seq, err == nil && seq > 0 && segmentName(seq) == name
}

// segmentSize returns how large segment seq is to be.
func segmentSize(seq uint64, largest int64) int64 {
	size := int64(firstSegmentBytes)
	for range seq - 1 {
		if size >= largest {
			break
		}
		size *= segmentGrowth
	}
	return min(size, largest)
}

// header returns the first block of the segment.
func (s *segment) header() []byte {
	b := make([]byte, blockBytes)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint64(b[8:], s.id)
	binary.LittleEndian.PutUint64(b[16:], s.seq)
	binary.LittleEndian.PutUint64(b[24:], uint64(s.size))
	binary.LittleEndian.PutUint32(b[32:], crc32.Checksum(b[:32], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// parseHeader reads the header of segment seq.
func parseHeader(b []byte, seq uint64) (*segment, error) {
	switch {
	case len(b) < headerBytes:
		return nil, fmt.Errorf("its header is cut short after %d bytes", len(b))
	case string(b[:8]) != segmentMagic:
		return nil, errors.New("it does not begin like a segment of a log")
	case binary.LittleEndian.Uint32(b[32:]) != crc32.Checksum(b[:32], crc32.MakeTable(crc32.Castagnoli)):
		return nil, errors.New("its header does not match its checksum")
	}
	s := &segment{id: binary.LittleEndian.Uint64(b[8:]), seq: binary.LittleEndian.Uint64(b[16:]), size: int64(binary.LittleEndian.Uint64(b[24:])), end: blockBytes}
	if s.seq != seq {
		return nil, fmt.Errorf("it is segment %d by its header", s.seq)
	}
	return s, nil
}

// factory makes segments and takes back those that are not needed any more. One goroutine uses it at
// a time.
type factory struct {
	dir    Dir
	random func() uint64
	spare  *segment // its file has the name spareName; nil if there is none
}

// produce makes segment seq, durably and with all its blocks written, so that a later sync of what is
// appended has nothing but data to write. After an error nothing of it is left but a file that the
// next start removes.
func (f *factory) produce(seq uint64, size int64) (_ *segment, err error) {
	s := &segment{seq: seq, id: f.random(), size: size, end: blockBytes}
	name := spareName
	if f.spare != nil && f.spare.size == size {
		s.file, f.spare = f.spare.file, nil
	} else {
		name = makingName
		if s.file, err = f.dir.Create(name); err != nil {
			return nil, fmt.Errorf("make a file of %s for the log: %w", inUnits(size), err)
		}
		err = fill(s.file, size)
	}
	if err == nil {
		_, err = s.file.WriteAt(s.header(), 0)
	}
	if err == nil {
		err = s.file.Sync()
	}
	if err == nil {
		err = f.dir.Rename(name, segmentName(seq))
	}
	if err == nil {
		err = f.dir.SyncDir()
	}
	if err != nil {
		s.file.Close()
		f.dir.Remove(name) // its room is needed by who mends this
		return nil, fmt.Errorf("make a file of %s for the log: %w", inUnits(size), err)
	}
	return s, nil
}

func inUnits(size int64) string {
	if size%(1<<20) == 0 {
		return fmt.Sprintf("%d MiB", size>>20)
	}
	return fmt.Sprintf("%d KiB", size>>10)
}

// fill writes size zeros.
func fill(f File, size int64) error {
	zeros := make([]byte, min(size, zeroBytes))
	for off := int64(0); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
		if off+int64(len(zeros)) < size { // what writes the header syncs the rest
			if err := f.Sync(); err != nil {
				return err
			}
		}
	}
	return nil
}

// retire takes a segment out of the log: it becomes the spare if it can be used again, else its file
// is removed.
func (f *factory) retire(s *segment, reusable int64) error {
	size, err := s.file.Size()
	if err != nil {
		return err
	}
	if f.spare == nil && s.size == reusable && size == s.size {
		// The name must be gone for good before produce writes another header into the file.
		if err := errors.Join(f.dir.Rename(segmentName(s.seq), spareName), f.dir.SyncDir()); err != nil {
			return err
		}
		f.spare = s
		return nil
	}
	return errors.Join(s.file.Close(), f.dir.Remove(segmentName(s.seq)), f.dir.SyncDir())
}

func (f *factory) close() error {
	if f.spare == nil {
		return nil
	}
	return f.spare.file.Close()
}
