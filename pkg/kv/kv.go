// Package kv is the vocabulary of the suite: keys, events, errors and the small interfaces
// that a key-value store offers. The daemon's service implements Store in process, kvclient
// implements it over the network, and every agent is written against it alone.
//
// It knows words, not wires: no HTTP, no JSON, no raft. It imports only the standard library.
package kv

import (
	"context"
	"fmt"
	"time"
)

// Index is a position in the store's single history. Every change takes the next number; the
// first change of a fresh store takes 2. 0 means "absent" wherever an Index is optional.
type Index = uint64

// Action names what an event did, in the words of the v2 API.
type Action string

// The actions of the v2 API. Get is never seen by a watcher.
const (
	ActionGet              Action = "get"
	ActionSet              Action = "set"
	ActionCreate           Action = "create"
	ActionUpdate           Action = "update"
	ActionCompareAndSwap   Action = "compareAndSwap"
	ActionDelete           Action = "delete"
	ActionCompareAndDelete Action = "compareAndDelete"
	ActionExpire           Action = "expire"
)

// Node is one key or one directory at one moment. Nodes that a Store returns are shared and
// must not be changed.
type Node struct {
	Key           string // absolute and clean, "/a/b"; "" is the root directory
	Value         string // "" for a directory
	Dir           bool
	Expiration    time.Time // UTC; zero when the node has no TTL
	TTL           int64     // seconds left, rounded up; 0 when the node has no TTL or it is due
	Nodes         []*Node   // children that are not hidden; nil unless the node is a directory that was listed
	ModifiedIndex Index
	CreatedIndex  Index

	// Lease is the shared lease that the node ends with, 0 for none. Expiration and TTL of such a
	// node are known to reads only: keep-alives move them without an event.
	Lease LeaseID
}

// Event is one change, or the answer of a read (ActionGet).
type Event struct {
	Action   Action
	Node     *Node // the node after the change; for a removal its key and indices only
	PrevNode *Node // the node before the change; nil when there was none
}

// Removes reports whether the event took its node away.
func (e Event) Removes() bool {
	switch e.Action {
	case ActionDelete, ActionCompareAndDelete, ActionExpire:
		return true
	}
	return false
}

// Result is the answer to a Read or a Write.
type Result struct {
	Event
	Created   bool   // the write made a node where there was none
	Index     Index  // of the store when the answer was made; for a write, the write's own
	RaftIndex uint64 // last committed log index known to the member that answered; 0 if unknown
	RaftTerm  uint64 // 0 if unknown
	Cluster   string // whose answer it is, as far as the store says: an index means nothing in another one's history

	// Seen is nil for an answer that is of one index. A store that cannot read several keys at the same time, as
	// an etcd, says here for each of the keys of Only(Read.Key, Read.Only) at which index it was read; Index
	// is the least of them. A watch from Index+1 with the same Seen tells what happened since.
	Seen []Index
}

// Read asks for one key, or for one directory with its children.
type Read struct {
	Key       string
	Recursive bool // all levels, not only the first
	Sorted    bool // children in key order at every level; otherwise in any order
	Quorum    bool // linearizable; otherwise the local state of the member asked, possibly stale

	// Only narrows a recursive read of a directory to these keys in it, OnlyMax at most: the answer is the
	// directory, of which nothing is known but its Key, and its Nodes are those of the keys that are there, in key
	// order, each as a read of it alone would show it, also if it is hidden. Whether any is there, and even
	// the directory itself, makes no difference. Who may not read one of them gets Denied.
	Only []string
}

// Op says what a Write does.
type Op uint8

// The operations of the v2 API. Their numbers are part of the log format: append only.
const (
	OpSet              Op = 1 // create or replace
	OpCreate           Op = 2 // only if absent
	OpCreateInOrder    Op = 3 // create a child of Key, a directory, named by its index in 20 digits
	OpUpdate           Op = 4 // only if present
	OpCompareAndSwap   Op = 5 // only if PrevValue and PrevIndex hold, whichever are given
	OpDelete           Op = 6
	OpCompareAndDelete Op = 7
)

// String returns the word a user knows the operation by.
func (o Op) String() string {
	switch o {
	case OpSet:
		return "set"
	case OpCreate:
		return "create"
	case OpCreateInOrder:
		return "create in order"
	case OpUpdate:
		return "update"
	case OpCompareAndSwap:
		return "compare-and-swap"
	case OpDelete:
		return "delete"
	case OpCompareAndDelete:
		return "compare-and-delete"
	}
	return fmt.Sprintf("operation %d", uint8(o))
}

// TTLDue is the TTL that is already over when it is set: the v2 API's ttl=0.
const TTLDue time.Duration = -1

// Write changes one key or one directory.
type Write struct {
	Op        Op
	Key       string
	Value     string
	Dir       bool // set, create: make a directory; delete: an empty directory may go too
	Recursive bool // delete: the directory and everything below it

	// TTL is how long the node lives after this write; 0 is for ever, TTLDue is not at all.
	// Over the v2 API it is rounded up to whole seconds.
	TTL time.Duration

	// Lease is the shared lease that the node ends with from now on; 0 is none. It excludes TTL, and
	// a write that has neither makes the node permanent.
	Lease LeaseID

	PrevValue string // compare operations: the value expected; "" does not compare
	PrevIndex Index  // compare operations: the ModifiedIndex expected; 0 does not compare

	// Refresh renews the TTL of an existing key, keeps its value and wakes no watcher.
	Refresh bool

	// NoValue asks for an answer without nodes. It never changes what is stored.
	NoValue bool
}

// WatchFrom asks for the changes of one key or, recursively, of everything below it.
type WatchFrom struct {
	Key       string
	Recursive bool
	Index     Index // first index of interest; 0 means only what happens after now

	// Only narrows a recursive watch of a directory to these keys in it, OnlyMax at most: it brings, in one
	// order and none twice, what watches of each of them would bring, also of those that are hidden. Who may
	// not watch one of them gets Denied.
	Only []string
	Seen []Index // of Result; nil if the keys were read at one index
}

// Watch delivers events in index order, none twice and none left out.
// It is for one goroutine at a time, except Close, which may be called from any.
type Watch interface {
	// Next blocks until an event, an error, the end of ctx (Timeout), or Close. After HistoryGone the
	// reader has to read afresh and watch from Result.Index+1; after any other error Next
	// may be called again only if Temporary reports true for it.
	Next(ctx context.Context) (Event, error)
	// Index is the store's index when the watch was registered.
	Index() Index
	Close()
}

// Reader answers reads. Errors by Kind: NotFound, NotDir, Denied, Unavailable, Timeout.
type Reader interface {
	Read(ctx context.Context, r Read) (Result, error)
}

// Writer changes nodes. An error of Kind Unknown or Timeout means the write may or may not have
// happened; every other error means that it did not.
type Writer interface {
	Write(ctx context.Context, w Write) (Result, error)
}

// Watcher opens watches. It returns once the watch is registered: every later change is seen.
// Errors by Kind: HistoryGone, Denied, Unavailable.
type Watcher interface {
	Watch(ctx context.Context, from WatchFrom) (Watch, error)
}

// Store is everything an agent needs of a key-value store. Implementations are safe for
// concurrent use; pkg/kv/kvtest holds the conformance suite for all of them.
type Store interface {
	Reader
	Writer
	Watcher
}
