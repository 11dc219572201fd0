package store

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"

	"github.com/kvd-io/kvd/pkg/snapfile"
)

// Sum is the sum of the hashes of all records, directories, leases, users and roles, and of the commands
// that are known to be executed: not of clocks, members and history. It does not depend on their order, so each change costs one
// hash, and members can compare what they hold. It guards against faults, not against an attacker.
type Sum struct {
	hi, lo uint64
}

// String returns the sum in 32 hex digits.
func (s Sum) String() string { return fmt.Sprintf("%016x%016x", s.hi, s.lo) }

// Bytes returns the sum in the form that command.Check carries.
func (s Sum) Bytes() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:8], s.hi)
	binary.BigEndian.PutUint64(b[8:], s.lo)
	return b
}

func sumOf(b [16]byte) Sum {
	return Sum{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// plus returns the sum over the items of both.
func (s Sum) plus(other Sum) Sum { return Sum{s.hi + other.hi, s.lo + other.lo} }

// sum returns the sum of the state.
func (s *state) sum() Sum { return s.items.plus(s.origins.sum) }

// Equal reports whether two sums are the same.
func (s Sum) Equal(other Sum) bool { return s.hi == other.hi && s.lo == other.lo }

func (s *Sum) add(item []byte) {
	h := xxh3.Hash128(item)
	s.hi, s.lo = s.hi+h.Hi, s.lo+h.Lo
}

func (s *Sum) sub(item []byte) {
	h := xxh3.Hash128(item)
	s.hi, s.lo = s.hi-h.Hi, s.lo-h.Lo
}

// The first byte of an item's encoding keeps a record and a directory of one path apart.
const (
	itemRecord = snapfile.ItemRecord
	itemDir    = snapfile.ItemDir
	itemLease  = snapfile.ItemLease
	itemAuth   = snapfile.ItemAuth
	itemUser   = snapfile.ItemUser
	itemRole   = snapfile.ItemRole

	itemSequence = 's' // of an origin
)

// item is what the sum is over and what a snapshot holds.
type item interface {
	// appendTo appends the item's encoding to b and returns the extended slice.
	appendTo(b []byte) []byte
	// size returns how many bytes the item counts.
	size() int64
}

// include adds an item to the sum and the size of the state.
func (s *state) include(i item) {
	s.scratch = i.appendTo(s.scratch[:0])
	s.items.add(s.scratch)
	s.bytes += i.size()
}

// exclude takes an item out of the sum and the size of the state.
func (s *state) exclude(i item) {
	s.scratch = i.appendTo(s.scratch[:0])
	s.items.sub(s.scratch)
	s.bytes -= i.size()
}

func (r *record) appendTo(b []byte) []byte {
	b = append(b, itemRecord)
	b = appendText(b, r.key)
	b = appendText(b, r.value)
	for _, n := range [...]uint64{r.create, r.mod, r.version, r.lease, r.created, r.modified} {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func (d *dir) appendTo(b []byte) []byte {
	b = append(b, itemDir)
	b = appendText(b, d.path)
	for _, n := range [...]uint64{d.created, d.modified, d.lease, d.children} {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

func (l *lease) appendTo(b []byte) []byte {
	b = append(b, itemLease)
	b = binary.AppendUvarint(b, l.id)
	b = binary.AppendVarint(b, l.ttl)
	b = binary.AppendVarint(b, l.deadline)
	b = binary.AppendVarint(b, l.remaining)
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
