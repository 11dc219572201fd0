package sidekick

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/clientflags"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registrar/local"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
	"github.com/kvd-io/kvd/pkg/workload/systemd"
)

// Exit codes of kvsidekick beside those of every program and those of the wrapped command.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// Program is kvsidekick.
func Program() program.Program {
	return program.Program{
		Name:       "kvsidekick",
		Command:    command,
		EnvAliases: clientflags.EnvAliases(),
		ConfigFile: "/etc/kvd/kvsidekick.yaml",
	}
}

func command() *cobra.Command {
	var cfg Config
	cmd := &cobra.Command{
		Use:   "kvsidekick --service NAME --port NUMBER {-- COMMAND [ARGS] | --unit UNIT} [flags]",
		Short: "Keep one service registered for as long as it runs and answers",
		Long: `kvsidekick runs a command, or follows a systemd unit, and keeps the service it offers
registered in the store as PREFIX/SERVICE/INSTANCE with a TTL: from the first check that passes
until it stops, dies or fails its checks. Before the command is told to stop the record is draining for a
while, and then removed.

Exit codes: that of the command, 128 plus the signal's number if one killed it, 127 if it is not
found and 126 if it cannot be run. With --unit: 0. In both cases: 1 for bad arguments.`,
		Example: `  kvsidekick --service web --port 8080 -- ./app --listen :8080
  kvsidekick --service web --port 8080 --check http:/healthz --tag blue -- ./app
  kvsidekick --service db --port 5432 --unit postgresql.service`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg.Command = args
			return run(cmd.Context(), cfg)
		},
	}
	addFlags(cmd, &cfg)
	cmd.AddCommand(askCommands()...)
	return cmd
}

func addFlags(cmd *cobra.Command, cfg *Config) {
	flags := cmd.Flags()
	flags.SetInterspersed(false) // the first word that is no flag begins the command
	flags.StringVar(&cfg.Service, "service", "", "`name` of the service (required)")
	flags.IntVar(&cfg.Port, "port", 0, "port `number` on which the service answers (required)")
	flags.StringVar(&cfg.Address, "address", "", "`address` to register, an IP or a host name (default: where the route to the store begins, or the default route if the store is on this machine)")
	flags.StringVar(&cfg.Instance, "instance", "", "`name` of this instance, unique within the service (default: HOST-PORT)")
	flags.StringVar(&cfg.Host, "host", "", "`name` of this machine (default: its host name)")
	flags.StringSliceVar(&cfg.Tags, "tag", nil, "`tag` of the record; may be repeated")
	flags.StringSliceVar(&cfg.Meta, "meta", nil, "`key=value` of the record; may be repeated")
	flags.IntVar(&cfg.Weight, "weight", 0, "`weight` for load balancers, 1 to 256; 0: leave it to them")
	flags.StringVar(&cfg.Protocol, "protocol", "tcp", "tcp or udp")
	flags.StringVar(&cfg.Prefix, "prefix", registry.DefaultPrefix, "`directory` of all services in the store")
	flags.StringArrayVar(&cfg.Layouts, "layout", nil, "where and how to write the record, as `layout:directory`, json:/services, registrator:/prefix, coreos:/services, or skydns:DOMAIN; may be repeated (default: json:PREFIX)")
	flags.DurationVar(&cfg.TTL, "ttl", registry.DefaultTTL, "the record expires this long after kvsidekick was last heard of; whole seconds")
	flags.StringVar(&cfg.Check, "check", "", "`check` that must pass: "+health.Forms+" (default: tcp; none for udp)")
	flags.DurationVar(&cfg.Monitor.Interval, "check-interval", health.DefaultInterval, "time between checks")
	flags.DurationVar(&cfg.Monitor.StartInterval, "check-start-interval", health.DefaultStartInterval, "time between checks until the first one passes")
	flags.DurationVar(&cfg.Monitor.Timeout, "check-timeout", health.DefaultTimeout, "a check without an answer fails after this time")
	flags.IntVar(&cfg.Monitor.Rise, "check-rise", health.DefaultRise, "`passes` in a row after which the service is registered")
	flags.IntVar(&cfg.Monitor.Fall, "check-fall", health.DefaultFall, "`failures` in a row after which it is removed or marked")
	flags.StringVar(&cfg.OnUnhealthy, "on-unhealthy", registrar.UnhealthyRemove, "what becomes of the record of a service that fails its check: remove, or `mark` it as unhealthy")
	flags.BoolVar(&cfg.KeepLast, "keep-last", false, "never take away the last healthy instance of the service because of a check")
	flags.DurationVar(&cfg.Drain, "drain", DefaultDrain, "time between telling readers, by the state draining, and removing the record; after it the command is told to stop")
	flags.DurationVar(&cfg.StopTimeout, "stop-timeout", DefaultStopTimeout, "kill the command if it has not stopped this long after it was told to; 0: never")
	flags.DurationVar(&cfg.WithdrawTimeout, "withdraw-timeout", registry.DefaultWithdrawTimeout, "give up removing the record after this time; it expires then")
	flags.StringVar(&cfg.Socket, "socket", "", "`path` of a unix socket to tell on how it stands and be told what to do, as the commands below do")
	flags.StringVar(&cfg.StateDir, "state-dir", "", "`directory` in which what operators want of the service is remembered until the store answers; without it that is lost by a restart while it does not")
	flags.StringVar(&cfg.Unit, "unit", "", "follow this systemd `unit` instead of running a command")
	clientflags.Add(flags, &cfg.Store)
}

