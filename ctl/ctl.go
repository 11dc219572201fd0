// Package ctl is kvctl as a library: commands for people and shell scripts that take etcdctl's
// words, print what it prints, and end with the codes that it documents.
//
// It knows flags, output formats and exit codes. It knows the store only as kvclient shows it,
// and decides nothing that the store has to decide.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/ctl/demo"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/clientflags"
	"github.com/kvd-io/kvd/pkg/program"
)

const defaultTotalTimeout = 5 * time.Second

// settings are what the flags of every command set.
type settings struct {
	client       kvclient.Config
	records      byRecords
	output       format
	totalTimeout time.Duration
	debug        bool
}

// Program returns kvctl.
func Program() program.Program {
	var s *settings
	var execWatch *cobra.Command
	return program.Program{
		Name: "kvctl",
		Command: func() *cobra.Command {
			s = &settings{output: simple, totalTimeout: defaultTotalTimeout}
			execWatch = execWatchCommand(s)
			return rootCommand(s, execWatch)
		},
		EnvAliases: envAliases(),
		HangupEnds: true,
		LogFormat:  "text", // its log is for whoever typed the command
		Args: func(args []string) []string {
			// Without a "--" the command to run begins at the first word that is no flag, and its
			// flags are its own.
			execWatch.Flags().SetInterspersed(slices.Contains(args, "--"))
			return args
		},
		Report: func(w io.Writer, f program.Failure) bool {
			if s.output != asJSON {
				return false
			}
			trouble{Exit: f.Code, Message: f.Text, Hint: strings.Join(f.Hints, "; ")}.print(w, asJSON)
			return true
		},
	}
}

func rootCommand(s *settings, execWatch *cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:   "kvctl",
		Short: "read, write and watch keys",
		Long: `kvctl reads, writes and watches the keys of a kvd, or of an etcd that serves the v2 API.
It takes the words of etcdctl v2, prints what it prints and ends with the codes it documents.`,
		Example: `  kvctl set /message hello
  kvctl get /message
  kvctl ls --recursive /
  kvctl watch --forever --recursive /services
  kvctl exec-watch --recursive /services -- sh -c 'echo "$KV_WATCH_KEY changed"'`,
	}
	flags := root.PersistentFlags()
	clientflags.Add(flags, &s.client)
	flags.Lookup("endpoints").Shorthand = "C"
	s.records.addFlags(flags)
	flags.VarP(&s.output, "output", "o", "how to print: simple, extended or json")
	flags.DurationVar(&s.totalTimeout, "total-timeout", s.totalTimeout, "longest time for a command, except those that watch; 0 is no limit")
	flags.BoolVar(&s.debug, "debug", false, "show each request as a curl command on stderr")
	flags.Bool("no-sync", false, "accepted for etcdctl's sake: the endpoints are always used as given")
	flags.Lookup("no-sync").Hidden = true

	root.AddGroup(&cobra.Group{ID: groupKeys, Title: "Keys:"}, &cobra.Group{ID: groupDirs, Title: "Directories:"}, &cobra.Group{ID: groupWatch, Title: "Changes:"},
		&cobra.Group{ID: groupLeases, Title: "Leases:"}, &cobra.Group{ID: groupServices, Title: "Services:"}, &cobra.Group{ID: groupTemplates, Title: "Files rendered from keys:"},
		&cobra.Group{ID: groupCluster, Title: "Cluster:"}, &cobra.Group{ID: groupAccess, Title: "Access control:"}, &cobra.Group{ID: groupCerts, Title: "Certificates:"},
		&cobra.Group{ID: groupBackup, Title: "Backups:"})
	root.AddCommand(
		getCommand(s), setCommand(s), mkCommand(s), updateCommand(s), rmCommand(s),
		lsCommand(s), mkdirCommand(s), setdirCommand(s), updatedirCommand(s), rmdirCommand(s),
		watchCommand(s), execWatch,
		leaseCommand(s),
		serviceCommand(s),
		convergedCommand(s),
		memberCommand(s), endpointCommand(s), doctorCommand(s),
		userCommand(s), roleCommand(s), authCommand(s),
		certCommand(s),
		snapshotCommand(s),
		demo.Command(), exitCodesTopic(),
	)
	root.SetGlobalNormalizationFunc(acceptOldNames)
	return root
}

