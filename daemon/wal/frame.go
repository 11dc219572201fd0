package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// A segment is a header in a block of its own, then batches. A batch is what one append wrote: it
// begins at the start of a block and is one or more frames, each padded to frameAlign. All numbers
// are little-endian.
//
//	frame:  crc32c of the segment's id and of all that follows   4 bytes
//	        mark: the low half of the segment's id               4
//	        length of the data, length of the extensions         4 + 4
//	        kind, raft type, two zeros                           1 + 1 + 2
//	        left: frames of the batch behind this one            4
//	        batch: number of the batch, one more than the last   8
//	        index, term, time of the append in ns                8 + 8 + 8
//	        data, extensions
//
// The frame of bounds has the first index in the place of the index, and the last in that of the
// term. A file that is used again holds frames of its earlier life; their id is another.
const (
	blockBytes  = 512 // what a disk writes whole or not at all
	frameBytes  = 56  // without data and extensions
	frameAlign  = 8
	headerBytes = 36 // of a segment

	fieldBytesMax = 1 << 30 // data or extensions of one entry
)

// What a frame is.
const (
	kindEntry  = 1
	kindBounds = 2 // the log holds the entries from index to term, and no others
	kindSealed = 3 // the log goes on in the next segment
)

// frame is a frame without its data.
type frame struct {
	kind, logType         byte
	dataBytes, extBytes   uint32
	left                  uint32
	batch, index, term    uint64
	appendedAtNanoseconds int64 // 0: none
}

// bytes returns how long the frame is with its data, without padding.
func (f *frame) bytes() int64 { return frameBytes + int64(f.dataBytes) + int64(f.extBytes) }

// paddedBytes returns how far behind its beginning the next one begins.
func (f *frame) paddedBytes() int64 { return align(f.bytes(), frameAlign) }

func align(n, to int64) int64 { return (n + to - 1) / to * to }

func checksum(id uint64, frame []byte) uint32 {
	var seed [8]byte
	binary.LittleEndian.PutUint64(seed[:], id)
	table := crc32.MakeTable(crc32.Castagnoli) // made once by the standard library
	return crc32.Update(crc32.Checksum(seed[:], table), table, frame[4:])
}

// put writes the frame with its data to the beginning of b and returns what is behind its padding.
func (f *frame) put(b []byte, id uint64, data, ext []byte) []byte {
	f.dataBytes, f.extBytes = uint32(len(data)), uint32(len(ext))
	whole, padded := f.bytes(), f.paddedBytes()
	binary.LittleEndian.PutUint32(b[4:], uint32(id))
	binary.LittleEndian.PutUint32(b[8:], f.dataBytes)
	binary.LittleEndian.PutUint32(b[12:], f.extBytes)
	binary.LittleEndian.PutUint32(b[16:], uint32(f.kind)|uint32(f.logType)<<8)
	binary.LittleEndian.PutUint32(b[20:], f.left)
	binary.LittleEndian.PutUint64(b[24:], f.batch)
	binary.LittleEndian.PutUint64(b[32:], f.index)
	binary.LittleEndian.PutUint64(b[40:], f.term)
	binary.LittleEndian.PutUint64(b[48:], uint64(f.appendedAtNanoseconds))
	copy(b[frameBytes:], data)
	copy(b[frameBytes+len(data):], ext)
	clear(b[whole:padded])
	binary.LittleEndian.PutUint32(b, checksum(id, b[:whole]))
	return b[padded:]
}

// hasMark tells at little cost whether a frame of the segment may begin here. Who does not know the
// id cannot write data that looks so.
func hasMark(b []byte, id uint64) bool {
	return len(b) >= frameBytes && binary.LittleEndian.Uint32(b[4:]) == uint32(id)
}

// parseFrame reads the frame at the beginning of b. ok is false if there is none of that segment, or
// if it is not what was written.
func parseFrame(b []byte, id uint64) (f frame, ok bool) {
	if !hasMark(b, id) {
		return frame{}, false
	}
	f = frame{
		dataBytes: binary.LittleEndian.Uint32(b[8:]), extBytes: binary.LittleEndian.Uint32(b[12:]),
		kind: b[16], logType: b[17], left: binary.LittleEndian.Uint32(b[20:]),
		batch: binary.LittleEndian.Uint64(b[24:]), index: binary.LittleEndian.Uint64(b[32:]), term: binary.LittleEndian.Uint64(b[40:]),
		appendedAtNanoseconds: int64(binary.LittleEndian.Uint64(b[48:])),
	}
	if f.bytes() > int64(len(b)) || binary.LittleEndian.Uint32(b) != checksum(id, b[:f.bytes()]) {
		return frame{}, false
	}
	return f, true
}

