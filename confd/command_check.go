package confd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/program"
)

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
			cfg, err := o.keyed()
			if err != nil {
				return &program.ExitError{Code: program.ExitUsage, Err: err}
			}
			findings, resources, err := check(cfg)
			if err != nil {
				return &program.ExitError{Code: program.ExitUsage, Err: err}
			}
			return tellFindings(program.EnvFrom(cmd.Context()).Stdout, asJSON, findings, resources)
		},
	}
	out.addTo(cmd)
	return cmd
}

func tellFindings(w io.Writer, asJSON bool, findings []resource.Finding, resources int) error {
	found := map[resource.Severity]int{}
	for _, f := range findings {
		found[f.Severity]++
	}
	var err error
	if asJSON {
		err = writeJSON(w, map[string]any{"resources": resources, "errors": found[resource.Error], "findings": append([]resource.Finding{}, findings...)})
	} else {
		for _, f := range findings {
			fmt.Fprintln(w, printable.Text(f.String()))
		}
		_, err = fmt.Fprintf(w, "%s, %s, %s, %s\n", plural(resources, "resource"), plural(found[resource.Error], "error"), plural(found[resource.Warning], "warning"), plural(found[resource.Note], "note"))
	}
	if err == nil && found[resource.Error] > 0 {
		err = &program.ExitError{Code: exitDiffers}
	}
	return err
}

// check looks for mistakes in the configuration directory of cfg.
func check(cfg Config) (findings []resource.Finding, resources int, err error) {
	loaded, err := cfg.resources()
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read the configuration directory: %w", err)
	}
	findings = resource.Lint(cfg.ConfDir, cfg.Prefix)
	b := &bench{cfg: cfg}
	for _, l := range loaded {
		if _, err := os.Stat(l.Resource.Src); l.Err == nil && err == nil { // a missing template has been told
			findings = append(findings, b.checkTemplate(l.Resource)...)
		}
	}
	return findings, len(loaded), nil
}

// checkTemplate looks for mistakes in the template of r.
func (b *bench) checkTemplate(r resource.Resource) (findings []resource.Finding) {
	t, err := b.parse(r)
	if err != nil {
		return []resource.Finding{{File: r.Src, Severity: resource.Error, Text: err.Error()}}
	}
	scope := render.Scope{Prefix: r.Prefix, Keys: r.Keys}
	seen := map[string]bool{}
	analysis := t.Analyze()
	for _, p := range analysis.Problems {
		findings = append(findings, resource.Finding{File: b.templatePath(r, p.Template), Line: p.Line, Severity: resource.Warning, Text: p.Text})
	}
	for _, read := range analysis.Outside(scope) {
		text := fmt.Sprintf("%s reads %s, which is not below any of the keys of %s: %s", read.Function, read.Key, filepath.Base(r.File), keyNames(r))
		f := resource.Finding{File: b.templatePath(r, read.Template), Line: read.Line, Severity: resource.Error, Text: text}
		if read.Default {
			f.Severity = resource.Warning
		}
		if !seen[f.String()] {
			findings = append(findings, f)
		}
		seen[f.String()] = true
	}
	return findings
}

// templatePath is the path of the template of r, or of one that it includes, by the name that a render knows it by.
func (b *bench) templatePath(r resource.Resource, name string) string {
	if name == filepath.Base(r.Src) {
		return r.Src
	}
	return filepath.Join(templatesDir(b.cfg), name)
}

func keyNames(r resource.Resource) string {
	if len(r.Keys) == 0 {
		return "it has none"
	}
	return strings.Join(r.Keys, ", ")
}

// offline are the flags of commands that can do without a store.
type offline struct {
	from string
	keys string
}

func (f *offline) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.from, "from", "", "take the keys from this `snapshot`, as kvconfd keeps in its --state-dir, or - for stdin, and ask no store")
	cmd.Flags().StringVar(&f.keys, "keys", "", "take the keys from this YAML or JSON `file` and ask no store")
}

// open returns a bench that reads from where the flags say.
func (f *offline) open(ctx context.Context, o *options, env *program.Env) (*bench, error) {
	cfg, err := o.keyed()
	if err != nil {
		return nil, trouble(err)
	}
	b, err := newBench(cfg, env.Log)
	if err != nil {
		return nil, trouble(err)
	}
	return b, f.apply(ctx, b, env)
}

// apply has a bench read from where the flags say.
func (f *offline) apply(ctx context.Context, b *bench, env *program.Env) error {
	var err error
	switch {
	case f.keys != "" && f.from != "":
		return &program.ExitError{Code: program.ExitUsage, Err: errors.New("--from and --keys both say where the keys are: leave one out")}
	case f.keys != "":
		err = b.useKeys(ctx, f.keys)
	case f.from != "":
		err = b.useSnapshot(f.from, env.Stdin)
	}
	if err != nil {
		return trouble(err)
	}
	return nil
}

// trouble is an error of a command that could not find out what it was asked.
func trouble(err error) error {
	var cause *kv.Error
	switch {
	case errors.As(err, &cause) && cause.Kind == kv.NotFound && cause.Cause != "":
		return &program.ExitError{Code: exitNotFound, Err: errors.New(cause.Cause)}
	case errors.As(err, &cause) && cause.Kind == kv.Invalid && cause.Cause != "":
		return &program.ExitError{Code: exitTrouble, Err: errors.New(cause.Cause)}
	case errors.As(err, &cause) && cause.Kind == kv.Denied:
		return &program.ExitError{Code: exitForbidden, Err: err}
	}
	return &program.ExitError{Code: exitTrouble, Err: err}
}
