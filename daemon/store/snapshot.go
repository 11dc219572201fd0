package store

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// A snapshot is a row of blocks between a magic and a digest:
//
//	magic "kvd snap", format uint32
//	block*: section uint8, codec uint8, 2 zero bytes, items uint32, raw length uint32, length uint32, CRC32C uint32, data
//	a block of the section end: counts of the sections and the state sum
//	SHA-256 over everything before it
//
// All numbers are little endian. A section may take many blocks; an item never crosses from one
// block to the next. A reader refuses an unknown section whose number has the critical bit and
// skips any other, so that later versions can add what earlier ones may ignore.
const (
	snapshotMagic  = "kvd snap"
	snapshotFormat = 1

	// blockSize is the raw size at which a block is closed; one large item may exceed it.
	blockSize = 256 << 10
	// blockSizeMax bounds what a reader allocates for a block. The largest item is an event with a
	// node before and one after it, each of a request of up to 32 MiB.
	blockSizeMax = 128 << 20

	blockHeaderSize = 20
)

const critical = 0x80

// The sections, in the order that they are written.
const (
	sectionHeader  = critical | 1
	sectionRecords = critical | 2
	sectionDirs    = critical | 3
	sectionLeases  = critical | 4
	sectionMembers = critical | 5
	sectionHistory = critical | 6
	sectionAuth    = critical | 7
	sectionEnd     = critical | 0x7f
)

const (
	codecNone = 0
	codecZstd = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrSnapshot is wrapped by every error about the content of a snapshot.
var ErrSnapshot = errors.New("damaged or foreign snapshot")

// Snapshot is the state at one log position, to be written while the machine goes on.
type Snapshot struct{ state *state }

// Snapshot returns the state as it is now. It takes constant time but for the history.
func (m *Machine) Snapshot() *Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state.copy()
	s.history = m.state.history
	s.history.events, s.history.start = m.state.history.list(), 0
	return &Snapshot{s}
}

// Release drops the state; the Snapshot cannot be used after it.
func (sn *Snapshot) Release() { sn.state = nil }

// WriteTo writes the snapshot.
func (sn *Snapshot) WriteTo(w io.Writer) (int64, error) { return sn.writeTo(w, blockSizeMax) }

// writeTo writes the snapshot in blocks of blockMax bytes at most.
func (sn *Snapshot) writeTo(w io.Writer, blockMax int) (int64, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer encoder.Close()
	out := &snapshotWriter{w: w, blockMax: blockMax, digest: sha256.New(), encoder: encoder}
	out.raw([]byte(snapshotMagic))
	out.raw(binary.LittleEndian.AppendUint32(nil, snapshotFormat))
	s := sn.state

	out.item(sectionHeader, func(b []byte) []byte {
		for _, n := range [...]uint64{command.Level, s.applied, s.term, s.revision} {
			b = binary.AppendUvarint(b, n)
		}
		b = binary.AppendVarint(b, s.clock)
		return binary.AppendVarint(b, s.wallOffset)
	})
	s.records.Scan(func(r *record) bool {
		out.item(sectionRecords, func(b []byte) []byte { return r.appendTo(b) })
		return out.err == nil
	})
	s.dirs.Scan(func(_ string, d *dir) bool {
		out.item(sectionDirs, func(b []byte) []byte { return d.appendTo(b) })
		return out.err == nil
	})
	s.leases.Scan(func(_ uint64, l lease) bool {
		out.item(sectionLeases, func(b []byte) []byte { return l.appendTo(b) })
		return out.err == nil
	})
	for _, member := range s.sortedMembers() {
		entry := command.Batch{Commands: []command.Command{{Body: member}}}
		out.item(sectionMembers, func(b []byte) []byte { return entry.Append(b) })
	}
	out.item(sectionHistory, func(b []byte) []byte { return binary.AppendUvarint(b, s.history.dropped) })
	for _, event := range s.history.events {
		out.item(sectionHistory, func(b []byte) []byte { return appendEvent(b, event) })
	}
	for _, i := range s.auth.items() {
		out.item(sectionAuth, i.appendTo)
	}
	out.item(sectionEnd, func(b []byte) []byte {
		for _, n := range [...]int{s.records.Len(), s.dirs.Len(), s.leases.Len(), len(s.members), len(s.history.events), len(s.auth.users), len(s.auth.roles)} {
			b = binary.AppendUvarint(b, uint64(n))
		}
		b = binary.LittleEndian.AppendUint64(b, s.sum.hi)
		return binary.LittleEndian.AppendUint64(b, s.sum.lo)
	})
	out.flush()
	out.raw(out.digest.Sum(nil))
	return out.written, out.err
}

