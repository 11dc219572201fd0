package wal

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// reading is what the files of a log say.
//
// A batch is written only after the sync of the one before has returned. So a batch that is not whole
// is one of two things: the last one, cut short by a crash and never acknowledged, if nothing of a
// later batch is to be found anywhere; or else damage. (Later frames of the same batch prove nothing:
// a disk writes blocks in any order.)
type reading struct {
	dir      Dir
	segments []*segment
	leftover []string // files that are no part of the log

	bounds bounds
	batch  uint64 // number of the last whole one
	marked bool   // it changes nothing: it marks the end of the log

	known  bool   // the bounds are
	low    uint64 // index of the first of the places
	places []place

	lastSegment      *segment // of the last whole batch; nil if there is none
	lastOff, lastEnd int64    // where it is
	remains          int64    // end of what an append that was cut short has left behind the end of the log

	cutSeq uint64 // where the first batch that is not whole should be
	cutOff int64
}

// read reads and checks all of the log in dir, and changes nothing. There may be none.
func read(dir Dir) (*reading, error) {
	r := &reading{dir: dir, low: 1, bounds: bounds{first: 1}}
	names, err := dir.Names()
	if err != nil {
		return nil, err
	}
	var seqs []uint64
	for _, name := range names {
		if seq, ok := parseSegmentName(name); ok {
			seqs = append(seqs, seq)
		} else if strings.HasSuffix(name, unfinished) {
			r.leftover = append(r.leftover, name)
		}
	}
	slices.Sort(seqs)
	if err := r.readSegments(seqs); err != nil {
		for _, s := range r.segments {
			err = errors.Join(err, s.file.Close())
		}
		return nil, err
	}
	return r, nil
}

func (r *reading) path(seq uint64) string { return r.dir.Path(segmentName(seq)) }

func (r *reading) damage(seq uint64, off int64, format string, args ...any) error {
	return &DamageError{Path: r.path(seq), Offset: off, Problem: fmt.Sprintf(format, args...)}
}

func (r *reading) readSegments(seqs []uint64) error {
	var buffer []byte
	sealed := false
	for i, seq := range seqs {
		if i > 0 && seq != seqs[i-1]+1 {
			return r.damage(seqs[i-1]+1, 0, "the file is missing, though there is %s", segmentName(seq))
		}
		s, content, err := r.open(seq, buffer)
		if err != nil {
			return err
		}
		buffer = content
		before := r.batch
		if i == 0 && seq > 1 { // its first batch was synced before older segments were removed
			if f, ok := parseFrame(content[blockBytes:], s.id); ok && f.batch > 0 {
				r.batch, before = f.batch-1, f.batch-1
			}
		}
		wasSealed, holdsNone := sealed, false
		var remains int64
		if sealed, remains, err = r.walk(s, content); err == nil {
			holdsNone = r.batch == before
			switch {
			case holdsNone && i == 0 && seq > 1:
				err = r.damage(seq, blockBytes, "its beginning is not what was written")
			case !holdsNone && i > len(r.segments):
				err = r.damage(seq, blockBytes, "the log goes on here, though there is nothing in the file before")
			}
		}
		if err != nil || holdsNone && i > 0 && !wasSealed {
			// It was made ahead, or its first append was cut short.
			if err := errors.Join(err, s.file.Close()); err != nil {
				return err
			}
			r.leftover = append(r.leftover, segmentName(seq))
			continue
		}
		r.segments, r.remains = append(r.segments, s), remains
	}
	if sealed {
		last := seqs[len(seqs)-1]
		return r.damage(last+1, 0, "the file is missing, though the log goes on there behind %s", segmentName(last))
	}
	if !r.bounds.empty() && r.low > r.bounds.first {
		return r.damage(seqs[0], blockBytes, "the log begins here with entry %d, but entries from %d on should be there: files before it are missing", r.low, r.bounds.first)
	}
	return nil
}

// open opens segment seq and reads it into buffer, or a larger one.
func (r *reading) open(seq uint64, buffer []byte) (s *segment, content []byte, err error) {
	file, err := r.dir.Open(segmentName(seq))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if content, err = readAll(file, buffer); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", r.path(seq), err)
	}
	if s, err = parseHeader(content, seq); err != nil {
		return nil, nil, r.damage(seq, 0, "%v", err)
	}
	if int64(len(content)) < s.size {
		return nil, nil, r.damage(seq, int64(len(content)), "it is cut short: it had %d bytes when it was made", s.size)
	}
	s.file = file
	return s, content, nil
}

