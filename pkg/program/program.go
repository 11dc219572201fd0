// Package program is the life of a process, once for all five binaries: where settings come from,
// how a signal ends it, how it logs, and which code it exits with.
//
// It knows cobra and viper and keeps them here and in the command definitions; no other package
// reads flags, the environment or a configuration file. It knows nothing of what the programs do.
//
//	func main() { os.Exit(program.Main(daemon.Program())) }
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/spelling"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// Program describes one binary. The zero value of every optional field is useful.
type Program struct {
	Name string // "kvd": the binary, and by default the environment prefix "KVD_"

	// Command builds the command tree. Settings are pflags bound to fields of the program's
	// configuration struct; their default is the flag's default and nothing else. RunE finds the
	// Env with EnvFrom(cmd.Context()).
	Command func() *cobra.Command

	// EnvAliases names further environment variables of a flag, tried in order after NAME_FLAG:
	// {"endpoints": {"ETCDCTL_ENDPOINTS"}}.
	EnvAliases map[string][]string

	// EnvPrefixes are the beginnings of the environment variables that are meant for this program, such
	// as "KVD_". Those that set nothing are in Env.Unused.
	EnvPrefixes []string

	// Elsewhere says of flags that another program has, whose users come to this one, what to do about
	// them: which takes their place, or why none does. Names are without dashes.
	Elsewhere map[string]string

	// ConfigFile is read when --config is absent; it may be missing. Empty: no default file.
	ConfigFile string

	// ConfigMayMiss says that a file which is named may be missing as well. It is for the program to tell.
	ConfigMayMiss bool

	// VersionLine is what --version prints; "" means the name of the program and its version.
	VersionLine string

	// DecodeConfig turns the bytes of the configuration file at path into flag names and values.
	// nil means that viper reads it by its extension (yaml, toml, json), with unknown names refused.
	DecodeConfig func(path string, data []byte) (map[string]any, error)

	// ConfigFlag is the flag that names the configuration file; "" means "config".
	ConfigFlag string

	// HangupEnds makes SIGHUP end the program as SIGTERM does: right for one that is used at a
	// terminal and must not outlive it. Otherwise SIGHUP goes to Env.Hangup.
	HangupEnds bool

	// LogFormat is the default of --log-format; "" means "auto".
	LogFormat string

	// Args rewrites the arguments before parsing, for programs whose users expect other
	// conventions, such as confd's single dash. nil leaves them alone.
	Args func(args []string) []string

	// Report prints a failure that no command has printed, such as an unknown flag, for programs
	// that print errors in a form that a flag chooses: the root's flags hold what arguments and
	// environment say, as far as that can be understood. It returns false to leave it to Run,
	// which prints for people; nil always does.
	Report func(w io.Writer, f Failure) bool
}

// Failure is an error that ends a program, as it is told.
type Failure struct {
	Code  int      // the exit code
	Text  string   // what happened, without the program's name
	Hints []string // what to do, a line each; may be empty
}

// Env is what a running command may use of the world. Tests build their own.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Log    *slog.Logger
	// Origins says for each flag where its value came from: see Origin.
	Origins map[string]Origin
	// Environ returns all environment variables, as os.Environ does; nil: there are none to look at.
	Environ func() []string
	// Unused are the variables that begin with one of Program.EnvPrefixes and set no flag of any
	// command, by name.
	Unused []UnusedVariable
	// Hangup receives when SIGHUP arrives, unless Program.HangupEnds; one pending signal is kept.
	Hangup <-chan os.Signal
}

type envKey struct{}

// EnvFrom returns the Env of a running command.
func EnvFrom(ctx context.Context) *Env { return ctx.Value(envKey{}).(*Env) }

// WithEnv returns ctx carrying env, for tests that call a command without Main.
func WithEnv(ctx context.Context, env *Env) context.Context {
	return context.WithValue(ctx, envKey{}, env)
}

// ExitError ends the process with Code. Err is printed unless it is nil.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *ExitError) Unwrap() error { return e.Err }

// Exit codes that mean the same in every program; each documents its own others.
const (
	ExitOK     = 0
	ExitUsage  = 1   // bad arguments or configuration
	ExitSignal = 128 // plus the signal's number
)

// stoppedBy is why the context of a command ends: a signal came.
type stoppedBy struct{ signal syscall.Signal }

func (s stoppedBy) Error() string { return "stopped by signal: " + s.signal.String() }

// Main runs p with the process's arguments, environment and streams and returns its exit code.
// SIGINT and SIGTERM cancel the command's context once; a second one ends the process at once.
// The code is 128 plus the signal's number then, and when the command gives up with
// context.Canceled; a command that ends in order and returns nil makes it 0.
func Main(p Program) int {
	hangup := make(chan os.Signal, 1)
	stops := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if p.HangupEnds {
		stops = append(stops, syscall.SIGHUP)
	} else {
		signal.Notify(hangup, syscall.SIGHUP)
		defer signal.Stop(hangup)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, stops...)
	go func() { // ends with the process
		first := (<-signals).(syscall.Signal)
		cancel(stoppedBy{first})
		second := (<-signals).(syscall.Signal)
		os.Exit(ExitSignal + int(second))
	}()
	return Run(ctx, p, os.Args[1:], os.LookupEnv, &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ, Hangup: hangup})
}

