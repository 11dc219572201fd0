package confd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/unixsocket"
)

// change is what would become of one file.
type change struct {
	Name      string   `json:"name"`
	File      string   `json:"file"`
	Differs   bool     `json:"differs"`
	New       bool     `json:"new,omitempty"`        // the file is not there
	Differing []string `json:"attributes,omitempty"` // how its mode and owner differ
	ReloadDue bool     `json:"reloadDue,omitempty"`  // of a change that is in the file already
	Sensitive bool     `json:"sensitive,omitempty"`
	Diff      string   `json:"diff,omitempty"` // "" if sensitive
	Commands  []string `json:"commands,omitempty"`
	Held      string   `json:"held,omitempty"` // why a guard would hold the file as it is
	Skipped   []string `json:"skipped,omitempty"`
	Index     uint64   `json:"index,omitempty"`
	Err       string   `json:"error,omitempty"`

	content bool   // it differs
	hash    string // of the file as it is, in hexadecimal
}

func diffCommand(o *options) *cobra.Command {
	var out formatFlag
	var from offline
	cmd := &cobra.Command{
		Use:   "diff [NAME]",
		Short: "Show what would change in files, and which commands would run",
		Long: `diff renders all resources, or the one called NAME, from what the store says now, and compares with the
files as they are, in content, mode and owner. It changes nothing and runs nothing. The content of sensitive
resources is not shown. It uses its own settings and environment: where the kvconfd that runs has others, it
may want other files, and diff notes that.

Exit codes: 0 nothing would change or be reloaded, 1 something would, 2 it could not be found out, 4 nothing is called NAME.`,
		Example: `  kvconfd diff
  kvconfd diff haproxy
  kvconfd diff --keys sample.yaml -confdir ./confd`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: o.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			env := program.EnvFrom(cmd.Context())
			asJSON, err := out.isJSON()
			if err != nil {
				return err
			}
			b, err := from.open(cmd.Context(), o, env)
			if err != nil {
				return err
			}
			b.agent = o.agent()
			changes, err := b.changes(cmd.Context(), strings.Join(args, ""))
			if from == (offline{}) {
				o.noteContent(cmd.Context(), env.Stderr, changes, err)
			}
			if err != nil {
				return trouble(err)
			}
			return tellChanges(env.Stdout, asJSON, changes, b.broken)
		},
	}
	out.addTo(cmd)
	from.addTo(cmd)
	return cmd
}

// agent returns who owns what the kvconfd that runs writes: whose socket it is; nil if there is none.
func (o *options) agent() (owner *syscall.Stat_t) {
	if info, err := os.Stat(o.socket); err == nil {
		owner, _ = info.Sys().(*syscall.Stat_t)
	}
	return owner
}

// runningMax bounds how long the kvconfd that runs is asked what it thinks.
const runningMax = 2 * time.Second

// noteContent says of which files that would change the kvconfd that runs, if there is one, says that they are right.
// failed is why there are no changes.
func (o *options) noteContent(ctx context.Context, w io.Writer, changes []change, failed error) {
	ctx, cancel := context.WithTimeout(ctx, runningMax)
	defer cancel()
	var running report.Status
	if o.socket == "" || unixsocket.NewClient(o.socket).Call(ctx, http.MethodGet, "/status", nil, &running) != nil {
		return
	}
	const others = "the settings and the environment of the kvconfd that runs may be others than those of this command"
	if failed != nil {
		fmt.Fprintf(w, "note: %s\n", others)
	}
	targets := map[string]report.TargetStatus{}
	for _, t := range running.Targets {
		targets[t.Name] = t
	}
	for _, c := range changes {
		t := targets[c.Name]
		if t.State == report.Converged && t.Dest == c.File && (c.Err != "" || c.Differs && (t.Hash == "" || t.Hash == c.hash)) {
			fmt.Fprintf(w, "note: the kvconfd that runs has %s as it wants it: it has not seen the last change, or %s\n", printable.Line(c.File), others)
		}
	}
}

// changes says what would become of each file.
func (b *bench) changes(ctx context.Context, name string) ([]change, error) {
	samples, err := b.all(ctx, name)
	if err != nil {
		return nil, err
	}
	changes := make([]change, len(samples))
	for i := range samples {
		changes[i] = samples[i].change(b.agent)
	}
	return changes, nil
}

