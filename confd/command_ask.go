package confd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/unixsocket"
)

// Exit codes of the commands, beside those of every program.
const (
	exitDiffers   = 1 // diff: files would change; check: there are mistakes; status: not all is well; release: it is not held
	exitTrouble   = 2 // it could not be found out; no kvconfd answers at the socket
	exitForbidden = 3 // this user may not use the socket
	exitNotFound  = 4 // nothing is called so
)

// commands are the commands of kvconfd.
func commands(o *options) []*cobra.Command {
	return []*cobra.Command{initCommand(o), checkCommand(o), diffCommand(o), renderCommand(o), explainCommand(o), statusCommand(o), releaseCommand(o)}
}

// formatFlag is the flag -o of a command.
type formatFlag struct{ format string }

func (f *formatFlag) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.format, "output", "o", "text", "`format`: text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)) // the flag was defined above
}

// isJSON reports whether JSON is asked for. The error says that neither form is.
func (f *formatFlag) isJSON() (bool, error) {
	switch f.format {
	case "text", "json":
		return f.format == "json", nil
	}
	return false, &program.ExitError{Code: program.ExitUsage, Err: fmt.Errorf("--output %q: use text or json", f.format)}
}

func writeJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// socketError is a failure to ask, with its exit code.
func socketError(err error) error {
	code := exitTrouble
	switch kv.KindOf(err) {
	case kv.Denied:
		code = exitForbidden
		err = fmt.Errorf("%w; whoever is in the group of the socket may", err)
	case kv.NotFound:
		code = exitNotFound
	case kv.CompareFailed:
		code = exitDiffers
	}
	return &program.ExitError{Code: code, Err: err}
}

func statusCommand(o *options) *cobra.Command {
	var out formatFlag
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say where every file stands, by the kvconfd that runs",
		Long: `status asks the kvconfd that runs on this host, over its socket, where every file stands, how far the
store is known, and what is wrong.

Exit codes: 0 all is well, 1 something is not, 2 no kvconfd answers, 3 this user may not ask it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.status(cmd.Context(), &out, program.EnvFrom(cmd.Context()).Stdout)
		},
	}
	out.addTo(cmd)
	return cmd
}

func (o *options) status(ctx context.Context, out *formatFlag, w io.Writer) error {
	asJSON, err := out.isJSON()
	if err != nil {
		return err
	}
	var s report.Status
	if err := unixsocket.NewClient(o.socket).Call(ctx, http.MethodGet, "/status", nil, &s); err != nil {
		return socketError(err)
	}
	if asJSON {
		err = writeJSON(w, s)
	} else {
		err = printStatus(w, s)
	}
	if err == nil && len(s.Problems) > 0 {
		err = &program.ExitError{Code: exitDiffers}
	}
	return err
}

// printStatus writes a status for people.
func printStatus(w io.Writer, s report.Status) error {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(columns, "NAME\tFILE\tSTATE\tINDEX\tSINCE\tWHY")
	for _, t := range s.Targets {
		why := t.Err
		if t.Step != "" {
			why = "at " + t.Step + ": " + why
		}
		if t.Next.After(s.Time) {
			in := t.Next.Sub(s.Time).Round(100 * time.Millisecond)
			if t.State == report.Rendered || t.State == report.Written {
				why = fmt.Sprintf("its reload may begin in %s", in)
			} else {
				why += fmt.Sprintf(" (next in %s)", in)
			}
		}
		if why == "" {
			why = "-"
		}
		index := "-"
		if t.Index > 0 {
			index = strconv.FormatUint(uint64(t.Index), 10)
		}
		fmt.Fprintf(columns, "%s\t%s\t%s\t%s\t%s\t%s\n", printable.Line(t.Name), printable.Line(t.Dest), t.State, index, ago(t.Since, s.Time), printable.Line(why))
	}
	if err := columns.Flush(); err != nil {
		return err
	}
	for _, store := range s.Stores {
		fmt.Fprintln(w, printable.Line(store.Name+": "+storeText(store, s.Time)))
	}
	for _, p := range s.Problems {
		if p.Target == "" && p.Store == "" {
			fmt.Fprintln(w, printable.Line(p.String()))
		}
	}
	return nil
}

func storeText(s report.Store, now time.Time) string {
	text := plural(s.Keys, "key")
	if s.Index > 0 {
		text = fmt.Sprintf("index %d, %s", s.Index, text)
	}
	switch {
	case !s.Stale.IsZero():
		text += ", stale since " + ago(s.Stale, now)
	case s.Heard.IsZero():
		text += ", not heard yet"
	}
	if s.Err != "" {
		text += ": " + s.Err
	}
	return text
}

// ago says how long ago something was.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	switch d := max(0, now.Sub(t)); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func releaseCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "release NAME",
		Short: "Let through, once, what a guard holds",
		Long: `release tells the kvconfd that runs on this host to let the version through that a guard holds: because
too few keys are left, or too many have gone or expired at once. NAME is that of the resource, as status
shows it: the path of its file below conf.d without .toml.

Exit codes: 0 released, 1 it is not held, 2 no kvconfd answers, 3 this user may not ask it, 4 nothing is called NAME.`,
		Example: `  kvconfd release haproxy`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return &program.ExitError{Code: program.ExitUsage, Err: errors.New("this takes NAME; kvconfd status shows what is held")}
			}
			return nil
		},
		ValidArgsFunction: o.completeName,
		RunE: func(cmd *cobra.Command, args []string) error {
			target := "/release?" + url.Values{"name": args}.Encode()
			if err := unixsocket.NewClient(o.socket).Call(cmd.Context(), http.MethodPost, target, nil, nil); err != nil {
				return socketError(err)
			}
			fmt.Fprintf(program.EnvFrom(cmd.Context()).Stdout, "%s is released\n", printable.Line(args[0]))
			return nil
		},
	}
}

// completeMax is how long a shell may wait for an answer to the tab key.
const completeMax = 300 * time.Millisecond

// completeName completes the name of a target of the agent that runs, or of a resource file.
func (o *options) completeName(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeMax)
	defer cancel()
	var s report.Status
	if unixsocket.NewClient(o.socket).Call(ctx, http.MethodGet, "/status", nil, &s) == nil {
		for _, t := range s.Targets {
			names = append(names, t.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// splitLine splits FILE:LINE; line is 0 if there is none. A file whose name ends like that is taken as a file if
// isThere says so. The error says that no file has such a line.
func splitLine(text string, isThere func(string) bool) (file string, line int, err error) {
	i := strings.LastIndexByte(text, ':')
	if i <= 0 || isThere(text) {
		return text, 0, nil
	}
	line, err = strconv.Atoi(text[i+1:])
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return text, 0, nil
	case err != nil || line < 1:
		return "", 0, fmt.Errorf("%s: no file has a line %s; lines are counted from 1", text[:i], text[i+1:])
	}
	return text[:i], line, nil
}

// plural says how many there are of something whose plural ends in s.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
