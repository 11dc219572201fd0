package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// Command is a local command as a resource file gives it: a line for a shell, or a program with its
// arguments. It comes from local configuration alone; nothing that was read from a store may be part of
// it. The zero Command is none. It is not changed once it is made.
type Command struct {
	Shell string   // for /bin/sh -c; "" if Argv is given
	Argv  []string // a program, looked for in PATH, and its arguments; no shell sees them
	// Template makes Shell a text/template of .src, .dest and .dir, as confd's check_cmd is. If that does
	// not work out, because braces are meant for somebody else such as docker's --format, and always
	// without Template, only the placeholders {{.src}}, {{.dest}} and {{.dir}} are replaced.
	Template bool
	// Timeout is how long it may take; 0 stands for DefaultTimeout.
	Timeout time.Duration
	// Sensitive keeps what the command printed out of the error: a checker quotes the line it dislikes.
	Sensitive bool
}

// DefaultTimeout is how long a command may take that has no Timeout.
const DefaultTimeout = time.Minute

// Vars are the values of a command's placeholders. An empty one leaves its placeholder as it is.
type Vars struct {
	Src  string // {{.src}}: the file to look at: staged beside the destination, or in a check directory
	Dest string // {{.dest}}: the destination
	Dir  string // {{.dir}}: the private check directory, in which every path stands as below /
}

// IsZero reports whether there is no command.
func (c Command) IsZero() bool { return c.Shell == "" && len(c.Argv) == 0 }

// Equal reports whether c and other run the same thing; how long it may take does not matter.
func (c Command) Equal(other Command) bool {
	return c.Shell == other.Shell && slices.Equal(c.Argv, other.Argv)
}

// String returns the line, or the arguments as a list in brackets: what a resource file says. Commands that
// are not Equal have different texts.
func (c Command) String() string {
	if len(c.Argv) == 0 {
		return c.Shell
	}
	text, err := json.Marshal(c.Argv)
	if err != nil {
		return fmt.Sprintf("%q", c.Argv)
	}
	return string(text)
}

// Uses reports whether the command asks for a placeholder: "src", "dest" or "dir".
func (c Command) Uses(name string) bool {
	asks := regexp.MustCompile(`\{\{[^{}]*\.` + regexp.QuoteMeta(name) + `\b[^{}]*\}\}`)
	return slices.ContainsFunc(append([]string{c.Shell}, c.Argv...), asks.MatchString)
}

// With returns c with the placeholders of vars replaced, as Run does it.
func (c Command) With(vars Vars) Command {
	if c.Template {
		c.Template = false
		if line, err := vars.execute(c.Shell); err == nil {
			c.Shell = line
			return c
		}
	}
	c.Shell = vars.expand(c.Shell)
	c.Argv = slices.Clone(c.Argv)
	for i, argument := range c.Argv {
		c.Argv[i] = vars.expand(argument)
	}
	return c
}

// execute treats line as a template. A variable that is not given is an error.
func (v Vars) execute(line string) (string, error) {
	parsed, err := template.New("").Option("missingkey=error").Parse(line)
	if err != nil {
		return "", err
	}
	given := map[string]string{}
	for name, value := range v.byName() {
		if value != "" {
			given[name] = value
		}
	}
	var text strings.Builder
	err = parsed.Execute(&text, given)
	return text.String(), err
}

func (v Vars) byName() map[string]string {
	return map[string]string{"src": v.Src, "dest": v.Dest, "dir": v.Dir}
}

var placeholder = regexp.MustCompile(`\{\{-?\s*\.(src|dest|dir)\s*-?\}\}`)

// expand replaces the placeholders in text and leaves every other pair of braces alone.
func (v Vars) expand(text string) string {
	values := v.byName()
	return placeholder.ReplaceAllStringFunc(text, func(match string) string {
		if value := values[placeholder.FindStringSubmatch(match)[1]]; value != "" {
			return value
		}
		return match
	})
}

// stopGrace is how long a command may go on after its agent has been told to stop: a reload that
// is cut off in the middle is worse than one that is waited for.
const stopGrace = 5 * time.Second

// killGrace is how long a command has between SIGTERM and SIGKILL when its time is over.
const killGrace = 2 * time.Second

// outputBytesMax is how much of a command's output is kept for the log: its end, because that is
// where the reason of a failure stands.
const outputBytesMax = 8 << 10

// Run runs c with the placeholders of vars replaced, in a process group of its own and in kvconfd's
// environment, without input, and waits for it: at most c.Timeout and, once ctx is done, at most five seconds
// more; then the whole group is told to end, and killed two seconds later. What the command has put into the
// background with a session of its own is a daemon and left alone. Run returns the end of what the command
// printed, 8 KiB at most. The error says what c did and repeats that, unless c is Sensitive.
func Run(ctx context.Context, c Command, vars Vars) (output string, err error) {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
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
	err = c.With(vars).run(running, &kept)
	output = strings.TrimSpace(string(kept))
	switch {
	case err == nil:
		return output, nil
	case errors.Is(running.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("%q was killed because it took longer than %v", c, timeout)
	case running.Err() != nil:
		err = fmt.Errorf("%q was killed because the agent was stopped", c)
	default:
		err = fmt.Errorf("%q failed: %w", c, err)
	}
	if output != "" && !c.Sensitive {
		err = fmt.Errorf("%w: %s", err, output)
	}
	return output, err
}

// run starts c, whose placeholders are replaced, and waits for it until ctx ends.
func (c Command) run(ctx context.Context, output *tail) error {
	argv := c.Argv
	if len(argv) == 0 {
		argv = []string{"/bin/sh", "-c", c.Shell}
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A daemon that the command leaves behind may hold its output open: that is not waited for.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrWaitDelay):
		return nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("not found: %w", err)
	}
	return err
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
