package peer

import (
	"errors"
	"fmt"
)

// Errors beneath an Error.
var (
	// ErrUnknownMember: Config.Address does not know the member.
	ErrUnknownMember = errors.New("it is not a member of the cluster, or not any more")
	// ErrBusy: as many calls, or as many bytes of requests, are in flight to the member as may be.
	ErrBusy = errors.New("too much is in flight to it already")
	// ErrTooLarge: the request or the answer has more than MessageBytesMax bytes.
	ErrTooLarge = errors.New("the message is too large")
	// ErrNotHandled is for handlers: the request had no effect and will have none.
	ErrNotHandled = errors.New("not handled")

	errNoMember = errors.New("this process is not a member of a cluster yet")
	errClosed   = errors.New("the other side has closed the connection")
)

// Error is the error of a Call.
type Error struct {
	Member uint64
	Method Method
	// Sent tells what became of the request: false means that it was surely not handled, and never
	// will be; true that it may have been, or may be yet.
	Sent bool
	Err  error
}

// Error says which call failed, and why.
func (e *Error) Error() string {
	return fmt.Sprintf("call %d to member %s: %v", e.Method, hex(e.Member), e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// HandlerError is what the other side's handler answered instead of an answer.
type HandlerError struct {
	Text       string
	NotHandled bool // the request had no effect: errors.Is finds ErrNotHandled
}

// Error returns the text of the handler's error.
func (e *HandlerError) Error() string { return e.Text }

// Unwrap returns ErrNotHandled or nil.
func (e *HandlerError) Unwrap() error {
	if e.NotHandled {
		return ErrNotHandled
	}
	return nil
}

// Refusal is the answer of a peer port that did not do what it was asked for.
type Refusal struct {
	Address string // that was dialed
	Status  int    // of HTTP, see the constants
	Text    string // one sentence of the other side
}

// The Status of a Refusal of a stream.
const (
	StatusOtherCluster  = 412 // it belongs to another cluster
	StatusOtherMember   = 421 // another member lives at the address
	StatusUnknownMember = 410 // it does not know the caller: not yet, or not any more
	StatusOtherVersion  = 426 // it speaks another version of the protocol
	StatusNotAllowed    = 403 // it does not accept the caller's certificate
	StatusNotReady      = 503 // it is no member yet, or stops
)

// Error says who refused, and why.
func (r *Refusal) Error() string { return r.Address + " refuses: " + r.Text }
