package confd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/starter"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/program"
)

// ownConfDir is where a first set goes if there is no configuration directory yet.
const ownConfDir = "/etc/kvconfd"

// initOptions are the flags of kvconfd init.
type initOptions struct {
	*options
	dest   string
	force  bool
	dryRun bool
}

func initCommand(o *options) *cobra.Command {
	i := initOptions{options: o}
	cmd := &cobra.Command{
		Use:   "init [PROGRAM]",
		Short: "Write a first resource file and template for a program",
		Long: `init writes a resource file and a template for PROGRAM into the configuration directory, from those that
are shipped with kvconfd: fitted to how the program is reloaded on this machine, and with the paths and users
that its present configuration names. It shows what it writes and, if the store answers, what the first run of
kvconfd would then change. It touches nothing but these two files, and replaces neither without --force.

Without PROGRAM it lists those that there are.

Exit codes: 0 written, or there already just so; 1 not written.`,
		Example: `  kvconfd init
  kvconfd init haproxy --dry-run
  kvconfd init nginx -confdir ./confd --dest ./nginx.conf`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return &program.ExitError{Code: program.ExitUsage, Err: errors.New("this takes the name of one program")}
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) (names []string, _ cobra.ShellCompDirective) {
			for _, p := range starter.Programs() {
				names = append(names, p.Name+"\t"+p.About)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			env := program.EnvFrom(cmd.Context())
			if len(args) == 0 {
				return listPrograms(env.Stdout, starter.Machine{})
			}
			if env.Origins["confdir"] == program.OriginDefault {
				if _, err := os.Stat(i.ConfDir); errors.Is(err, fs.ErrNotExist) {
					i.ConfDir = ownConfDir
				}
			}
			if err := i.run(cmd.Context(), env, starter.Machine{}, args[0]); err != nil {
				return &program.ExitError{Code: program.ExitUsage, Err: err}
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&i.dest, "dest", "", "`file` that kvconfd is to write (default: where the program reads it)")
	flags.BoolVar(&i.force, "force", false, "replace a resource file and a template that are there and say something else")
	flags.BoolVar(&i.dryRun, "dry-run", false, "write nothing, only show")
	return cmd
}

// listPrograms says what there are templates for, and what of it is installed.
func listPrograms(w io.Writer, m starter.Machine) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROGRAM\tINSTALLED\tWRITES\tFOR")
	for _, p := range starter.Programs() {
		found := m.Look(p, "")
		installed := found.Binary
		switch {
		case found.Missing != "":
			installed = "no"
		case installed == "":
			installed = "-"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", p.Name, installed, found.Dest, p.About)
	}
	return table.Flush()
}

// planned is a file that init would write, and what is there now.
type planned struct {
	starter.File
	before []byte
	there  bool
}

func (p planned) differs() bool { return !p.there || !bytes.Equal(p.before, p.Content) }

func (i *initOptions) run(ctx context.Context, env *program.Env, m starter.Machine, name string) error {
	p, err := starter.Find(name)
	if err != nil {
		return err
	}
	dest := i.dest
	if dest != "" {
		if dest, err = filepath.Abs(dest); err != nil {
			return err
		}
	}
	found := m.Look(p, dest)
	files, err := i.plan(p, found)
	if err != nil {
		return err
	}
	w := env.Stdout
	describe(w, p, found)
	missing, replaced := i.show(w, files)
	if replaced > 0 && !i.force && !i.dryRun {
		return fmt.Errorf("%d of the files are there and say something else (see above); nothing was written. Use --force to replace them, or another -confdir", replaced)
	}
	i.firstRun(ctx, env, p, files, found)
	switch {
	case i.dryRun:
		fmt.Fprint(w, "\nnothing was written\n")
		return nil
	case missing > 0:
		if err := write(files); err != nil {
			return err
		}
		fmt.Fprintf(w, "\nwritten to %s\n", i.ConfDir)
	}
	i.next(w, p, found)
	return nil
}

// show says what would be written: how many files are not there as they should be, and how many of them
// are there in another form. What is new is shown in full with --dry-run only.
func (i *initOptions) show(w io.Writer, files []planned) (missing, replaced int) {
	for _, file := range files {
		switch {
		case !file.differs():
			fmt.Fprintf(w, "%s is there, and as it should be\n", file.Path)
			continue
		case !file.there && !i.dryRun:
			fmt.Fprintf(w, "%s is new: %s\n", file.Path, plural(bytes.Count(file.Content, []byte("\n")), "line"))
		default:
			fmt.Fprint(w, colour(printable.Text(unifiedDiff(file.Path, file.before, file.Content, file.there)), isColoured(w)))
		}
		missing++
		if file.there {
			replaced++
		}
	}
	return missing, replaced
}

// plan returns the files and what is in their places.
func (i *initOptions) plan(p starter.Program, found starter.Found) (plan []planned, err error) {
	files, err := starter.Files(p, found, i.ConfDir)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		before, err := os.ReadFile(file.Path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		plan = append(plan, planned{file, before, err == nil})
	}
	return plan, nil
}

// describe says what was found of the program.
func describe(w io.Writer, p starter.Program, found starter.Found) {
	if found.Missing != "" {
		fmt.Fprintf(w, "# %s is not installed here; these are the paths that Debian gives it\n", found.Missing)
	} else if found.Binary != "" {
		fmt.Fprintf(w, "# %s is %s\n", p.Name, found.Binary)
	}
	switch {
	case found.Unit != "":
		fmt.Fprintf(w, "# %s.service reloads it\n", found.Unit)
	case found.Systemd && found.Binary != "":
		fmt.Fprintln(w, "# systemd has no unit of it")
	case found.Binary != "":
		fmt.Fprintln(w, "# systemd does not run here")
	}
	for _, known := range found.Known {
		fmt.Fprintf(w, "# from %s: %s\n", found.Dest, known)
	}
}

// firstRun shows what kvconfd would make of the files, if it can be told: it renders from a copy.
func (i *initOptions) firstRun(ctx context.Context, env *program.Env, p starter.Program, files []planned, found starter.Found) {
	w := env.Stdout
	fmt.Fprintf(w, "\n# what kvconfd would then change\n")
	changes, err := i.rehearse(ctx, env, p, files)
	if err != nil {
		fmt.Fprintf(w, "# cannot be told: %s\n", printable.Line(err.Error()))
	}
	for _, c := range changes {
		if c.Err == "" && !c.Differs {
			fmt.Fprintf(w, "# nothing: %s is as it should be\n", c.File)
		}
		c.print(w, isColoured(w))
		if c.Differs && found.Present {
			fmt.Fprintf(w, "# unless kvconfd has made it, keep a copy of what is there: cp -a %[1]s %[1]s.before\n", found.Dest)
		}
	}
	if found.NoDir {
		fmt.Fprintf(w, "# the directory of %s does not exist: make it, or name another file with --dest\n", found.Dest)
	}
}

// rehearse renders the files from a directory that holds nothing else.
func (i *initOptions) rehearse(ctx context.Context, env *program.Env, p starter.Program, files []planned) ([]change, error) {
	dir, err := os.MkdirTemp("", "kvconfd-init-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for _, file := range files {
		below, err := filepath.Rel(i.ConfDir, file.Path)
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, below)), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, below), file.Content, 0o600); err != nil {
			return nil, err
		}
	}
	cfg := i.config()
	cfg.ConfDir = dir
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	b, err := newBench(cfg, env.Log)
	if err != nil {
		return nil, err
	}
	b.agent = i.agent()
	return b.changes(ctx, p.Name)
}

