// Package health finds out whether something answers: single checks over TCP, HTTP, gRPC or
// a command, and a monitor that turns their results into a steady verdict.
//
// It knows how to ask and how often. It does not know what is asked, nor what follows from the
// answer: that is for whoever registers services.
package health

import (
	"context"
	"fmt"
	"net"
)

// Check asks once whether something is healthy.
type Check interface {
	// Run returns nil if it is, and otherwise why not. It blocks until there is an answer or ctx
	// ends. It may be called concurrently.
	Run(ctx context.Context) error
	// String returns the check as Parse would read it.
	String() string
}

// Talker is a Check that also says what it saw when it passed.
type Talker interface {
	Check
	// Ask is Run, with one short line about a check that passed.
	Ask(ctx context.Context) (seen string, err error)
}

// None is the check that always passes.
type None struct{}

// Run returns nil.
func (None) Run(context.Context) error { return nil }

func (None) String() string { return "none" }

// Engine is the check of what runs by the engine that runs it: its HEALTHCHECK, or the state of its
// unit. The engine tells that by itself, so that there is nothing to ask: it always passes.
type Engine struct{ Name string } // "docker" or "systemd"

// Run returns nil.
func (Engine) Run(context.Context) error { return nil }

func (c Engine) String() string { return c.Name }

// Asks reports whether a check finds anything out: None and Engine do not.
func Asks(check Check) bool {
	switch check.(type) {
	case None, Engine:
		return false
	}
	return true
}

// TCP passes when a connection to Address, "HOST:PORT", is accepted. It sends nothing.
type TCP struct{ Address string }

// Run connects and closes.
func (c TCP) Run(ctx context.Context) error {
	connection, err := dialer().DialContext(ctx, "tcp", c.Address)
	if err != nil {
		return fmt.Errorf("tcp check: %w", err)
	}
	return connection.Close()
}

func (c TCP) String() string { return "tcp:" + c.Address }

// dialer makes connections that do not live long enough to be kept alive.
func dialer() *net.Dialer { return &net.Dialer{KeepAlive: -1} }