// snapshotWriter collects items into blocks. The first error sticks.
type snapshotWriter struct {
	w        io.Writer
	blockMax int
	digest   hash.Hash
	encoder  *zstd.Encoder
	written  int64
	err      error

	section byte
	items   uint32
	block   []byte
	packed  []byte
}

func (o *snapshotWriter) raw(b []byte) {
	if o.err != nil {
		return
	}
	var n int
	n, o.err = o.w.Write(b)
	o.written += int64(n)
	o.digest.Write(b)
}

// item adds what encode appends as one item of a section.
func (o *snapshotWriter) item(section byte, encode func([]byte) []byte) {
	if o.section != section || len(o.block) >= blockSize {
		o.flush()
		o.section = section
	}
	start := len(o.block)
	o.block = append(o.block, 0, 0, 0, 0)
	o.block = encode(o.block)
	binary.LittleEndian.PutUint32(o.block[start:], uint32(len(o.block)-start-4))
	o.items++
}

func (o *snapshotWriter) flush() {
	if o.items == 0 {
		return
	}
	if len(o.block) > o.blockMax && o.err == nil {
		o.err = fmt.Errorf("a block of %d bytes is larger than a reader accepts", len(o.block))
	}
	codec, data := byte(codecNone), o.block
	if o.packed = o.encoder.EncodeAll(o.block, o.packed[:0]); len(o.packed) < len(o.block) {
		codec, data = codecZstd, o.packed
	}
	header := make([]byte, blockHeaderSize)
	header[0], header[1] = o.section, codec
	binary.LittleEndian.PutUint32(header[4:], o.items)
	binary.LittleEndian.PutUint32(header[8:], uint32(len(o.block)))
	binary.LittleEndian.PutUint32(header[12:], uint32(len(data)))
	binary.LittleEndian.PutUint32(header[16:], crc32.Checksum(data, castagnoli))
	o.raw(header)
	o.raw(data)
	o.block, o.items = o.block[:0], 0
}

// Restore replaces the whole state by that of a snapshot. On an error, which wraps ErrSnapshot or
// is r's own, the state is as before. History().dropped and the events tell watchers what they
// can still learn.
func (m *Machine) Restore(r io.Reader) error {
	m.mu.RLock()
	fresh := newState(m.state.history.length)
	m.mu.RUnlock()
	if err := readSnapshot(r, fresh); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.view.Store(nil)
	m.state = fresh
	m.auth.Store(fresh.auth)
	m.leased.Store(len(fresh.uses) > 0)
	m.events = nil
	return nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrSnapshot, fmt.Sprintf(format, args...))
}

// cut says why there was no more to read: r's own error, or a snapshot that is too short.
func cut(where string, err error) error {
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	return damaged("it ends %s", where)
}

func readSnapshot(r io.Reader, s *state) error {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(blockSizeMax))
	if err != nil {
		return err
	}
	defer decoder.Close()
	digest := sha256.New()
	in := io.TeeReader(bufio.NewReaderSize(r, blockSize), digest)

	head := make([]byte, len(snapshotMagic)+4)
	if _, err := io.ReadFull(in, head); err != nil {
		return cut("before its header does", err)
	}
	if string(head[:len(snapshotMagic)]) != snapshotMagic {
		return damaged("it does not begin as a snapshot does")
	}
	if format := binary.LittleEndian.Uint32(head[len(snapshotMagic):]); format != snapshotFormat {
		return damaged("it has format %d, this version reads %d", format, snapshotFormat)
	}
	load := loader{state: s}
	s.dirs.Clear()
	s.sum, s.bytes = Sum{}, 0
	for !load.ended {
		section, items, block, err := readBlock(in, decoder)
		if err != nil {
			return err
		}
		if err := load.block(section, items, block); err != nil {
			return err
		}
	}
	want := digest.Sum(nil)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(in, got); err != nil {
		return cut("before its digest does", err)
	}
	if !bytes.Equal(got, want) {
		return damaged("its digest does not match its content")
	}
	switch n, err := io.ReadFull(in, got[:1]); {
	case n > 0:
		return damaged("it goes on after its digest")
	case err != io.EOF:
		return err
	}
	return nil
}

