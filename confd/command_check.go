package confd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/program"
)

// finding is something that is wrong, or probably is, in the configuration directory.
type finding struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Mistake bool   `json:"mistake"` // it will not work; otherwise it is probably not meant
	Text    string `json:"text"`
}

func (f finding) String() string {
	where, word := f.File, "warning"
	if f.Line > 0 {
		where = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	if f.Mistake {
		word = "error"
	}
	return fmt.Sprintf("%s: %s: %s", where, word, f.Text)
}

func checkCommand(o *options) *cobra.Command {
	var out formatFlag
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look for mistakes in resource files and templates, without a store",
		Long: `check reads the configuration directory and says what is wrong in it: settings that are misspelt,
templates that cannot be parsed, keys that a template reads and its resource does not name, and commands and
directories that are not there. It asks no store and runs nothing.

Exit codes: 0 nothing that cannot work, 1 there are errors.`,
		Example: `  kvconfd check
  kvconfd check -confdir ./confd -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			asJSON, err := out.isJSON()
			if err != nil {
				return err
			}
			findings, resources, err := check(o.config())
			if err != nil {
				return &program.ExitError{Code: program.ExitUsage, Err: err}
			}
			return tellFindings(program.EnvFrom(cmd.Context()).Stdout, asJSON, findings, resources)
		},
	}
	out.addTo(cmd)
	return cmd
}

func tellFindings(w io.Writer, asJSON bool, findings []finding, resources int) error {
	mistakes := len(slices.DeleteFunc(slices.Clone(findings), func(f finding) bool { return !f.Mistake }))
	var err error
	if asJSON {
		err = writeJSON(w, map[string]any{"resources": resources, "errors": mistakes, "findings": append([]finding{}, findings...)})
	} else {
		for _, f := range findings {
			fmt.Fprintln(w, f)
		}
		_, err = fmt.Fprintf(w, "%d resources, %d errors, %d warnings\n", resources, mistakes, len(findings)-mistakes)
	}
	if err == nil && mistakes > 0 {
		err = &program.ExitError{Code: exitDiffers}
	}
	return err
}

// check looks for mistakes in the configuration directory of cfg.
func check(cfg Config) (findings []finding, resources int, err error) {
	loaded, err := resource.Load(cfg.ConfDir, cfg.Prefix)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the configuration directory: %w", err)
	}
	b := &bench{cfg: cfg}
	for _, l := range loaded {
		add := func(line int, mistake bool, format string, args ...any) {
			findings = append(findings, finding{l.File, line, mistake, fmt.Sprintf(format, args...)})
		}
		var problems resource.Problems
		switch {
		case errors.As(l.Err, &problems):
			for _, p := range problems {
				add(p.Line, true, "%s", p.Text)
			}
		case l.Err != nil:
			add(0, true, "%v", l.Err)
		}
		for _, p := range l.Warnings {
			add(p.Line, false, "%s", p.Text)
		}
		if l.Err == nil {
			surroundings(l.Resource, add)
			findings = append(findings, b.checkTemplate(l.Resource)...)
		}
	}
	if len(loaded) == 0 {
		findings = append(findings, finding{filepath.Join(cfg.ConfDir, "conf.d"), 0, false, "there are no resource files (*.toml)"})
	}
	return findings, len(loaded), nil
}

// surroundings looks for what a resource needs of this machine.
func surroundings(r resource.Resource, add func(line int, mistake bool, format string, args ...any)) {
	dir := filepath.Dir(r.Dest)
	if r.ForEach != "" {
		dir, _, _ = r.Files()
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		add(0, false, "dest: the directory %s is not there", dir)
	}
	for name, command := range map[string]install.Command{"check_cmd": r.Check, "reload_cmd": r.Reload, "confirm_cmd": r.Confirm} {
		if first := firstWord(command); first != "" {
			if _, err := exec.LookPath(first); err != nil {
				add(0, false, "%s: there is no program %q on this machine", name, first)
			}
		}
	}
}

// firstWord returns the program that a command calls, "" if that is a matter of the shell.
func firstWord(c install.Command) string {
	if len(c.Argv) > 0 {
		return c.Argv[0]
	}
	first, _, _ := strings.Cut(strings.TrimSpace(c.Shell), " ")
	if strings.ContainsAny(first, `$&|;<>(){}[]"'=*?!~#\`) || slices.Contains(shellWords, first) {
		return ""
	}
	return first
}