// write puts the files in place: all of them are on disk before the first appears under its name.
func write(files []planned) error {
	mode := fs.FileMode(0o644)
	var staged []*install.Staged
	defer func() {
		for _, s := range staged {
			s.Discard()
		}
	}()
	for _, file := range files {
		if !file.differs() {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file.Path), 0o755); err != nil {
			return err
		}
		s, err := install.File{Path: file.Path, Mode: &mode, UID: -1, GID: -1}.Stage(file.Content)
		if err != nil {
			return err
		}
		staged = append(staged, s)
	}
	for len(staged) > 0 {
		if err := staged[0].Commit(); err != nil {
			return err
		}
		staged = staged[1:]
	}
	return nil
}

// next says what to type now.
func (i *initOptions) next(w io.Writer, p starter.Program, found starter.Found) {
	dir := ""
	if i.ConfDir != defaultConfDir(false) {
		dir = " -confdir " + i.ConfDir
	}
	lines := []string{"kvconfd check" + dir, "kvconfd diff " + p.Name + dir}
	if found.Systemd && dir == "" {
		lines = append(lines, "systemctl enable --now kvconfd")
	} else {
		lines = append(lines, "kvconfd -watch"+dir)
	}
	fmt.Fprintf(w, "\nnext:\n  %s\n", strings.Join(lines, "\n  "))
}
