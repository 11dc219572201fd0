package confd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/unixsocket"
)

// templateBench is a bench with one resource: a template file that sees all keys.
func (o *options) templateBench(ctx context.Context, from *offline, path string, env *program.Env) (*bench, error) {
	cfg, err := o.keyed()
	if err != nil {
		return nil, trouble(err)
	}
	b := &bench{cfg: cfg, log: env.Log}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, trouble(err)
	}
	b.views = map[string]keys.View{}
	b.resources = []resource.Resource{{
		Name: filepath.Base(path), Src: absolute, Dest: "stdout", Prefix: kv.Clean(b.cfg.Prefix), Keys: []string{kv.Clean(b.cfg.Prefix)},
		Sensitive: cfg.Keyring != nil || isSensitive(cfg, path),
	}}
	return b, from.apply(ctx, b, env)
}

// isSensitive reports whether the file at path is the template of a sensitive resource.
func isSensitive(cfg Config, path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	loaded, _ := cfg.resources() // without a configuration directory it is nobody's
	return slices.ContainsFunc(loaded, func(l resource.Loaded) bool {
		src, err := os.Stat(l.Resource.Src)
		return l.Err == nil && l.Resource.Sensitive && err == nil && os.SameFile(src, info)
	})
}

func explainCommand(o *options) *cobra.Command {
	var out formatFlag
	var from offline
	cmd := &cobra.Command{
		Use:   "explain FILE[:LINE]",
		Short: "Say which resource makes a file, how it stands, and which keys made a line",
		Long: `explain says which resource makes FILE, from which template and keys, where it stands, and what brings the
running program to a new version. With LINE it says on which keys this line depends. It asks the kvconfd that runs
on this host; if there is none, or it makes no such file, or with --from or --keys, it renders by itself. Values of keys are not shown.

Exit codes: 0 explained, 2 it could not be found out, 3 this user may not ask, 4 nothing makes FILE.`,
		Example: `  kvconfd explain /etc/haproxy/haproxy.cfg
  kvconfd explain /etc/haproxy/haproxy.cfg:41
  kvconfd explain haproxy.cfg:41 --keys sample.yaml`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &program.ExitError{Code: program.ExitUsage, Err: errors.New("this takes FILE or FILE:LINE")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			env := program.EnvFrom(cmd.Context())
			asJSON, err := out.isJSON()
			if err != nil {
				return err
			}
			file, line, err := splitLine(args[0], isFile)
			if err != nil {
				return &program.ExitError{Code: program.ExitUsage, Err: err}
			}
			if file, err = filepath.Abs(file); err != nil {
				return trouble(err)
			}
			e, err := o.explain(cmd.Context(), &from, file, line, env)
			switch {
			case err != nil:
				return err
			case asJSON:
				return writeJSON(env.Stdout, e)
			}
			return printExplanation(env.Stdout, e, time.Now())
		},
	}
	out.addTo(cmd)
	from.addTo(cmd)
	return cmd
}

// explain asks the running agent, or finds out by itself.
func (o *options) explain(ctx context.Context, from *offline, file string, line int, env *program.Env) (e report.Explanation, err error) {
	if *from == (offline{}) && o.socket != "" {
		query := url.Values{"file": {file}}
		if line > 0 {
			query.Set("line", strconv.Itoa(line))
		}
		err := unixsocket.NewClient(o.socket).Call(ctx, http.MethodGet, "/explain?"+query.Encode(), nil, &e)
		switch {
		case err == nil:
			return e, nil
		case kv.Is(err, kv.NotFound): // it may be a file of another configuration directory
			return o.explainHere(ctx, from, file, line, env, "the kvconfd that runs makes no such file: this is what one would make of the keys now")
		case !kv.Is(err, kv.Unavailable):
			return e, socketError(err)
		}
	}
	return o.explainHere(ctx, from, file, line, env, "no kvconfd was asked: this is what one would make of the keys now")
}

// explainHere finds out by itself, and notes that.
func (o *options) explainHere(ctx context.Context, from *offline, file string, line int, env *program.Env, note string) (e report.Explanation, err error) {
	b, err := from.open(ctx, o, env)
	if err != nil {
		return e, err
	}
	if e, err = b.explain(ctx, file, line); err != nil {
		return e, trouble(err)
	}
	if e.Note != "" {
		note += "; " + e.Note
	}
	e.Note = note
	return e, nil
}

// explain says what makes file, or a line of it if that is not 0. Errors by Kind: NotFound, Invalid.
func (b *bench) explain(ctx context.Context, file string, line int) (report.Explanation, error) {
	var own []resource.Resource
	for _, r := range b.resources {
		if r.ForEach == "" && r.Dest == file || r.ForEach != "" && couldMake(r, file) {
			own = append(own, r)
		}
	}
	if len(own) == 0 {
		return report.Explanation{}, b.noMaker(file)
	}
	if err := b.read(ctx, own); err != nil {
		return report.Explanation{}, err
	}
	for _, r := range own {
		for _, s := range b.samples(ctx, r) {
			if s.dest == file {
				return s.explain(ctx, line)
			}
		}
	}
	return report.Explanation{}, b.noMaker(file)
}

