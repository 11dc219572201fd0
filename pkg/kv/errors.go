package kv

import (
	"errors"
	"fmt"
	"strings"
)

// Kind sorts errors by what a caller can do about them.
type Kind uint8

// The kinds of error. Each maps to one v2 code and HTTP status in pkg/etcdv2.
const (
	Internal      Kind = iota // a defect, or an error that no Kind describes
	NotFound                  // the key, or a parent of it, is absent; Cause names the first missing path
	CompareFailed             // PrevValue or PrevIndex did not hold; Cause shows expected and found
	NotFile                   // a directory stands where a value was meant; Cause is its path
	NotDir                    // a value stands where a directory was meant; Cause is its path
	Exists                    // create found something there; Cause is its path
	RootReadOnly              // the root directory cannot be written or removed
	DirNotEmpty               // a directory with children is removed only recursively
	Denied                    // the user may not do this, or is unknown
	Invalid                   // the request makes no sense; Cause says why
	HistoryGone               // the index asked for has left the kept history; Index is the current one
	NoLeader                  // the cluster has no leader now: surely not applied, try again
	Timeout                   // not done in time: whether it was applied is not known
	Unknown                   // the connection or leader was lost after sending: whether it was applied is not known
	Unavailable               // no endpoint could be reached: surely not applied
	Closed                    // the store, client or watch was closed by its owner
	TooLarge                  // key, value or request over a limit; Cause names the limit
	NoSpace                   // the store or its disk is full: surely not applied; Cause says what makes room
	NoLease                   // there is no such shared lease; Cause is its id
	Corrupt                   // what this member holds differs from what the others hold: ask another one; Cause says more
)

var kindText = [...]string{
	Internal: "internal error", NotFound: "key not found", CompareFailed: "compare failed",
	NotFile: "not a file", NotDir: "not a directory", Exists: "key already exists",
	RootReadOnly: "root is read only", DirNotEmpty: "directory not empty", Denied: "not permitted",
	Invalid: "invalid request", HistoryGone: "history has been cleared", NoLeader: "no leader",
	Timeout: "timed out", Unknown: "outcome unknown", Unavailable: "store unavailable", Closed: "closed",
	TooLarge: "too large", NoSpace: "no space", NoLease: "lease not found", Corrupt: "corrupt member",
}

// String returns a short text in lower case.
func (k Kind) String() string {
	if int(k) < len(kindText) {
		return kindText[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Error says what was attempted, on which key, why it failed and where the store stood.
type Error struct {
	Op    string // the verb, "set"; may be empty
	Key   string // "/" for the root; may be empty
	Kind  Kind
	Cause string // what the store says about it: a path, a comparison, a reason
	Index Index  // of the store when it decided; 0 if the request never reached it
	Err   error  // underlying error, for errors.Is and errors.As

	Cluster string // as in Result; not part of the text
}

// Error formats as "set /a: key not found (/a) [12]", leaving out what is absent.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Op != "" && e.Key != "" {
		b.WriteByte(' ')
	}
	b.WriteString(e.Key)
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	b.WriteString(e.Kind.String())
	if e.Cause != "" {
		fmt.Fprintf(&b, " (%s)", e.Cause)
	}
	if e.Index != 0 {
		fmt.Fprintf(&b, " [%d]", e.Index)
	}
	if e.Err != nil {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the underlying error.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the Kind of the first Error in err's chain, Internal for any other error and nil.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is an Error of kind k.
func Is(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}

// Temporary reports whether the same call may succeed later without anybody changing the
// request. A write that failed with Timeout or Unknown may already have happened.
func Temporary(err error) bool {
	switch KindOf(err) {
	case NoLeader, Timeout, Unknown, Unavailable:
		return true
	}
	return false
}
