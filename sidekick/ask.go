package sidekick

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registrar/local"
)

// socketFolder is where the sockets of the units' sidekicks are.
const socketFolder = "/run/kvd/kvsidekick"

// exitUnavailable is the exit code when no sidekick answers.
const exitUnavailable = 2

// asking is what the commands have in common that ask a sidekick that runs.
type asking struct {
	socket string
	reason string
	json   bool
}

// askCommands ask and tell the sidekicks of this host that run.
func askCommands() []*cobra.Command {
	var a asking
	commands := []*cobra.Command{
		{
			Use: "status [NAME]", Short: "Say how a sidekick that runs stands", Args: cobra.MaximumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error { return a.status(cmd.Context(), args) },
		},
		a.mode("drain", "Have no new work sent to the service", override.Drain),
		a.mode("maintenance", "Take the service out of use", override.Maintenance),
		a.mode("ready", "Take back what drain, maintenance and weight have asked for", override.Ready),
		{
			Use: "weight [NAME] NUMBER", Short: "Give the service another weight for load balancers", Args: cobra.RangeArgs(1, 2),
			RunE: func(cmd *cobra.Command, args []string) error {
				last := len(args) - 1
				weight, err := strconv.Atoi(args[last])
				if err != nil {
					return usage(fmt.Errorf("weight %q: must be a number", args[last]))
				}
				return a.change(cmd.Context(), args[:last], func(o *override.Override) { o.Weight = weight })
			},
		},
	}
	for _, cmd := range commands {
		cmd.Flags().StringVar(&a.socket, "socket", "", "`path` of the sidekick's socket (default: "+socketFolder+"/NAME.sock; without a NAME the only one there)")
		if cmd.Name() == "status" {
			cmd.Flags().BoolVar(&a.json, "json", false, "print all that is known as JSON")
		} else {
			cmd.Flags().StringVar(&a.reason, "reason", "", "`why`, for those who find it so")
		}
	}
	return commands
}

func (a *asking) mode(name, short string, mode override.Mode) *cobra.Command {
	return &cobra.Command{
		Use: name + " [NAME]", Short: short, Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.change(cmd.Context(), args, func(o *override.Override) {
				if o.Mode = mode; mode == override.Ready {
					o.Weight = 0
				}
			})
		},
	}
}

func usage(err error) error { return &program.ExitError{Code: program.ExitUsage, Err: err} }

// client returns one of the sidekick that the arguments name.
func (a *asking) client(args []string) (*local.Client, error) {
	path := a.socket
	switch {
	case path != "" && len(args) > 0:
		return nil, usage(fmt.Errorf("--socket %s and the name %q exclude each other", path, args[0]))
	case path != "":
	case len(args) > 0:
		name := strings.TrimSuffix(args[0], ".service")
		if name == "" || strings.ContainsAny(name, "/") || strings.HasPrefix(name, ".") {
			return nil, usage(fmt.Errorf("%q: must be the name of a unit that kvsidekick@.service follows", args[0]))
		}
		path = filepath.Join(socketFolder, name+".sock")
	default:
		found, err := filepath.Glob(filepath.Join(socketFolder, "*.sock"))
		if err != nil || len(found) != 1 {
			return nil, usage(fmt.Errorf("there are %d sidekicks in %s; name one, or give its --socket", len(found), socketFolder))
		}
		path = found[0]
	}
	return local.NewClient(path), nil
}

// ask returns the client, the report and its one instance.
func (a *asking) ask(ctx context.Context, args []string) (*local.Client, local.Report, local.Instance, error) {
	client, err := a.client(args)
	if err != nil {
		return nil, local.Report{}, local.Instance{}, err
	}
	report, err := client.Status(ctx)
	if err != nil {
		return nil, report, local.Instance{}, unavailable(err)
	}
	if len(report.Instances) == 0 {
		return nil, report, local.Instance{}, unavailable(errors.New("the sidekick has not seen its workload yet; try again"))
	}
	return client, report, report.Instances[0], nil
}

func unavailable(err error) error {
	if kv.Is(err, kv.Invalid) {
		return usage(err)
	}
	return &program.ExitError{Code: exitUnavailable, Err: err}
}

// change has something else wanted of the instance.
func (a *asking) change(ctx context.Context, args []string, apply func(*override.Override)) error {
	client, _, instance, err := a.ask(ctx, args)
	if err != nil {
		return err
	}
	var wanted override.Override
	if instance.Override != nil {
		wanted = *instance.Override
	}
	before := wanted.Mode
	apply(&wanted)
	if a.reason != "" || wanted.Mode != before { // another weight leaves the reason of a drain
		wanted.Reason = a.reason
	}
	wanted.By, wanted.At = local.Caller(), time.Now().UTC().Truncate(time.Second)
	if wanted.IsZero() {
		wanted = override.Override{}
	}
	if err := client.Override(ctx, instance.Service, instance.Instance, wanted); err != nil {
		if kv.Is(err, kv.Internal) || kv.Is(err, kv.NotFound) { // it did answer
			return err
		}
		return unavailable(err)
	}
	fmt.Fprintf(program.EnvFrom(ctx).Stdout, "%s/%s: %s\n", instance.Service, instance.Instance, wanted)
	return nil
}

func (a *asking) status(ctx context.Context, args []string) error {
	_, report, _, err := a.ask(ctx, args)
	if err != nil {
		return err
	}
	out := program.EnvFrom(ctx).Stdout
	if a.json {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(report)
	}
	printStatus(out, report)
	return nil
}

// printStatus writes a report for people.
func printStatus(out io.Writer, report local.Report) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "%-12s %s\n", name, printable.Line(fmt.Sprintf(format, args...)))
	}
	since := func(t time.Time) string { return report.Time.Sub(t).Round(time.Second).String() }
	for _, i := range report.Instances {
		line("service", "%s/%s at %s", i.Service, i.Instance, i.Address)
		line("phase", "%s for %s%s", i.Phase, since(i.Since), because(i.Reason))
		line("workload", "%s", i.Workload)
		if c := i.Check; c != nil {
			line("check", "%s: %d passed, %d failed in a row%s", c.Check, c.Passed, c.Failed, because(c.Output))
		}
		if o := i.Override; o != nil {
			line("wanted", "by %s: %s", cmp.Or(o.By, "somebody"), o)
		}
		for _, key := range i.Keys {
			line("key", "%s %s for %s%s", key.Key, key.State, since(key.Since), because(key.Err))
		}
	}
	if !report.Store.Heartbeat.IsZero() {
		line("heartbeat", "%s ago", since(report.Store.Heartbeat))
	}
	if report.Store.Err != "" {
		line("store", "%s", report.Store.Err)
	}
	for _, source := range report.Sources {
		if !source.Connected {
			line(source.Name, "does not answer%s", because(source.Err))
		}
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}