func readBlock(in io.Reader, decoder *zstd.Decoder) (section byte, items uint32, block []byte, err error) {
	header := make([]byte, blockHeaderSize)
	if _, err := io.ReadFull(in, header); err != nil {
		return 0, 0, nil, cut("in the middle", err)
	}
	items = binary.LittleEndian.Uint32(header[4:])
	rawLength, length := binary.LittleEndian.Uint32(header[8:]), binary.LittleEndian.Uint32(header[12:])
	if rawLength > blockSizeMax || length > blockSizeMax {
		return 0, 0, nil, damaged("a block of %d bytes is larger than any that is written", max(rawLength, length))
	}
	data, err := io.ReadAll(io.LimitReader(in, int64(length)))
	if err != nil || len(data) != int(length) {
		return 0, 0, nil, cut("in the middle of a block", err)
	}
	if crc32.Checksum(data, castagnoli) != binary.LittleEndian.Uint32(header[16:]) {
		return 0, 0, nil, damaged("the checksum of a block does not match")
	}
	switch header[1] {
	case codecNone:
	case codecZstd:
		if data, err = decoder.DecodeAll(data, make([]byte, 0, min(rawLength, 4*blockSize))); err != nil {
			return 0, 0, nil, damaged("a block cannot be unpacked: %v", err)
		}
	default:
		return 0, 0, nil, damaged("unknown codec %d", header[1])
	}
	if len(data) != int(rawLength) {
		return 0, 0, nil, damaged("a block unpacks to %d bytes instead of %d", len(data), rawLength)
	}
	return header[0], items, data, nil
}

// loader puts items into a state that is empty at first.
type loader struct {
	state      *state
	header     bool
	history    bool
	ended      bool
	historyLen int
	auth       int // heads of access control data
}

func (l *loader) block(section byte, items uint32, block []byte) error {
	if items == 0 {
		return damaged("a block has no items")
	}
	for range items {
		if len(block) < 4 || int64(binary.LittleEndian.Uint32(block)) > int64(len(block)-4) {
			return damaged("an item ends outside its block")
		}
		length := binary.LittleEndian.Uint32(block)
		item := &itemReader{data: block[4 : 4+length]}
		block = block[4+length:]
		if err := l.item(section, item); err != nil {
			return err
		}
		if section&critical != 0 && (item.failed || len(item.data) > 0) {
			return damaged("an item of section %d cannot be read", section&^critical)
		}
	}
	if len(block) > 0 {
		return damaged("a block goes on after its last item")
	}
	return nil
}

func (l *loader) item(section byte, item *itemReader) error {
	s := l.state
	if !l.header && section != sectionHeader {
		return damaged("its first section is %d", section&^critical)
	}
	switch section {
	case sectionHeader:
		l.header = true
		if level := item.uint(); level > command.Level {
			return damaged("it needs feature level %d, this version has %d", level, command.Level)
		}
		s.applied, s.term, s.revision = item.uint(), item.uint(), item.uint()
		s.clock, s.wallOffset = item.int(), item.int()
	case sectionRecords:
		item.tag(itemRecord)
		r := &record{key: item.text(), value: item.text(), create: item.uint(), mod: item.uint(), version: item.uint(),
			lease: item.uint(), created: item.uint(), modified: item.uint()}
		s.records.Load(r)
		s.include(r)
		s.attach(attachment{path: r.key}, 0, r.lease)
	case sectionDirs:
		item.tag(itemDir)
		d := &dir{path: item.text(), created: item.uint(), modified: item.uint(), lease: item.uint(), children: item.uint()}
		s.dirs.Load(d.path, d)
		s.include(d)
		s.attach(attachment{path: d.path, dir: true}, 0, d.lease)
	case sectionLeases:
		item.tag(itemLease)
		s.putLease(nil, &lease{id: item.uint(), ttl: item.int(), deadline: item.int(), remaining: item.int()})
	case sectionMembers:
		batch, err := command.Decode(item.rest())
		if err != nil {
			return damaged("a member cannot be read: %v", err)
		}
		for _, c := range batch.Commands {
			member, ok := c.Body.(command.Member)
			if !ok {
				return damaged("a member is something else")
			}
			s.members[member.ID] = member
		}
	case sectionHistory:
		if !l.history {
			l.history = true
			s.history.dropped = item.uint()
			return nil
		}
		l.historyLen++
		s.history.append(item.event())
	case sectionAuth:
		return l.authItem(item)
	case sectionEnd:
		l.ended = true
		return l.check(item)
	default:
		if section&critical != 0 {
			return damaged("it has section %d, which this version does not know but must", section&^critical)
		}
	}
	return nil
}