// change says what would become of the file. agent owns what the kvconfd that runs writes, nil: this process does.
func (s *sample) change(agent *syscall.Stat_t) change {
	c := change{Name: s.name, File: s.dest, Sensitive: s.Sensitive, Skipped: s.skipped, Index: s.index}
	err := s.err
	current, there := []byte(nil), false
	if err == nil {
		current, there, err = s.current()
	}
	if err != nil {
		c.Err = err.Error()
		return c
	}
	c.New, c.hash = !there, fmt.Sprintf("%x", sha256.Sum256(current))
	c.content = !there || string(current) != string(s.content)
	if c.Differing, err = s.file(agent).Attributes(); err != nil {
		c.Err = err.Error()
		return c
	}
	c.ReloadDue, _ = s.book().Owes() // what cannot be seen is not told
	c.Differs = c.content || len(c.Differing) > 0
	if s.keys < s.MinKeys {
		c.Held = fmt.Sprintf("only %s found, min_keys is %d", plural(s.keys, "key"), s.MinKeys)
	}
	if !c.Differs && !c.ReloadDue {
		return c
	}
	if c.content && !s.Sensitive {
		c.Diff = unifiedDiff(s.dest, current, s.content, there)
	}
	if c.Differs && !s.Check.IsZero() {
		c.Commands = append(c.Commands, s.Check.String())
	}
	if !s.Reload.IsZero() {
		c.Commands = append(c.Commands, s.Reload.String())
	}
	return c
}

// file is what the file of s must look like if it is written by agent; nil: by this process.
func (s *sample) file(agent *syscall.Stat_t) install.File {
	file := s.Destination(s.dest)
	if agent != nil && file.UID < 0 {
		file.UID = int(agent.Uid)
	}
	if agent != nil && file.GID < 0 && int(agent.Uid) != os.Geteuid() { // its group is not known
		if info, err := os.Stat(s.dest); err == nil {
			if owner, ok := info.Sys().(*syscall.Stat_t); ok {
				file.GID = int(owner.Gid)
			}
		}
	}
	return file
}

// book is where it is noted that a reload is due.
func (s *sample) book() install.File {
	if s.ForEach == "" {
		return s.Destination(s.dest)
	}
	dir, _, _ := s.Files()
	return install.Book(dir, s.Name)
}

// unifiedDiff returns what leads from a file's content to another; there: the file exists. What is not text is
// not shown.
func unifiedDiff(path string, before, after []byte, there bool) string {
	if strings.ContainsRune(string(before), 0) || strings.ContainsRune(string(after), 0) {
		return fmt.Sprintf("--- %s\n+++ %s\nbinary content differs: %s, and %d\n", path, path, plural(len(before), "byte"), len(after))
	}
	from := path
	if !there {
		from = os.DevNull
	}
	return udiff.Unified(from, path, string(before), string(after))
}

func tellChanges(w io.Writer, asJSON bool, changes []change, broken []error) error {
	differs, failed := false, len(broken) > 0
	for _, c := range changes {
		differs, failed = differs || c.Differs || c.ReloadDue, failed || c.Err != ""
	}
	var err error
	if asJSON {
		var texts []string
		for _, b := range broken {
			texts = append(texts, b.Error())
		}
		err = writeJSON(w, map[string]any{"files": append([]change{}, changes...), "errors": append([]string{}, texts...)})
	} else {
		for _, b := range broken {
			fmt.Fprintln(w, printable.Text(b.Error()))
		}
		for _, c := range changes {
			c.print(w, isColoured(w))
		}
	}
	switch {
	case err != nil:
		return err
	case failed:
		return &program.ExitError{Code: exitTrouble}
	case differs:
		return &program.ExitError{Code: exitDiffers}
	}
	return nil
}

