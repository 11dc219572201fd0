package etcdv2

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Code is an error code of the v2 API.
type Code int

// The codes that are sent. The API defines more that no server has ever sent.
const (
	CodeKeyNotFound    Code = 100
	CodeCompareFailed  Code = 101
	CodeNotFile        Code = 102
	CodeNotDir         Code = 104
	CodeNodeExist      Code = 105
	CodeRootReadOnly   Code = 107
	CodeDirNotEmpty    Code = 108
	CodeUnauthorized   Code = 110
	CodeNoLease        Code = 111 // kvd's own; the API has nothing like it
	CodePrevValue      Code = 201
	CodeTTLNaN         Code = 202
	CodeIndexNaN       Code = 203
	CodeInvalidField   Code = 209
	CodeInvalidForm    Code = 210
	CodeRefreshValue   Code = 211
	CodeRefreshTTL     Code = 212
	CodeRaftInternal   Code = 300
	CodeLeaderElect    Code = 301
	CodeEventIndexGone Code = 401
)

// codes holds for each code its message, HTTP status and kind.
var codes = map[Code]struct {
	message string
	status  int
	kind    kv.Kind
}{
	CodeKeyNotFound:    {"Key not found", http.StatusNotFound, kv.NotFound},
	CodeCompareFailed:  {"Compare failed", http.StatusPreconditionFailed, kv.CompareFailed},
	CodeNotFile:        {"Not a file", http.StatusForbidden, kv.NotFile},
	CodeNotDir:         {"Not a directory", http.StatusBadRequest, kv.NotDir},
	CodeNodeExist:      {"Key already exists", http.StatusPreconditionFailed, kv.Exists},
	CodeRootReadOnly:   {"Root is read only", http.StatusBadRequest, kv.RootReadOnly},
	CodeDirNotEmpty:    {"Directory not empty", http.StatusForbidden, kv.DirNotEmpty},
	CodeUnauthorized:   {"The request requires user authentication", http.StatusUnauthorized, kv.Denied},
	CodeNoLease:        {"Lease not found", http.StatusNotFound, kv.NoLease},
	CodePrevValue:      {"PrevValue is Required in POST form", http.StatusBadRequest, kv.Invalid},
	CodeTTLNaN:         {"The given TTL in POST form is not a number", http.StatusBadRequest, kv.Invalid},
	CodeIndexNaN:       {"The given index in POST form is not a number", http.StatusBadRequest, kv.Invalid},
	CodeInvalidField:   {"Invalid field", http.StatusBadRequest, kv.Invalid},
	CodeInvalidForm:    {"Invalid POST form", http.StatusBadRequest, kv.Invalid},
	CodeRefreshValue:   {"Value provided on refresh", http.StatusBadRequest, kv.Invalid},
	CodeRefreshTTL:     {"A TTL must be provided on refresh", http.StatusBadRequest, kv.Invalid},
	CodeRaftInternal:   {"Raft Internal Error", http.StatusInternalServerError, kv.Unknown},
	CodeLeaderElect:    {"During Leader Election", http.StatusInternalServerError, kv.NoLeader},
	CodeEventIndexGone: {"The event in requested index is outdated and cleared", http.StatusBadRequest, kv.HistoryGone},
}

// byKind is the one table from kv's kinds to codes. Kinds that only a client meets are absent
// and render as CodeRaftInternal, as does every kind whose outcome is a matter of the cluster.
var byKind = map[kv.Kind]Code{
	kv.NotFound: CodeKeyNotFound, kv.CompareFailed: CodeCompareFailed, kv.NotFile: CodeNotFile,
	kv.NotDir: CodeNotDir, kv.Exists: CodeNodeExist, kv.RootReadOnly: CodeRootReadOnly,
	kv.DirNotEmpty: CodeDirNotEmpty, kv.Denied: CodeUnauthorized, kv.Invalid: CodeInvalidField,
	kv.HistoryGone: CodeEventIndexGone, kv.TooLarge: CodeInvalidForm,
	kv.NoLease: CodeNoLease,
}

// Error is the JSON form of an error of the keys API.
type Error struct {
	Code    Code     `json:"errorCode"`
	Message string   `json:"message"`
	Cause   string   `json:"cause,omitempty"`
	Index   kv.Index `json:"index"`
}