// readAll returns the content of a file, in buffer if that is large enough.
func readAll(f File, buffer []byte) ([]byte, error) {
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	content := slices.Grow(buffer[:0], int(size))[:size]
	n, err := f.ReadAt(content, 0)
	if errors.Is(err, io.EOF) { // or it has become shorter since
		err = nil
	}
	return content[:n], err
}

// walk reads the batches of segment s. sealed says that the log goes on in the next one; remains is
// where the last frame behind the end ends, 0 if there is none.
func (r *reading) walk(s *segment, content []byte) (sealed bool, remains int64, err error) {
	for {
		frames, end, ok := parseBatch(content, s.end, s.id, r.batch+1)
		if !ok {
			break
		}
		if frames[0].kind == kindSealed {
			return true, 0, nil
		}
		if err := r.take(s, frames); err != nil {
			return false, 0, err
		}
		r.batch++
		r.lastSegment, r.lastOff, r.lastEnd = s, s.end, end
		s.end, r.cutSeq = end, 0
	}
	if r.cutSeq == 0 {
		r.cutSeq, r.cutOff = s.seq, s.end
	}
	findFrames(content, s.end, s.id, func(f placed) bool {
		if f.batch > r.batch+1 {
			err = r.damage(r.cutSeq, r.cutOff, "what was written here behind entry %d is not whole, but what was written later is, in %s at byte %d", r.bounds.last, segmentName(s.seq), f.off)
			return false
		}
		remains = f.off + f.bytes()
		return true
	})
	return false, remains, err
}

// take adds the frames of a whole batch to what is known of the log.
func (r *reading) take(s *segment, frames []placed) error {
	before, known := r.bounds, r.known
	for i, f := range frames {
		switch f.kind {
		case kindBounds:
			b := bounds{first: f.index, last: f.term}
			opens := s.end == blockBytes && i == 0
			switch {
			case b.first == 0 || b.first > b.last+1,
				r.known && (b.first < r.bounds.first || b.last > r.bounds.last),
				r.known && opens && b != r.bounds,
				!r.known && !opens:
				return r.damage(s.seq, f.off, "it says that the log goes from entry %d to %d, which contradicts what was before", b.first, b.last)
			}
			r.limit(b)
		case kindEntry:
			if !r.known || f.index == 0 || !r.bounds.empty() && f.index != r.bounds.last+1 {
				return r.damage(s.seq, f.off, "entry %d cannot follow entry %d", f.index, r.bounds.last)
			}
			if r.bounds.empty() {
				r.bounds, r.low, r.places = bounds{f.index, f.index - 1}, f.index, nil
			}
			r.places = append(r.places, place{seq: uint32(s.seq), bytes: uint32(f.bytes()), off: f.off})
			r.bounds.last = f.index
			s.last = max(s.last, f.index)
		default:
			return r.damage(s.seq, f.off, "there is a frame of an unknown kind, %d: if a newer kvd wrote it, start that version", f.kind)
		}
	}
	r.marked = known && r.bounds == before // an entry moves the last index
	return nil
}

// limit takes over new bounds. Entries within them that the files before would hold stay without a
// place: they may yet turn out to be gone.
func (r *reading) limit(b bounds) {
	switch {
	case b.empty() || !r.known || b.last < r.low:
		r.places, r.low = nil, b.last+1
	default:
		low := max(r.low, b.first)
		r.places = r.places[low-r.low : b.last+1-r.low]
		r.low = low
	}
	r.bounds, r.known = b, true
}

// settle makes what was read last as durable as what is before it, and makes sure that nothing comes
// back of an append that was cut short: a later one at its place could make it look whole.
//
// The last batch is written again: when its sync failed, the kernel shows it although the disk does
// not have it, and would not write it on a mere sync.
func (r *reading) settle() error {
	tail := r.segments[len(r.segments)-1]
	if r.remains > tail.end {
		if _, err := tail.file.WriteAt(make([]byte, align(r.remains-tail.end, blockBytes)), tail.end); err != nil {
			return err
		}
		if err := tail.file.Sync(); err != nil {
			return err
		}
	}
	if r.lastSegment == nil {
		return nil
	}
	b := make([]byte, r.lastEnd-r.lastOff)
	if _, err := r.lastSegment.file.ReadAt(b, r.lastOff); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if _, err := r.lastSegment.file.WriteAt(b, r.lastOff); err != nil {
		return err
	}
	return r.lastSegment.file.Sync()
}