// Run is Main without the process: arguments, environment and streams are given. It fills
// env.Log, env.Origins and env.Unused.
func Run(ctx context.Context, p Program, args []string, lookupEnv func(string) (string, bool), env *Env) int {
	root := p.Command()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	root.Version = Version()
	root.SetVersionTemplate("{{.Name}} version {{.Version}}\n")
	if p.VersionLine != "" {
		root.Version = p.VersionLine
		root.SetVersionTemplate("{{.Version}}\n")
	}
	addCommonFlags(root, p)
	forgiving(root)
	if !root.Runnable() { // cobra would print the help before anybody looks at --print-config
		root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd: cmd, err: err} })

	inner := root.PersistentPreRunE
	root.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		origins, err := resolve(p, cmd, lookupEnv)
		if err != nil {
			return &ExitError{Code: ExitUsage, Err: err}
		}
		env.Origins = origins
		env.Unused = unused(p, cmd.Root(), env.Environ)
		if print, _ := cmd.Flags().GetBool(flagPrintConfig); print {
			printConfig(env.Stdout, cmd.Flags(), origins)
			return errPrinted
		}
		if env.Log, err = newLogger(env.Stderr, cmd.Flags(), origins); err != nil {
			return &ExitError{Code: ExitUsage, Err: err}
		}
		if inner != nil {
			return inner(cmd, args)
		}
		return nil
	}
	if p.Args != nil {
		args = p.Args(args)
	}
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(WithEnv(ctx, env))
	f := diagnose(ctx, p, args, cmd, err)
	if f.Text == "" {
		return f.Code
	}
	if p.Report != nil {
		if env.Origins == nil {
			guess(p, root, args, lookupEnv)
		}
		if p.Report(env.Stderr, f) {
			return f.Code
		}
	}
	fmt.Fprintf(env.Stderr, "%s: %s\n", root.Name(), printable.Text(f.Text))
	for _, hint := range f.Hints {
		fmt.Fprintln(env.Stderr, printable.Text(hint))
	}
	return f.Code
}

// errPrinted ends a command that has only been asked for its configuration.
var errPrinted = errors.New("configuration printed")

type usageError struct {
	cmd *cobra.Command
	err error
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// diagnose says how the error of cmd, which p has run with args, is told and which exit code it stands for. Without a text
// there is nothing to tell.
func diagnose(ctx context.Context, p Program, args []string, cmd *cobra.Command, err error) Failure {
	var stopped stoppedBy
	var exit *ExitError
	var usage *usageError
	switch {
	case err == nil, errors.Is(err, errPrinted):
		return Failure{Code: ExitOK}
	case errors.As(err, &exit):
		if exit.Err == nil {
			return Failure{Code: exit.Code}
		}
		return Failure{Code: exit.Code, Text: err.Error()}
	case errors.Is(err, context.Canceled) && errors.As(context.Cause(ctx), &stopped):
		return Failure{Code: ExitSignal + int(stopped.signal)}
	case errors.As(err, &usage):
		f := Failure{Code: ExitUsage, Text: err.Error(), Hints: adviceOn(p, args, err)}
		if hint := suggestFlag(usage.cmd.Flags(), err); hint != "" && len(f.Hints) == 0 {
			f.Hints = append(f.Hints, "did you mean "+hint+"?")
		}
		f.Hints = append(f.Hints, "try: "+usage.cmd.CommandPath()+" --help")
		return f
	}
	f := Failure{Code: ExitUsage, Text: err.Error()}
	if strings.HasPrefix(f.Text, "unknown command") {
		if !cmd.HasAvailableSubCommands() { // cobra's words for an argument that nobody takes
			f.Text = strings.Replace(f.Text, "unknown command", "unexpected argument", 1)
		}
		f.Hints = []string{"try: " + cmd.CommandPath() + " --help"}
	}
	return f
}

// adviceOn returns a line for each flag among args that Elsewhere knows, if err complains of an unknown one.
func adviceOn(p Program, args []string, err error) (lines []string) {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return nil
	}
	for _, arg := range args {
		if arg == "--" {
			break
		}
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		line := "--" + name + ": " + p.Elsewhere[name]
		if strings.HasPrefix(arg, "-") && p.Elsewhere[name] != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// suggestFlag names the defined flag nearest to the unknown one that err complains about.
func suggestFlag(flags *pflag.FlagSet, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ""
	}
	if whole, _, _ := strings.Cut(unknown.GetSpecifiedShortnames(), "="); flags.Lookup(whole) != nil { // -ip, by old habit
		return "--" + whole
	}
	var names []string
	flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if name := spelling.Meant(unknown.GetSpecifiedName(), names); name != "" {
		return "--" + name
	}
	return ""
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