// shellWords are words that the shell itself knows.
var shellWords = []string{":", ".", "[", "alias", "bg", "cd", "command", "echo", "eval", "exec", "exit", "export", "false", "fg", "for", "if", "kill", "printf", "read", "return", "set", "shift", "test", "time", "trap", "true", "ulimit", "umask", "until", "wait", "while"}

// checkTemplate looks for mistakes in the template of r.
func (b *bench) checkTemplate(r resource.Resource) (findings []finding) {
	t, err := b.parse(r)
	if err != nil {
		return []finding{{r.Src, 0, true, err.Error()}}
	}
	scope := render.Scope{Prefix: r.Prefix, Keys: r.Keys}
	seen := map[string]bool{}
	for _, read := range t.Analyze().Reads {
		if isCovered(scope, read) {
			continue
		}
		text := fmt.Sprintf("%s reads %s, which is not below any of the keys of %s: %s", read.Function, read.Key, filepath.Base(r.File), keysText(r))
		f := finding{cmp.Or(templatePath(r, read.Template), r.Src), read.Line, !read.Default, text}
		if !seen[f.String()] {
			findings = append(findings, f)
		}
		seen[f.String()] = true
	}
	return findings
}

// templatePath is the path of a template that is included, "" if it is that of r itself.
func templatePath(r resource.Resource, name string) string {
	if name == "" || name == filepath.Base(r.Src) {
		return ""
	}
	return filepath.Join(filepath.Dir(r.Src), name)
}

func keysText(r resource.Resource) string {
	if len(r.Keys) == 0 {
		return "it has none"
	}
	return strings.Join(r.Keys, ", ")
}

// isCovered reports whether something of what is read can be in scope.
func isCovered(scope render.Scope, read render.StaticRead) bool {
	outer := func(key string) string { return kv.Clean(path.Join("/", scope.Prefix, key)) }
	if read.Kind == render.ReadKey {
		return scope.Covers(outer(read.Key))
	}
	literal := read.Key
	if i := strings.IndexAny(literal, `*?[\`); i >= 0 {
		literal = literal[:strings.LastIndexByte(literal[:i], '/')+1]
	}
	dir := outer(literal)
	return slices.ContainsFunc(scope.Keys, func(key string) bool {
		key = kv.Clean(key)
		return dir == key || kv.Below(dir, key) || kv.Below(key, dir)
	})
}

// offline are the flags of commands that can do without a store.
type offline struct {
	from string
	keys string
}

func (f *offline) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.keys, "keys", "", "take the keys from this YAML or JSON `file` and ask no store")
}

// open returns a bench that reads from where the flags say.
func (f *offline) open(ctx context.Context, o *options, env *program.Env) (*bench, error) {
	b, err := newBench(o.config(), env.Log)
	if err != nil {
		return nil, trouble(err)
	}
	if f.keys != "" {
		if err := b.useKeys(ctx, f.keys); err != nil {
			return nil, trouble(err)
		}
	}
	return b, nil
}

// trouble is an error of a command that could not find out what it was asked.
func trouble(err error) error {
	var cause *kv.Error
	switch {
	case errors.As(err, &cause) && cause.Kind == kv.NotFound && cause.Cause != "":
		return &program.ExitError{Code: exitNotFound, Err: errors.New(cause.Cause)}
	case errors.As(err, &cause) && cause.Kind == kv.Denied:
		return &program.ExitError{Code: exitForbidden, Err: err}
	}
	return &program.ExitError{Code: exitTrouble, Err: err}
}
