package store

import (
	"strings"

	"github.com/kvd-io/kvd/pkg/kv"
)

// ItemOverhead is what a record, a directory, a lease, a user or a role counts beside its key and its value: about
// what the tables hold for it, and for its place in the order of deadlines.
const ItemOverhead = 128

// stringOverhead is what a text in a list counts beside its bytes.
const stringOverhead = 16

func (r *record) size() int64 { return ItemOverhead + int64(len(r.key)) + int64(len(r.value)) }

func (d *dir) size() int64 { return ItemOverhead + int64(len(d.path)) }

func (l *lease) size() int64 { return ItemOverhead }

// Bytes returns the size of the state: over all records, directories and leases the sum of key,
// value and ItemOverhead, and the users and roles. Members that hold the same have the same size. The history is not in it.
func (m *Machine) Bytes() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.bytes
}

// neverGrows reports whether w makes no state grow. A refresh counts as that, although one of a key without
// a TTL makes a lease.
func neverGrows(w kv.Write) bool {
	switch w.Op {
	case kv.OpSet, kv.OpUpdate, kv.OpCompareAndSwap:
		return w.Refresh
	case kv.OpDelete, kv.OpCompareAndDelete:
		return true
	}
	return false
}

// GrowthAtMost returns by how many bytes w would make any state grow at most: one in which nothing is on the
// way to its key.
func GrowthAtMost(w kv.Write) int64 {
	if neverGrows(w) {
		return 0
	}
	key := int64(len(w.Key) + len(inOrderName))
	dirs := int64(strings.Count(w.Key, "/") + 1)
	return dirs*(ItemOverhead+key) + ItemOverhead + key + int64(len(w.Value)) + ItemOverhead
}

// inOrderName is as long as a name that the store gives.
const inOrderName = "/01234567890123456789"

// Growth returns by how many bytes w, executed now, would make the state grow at most; 0 or less if it
// would not. Of a write that is sure to fail it is 0.
func (m *Machine) Growth(w kv.Write) int64 {
	if neverGrows(w) {
		return 0
	}
	if w.Dir && w.Op != kv.OpUpdate && w.Op != kv.OpCompareAndSwap {
		w.Value = ""
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.growth(w)
}

func (s *state) growth(w kv.Write) int64 {
	rec, d, missing := s.find(w.Key)
	absent := missing != nil && missing.Kind == kv.NotFound
	switch {
	case w.Op == kv.OpCreateInOrder && (absent || d != nil):
		w.Key += inOrderName
		return s.room(w)
	case absent && (w.Op == kv.OpSet || w.Op == kv.OpCreate):
		return s.room(w)
	case rec != nil && (w.Op == kv.OpSet || w.Op == kv.OpUpdate || w.Op == kv.OpCompareAndSwap):
		return int64(len(w.Value)) - int64(len(rec.value)) + leaseGrowth(rec.lease, w)
	case d != nil && w.Op == kv.OpUpdate:
		return leaseGrowth(d.lease, w)
	}
	return 0
}

// room returns the size of a new node at w.Key, with its lease and the directories on the way that
// are missing.
func (s *state) room(w kv.Write) int64 {
	size := ItemOverhead + int64(len(w.Key)) + int64(len(w.Value)) + leaseGrowth(0, w)
	for parent := kv.Parent(w.Key); ; parent = kv.Parent(parent) {
		if _, ok := s.dirs.Get(parent); ok {
			return size
		}
		size += (&dir{path: parent}).size()
	}
}

// leaseGrowth returns the size of the lease that w makes for a node that holds the lease held.
func leaseGrowth(held uint64, w kv.Write) int64 {
	if w.TTL != 0 && !implicit(held) {
		return ItemOverhead
	}
	return 0
}
