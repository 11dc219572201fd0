package ctl

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/kvd-io/kvd/pkg/program"
)

// valueBytesMax bounds what is read from stdin. Servers accept less.
const valueBytesMax = 64 << 20

// usageError is a command line that makes no sense.
type usageError struct{ text, hint string }

func (e *usageError) Error() string { return e.text }

// onlyKey returns the one argument, a key.
func onlyKey(args []string) (string, error) {
	if len(args) == 0 {
		return "", &usageError{text: "key required"}
	}
	return args[0], noMore(args, 1)
}

// keyAndValue returns a key and a value, which is read from stdin when it is not an argument.
func keyAndValue(ctx context.Context, env *program.Env, args []string) (key, value string, err error) {
	if len(args) == 0 {
		return "", "", &usageError{text: "key required"}
	}
	if len(args) >= 2 {
		return args[0], args[1], noMore(args, 2)
	}
	if terminal, ok := env.Stdin.(*os.File); ok && program.IsTerminal(terminal) {
		return "", "", &usageError{text: "value required", hint: "give it as an argument or through a pipe"}
	}
	data, err := readAll(ctx, env.Stdin)
	switch {
	case ctx.Err() != nil:
		return "", "", ctx.Err()
	case err != nil:
		return "", "", &usageError{text: fmt.Sprintf("cannot read the value from stdin: %v", err)}
	case len(data) > valueBytesMax:
		return "", "", &usageError{text: fmt.Sprintf("the value on stdin is over %d bytes", valueBytesMax)}
	case len(data) == 0:
		return "", "", &usageError{text: "value required", hint: `stdin is empty; for an empty value say ""`}
	}
	return args[0], string(data), nil
}

// readAll reads up to one byte more than a value may have, unless ctx ends first. A read of stdin
// cannot be called off: then it is left behind, and ends with the process.
func readAll(ctx context.Context, r io.Reader) ([]byte, error) {
	done := make(chan struct{})
	var read []byte
	var readErr error
	go func() {
		defer close(done)
		read, readErr = io.ReadAll(io.LimitReader(r, valueBytesMax+1))
	}()
	select {
	case <-done:
		return read, readErr
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// noMore refuses arguments after the first n: most often a value that was not quoted.
func noMore(args []string, n int) error {
	if len(args) <= n {
		return nil
	}
	return &usageError{text: fmt.Sprintf("unexpected argument %q", args[n]), hint: "quote a value that holds spaces"}
}

// keyAndCommand returns the key and the command of exec-watch: "KEY -- COMMAND..." when there is
// a "--", else the key is the last argument.
func keyAndCommand(args []string, dash int) (key string, argv []string, err error) {
	switch {
	case len(args) < 2 || dash == 0 || dash == len(args):
		return "", nil, &usageError{text: "key and command to exec required", hint: "kvctl exec-watch KEY -- COMMAND [ARGUMENT]..."}
	case dash < 0:
		return args[len(args)-1], args[:len(args)-1], nil
	case dash > 1:
		return "", nil, &usageError{text: fmt.Sprintf("unexpected argument %q before \"--\"", args[1]), hint: "one key, then -- and the command"}
	}
	return args[0], args[1:], nil
}
