package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
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

const (
	// stopGrace is how long a command may go on after its agent has been told to stop: a reload that
	// is cut off in the middle is worse than one that is waited for.
	stopGrace = 5 * time.Second
	// killGrace is how long a command has between SIGTERM and SIGKILL when its time is over.
	killGrace = 2 * time.Second
	// outputGrace is how long what a command has printed is waited for after it has ended: a daemon that it
	// leaves behind may hold its output open for ever.
	outputGrace = time.Second
)

// outputBytesMax is how much of a command's output is kept for the log: its end, because that is
// where the reason of a failure stands.
const outputBytesMax = 8 << 10

// Run runs c with the placeholders of vars replaced, in a process group of its own, without input and with kvconfd's
// environment, less what the service manager says in it, and waits for it: at most c.Timeout and, once ctx is
// done, at most five seconds more. Then it and what it has begun, in its group or others as timeout(1) makes them, is told
// to end by SIGTERM, and killed two seconds later. A process that the command has given a session of its own is a daemon
// and left alone.
//
// Run returns the end of what the command printed, 8 KiB at most, in which the destination stands for the file
// that was checked in its place; nothing of a Sensitive command. The error says what c did and repeats that.
// Run may be called by several goroutines.
func Run(ctx context.Context, c Command, vars Vars) (output string, err error) {
	return runNoting(ctx, c, vars, nil, func(int) {})
}

// runNoting is Run, has the command inherit files, and calls started with the number of its process.
func runNoting(ctx context.Context, c Command, vars Vars, inherited []*os.File, started func(pid int)) (output string, err error) {
	var kept tail
	err = c.With(vars).run(ctx, &kept, inherited, started)
	if !c.Sensitive {
		output = vars.unstaged(strings.ToValidUTF8(strings.TrimSpace(string(kept)), "?"))
	}
	if err == nil {
		return output, nil
	}
	err = fmt.Errorf("%s %w", c.quoted(), err)
	switch {
	case c.Sensitive && len(kept) > 0:
		err = fmt.Errorf("%w; what it printed is not shown, because the content is sensitive", err)
	case output != "":
		err = fmt.Errorf("%w: %s", err, output)
	}
	return output, err
}

// quoted returns c for a message.
func (c Command) quoted() string {
	if len(c.Argv) > 0 {
		return c.String()
	}
	return strconv.Quote(c.Shell)
}

// unstaged returns text with the names of staged files turned into those of the files they are for. Names that
// are made up anew at each try would make the same failure look like another.
func (v Vars) unstaged(text string) string {
	if v.Src != "" && v.Dest != "" {
		text = strings.ReplaceAll(text, v.Src, v.Dest)
	}
	if v.Dir != "" {
		text = strings.ReplaceAll(text, v.Dir+"/", "/")
	}
	return text
}

// run starts c, whose placeholders are replaced, and waits for it. The error says how it ended, as what follows
// its name in a sentence.
func (c Command) run(ctx context.Context, output *tail, inherited []*os.File, started func(pid int)) error {
	argv := c.Argv
	if len(argv) == 0 {
		argv = []string{"/bin/sh", "-c", c.Shell}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles, cmd.Env = output, output, inherited, environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = outputGrace
	if err := cmd.Start(); err != nil {
		return c.notStarted(err)
	}
	started(cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	cut, err := c.await(ctx, ended)
	if cut == "" {
		return c.explain(err)
	}
	groups := groupsOf(cmd.Process.Pid)
	signalAll(groups, syscall.SIGTERM)
	grace := time.NewTimer(killGrace)
	defer grace.Stop()
	select {
	case <-ended:
		signalAll(groups, syscall.SIGKILL) // whoever does not listen to SIGTERM
	case <-grace.C:
		signalAll(groups, syscall.SIGKILL)
		<-ended
	}
	return errors.New("was killed because " + cut)
}

// environment is kvconfd's without the service manager's words to it: systemctl, for one, would tell it of
// failures as if they were kvconfd's.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return name == "NOTIFY_SOCKET" || name == "WATCHDOG_USEC" || name == "WATCHDOG_PID"
	})
}

// await returns how the command ended, or why it must be cut off.
func (c Command) await(ctx context.Context, ended <-chan error) (cut string, err error) {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	var stopped <-chan time.Time
	for done := ctx.Done(); ; {
		select {
		case err := <-ended:
			return "", err
		case <-deadline.C:
			return fmt.Sprintf("it took longer than %v", timeout), nil
		case <-stopped:
			return "the agent was stopped", nil
		case <-done:
			done = nil
			grace := time.NewTimer(stopGrace)
			defer grace.Stop()
			stopped = grace.C
		}
	}
}

// notStarted says why a program could not be started.
func (c Command) notStarted(err error) error {
	switch {
	case len(c.Argv) == 0 && errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("failed: not found: there is no /bin/sh here; write the command as a list of a program and its arguments (%w)", err)
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("failed: not found: %s; install it, or give its whole path (%w)", c.Argv[0], err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("failed: it may not be executed by this user (%w)", err)
	}
	return fmt.Errorf("failed: it could not be started: %w", err)
}

// The exit codes with which a shell says that it could not run a command.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// explain says how a command ended; nil if it succeeded.
func (c Command) explain(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it succeeded, and its output is held open by another
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("failed: %w", err)
	case exit.ExitCode() == exitNotFound:
		return fmt.Errorf("failed: not found: %w, with which a shell says that there is no such program in its PATH", err)
	case exit.ExitCode() == exitNotExecutable:
		return fmt.Errorf("failed: %w, with which a shell says that a program may not be executed", err)
	case !exit.Exited():
		return fmt.Errorf("failed: it was ended from outside, not by kvconfd: %w", err)
	}
	return fmt.Errorf("failed: %w", err)
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
