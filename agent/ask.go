package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registrar/local"
)

// Exit codes of the commands that ask a running agent.
const (
	exitNotFound  = 4 // nothing here is called so
	exitNoAgent   = 2 // no agent answers at the socket
	exitForbidden = 3 // this user may not use the socket
)

// untold is the reason while a source has given none.
const untold = "it has not told anything yet"

// asker asks a running agent over its socket.
type asker struct {
	socket string
	output string
}

// commands are those that ask a running agent.
func commands() []*cobra.Command {
	return []*cobra.Command{explainCommand(), statusCommand(),
		overrideCommand("drain", "Give an instance no new work, over restarts, until it is ready again", override.Override{Mode: override.Drain}),
		overrideCommand("maintenance", "Take an instance out of use, whatever its checks say, until it is ready again", override.Override{Mode: override.Maintenance}),
		overrideCommand("ready", "End drain, maintenance and weight of an instance", override.Override{}),
		weightCommand(),
	}
}

func (a *asker) addFlags(cmd *cobra.Command, hasOutput bool) {
	cmd.Flags().StringVar(&a.socket, "socket", DefaultSocket, "`path` of the running agent's socket")
	if hasOutput {
		cmd.Flags().StringVarP(&a.output, "output", "o", "text", "text or json")
	}
}

// named wants n arguments, and says what they are.
func named(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usage(fmt.Errorf("this takes %s; try: kvagent %s --help", strings.TrimPrefix(cmd.Use, cmd.Name()+" "), cmd.Name()))
		}
		return nil
	}
}

func explainCommand() *cobra.Command {
	var a asker
	cmd := &cobra.Command{
		Use:   "explain CONTAINER|UNIT|FILE|SERVICE|INSTANCE",
		Short: "Say why something is or is not registered, and all that is known about it",
		Long: `explain asks the agent of this host about a container, by its name or ID, a unit, a file of services, or
a service or instance: its keys, which rule gave it its address, what its last check said, what operators
want of it, and what of its labels cannot be used.

Exit codes: 0 found, 2 no agent answers, 3 this user may not ask it, 4 nothing here is called so.`,
		Args: named(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.explain(cmd.Context(), args[0], program.EnvFrom(cmd.Context()).Stdout)
		},
	}
	a.addFlags(cmd, true)
	return cmd
}

func statusCommand() *cobra.Command {
	var a asker
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what this host offers and where it stands",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.status(cmd.Context(), program.EnvFrom(cmd.Context()).Stdout)
		},
	}
	a.addFlags(cmd, true)
	return cmd
}

func overrideCommand(name, short string, o override.Override) *cobra.Command {
	var a asker
	cmd := &cobra.Command{
		Use:   name + " CONTAINER|UNIT|FILE|SERVICE|INSTANCE",
		Short: short,
		Long: short + `.

It counts at once, and gets to the store as soon as that answers; kvctl service does the same from any
host. All that is called so on this host is meant.`,
		Args: named(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.override(cmd.Context(), args[0], o, program.EnvFrom(cmd.Context()).Stdout)
		},
	}
	a.addFlags(cmd, false)
	if name != "ready" {
		cmd.Flags().StringVar(&o.Reason, "reason", "", "why, for whoever sees it")
	}
	return cmd
}

func weightCommand() *cobra.Command {
	var a asker
	cmd := &cobra.Command{
		Use:   "weight CONTAINER|UNIT|FILE|SERVICE|INSTANCE NUMBER",
		Short: "Give an instance another weight, over restarts; 0: its own again",
		Args:  named(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			weight, err := strconv.Atoi(args[1])
			if err != nil {
				return usage(fmt.Errorf("weight %q: use a whole number", args[1]))
			}
			return a.override(cmd.Context(), args[0], override.Override{Weight: weight}, program.EnvFrom(cmd.Context()).Stdout)
		},
	}
	a.addFlags(cmd, false)
	return cmd
}

// get asks for a path of the agent's own and reads the answer into value.
func (a *asker) get(ctx context.Context, path string, value any) error {
	if a.output != "" && a.output != "text" && a.output != "json" {
		return usage(fmt.Errorf("--output %q: there are text and json", a.output))
	}
	var body bytes.Buffer
	err := local.NewClient(a.socket).Get(ctx, path, &body)
	if err == nil {
		err = json.Unmarshal(body.Bytes(), value)
	}
	return asked(err)
}

// asked turns a failure into an exit code.
func asked(err error) error {
	var exit *program.ExitError
	switch {
	case err == nil, errors.As(err, &exit):
		return err
	case kv.Is(err, kv.NotFound):
		return &program.ExitError{Code: exitNotFound, Err: err}
	case kv.Is(err, kv.Denied):
		return &program.ExitError{Code: exitForbidden, Err: fmt.Errorf("%w; use sudo, or join the group of the socket", err)}
	case kv.Is(err, kv.Unavailable):
		return &program.ExitError{Code: exitNoAgent, Err: err}
	}
	return usage(err)
}