// run builds a Sidekick from its settings and runs it.
func run(ctx context.Context, cfg Config) error {
	env := program.EnvFrom(ctx)
	plan, err := cfg.plan(ctx)
	if err != nil {
		return &program.ExitError{Code: program.ExitUsage, Err: err}
	}
	cfg.Store.Log = env.Log
	client, err := kvclient.New(cfg.Store)
	if err != nil {
		return &program.ExitError{Code: program.ExitUsage, Err: err}
	}
	defer client.Close()
	if plan.guessedLoopback {
		env.Log.Warn("this machine has no address but loopback: only this machine can use the record; --address names another one", "address", plan.record.Address)
	}

	prefix := canonical(plan.views, cfg.Prefix)
	overrides, err := override.NewSource(override.SourceConfig{
		Store: client, Prefix: prefix, StateDir: cfg.StateDir, Log: env.Log})
	if err != nil {
		return &program.ExitError{Code: program.ExitUsage, Err: fmt.Errorf("--state-dir: %w", err)}
	}
	source, child, err := cfg.source(env)
	if err != nil {
		return err
	}
	s := &Sidekick{
		Overrides: overrides, Peers: client,
		Publisher: registry.PublisherConfig{Store: client, Leaser: client.Leaser(), Prefix: prefix, Views: plan.views, TTL: cfg.TTL, Owner: plan.owner},
		Offer:     registrar.Offer{Record: plan.record, Source: "command", Monitor: plan.monitor, Unhealthy: cfg.OnUnhealthy, KeepLast: cfg.KeepLast},
		Source:    source,
		Drain:     cfg.Drain, WithdrawTimeout: cfg.WithdrawTimeout,
		Notify: SystemdNotifier(env.Log), Log: env.Log,
	}
	unit, isUnit := source.(*systemd.Source)
	s.Serve = cfg.serve(overrides, unit, env.Log)
	switch {
	case isUnit:
		s.Offer.Source, s.Sight = "systemd", func() error { return unit.Status().Err }
		s.Followed = func(ctx context.Context) bool { return isRestartedAlone(ctx, cfg.Unit, env.Log) }
	case child != nil:
		s.Outcome = child.outcome
	}
	s.Run(ctx)
	if child != nil {
		return &program.ExitError{Code: child.exitCode()}
	}
	return nil
}

// serve returns what answers at the socket. Whoever cannot have it goes without: the service matters more.
func (cfg Config) serve(overrides *override.Source, unit *systemd.Source, log *slog.Logger) func(context.Context, *registrar.Registrar, *registry.Publisher) {
	if cfg.Socket == "" {
		return nil
	}
	return func(ctx context.Context, r *registrar.Registrar, p *registry.Publisher) {
		server, err := local.Listen(cfg.Socket, local.Config{
			Program: "kvsidekick", Registrar: r, Publisher: p, Overrides: overrides, Log: log,
			Sources: func() iter.Seq2[string, workload.Status] {
				return func(yield func(string, workload.Status) bool) {
					if unit != nil {
						yield("systemd", unit.Status())
					}
				}
			},
		})
		if err == nil {
			err = server.Run(ctx)
		}
		if err != nil {
			log.Warn("nobody can ask at the socket", "socket", cfg.Socket, "reason", err)
		}
	}
}

// source returns what to follow; a command is started. child is nil for a unit. The error is a
// program.ExitError.
func (cfg Config) source(env *program.Env) (workload.Source, *child, error) {
	if cfg.Unit != "" {
		source, err := systemd.New(systemd.Config{Units: []string{cfg.Unit}, Log: env.Log})
		if err != nil {
			return nil, nil, &program.ExitError{Code: program.ExitUsage, Err: fmt.Errorf("--unit: %w", err)}
		}
		return source, nil, nil
	}
	c, err := startChild(cfg.Command, cfg.StopTimeout, env)
	if err != nil {
		return nil, nil, err
	}
	return c, c, nil
}

var errNothingToFollow = errors.New("nothing to follow: give a command after --, or a unit with --unit; try: kvsidekick --help")
