// Package history judges a store by what its clients asked and were told: whether a store that is
// linearizable, loses nothing and tells its watchers everything could have answered so.
//
// It knows requests, answers and events, and nothing of who gave them. Times are those of the client:
// a request takes effect at one moment between its call and its return, and one whose answer never
// came at any later moment or not at all. A checker reports what cannot be explained; it is silent
// about what it cannot see. It relies on values that are never written twice.
package history

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Kind is what a client asked for.
type Kind uint8

// The requests that checkers understand.
const (
	Put  Kind = iota // write Value
	Swap             // write Value if Prev is there
	Get              // a linearizable read
)

func (k Kind) String() string { return [...]string{"put", "swap", "get"}[k] }

// Outcome is what became of a request, as far as its client was told.
type Outcome uint8

// The outcomes.
const (
	Done     Outcome = iota // executed; Saw and Index hold
	Mismatch                // a swap that found something else, which is in Saw
	Refused                 // surely not executed
	Unknown                 // executed or not, now or later
)

func (o Outcome) String() string { return [...]string{"done", "mismatch", "refused", "unknown"}[o] }

// Op is one request and what came of it.
type Op struct {
	Client  int
	Member  string // that was asked
	Kind    Kind
	Key     string
	Value   string        // to write; unique among all writes
	Prev    string        // of a swap: what has to be there
	TTL     time.Duration // of a put; 0 for ever
	Call    time.Duration // since the history began
	Return  time.Duration // of the answer; without meaning for Unknown
	Outcome Outcome
	Saw     string // what was there: found by a get or mismatch, replaced by a write; "" for nothing
	Index   uint64 // of a write: its place in the store's history
}

func (o Op) writes() bool { return o.Kind != Get }

// happened reports whether the op is known to have changed something.
func (o Op) happened() bool { return o.writes() && o.Outcome == Done }

func (o Op) String() string {
	what := o.Kind.String() + " " + o.Key
	if o.Kind == Swap {
		what += " from " + o.Prev
	}
	if o.writes() {
		what += " to " + o.Value
	}
	return fmt.Sprintf("%s on %s, %v to %v, %v, saw %q, index %d", what, o.Member, o.Call, o.Return, o.Outcome, o.Saw, o.Index)
}

// Entry is a key that is there.
type Entry struct {
	Value string
	Index uint64 // of the write that made it so
}

// Violation is something that cannot be explained.
type Violation struct {
	Kind string // few words that are always the same: "lost write"
	Text string
}

func (v Violation) String() string { return v.Kind + ": " + v.Text }

func violation(kind, format string, args ...any) Violation {
	return Violation{kind, fmt.Sprintf(format, args...)}
}

// The kinds of violation.
const (
	Lost          = "lost write"
	WrongValue    = "wrong value"
	WrongIndex    = "wrong index"
	FromNowhere   = "write from nowhere"
	RefusedDone   = "refused write happened"
	Twice         = "write happened twice"
	Disorder      = "index out of order"
	NotLinear     = "not linearizable"
	Undecided     = "undecided"
	WatchOrder    = "watch out of order"
	WatchTwice    = "event told twice"
	WatchGap      = "event not told"
	WatchDiffers  = "event differs"
	Early         = "expired early"
	Immortal      = "never expired"
	MembersDiffer = "members differ"
)

// Log collects ops. It is safe for concurrent use.
type Log struct {
	begun time.Time

	mu  sync.Mutex // guards ops
	ops []Op
}

// NewLog returns a log that begins now.
func NewLog() *Log { return &Log{begun: time.Now()} }

// Now is the time since the log began.
func (l *Log) Now() time.Duration { return time.Since(l.begun) }

// Add adds an op that has returned, or will not.
func (l *Log) Add(op Op) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ops = append(l.ops, op)
}

// Ops returns all ops in the order of their ends. It is the caller's.
func (l *Log) Ops() []Op {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ops)
}
