package install

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// stopGrace is how long a command may go on after its agent has been told to stop: a reload that
// is cut off in the middle is worse than one that is waited for.
const stopGrace = 5 * time.Second

// outputBytesMax is how much of a command's output is kept for the log: its end, because that is
// where the reason of a failure stands.
const outputBytesMax = 8 << 10

// Run gives line to /bin/sh in a process group of its own and waits for it, at most timeout and,
// once ctx is done, at most five seconds more; then the whole group is killed. It returns the end
// of what the command printed. The error says what line did and repeats its output.
//
// line comes from local configuration alone. Nothing that was read from a store may be part of it.
func Run(ctx context.Context, line string, timeout time.Duration) (output string, err error) {
	running, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	finished := make(chan struct{})
	defer close(finished)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(stopGrace):
			cancel()
		case <-finished:
		}
	})
	defer stop()

	var kept tail
	cmd := exec.CommandContext(running, "/bin/sh", "-c", line)
	cmd.Stdout, cmd.Stderr = &kept, &kept
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A daemon that the command leaves behind may hold its output open: that is not waited for.
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	output = strings.TrimSpace(string(kept))
	switch {
	case err == nil:
		return output, nil
	case errors.Is(running.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("%q was killed because it took longer than %v", line, timeout)
	case running.Err() != nil:
		err = fmt.Errorf("%q was killed because the agent was stopped", line)
	default:
		err = fmt.Errorf("%q failed: %w", line, err)
	}
	if output != "" {
		err = fmt.Errorf("%w: %s", err, output)
	}
	return output, err
}

// tail keeps the last outputBytesMax bytes written to it.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	*t = append(*t, p...)
	if extra := len(*t) - outputBytesMax; extra > 0 {
		*t = append((*t)[:0], (*t)[extra:]...)
	}
	return len(p), nil
}
