package health

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// outputBytesMax is how much of a command's output an error shows.
const outputBytesMax = 256

// Exec passes when a command exits with 0. The command is an argument list, never a shell line.
// Exec runs what it is told to: build it from local settings only, never from a label or a value
// of the store.
type Exec struct{ Args []string }

// Run is Ask.
func (c Exec) Run(ctx context.Context) error {
	_, err := c.Ask(ctx)
	return err
}

// Ask starts the command in a process group of its own and kills the group when ctx ends. What it
// saw is the first line that the command has written.
func (c Exec) Ask(ctx context.Context) (string, error) {
	output := &head{}
	command := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = time.Second // for a grandchild that left the group and keeps the output open
	err := command.Run()
	switch {
	case err == nil:
		return firstLine(output.String(), outputBytesMax), nil
	case ctx.Err() != nil:
		err = fmt.Errorf("killed: %w", context.Cause(ctx))
	case errors.Is(err, exec.ErrWaitDelay): // it exited with 0; what it left in the background is its own affair
		return firstLine(output.String(), outputBytesMax), nil
	}
	if text := strings.TrimSpace(strings.ToValidUTF8(output.String(), "")); text != "" {
		return "", fmt.Errorf("exec check: %s: %w: %s", c.Args[0], err, text)
	}
	return "", fmt.Errorf("exec check: %s: %w", c.Args[0], err)
}

func (c Exec) String() string { return "exec:" + strings.Join(c.Args, " ") }

// head keeps the beginning of what is written to it.
type head struct{ bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), outputBytesMax-h.Len())])
	return len(p), nil
}