// counts returns how many items were loaded of what the writer counts.
func (l *loader) counts() [7]int {
	s := l.state
	return [...]int{s.records.Len(), s.dirs.Len(), s.leases.Len(), len(s.members), l.historyLen, len(s.auth.users), len(s.auth.roles)}
}

// check compares what was loaded with what the writer counted and summed.
func (l *loader) check(item *itemReader) error {
	s := l.state
	for _, n := range l.counts() {
		if want := item.uint(); want != uint64(n) {
			return damaged("a section has %d items instead of %d", n, want)
		}
	}
	if _, ok := s.dirs.Get(""); !ok {
		return damaged("it has no root directory")
	}
	if l.auth != 1 {
		return damaged("it has the head of access control %d times", l.auth)
	}
	s.include(s.auth)
	var sum Sum
	sum.hi, sum.lo = item.fixed(), item.fixed()
	if !item.failed && !sum.Equal(s.sum) {
		return damaged("the sum of its items is %v instead of %v", s.sum, sum)
	}
	return nil
}

// itemReader takes an item apart. After the first failure everything reads as zero.
type itemReader struct {
	data   []byte
	failed bool
}

func (r *itemReader) fail() { r.failed, r.data = true, nil }

func (r *itemReader) uint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *itemReader) int() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *itemReader) fixed() uint64 {
	if len(r.data) < 8 {
		r.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(r.data)
	r.data = r.data[8:]
	return v
}

func (r *itemReader) text() string {
	length := r.uint()
	if length > uint64(len(r.data)) {
		r.fail()
		return ""
	}
	text := string(r.data[:length])
	r.data = r.data[length:]
	return text
}

func (r *itemReader) tag(want byte) {
	if len(r.data) == 0 || r.data[0] != want {
		r.fail()
		return
	}
	r.data = r.data[1:]
}

func (r *itemReader) rest() []byte {
	rest := r.data
	r.data = nil
	return rest
}

// appendEvent appends an event: its action and its one or two nodes.
func appendEvent(b []byte, e kv.Event) []byte {
	return appendNode(appendNode(appendText(b, string(e.Action)), e.Node), e.PrevNode)
}

const (
	nodePresent = 1 << iota
	nodeDir
	nodeExpires
	nodeLeased
	nodeFlags = nodePresent | nodeDir | nodeExpires | nodeLeased
)

func appendNode(b []byte, n *kv.Node) []byte {
	if n == nil {
		return append(b, 0)
	}
	flags := byte(nodePresent)
	if n.Dir {
		flags |= nodeDir
	}
	if !n.Expiration.IsZero() {
		flags |= nodeExpires
	}
	if n.Lease != 0 {
		flags |= nodeLeased
	}
	b = appendText(append(b, flags), n.Key)
	b = appendText(b, n.Value)
	if flags&nodeExpires != 0 {
		b = binary.AppendVarint(b, n.Expiration.UnixNano())
		b = binary.AppendVarint(b, n.TTL)
	}
	if flags&nodeLeased != 0 {
		b = binary.AppendUvarint(b, uint64(n.Lease))
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, n.ModifiedIndex), n.CreatedIndex)
}

func (r *itemReader) event() kv.Event {
	return kv.Event{Action: kv.Action(r.text()), Node: r.node(true), PrevNode: r.node(false)}
}

// node reads a node; nil if there is none, which fails where one is required.
func (r *itemReader) node(required bool) *kv.Node {
	var flags byte
	if len(r.data) > 0 {
		flags = r.data[0]
	}
	if len(r.data) == 0 || (required && flags&nodePresent == 0) || flags&^nodeFlags != 0 {
		r.fail()
		return &kv.Node{}
	}
	r.data = r.data[1:]
	if flags&nodePresent == 0 {
		return nil
	}
	n := &kv.Node{Dir: flags&nodeDir != 0, Key: r.text(), Value: r.text()}
	if flags&nodeExpires != 0 {
		n.Expiration = unixNano(r.int())
		n.TTL = r.int()
	}
	if flags&nodeLeased != 0 {
		n.Lease = kv.LeaseID(r.uint())
	}
	n.ModifiedIndex, n.CreatedIndex = r.uint(), r.uint()
	return n
}
