// Package command is what the cluster agrees on: the commands that change the replicated state,
// and the batch of them that one raft log entry carries. command.proto defines the bytes.
//
// It knows the format and nothing of its effect: the store executes commands, raftnode carries
// them. All that execution may depend on is in the batch; time and ids come with it.
package command

import (
	"fmt"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Level is the feature level that this build writes and the highest that it can execute.
const Level = 2

// Type tells the commands apart. The numbers are part of the log format.
type Type uint64

// The types of command.
const (
	TypeWrite           Type = 1
	TypeExpire          Type = 2
	TypeTick            Type = 3
	TypeMember          Type = 4
	TypeLeaseGrant      Type = 5
	TypeLeaseRevoke     Type = 6
	TypeLeaseCheckpoint Type = 7
	TypeAuthEnable      Type = 8
	TypeAuthUser        Type = 9
	TypeAuthRole        Type = 10
)

// Body is the payload of a command: kv.Write or one of this package's types.
type Body any

// Command is one change, and who asked for it.
type Command struct {
	Origin   uint64 // boot id of the member that took the request in, 0 for none
	Sequence uint64 // of the request at its origin

	// User is who asked; "" is somebody without a name. AuthRevision is that of the access control
	// data that the member found the request permitted by; 0 is what members do on their own
	// account, which is always permitted.
	User         string
	AuthRevision uint64

	// AsDir says that the key of a write was asked for as a directory, with a slash at its end.
	AsDir bool

	Body Body
}

// Expire ends leases, in this order: it removes what is attached to each, if its deadline is still
// the one seen. Each is a change of its own.
type Expire struct {
	Leases []LeaseEnd
}

// LeaseEnd is when a lease ends.
type LeaseEnd struct {
	Lease    uint64
	Deadline int64 // lease clock, ns
}

// LeaseGrant makes a shared lease. The proposer picks the ID, at random.
type LeaseGrant struct {
	ID  uint64
	TTL time.Duration
}

// LeaseRevoke ends a shared lease: it removes what is attached to it, as one change.
type LeaseRevoke struct {
	ID uint64
}

// LeaseCheckpoint tells all members what their leader knows of shared leases: when each ends,
// unless it is renewed. A Deadline of 0 is a lease that has just been renewed and is to have its
// full TTL. Leases that are gone are left out of account.
type LeaseCheckpoint struct {
	Leases []LeaseEnd
}

// Tick only carries the clock of its batch.
type Tick struct{}

// Member is one member of the cluster as all members know it.
type Member struct {
	ID         uint64
	Name       string
	PeerURLs   []string
	ClientURLs []string
	Voter      bool
}

// Batch is the content of one raft log entry. Its commands are independent: each has its own
// result, and a failure stops none of the others.
type Batch struct {
	Level      uint32
	Clock      int64 // lease clock, ns: never runs backwards, stands still without a leader
	WallOffset int64 // unix ns minus Clock
	Commands   []Command
}

// Result is the outcome of one command. Err is a *kv.Error that every member arrives at alike.
type Result struct {
	kv.Result
	Err error

	// Changed is what an AuthUser or AuthRole has made: a store.User or store.Role, else nil.
	Changed any
}

// FormatError reports an entry that this build cannot read or must not skip. A member that
// meets one stops.
type FormatError struct{ Reason string }

func (e *FormatError) Error() string { return "log entry: " + e.Reason }

func formatErrorf(format string, args ...any) error {
	return &FormatError{Reason: fmt.Sprintf(format, args...)}
}
