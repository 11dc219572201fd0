package kvclient

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

// failure is what went wrong with one endpoint.
type failure struct {
	endpoint *url.URL
	err      error
}

// failures are those of one call, in the order they happened; there is at least one.
type failures []failure

// err returns the error of a call that surely did nothing.
func (f failures) err() error {
	// A server that answered knows more than a connection that failed.
	for _, one := range f {
		var answered *kv.Error
		if errors.As(one.err, &answered) {
			return answered
		}
	}
	kind, advice := kv.Unavailable, "check --endpoints and the network in between"
	switch last := f[len(f)-1].err; {
	case isTLS(last):
		kind, advice = kv.Denied, "check --ca-file, --cert-file and --key-file, and whether the server speaks https"
	case errors.Is(last, syscall.ECONNREFUSED):
		advice = "is kvd running? try systemctl status kvd, or name where it listens with --endpoints"
	}
	return &kv.Error{Kind: kind, Err: &unreached{"cannot reach " + f.String() + "; " + advice, f}}
}

// outcomeUnknown returns the error of a write that may have happened at the last endpoint.
func (f failures) outcomeUnknown() error {
	last := f[len(f)-1:]
	var answered *kv.Error
	switch err := last[0].err; {
	case errors.As(err, &answered):
		told := *answered
		if told.Kind != kv.Timeout {
			told.Kind = kv.Unknown
		}
		return &told
	case isTLS(err):
		return last.err() // refused before it was read
	case isTimeout(err):
		return &kv.Error{Kind: kv.Timeout, Err: &unreached{last.String() + "; " + mayHaveHappened, last}}
	}
	return &kv.Error{Kind: kv.Unknown, Err: &unreached{last.String() + "; " + mayHaveHappened, last}}
}

const mayHaveHappened = "the write may have happened: read before trying again"

// because returns cause, the end of a context, with what had failed until then, and perhaps the
// warning that the last endpoint may have acted.
func (f failures) because(cause *kv.Error, mayHaveActed bool) error {
	if last := f[len(f)-1]; cause.Kind == kv.Timeout && !errors.Is(last.err, context.Canceled) {
		text := f.String()
		if mayHaveActed {
			text += "; " + mayHaveHappened
		}
		cause.Err = &unreached{text, append(slices.Clone(f), failure{err: cause.Err})}
	}
	return cause
}

// errSecure is why a request in plain HTTP was not heard.
var errSecure = errors.New("it speaks https, not http")

// unreached is failures with advice, told once.
type unreached struct {
	text   string
	failed failures
}

func (u *unreached) Error() string { return u.text }

func (u *unreached) Unwrap() []error {
	errs := make([]error, len(u.failed))
	for i, one := range u.failed {
		errs[i] = one.err
	}
	return errs
}

// Refused reports whether err says that a store lets its user not do something. A connection that comes to nothing
// because of a certificate is Denied as well, and not this.
func Refused(err error) bool {
	var never *unreached
	return kv.Is(err, kv.Denied) && !errors.As(err, &never)
}

// String says for each endpoint what was wrong, shortly: once if it is the same for several in turn.
func (f failures) String() string {
	var text strings.Builder
	for i, one := range f {
		text.WriteString(one.endpoint.Host)
		why := reason(one.err)
		if last := i == len(f)-1; last || reason(f[i+1].err) != why {
			text.WriteString(": " + why)
		}
		if i < len(f)-1 {
			text.WriteString(", ")
		}
	}
	return text.String()
}

func reason(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case isTimeout(err):
		return "no answer in time"
	case isPlain(err):
		return "it speaks http, not https"
	}
	if why := tlsconfig.Explain(bare(err)); why != "" {
		return why
	}
	return bare(err).Error()
}

// bare returns err without the method and URL that net/http puts before it.
func bare(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func isTLS(err error) bool {
	return tlsconfig.Explain(bare(err)) != "" || isPlain(err) || errors.Is(err, errSecure)
}

// isPlain reports whether the server has answered a handshake in plain HTTP, which net/http tells
// by its text alone.
func isPlain(err error) bool {
	return err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}