// couldMake reports whether file is where a resource with for_each puts files.
func couldMake(r resource.Resource, file string) bool {
	dir, _, _ := r.Files()
	return filepath.Dir(file) == dir
}

func (b *bench) noMaker(file string) error {
	return &kv.Error{Op: "explain", Kind: kv.NotFound, Cause: fmt.Sprintf("no resource in %s makes %s", filepath.Join(b.cfg.ConfDir, "conf.d"), file)}
}

// explain says what makes the file, or a line of it.
func (s *sample) explain(ctx context.Context, line int) (report.Explanation, error) {
	e := report.Explanation{
		File: s.dest, Line: line, From: s.File, Src: s.Src, Check: s.Check.String(), Reload: s.Reload.String(),
		Target: report.TargetStatus{Name: s.name, Dest: s.dest, Index: s.index, Keys: s.Keys},
	}
	if s.err != nil {
		e.Target.State, e.Target.Step, e.Target.Err = report.Failed, report.StepRender, s.err.Error()
	}
	if s.reads != nil {
		told, withheld := s.template.Told(s.reads)
		e.Reads = told.Names()
		var others []string
		if withheld > 0 {
			others = append(others, plural(withheld, "key")+" by names that do not stand in the template, which are withheld, as the file is sensitive")
		}
		if s.reads.World() {
			others = append(others, "the time, names of the network, interfaces or files of this machine")
		}
		e.Others = strings.Join(others, "; ")
	}
	switch {
	case line == 0:
		return e, nil
	case s.err != nil:
		e.Line, e.Note = 0, fmt.Sprintf("line %d cannot be explained, because the file cannot be rendered now", line)
		return e, nil
	case line > countLines(s.content):
		return e, &kv.Error{Op: "explain", Kind: kv.Invalid, Cause: s.noLine(line)}
	}
	causes, err := s.template.Explain(ctx, s.tree, s.item, line)
	if err != nil {
		return e, err
	}
	for _, cause := range causes {
		effect := effects[cause.How]
		if cause.Shared {
			effect = "the line is there because this key or one of others like it is"
		}
		e.Causes = append(e.Causes, report.Cause{Key: cause.Key, Effect: effect})
	}
	if current, there, err := s.current(); err == nil && (!there || string(current) != string(s.content)) {
		e.Note = "the file is not what would be rendered now: lines are those of the render"
	}
	return e, nil
}

// noLine says that a render has no such line, and why the file may have one.
func (s *sample) noLine(line int) string {
	text := fmt.Sprintf("there is no line %d: rendered now, %s has %s", line, s.dest, plural(countLines(s.content), "line"))
	switch current, there, err := s.current(); {
	case s.held != "":
		text += "; what is there is held as it is: " + s.held
	case err == nil && there && string(current) != string(s.content):
		text += "; what is there is another version"
	}
	return text
}

// effects say what a key has to do with a line.
var effects = map[render.How]string{
	render.HowValue:    "its value is in the line",
	render.HowPresence: "the line is there because the key is",
	render.HowDecides:  "its value decides whether the line is there",
	render.HowAbsent:   "there is no such key; with one the line is another one, or not there",
}

func countLines(content []byte) int {
	lines := 0
	for i, c := range content {
		if c == '\n' || i == len(content)-1 {
			lines++
		}
	}
	return lines
}

// printExplanation writes an explanation for people.
func printExplanation(w io.Writer, e report.Explanation, now time.Time) error {
	p := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s\n", name, printable.Line(fmt.Sprintf(format, args...)))
	}
	p("file", "%s", e.File)
	p("resource", "%s (%s)", e.Target.Name, e.From)
	p("template", "%s", e.Src)
	if e.Target.State != "" {
		text := string(e.Target.State)
		if e.Target.Step != "" {
			text += " at " + e.Target.Step
		}
		if e.Target.Err != "" {
			text += ": " + e.Target.Err
		}
		if !e.Target.Since.IsZero() {
			text += ", since " + ago(e.Target.Since, now)
		}
		p("state", "%s", text)
	}
	if e.Target.Index > 0 {
		p("index", "%d", e.Target.Index)
	}
	if e.Target.How != "" {
		text := e.Target.How
		if e.Target.Why != "" {
			text += ": " + e.Target.Why
		}
		p("applied by", "%s", text)
	}
	if len(e.Target.Changed) > 0 {
		p("made by", "a change of %s", strings.Join(e.Target.Changed, ", "))
	}
	if e.Check != "" {
		p("check", "%s", e.Check)
	}
	if e.Reload != "" {
		p("reload", "%s", e.Reload)
	}
	for i, read := range e.Reads {
		name := "reads"
		if i > 0 {
			name = ""
		}
		p(name, "%s", read)
	}
	if e.Others != "" {
		p("", "%s", e.Others)
	}
	if e.Line > 0 {
		fmt.Fprintf(w, "\nline %d depends on:\n", e.Line)
		for _, c := range e.Causes {
			fmt.Fprintf(w, "  %s: %s\n", printable.Line(c.Key), c.Effect)
		}
		if len(e.Causes) == 0 {
			fmt.Fprintln(w, "  no key that was found: it is there with any of them, or with none")
		}
	}
	var err error
	if e.Note != "" {
		_, err = fmt.Fprintf(w, "\nnote: %s\n", printable.Line(e.Note))
	}
	return err
}
