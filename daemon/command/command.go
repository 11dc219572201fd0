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
const Level = 3

// SequenceWindow is how far the sequences of one origin may lie apart for the state to tell which of
// them were executed: what is this much or more below the newest counts as executed. An origin has
// fewer commands than that on their way at a time.
const SequenceWindow = 4096

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
	TypeMemberRemove    Type = 11
	TypeCheck           Type = 12
	TypeInvitation      Type = 13
)

// Body is the payload of a command: kv.Write or one of this package's types.
type Body any

// Command is one change, and who asked for it.
type Command struct {
	// Origin and Sequence tell commands apart: one that comes a second time, because nobody knew
	// whether it had come the first time, is not executed again.
	Origin   uint64 // boot id of the member's process that took the request in; 0 is none, and always executed
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
	Learner    bool // does not vote and is not to, until somebody promotes it

	// Part says which of the fields a change of a member is about. The others count only for a member
	// that is not known yet, so that changes by different members do not undo each other.
	Part MemberPart
}

// MemberPart is a part of what is known of a member.
type MemberPart uint8

// The parts.
const (
	MemberWhole    MemberPart = iota
	MemberSelf                // what it says of itself: Name and ClientURLs
	MemberStanding            // what others decide: PeerURLs, Voter and Learner
)

// MemberRemove takes a member out of the cluster. Its ID never comes back.
type MemberRemove struct {
	ID uint64
}

// Invitation makes known, or uses up, what entitles somebody to add one member. Only the hash of the
// secret is told: whoever reads the log or a snapshot cannot use it.
type Invitation struct {
	Hash [32]byte      // SHA-256 of the secret
	TTL  time.Duration // from now on, on the lease clock; 0 uses it up
}

// Check tells all members what the state of one of them amounts to at a place in the log, for each to
// compare with its own. It changes nothing that is replicated.
type Check struct {
	Member uint64   // whose state it is
	Index  uint64   // of the last log entry executed
	Sum    [16]byte // of the state then: store.Sum.Bytes
}

// Batch is the content of one raft log entry. Its commands are independent: each has its own
// result, and a failure stops none of the others.
type Batch struct {
	Level      uint32
	Term       uint64 // of the leader that made it: in an entry of another term it is void; 0: valid in any
	Clock      int64  // lease clock, ns: never runs backwards, stands still without a leader
	WallOffset int64  // unix ns minus Clock
	Commands   []Command
}

// Result is the outcome of one command. Err is a *kv.Error that every member arrives at alike.
type Result struct {
	kv.Result
	Err error

	// Repeated says that the command was executed before, or is so old that it counts as executed. It
	// has changed nothing now. What came of it the first time is told only by the result it had then.
	Repeated bool

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
