package wal

import "github.com/hashicorp/raft"

// entryOverhead is about what an entry takes in memory beside its data.
const entryOverhead = 128

// recent holds the newest entries, in order, as many as there is room for.
type recent struct {
	first   uint64 // index of the first one
	entries []raft.Log
	bytes   int
	limit   int // of bytes
}

func entrySize(entry *raft.Log) int { return entryOverhead + len(entry.Data) + len(entry.Extensions) }

// add takes the entry behind the last one.
func (r *recent) add(entry *raft.Log) {
	if len(r.entries) == 0 {
		r.first = entry.Index
	}
	r.entries = append(r.entries, *entry)
	r.bytes += entrySize(entry)
	drop := 0
	for ; r.bytes > r.limit; drop++ {
		r.bytes -= entrySize(&r.entries[drop])
	}
	r.drop(drop)
}

// drop lets go of the oldest n, whose bytes are counted no more.
func (r *recent) drop(n int) {
	clear(r.entries[:n])
	r.entries, r.first = r.entries[n:], r.first+uint64(n)
}

// get copies the entry at index, if it is there.
func (r *recent) get(index uint64, entry *raft.Log) bool {
	if index < r.first || index-r.first >= uint64(len(r.entries)) {
		return false
	}
	*entry = r.entries[index-r.first]
	return true
}

// cut lets go of all that is not within now.
func (r *recent) cut(now bounds) {
	for n := len(r.entries); n > 0 && (now.empty() || r.first+uint64(n)-1 > now.last); n = len(r.entries) {
		r.bytes -= entrySize(&r.entries[n-1])
		clear(r.entries[n-1:])
		r.entries = r.entries[:n-1]
	}
	drop := 0
	for drop < len(r.entries) && r.first+uint64(drop) < now.first {
		r.bytes -= entrySize(&r.entries[drop])
		drop++
	}
	r.drop(drop)
}