// NewError returns the error of a request that was refused before it reached the store: index 0.
func NewError(code Code, cause string) *Error {
	return &Error{Code: code, Message: codes[code].message, Cause: cause}
}

// troubles are the kinds of trouble in a cluster that etcd has a text for. They share one code, so
// that the text is all by which a client can tell whether a write surely did not happen.
var troubles = map[kv.Kind]string{
	kv.NoLeader:    "etcdserver: no leader",
	kv.Timeout:     "etcdserver: request timed out", // which etcd goes on from in some cases
	kv.Unavailable: "etcdserver: too many requests",
	kv.NoSpace:     noSpace,
	kv.Corrupt:     "etcdserver: corrupt cluster",
}

// noSpace is etcd's text for a store that is full. What makes room follows it.
const noSpace = "etcdserver: mvcc: database space exceeded"

// Overloaded returns the error of a request that was surely not executed because of a limit, which
// why names. Decode makes kv.Unavailable of it.
func Overloaded(why string) *Error {
	return NewError(CodeRaftInternal, troubles[kv.Unavailable]+": "+why)
}

// Starting returns the error of a request that was surely not executed because the member that was
// asked has not started yet; why says what it waits for. Decode makes kv.NoLeader of it.
func Starting(why string) *Error {
	return NewError(CodeRaftInternal, troubles[kv.NoLeader]+": this member is starting: "+why)
}

// Unreached returns the error of a request that was surely not executed because whoever passes requests
// on can ask no member; why names the members and what is wrong. Decode makes kv.NoLeader of it: to
// clients of etcd it is a cluster that cannot serve them now.
func Unreached(why string) *Error {
	return NewError(CodeRaftInternal, troubles[kv.NoLeader]+": no member can be asked: "+why)
}

// EncodeError returns the wire form of err. Errors without a code of their own become 300 with
// index 0, as etcd renders whatever its consensus layer reports, and with etcd's text for their
// kind as cause, or else their own.
func EncodeError(err error) *Error {
	var wire *Error
	if errors.As(err, &wire) {
		return wire
	}
	var e *kv.Error
	if errors.As(err, &e) {
		if code, ok := byKind[e.Kind]; ok {
			return &Error{Code: code, Message: codes[code].message, Cause: e.Cause, Index: e.Index}
		}
		if text, ok := troubles[e.Kind]; ok {
			if (e.Kind == kv.NoSpace || e.Kind == kv.Corrupt) && e.Cause != "" {
				text += ": " + e.Cause
			}
			return NewError(CodeRaftInternal, text)
		}
		if e.Cause != "" {
			return NewError(CodeRaftInternal, e.Cause)
		}
	}
	return NewError(CodeRaftInternal, err.Error())
}

// Error returns the message in the form that etcdctl prints: "100: Key not found (/a) [12]".
func (e *Error) Error() string {
	return fmt.Sprintf("%d: %s (%s) [%d]", e.Code, e.Message, e.Cause, e.Index)
}

// Status returns the HTTP status that goes with the code; 400 for a code that is not known. That of
// a store that is full is 403, as of other refusals that end when keys are removed: on any 5xx
// clients of etcd ask all members in turn and then tell of trouble in the cluster, not of the cause.
func (e *Error) Status() int {
	if e.Code == CodeRaftInternal && strings.HasPrefix(e.Cause, noSpace) {
		return http.StatusForbidden
	}
	if known, ok := codes[e.Code]; ok {
		return known.status
	}
	return http.StatusBadRequest
}

// Decode returns the kv.Error that wire stands for, about op on key. The wire error is its Err.
func (e *Error) Decode(op, key string) *kv.Error {
	kind := kv.Internal
	if known, ok := codes[e.Code]; ok {
		kind = known.kind
	}
	if e.Code == CodeRaftInternal {
		for trouble, text := range troubles {
			if strings.HasPrefix(e.Cause, text) {
				kind = trouble
			}
		}
	}
	return &kv.Error{Op: op, Key: key, Kind: kind, Cause: e.Cause, Index: e.Index, Err: e}
}
