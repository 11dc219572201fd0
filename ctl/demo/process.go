package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// process is a running child in a process group of its own. The kernel kills it should this
// process die without saying goodbye.
type process struct {
	name  string
	log   string // file with its output
	cmd   *exec.Cmd
	ended chan struct{} // closed once the child has been waited for
	err   error         // how it ended; valid once ended is closed
}

// start runs argv in folder, with its output in NAME.log there. Of this process's environment it gets only
// what every program needs, so that settings meant for other stores cannot disturb the demo.
func start(folder, name string, settings []string, argv ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(folder, name+".log"), ended: make(chan struct{})}
	output, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer output.Close()
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Dir = folder
	p.cmd.Env = append(plainEnvironment(), settings...)
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		// What the child leaves behind in its group ends with it. Later would be too late: the
		// number of a group whose leader is gone may be given to another.
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		close(p.ended)
	}()
	return p, nil
}

func plainEnvironment() (variables []string) {
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			variables = append(variables, name+"="+value)
		}
	}
	return variables
}

// over reports whether the child has ended.
func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// signal reaches the child, not the rest of its group.
func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// kill ends the child and everything in its group at once, and waits for the child.
func (p *process) kill() {
	if !p.over() {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.ended
	}
}

// stop asks the child to end and waits for it up to grace; then it kills the group and returns
// an error.
func (p *process) stop(grace time.Duration) error {
	if err := p.signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		<-p.ended
		return nil
	}
	defer p.kill()
	select {
	case <-p.ended:
		return nil
	case <-time.After(grace):
		return fmt.Errorf("%s (pid %d) did not end within %v of SIGTERM", p.name, p.cmd.Process.Pid, grace)
	}
}

// wait returns when the child has ended well, with an error that shows the end of its log if it
// ended otherwise or did not end within bound.
func (p *process) wait(ctx context.Context, bound time.Duration) error {
	select {
	case <-p.ended:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(bound):
		return fmt.Errorf("%s did not end within %v; its last words:\n%s", p.name, bound, lastLines(p.log, 8))
	}
	if p.err != nil {
		return fmt.Errorf("%s failed (%w); its last words:\n%s", p.name, p.err, lastLines(p.log, 8))
	}
	return nil
}

// alive returns an error that shows the end of the log if the child has ended.
func (p *process) alive() error {
	if !p.over() {
		return nil
	}
	reason := "exit code 0"
	if p.err != nil {
		reason = p.err.Error()
	}
	return fmt.Errorf("%s ended unexpectedly (%s); its last words:\n%s", p.name, reason, lastLines(p.log, 8))
}

// lastLines returns up to n lines from the end of a file, indented.
func lastLines(path string, n int) string {
	file, err := os.Open(path)
	if err != nil {
		return "    " + err.Error()
	}
	defer file.Close()
	const tailBytes = 16 << 10
	if info, err := file.Stat(); err == nil && info.Size() > tailBytes {
		_, _ = file.Seek(-tailBytes, io.SeekEnd) // a regular file of that size can be sought
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return "    " + err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-n):], "\n    ")
}

// crew is what has to be undone at the end, in the order in which it came about.
type crew struct {
	undo []func() error
	// essential children must live as long as the demo does.
	essential []*process
}

// stopGrace is how long a child may take to end at the end of the demo.
const stopGrace = 5 * time.Second

// join adds a child that the end of the demo stops.
func (c *crew) join(p *process) { c.later(func() error { return p.stop(stopGrace) }) }

// joinEssential adds a child whose death fails the demo.
func (c *crew) joinEssential(p *process) {
	c.join(p)
	c.rely(p)
}

// rely makes the death of a child fail the demo from now on.
func (c *crew) rely(p *process) { c.essential = append(c.essential, p) }

// release lets an essential child end without failing the demo.
func (c *crew) release(p *process) {
	c.essential = slices.DeleteFunc(c.essential, func(other *process) bool { return other == p })
}

// later adds any other act of cleaning up.
func (c *crew) later(act func() error) { c.undo = append(c.undo, act) }

// check returns an error if an essential child has ended.
func (c *crew) check() error {
	for _, p := range c.essential {
		if err := p.alive(); err != nil {
			return err
		}
	}
	return nil
}

// dismiss undoes everything, last come first, and returns what went wrong with it.
func (c *crew) dismiss() error {
	var problems []error
	for i := len(c.undo) - 1; i >= 0; i-- {
		problems = append(problems, c.undo[i]())
	}
	c.undo, c.essential = nil, nil
	return errors.Join(problems...)
}

// await polls level until it is true, an essential child dies, bound has passed or ctx ends.
func (c *crew) await(ctx context.Context, bound time.Duration, level func() bool) error {
	deadline := time.Now().Add(bound)
	for {
		switch {
		case level():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("not within %v", bound)
		}
		if err := c.check(); err != nil {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}