func (a *asker) explain(ctx context.Context, what string, w io.Writer) error {
	var e Explanation
	if err := a.get(ctx, "/v1/workload?"+url.Values{"what": {what}}.Encode(), &e); err != nil {
		return err
	}
	switch {
	case a.output == "json":
		printJSON(w, e)
	case e.Found:
		e.print(w, time.Now())
	}
	if !e.Found {
		return &program.ExitError{Code: exitNotFound, Err: e.unknown()}
	}
	return nil
}

// unknown says that nothing is called so, and what may be the reason.
func (e Explanation) unknown() error {
	text := fmt.Sprintf("nothing that runs here is called %q", e.What)
	for _, s := range e.Follows {
		if !s.Connected {
			text += fmt.Sprintf("; %s cannot be asked: %s", s.Name, cmp.Or(s.Err, untold))
		}
	}
	return errors.New(text)
}

func (a *asker) status(ctx context.Context, w io.Writer) error {
	var r Report
	if err := a.get(ctx, "/v1/agent", &r); err != nil {
		return err
	}
	if a.output == "json" {
		printJSON(w, r)
		return nil
	}
	r.print(w)
	return nil
}

func (a *asker) override(ctx context.Context, what string, o override.Override, w io.Writer) error {
	client := local.NewClient(a.socket)
	found, err := client.Explain(ctx, what)
	if err != nil {
		return asked(err)
	}
	o.By = local.Caller()
	for _, i := range found {
		wanted := o
		if i.Override != nil && o.Mode == "" && o.Weight != 0 {
			wanted.Mode, wanted.Reason = i.Override.Mode, i.Override.Reason // another weight leaves the rest
		}
		if i.Override != nil && o.Mode != "" {
			wanted.Weight = i.Override.Weight
		}
		if err := client.Override(ctx, i.Service, i.Instance, wanted); err != nil {
			return asked(err)
		}
		fmt.Fprintf(w, "%s/%s: %s\n", i.Service, i.Instance, wanted)
	}
	return nil
}

func printJSON(w io.Writer, value any) {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(value)
}

// reservations count what an operator may want to look at although nothing keeps the registry from being true.
func (r Report) reservations() string {
	waiting, mistakes, text := 0, 0, ""
	for _, i := range r.Instances {
		if i.Phase == string(registrar.Checking) || i.Phase == string(registrar.Unhealthy) || i.Phase == string(registrar.Held) {
			waiting++
		}
	}
	for _, refused := range r.Refused {
		if refused.Mistake {
			mistakes++
		}
	}
	if waiting > 0 {
		text += fmt.Sprintf("; not healthy or held: %d", waiting)
	}
	if mistakes > 0 {
		text += fmt.Sprintf("; mistakes: %d, see below", mistakes)
	}
	return text
}

// print writes a report for people.
func (r Report) print(w io.Writer) {
	fmt.Fprintf(w, "kvagent %s on %s (%s), store %s\n", r.Version, r.Host, r.Address, strings.Join(r.Endpoints, ","))
	for _, problem := range r.Problems {
		fmt.Fprintf(w, "PROBLEM: %s\n", printable.Line(problem))
	}
	if len(r.Problems) == 0 {
		fmt.Fprintf(w, "the registry is true: %d of %d keys registered, heartbeat %s%s\n", r.Store.Registered, r.Store.Wanted, ago(r.Store.Heartbeat, r.Time), r.reservations())
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "\nSOURCE\tWORKLOADS\tFOLLOWED")
	for _, s := range r.Follows {
		followed := "yes"
		if !s.Connected {
			followed = "no: " + cmp.Or(s.Err, untold)
		}
		row(table, s.Name, strconv.Itoa(s.Workloads), followed)
	}
	table.Flush()
	fmt.Fprintln(table, "\nSERVICE\tINSTANCE\tADDRESS\tWORKLOAD\tSTANDS\tWHY")
	for _, i := range r.Instances {
		reason := i.Reason
		if i.Phase == string(registrar.Up) && reason == "" {
			reason = "-"
		}
		row(table, i.Service, i.Instance, i.Address, i.Workload, i.Phase, strings.ReplaceAll(reason, "\n", "; "))
	}
	table.Flush()
	for _, refused := range r.Refused {
		if refused.Mistake {
			fmt.Fprintln(w, printable.Line(fmt.Sprintf("MISTAKE: %s %s: %s", refused.Source, refused.Workload, refused.Reason)))
		}
	}
}
