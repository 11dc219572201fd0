package sidekick

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/workload"
)

// child is a command that runs for as long as its Sidekick, as a workload.Source: it is Running
// from its start to its end. It lives in a process group of its own, so that a signal to
// kvsidekick reaches it only once its record is gone.
type child struct {
	command     *exec.Cmd
	stopTimeout time.Duration
	log         *slog.Logger
	signals     chan os.Signal
	ended       chan struct{} // closed when it has; command.ProcessState is set then
}

var _ workload.Source = (*child)(nil)

// startChild runs the command with the streams of env. The caller must run the returned Source.
func startChild(args []string, stopTimeout time.Duration, env *program.Env) (*child, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return nil, cannotRun(args[0], err)
	}
	command := exec.Command(path, args[1:]...)
	command.Args[0] = args[0]
	command.Stdin, command.Stdout, command.Stderr = env.Stdin, env.Stdout, env.Stderr
	command.Env = childEnvironment(os.Environ())
	// If kvsidekick is killed nobody keeps the record alive: the child had better stop as well.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	command.WaitDelay = time.Second // for a grandchild that keeps the streams open when they are not files

	c := &child{command: command, stopTimeout: stopTimeout, log: env.Log, signals: make(chan os.Signal, 8), ended: make(chan struct{})}
	signal.Notify(c.signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	started := make(chan error)
	go func() {
		// The death signal is sent when the thread that started the child ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := command.Start()
		started <- err
		if err == nil {
			command.Wait()
			close(c.ended)
		}
	}()
	if err := <-started; err != nil {
		signal.Stop(c.signals)
		return nil, cannotRun(args[0], err)
	}
	return c, nil
}

// cannotRun says why a command does not start, with what is most often behind it and with the code
// that a shell would exit with.
func cannotRun(name string, err error) error {
	code, hint := exitNotExecutable, ""
	switch {
	case errors.Is(err, exec.ErrNotFound):
		code, err = exitNotFound, fmt.Errorf("there is no such program in $PATH; give its path, as in ./%s", name)
	case errors.Is(err, fs.ErrNotExist):
		code, hint = exitNotFound, "; if the file is there, the interpreter that its first line names is not"
	case errors.Is(err, syscall.ENOEXEC):
		hint = ": it is neither a binary for this machine nor a script that begins with #!"
	}
	return &program.ExitError{Code: code, Err: fmt.Errorf("cannot run %q: %w%s", name, err, hint)}
}

// childEnvironment leaves out what is meant for kvsidekick: its settings, among them passwords, and
// the service manager's socket, on which it speaks for the child.
func childEnvironment(environment []string) []string {
	var kept []string
	for _, variable := range environment {
		name, _, _ := strings.Cut(variable, "=")
		switch {
		case strings.HasPrefix(name, "KVSIDEKICK_"), name == "ETCDCTL_USERNAME",
			name == "NOTIFY_SOCKET", name == "WATCHDOG_USEC", name == "WATCHDOG_PID":
		default:
			kept = append(kept, variable)
		}
	}
	return kept
}

// Run passes signals on until the child ends, and returns then. When ctx ends it tells the child
// to stop, and kills it when that takes too long.
func (c *child) Run(ctx context.Context, out chan<- workload.Snapshot) error {
	defer signal.Stop(c.signals)
	running := workload.Workload{
		ID: c.command.Path, Name: c.command.Args[0], Run: strconv.Itoa(c.command.Process.Pid),
		State: workload.Running, Reason: "running", PID: c.command.Process.Pid,
	}
	select {
	case out <- workload.Snapshot{Workloads: []workload.Workload{running}}:
	case <-ctx.Done():
	}
	stop := os.Signal(syscall.SIGTERM)
	for ctx.Err() == nil || len(c.signals) > 0 {
		select {
		case <-c.ended:
			return nil
		case received := <-c.signals:
			if isStop(received) {
				stop = received // ctx ends because of it, but not before the record is gone
			} else {
				c.signal(received)
			}
		case <-ctx.Done():
		}
	}
	c.signal(stop)
	return c.await()
}

// isStop reports whether s is a signal that ends kvsidekick, and the child after its record is gone.
func isStop(s os.Signal) bool { return s == syscall.SIGINT || s == syscall.SIGTERM }

// await waits for the end of a child that was told to stop.
func (c *child) await() error {
	var tooLong <-chan time.Time
	if c.stopTimeout > 0 {
		timer := time.NewTimer(c.stopTimeout)
		defer timer.Stop()
		tooLong = timer.C
	}
	for {
		select {
		case <-c.ended:
			return nil
		case received := <-c.signals:
			c.signal(received)
		case <-tooLong:
			c.log.Warn("the command did not stop in time and is killed", "stop_timeout", c.stopTimeout)
			c.signal(syscall.SIGKILL)
		}
	}
}

// signal sends s to the child's whole group.
func (c *child) signal(s os.Signal) {
	if number, ok := s.(syscall.Signal); ok {
		syscall.Kill(-c.command.Process.Pid, number) // fails only if nobody is left to hear it
	}
}

// succeeded is the outcome of a command that found nothing wrong.
const succeeded = "exit code 0"

// outcome says how the child ended. It must have.
func (c *child) outcome() string {
	<-c.ended
	if status, ok := c.command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return fmt.Sprintf("signal %d (%v)", int(status.Signal()), status.Signal())
	}
	return fmt.Sprintf("exit code %d", c.command.ProcessState.ExitCode())
}

// exitCode is what a shell would report: the code, or 128 plus the number of the signal that
// killed the child. The child must have ended.
func (c *child) exitCode() int {
	<-c.ended
	if status, ok := c.command.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return program.ExitSignal + int(status.Signal())
	}
	return c.command.ProcessState.ExitCode()
}