// entry fills entry from the frame at the beginning of b, whose data it refers to.
func (f *frame) entry(b []byte, entry *raft.Log) {
	*entry = raft.Log{Index: f.index, Term: f.term, Type: raft.LogType(f.logType)}
	ext := frameBytes + int64(f.dataBytes)
	if f.dataBytes > 0 {
		entry.Data = b[frameBytes:ext:ext]
	}
	if f.extBytes > 0 {
		entry.Extensions = b[ext:f.bytes():f.bytes()]
	}
	if f.appendedAtNanoseconds != 0 {
		entry.AppendedAt = time.Unix(0, f.appendedAtNanoseconds)
	}
}

func entryFrame(entry *raft.Log) frame {
	f := frame{kind: kindEntry, logType: byte(entry.Type), index: entry.Index, term: entry.Term}
	if !entry.AppendedAt.IsZero() {
		f.appendedAtNanoseconds = entry.AppendedAt.UnixNano()
	}
	return f
}

// bounds are the indices of the first and the last entry of a log. In an empty one the first is
// behind the last.
type bounds struct{ first, last uint64 }

func (b bounds) empty() bool { return b.first > b.last }

func (b bounds) frame() frame { return frame{kind: kindBounds, index: b.first, term: b.last} }

// batchBytes returns how much room a batch takes in a segment: entries, and marks frames of bounds.
func batchBytes(entries []*raft.Log, marks int) int64 {
	n := int64(marks * frameBytes)
	for _, entry := range entries {
		n += align(frameBytes+int64(len(entry.Data))+int64(len(entry.Extensions)), frameAlign)
	}
	return align(n, blockBytes)
}

// putBatch writes a batch of that number into b, which is as long as batchBytes says: first the marks,
// then the entries. It returns where in b the entries begin.
func putBatch(b []byte, id, batch uint64, marks []bounds, entries []*raft.Log) (offsets []int64) {
	rest, left := b, len(marks)+len(entries)
	for _, mark := range marks {
		left--
		f := mark.frame()
		f.batch, f.left = batch, uint32(left)
		rest = f.put(rest, id, nil, nil)
	}
	offsets = make([]int64, 0, len(entries))
	for _, entry := range entries {
		left--
		f := entryFrame(entry)
		f.batch, f.left = batch, uint32(left)
		offsets = append(offsets, int64(len(b)-len(rest)))
		rest = f.put(rest, id, entry.Data, entry.Extensions)
	}
	clear(rest)
	return offsets
}

// checkEntry refuses what a frame cannot hold.
func checkEntry(entry *raft.Log) error {
	if len(entry.Data) > fieldBytesMax || len(entry.Extensions) > fieldBytesMax {
		return fmt.Errorf("entry %d has %d bytes of data and %d of extensions: at most %d of each can be stored", entry.Index, len(entry.Data), len(entry.Extensions), fieldBytesMax)
	}
	return nil
}

// placed is a frame and where it begins in its segment.
type placed struct {
	frame
	off int64
}

// parseBatch reads the batch of that number at off in the segment's content. ok is false unless all
// of it is there and whole. end is where the next batch begins.
func parseBatch(content []byte, off int64, id, number uint64) (frames []placed, end int64, ok bool) {
	for {
		if off > int64(len(content)) {
			return nil, 0, false
		}
		f, ok := parseFrame(content[off:], id)
		if !ok || f.batch != number || len(frames) > 0 && f.left != frames[len(frames)-1].left-1 {
			return nil, 0, false
		}
		frames = append(frames, placed{f, off})
		off += f.paddedBytes()
		if f.left == 0 {
			return frames, align(off, blockBytes), true
		}
	}
}

// findFrames calls found for each frame of the segment that lies whole behind off, until it returns
// false. Frames may begin anywhere, since what was before them may be lost.
func findFrames(content []byte, off int64, id uint64, found func(placed) bool) {
	for off = align(off, frameAlign); off+frameBytes <= int64(len(content)); off += frameAlign {
		if !hasMark(content[off:], id) {
			continue
		}
		if f, ok := parseFrame(content[off:], id); ok && !found(placed{f, off}) {
			return
		}
	}
}