func (c change) print(w io.Writer, coloured bool) {
	line := func(format string, args ...any) { fmt.Fprintln(w, printable.Line(fmt.Sprintf(format, args...))) }
	if c.Err != "" {
		line("%s: %s: %s", c.Name, c.File, c.Err)
		return
	}
	for _, skipped := range c.Skipped {
		line("%s: left out: %s", c.Name, skipped)
	}
	switch {
	case c.Diff != "":
		fmt.Fprint(w, colour(printable.Text(c.Diff), coloured))
	case c.content && c.Sensitive:
		line("%s: %s differs; it is sensitive, so its content is not shown", c.Name, c.File)
	}
	for _, differing := range c.Differing {
		line("%s: %s: %s", c.Name, c.File, differing)
	}
	if c.ReloadDue {
		line("%s: %s: a reload is due", c.Name, c.File)
	}
	if !c.Differs && !c.ReloadDue {
		return
	}
	if c.Held != "" {
		line("%s: would be held as it is: %s", c.Name, c.Held)
		return
	}
	for _, command := range c.Commands {
		line("%s: would run: %s", c.Name, command)
	}
}

// isColoured reports whether w is a terminal whose user has not asked for plain text.
func isColoured(w io.Writer) bool {
	file, isFile := w.(*os.File)
	return isFile && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// colour paints the lines of a unified diff.
func colour(diff string, coloured bool) string {
	if !coloured {
		return diff
	}
	var b strings.Builder
	for line := range strings.Lines(diff) {
		code := ""
		switch {
		case strings.HasPrefix(line, "+++"), strings.HasPrefix(line, "---"):
			code = "1"
		case strings.HasPrefix(line, "+"):
			code = "32"
		case strings.HasPrefix(line, "-"):
			code = "31"
		case strings.HasPrefix(line, "@@"):
			code = "36"
		}
		if code == "" {
			b.WriteString(line)
			continue
		}
		fmt.Fprintf(&b, "\x1b[%sm%s\x1b[0m\n", code, strings.TrimSuffix(line, "\n"))
	}
	return b.String()
}

func renderCommand(o *options) *cobra.Command {
	var from offline
	var showSensitive bool
	cmd := &cobra.Command{
		Use:   "render NAME|TEMPLATE",
		Short: "Print what a resource, or a template file, makes of the keys",
		Long: `render prints the file that the resource called NAME would make, from what the store says now, from a
snapshot or from a file of keys. TEMPLATE is the path of a template file that belongs to no resource: it sees
all keys. Nothing is changed, checked or run. The content of a sensitive resource is printed only with
--show-sensitive.

Exit codes: 0 rendered, 2 it could not be, 4 nothing is called NAME.`,
		Example: `  kvconfd render haproxy
  kvconfd render haproxy --from /var/lib/kvconfd/keys-0123456789abcdef.json
  kvconfd render ./haproxy.cfg.tmpl --keys sample.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &program.ExitError{Code: program.ExitUsage, Err: errors.New("this takes the name of a resource, or the path of a template")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			env := program.EnvFrom(cmd.Context())
			return o.render(cmd.Context(), &from, args[0], showSensitive, env)
		},
	}
	from.addTo(cmd)
	cmd.Flags().BoolVar(&showSensitive, "show-sensitive", false, "print the content of a sensitive resource too")
	return cmd
}

func (o *options) render(ctx context.Context, from *offline, name string, showSensitive bool, env *program.Env) error {
	b, err := from.open(ctx, o, env)
	if err != nil && !isFile(name) {
		return err
	}
	if isFile(name) {
		if b, err = o.templateBench(ctx, from, name, env); err != nil {
			return err
		}
		name = ""
	}
	samples, err := b.all(ctx, name)
	if err != nil {
		return trouble(err)
	}
	for _, s := range samples {
		for _, skipped := range s.skipped {
			fmt.Fprintf(env.Stderr, "left out: %s\n", printable.Line(skipped))
		}
		if s.err != nil {
			return trouble(s.err)
		}
		if s.Sensitive && !showSensitive {
			return trouble(fmt.Errorf("%s is sensitive, so its content is not shown; --show-sensitive prints it all the same", s.name))
		}
		if len(samples) > 1 {
			fmt.Fprintf(env.Stderr, "==> %s <==\n", s.dest)
		}
		if _, err := env.Stdout.Write(s.content); err != nil {
			return err
		}
	}
	return nil
}

// isFile reports whether a name is the path of a file rather than that of a resource.
func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}