// The groups of commands in the help.
const (
	groupKeys      = "keys"
	groupDirs      = "dirs"
	groupWatch     = "watch"
	groupAccess    = "access"
	groupLeases    = "leases"
	groupServices  = "services"
	groupTemplates = "templates"
	groupCluster   = "cluster"
	groupCerts     = "certs"
	groupBackup    = "backup"
)

// acceptOldNames lets flags of etcdctl, of v2 and v3, stand for ours.
func acceptOldNames(flags *pflag.FlagSet, name string) pflag.NormalizedName {
	if name == "timeout" && waits(flags) {
		return waitTimeoutFlag
	}
	switch name {
	case "endpoint", "peers":
		name = "endpoints"
	case "timeout":
		name = "dial-timeout"
	case "rw":
		name = "readwrite"
	case "cacert":
		name = "ca-file"
	case "cert", "key":
		name += "-file"
	}
	return pflag.NormalizedName(name)
}

// session is one command at work.
type session struct {
	*settings
	*printer
	env    *program.Env
	client *kvclient.Client
	config kvclient.Config // of client
}

// action is what a command does once there is a client.
type action func(ctx context.Context, c *session, args []string) error

// run returns the RunE of a command: it opens the client, bounds act by the total timeout, and
// turns its error into a message and an exit code.
func (s *settings) run(act action) func(*cobra.Command, []string) error {
	return s.runUnbounded(func(ctx context.Context, c *session, args []string) error {
		ctx, cancel := s.bound(ctx)
		defer cancel()
		return act(ctx, c, args)
	})
}

// bound returns a context that ends with ctx or after the total timeout, if there is one.
func (s *settings) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.totalTimeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.totalTimeout)
}

// runUnbounded is run for commands that wait for changes.
func (s *settings) runUnbounded(act action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		env := program.EnvFrom(cmd.Context())
		return s.told(env, s.open(cmd.Context(), env, func(c *session) error { return act(cmd.Context(), c, args) }))
	}
}

// told prints what err means to the user and returns its exit code; nil if there is no error.
func (s *settings) told(env *program.Env, err error) error {
	if err == nil {
		return nil
	}
	trouble := diagnose(err)
	if trouble.text != "" {
		trouble.print(env.Stderr, s.output)
	}
	return &program.ExitError{Code: trouble.Exit}
}

// open calls act with a session, and closes it.
func (s *settings) open(ctx context.Context, env *program.Env, act func(*session) error) error {
	if err := s.find(ctx, env.Stderr); err != nil {
		return err
	}
	cfg := s.client
	cfg.Log = env.Log
	if s.debug {
		cfg.OnRequest = func(method, url, form string) { printCurl(env.Stderr, method, url, form) }
	}
	if s.totalTimeout < 0 {
		return &usageError{text: fmt.Sprintf("--total-timeout %v: it cannot be negative", s.totalTimeout), hint: "0 is no limit"}
	}
	if err := askPassword(ctx, env, &cfg); err != nil {
		return err
	}
	client, err := kvclient.New(cfg)
	if err != nil {
		return &usageError{text: err.Error()}
	}
	defer client.Close()
	c := &session{settings: s, printer: newPrinter(env.Stdout, s.output), env: env, client: client, config: cfg}
	return errors.Join(act(c), c.flush())
}

// printCurl shows a request in the form of etcdctl's --debug. Neither part can hold a quote: both
// are URL-encoded.
func printCurl(w io.Writer, method, url, form string) {
	data := ""
	if form != "" {
		data = " -d '" + form + "'"
	}
	fmt.Fprintf(w, "cURL Command: curl -X %s '%s'%s\n", method, url, data)
}
