package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/clientflags"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registrar/local"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
	"github.com/kvd-io/kvd/pkg/workload/docker"
	"github.com/kvd-io/kvd/pkg/workload/files"
	"github.com/kvd-io/kvd/pkg/workload/systemd"
)

// Program is kvagent.
func Program() program.Program {
	aliases := clientflags.EnvAliases()
	aliases["docker-host"] = []string{"DOCKER_HOST"}
	aliases["state-dir"] = []string{"STATE_DIRECTORY"} // systemd's
	return program.Program{
		Name: "kvagent", Command: command, EnvAliases: aliases, ConfigFile: "/etc/kvd/kvagent.yaml", HangupEnds: true,
		Elsewhere: elsewhere(),
		Args:      func(args []string) []string { return program.DoubleDashes(args, command().Flags(), canonical) },
	}
}

func command() *cobra.Command {
	s := &settings{companions: companions()}
	cmd := &cobra.Command{
		Use:   "kvagent [etcd://HOST:PORT/PREFIX]",
		Short: "Keep what runs on this host registered",
		Long: `kvagent follows the containers of a Docker engine, the systemd units with an [X-Kvd] section and a
directory of files, and keeps each port that others can reach and that answers registered in the store,
as PREFIX/SERVICE/INSTANCE with a TTL. Run one on each host. Containers name their service with the label
SERVICE_NAME, or say more with labels kvd.SERVICE.OPTION.

It takes registrator's arguments and flags, with one dash or two: with etcd://HOST:PORT/PREFIX or
skydns2://HOST:PORT/DOMAIN the keys are registrator's, and --layout chooses others beside them.

It starts without the store and without the engine and waits for both. When it is stopped its
registrations stay until their TTL is over, and the next run carries on with them. When systemd shuts
the machine down they are removed.

Exit codes: 0 ended as asked, 1 bad arguments or configuration, 5 ended with records that were to be
removed left to their TTL. With --once and --dry-run also: 2 the engine does not answer, 3 this user may
not ask it, 4 something that runs could not be registered.`,
		Example: `  kvagent                                      # what is on this machine, and its store
  kvagent --dry-run                            # say what would be registered, and why not the rest
  kvagent --endpoints http://10.0.0.1:2379 --ip 10.0.0.7
  kvagent -internal etcd://10.0.0.1:2379/services
  kvagent explain shop                         # ask the one that runs
  docker run -d -p 80 -l SERVICE_NAME=web IMAGE`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return s.run(cmd.Context(), args) },
	}
	s.addFlags(cmd.Flags())
	cmd.AddCommand(commands()...)
	cmd.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(canonical(name))
	})
	return cmd
}

// Exit codes of kvagent beyond those of every program.
const (
	exitNoEngine   = 2 // --once, --dry-run: no engine answers
	exitDenied     = 3 // --once, --dry-run: this user may not ask the engine
	exitIncomplete = 4 // --once: something that runs is not registered
	exitLeftover   = 5 // ended, but the store did not answer: what was to be removed was left to its TTL
)

func usage(err error) error { return &program.ExitError{Code: program.ExitUsage, Err: err} }

// run is the command without a subcommand.
func (s *settings) run(ctx context.Context, arguments []string) error {
	env := program.EnvFrom(ctx)
	s.isSocketAsked = given(env.Origins, "socket")
	if given(env.Origins, "ttl") {
		s.givenTTL = s.ttl
	}
	isTLS := s.store.CAFile != "" || s.store.CertFile != ""
	if err := s.settle(arguments, isTLS, env.Origins["endpoints"] == program.OriginFlag); err != nil {
		return usage(err)
	}
	if s.uri != nil && !given(env.Origins, "docker-host") {
		s.dockerHost = engineOf(registratorSocket)
	}
	views, err := s.views()
	if err != nil {
		return usage(err)
	}
	options, err := s.options(ctx, newFetcher().get)
	if err != nil {
		return usage(err)
	}
	sources, err := s.open(env)
	if err != nil {
		return usage(err)
	}
	if s.dryRun {
		return dryRun(ctx, sources, options, views, env.Stdout)
	}
	s.store.Log = env.Log
	client, err := kvclient.New(s.store)
	if err != nil {
		return usage(err)
	}
	defer client.Close()
	s.registrator.tell(env.Origins, env.Log)
	if options.Address.IsLoopback() && s.ip == "" {
		env.Log.Warn("this machine has no address but loopback: only this machine can use what is registered; --ip names another one", "ip", options.Address)
	}
	env.Log.Info("starting", "version", program.Version(), "host", options.Host, "ip", options.Address, "layouts", fmt.Sprint(views), "ttl", s.ttl, "sources", namesOf(sources), "store", s.store.Endpoints)
	prefix := jsonPrefix(views, s.prefix)
	publisher := registry.NewPublisher(registry.PublisherConfig{
		Store: client, Leaser: client.Leaser(), Views: views, TTL: s.ttl, Owner: s.owner(options, views),
		Keep: !s.withdraw || s.once, AwaitSweep: !s.once, Log: env.Log})
	overrides, err := override.NewSource(override.SourceConfig{Store: client, Prefix: prefix, StateDir: s.stateDir, Log: env.Log})
	if err != nil {
		return usage(fmt.Errorf("--state-dir: %w", err))
	}
	a := &Agent{
		Sources: sources, Registrar: registrar.New(registrar.Config{Publisher: publisher, Overrides: overrides, Peers: client, Prefix: prefix, Log: env.Log}), Publisher: publisher,
		Options: options, TTL: s.ttl, Hold: s.hold, Log: env.Log}
	if s.once {
		return runOnce(ctx, a, env.Stdout)
	}
	beside, err := open(s.companions, host{Store: client, Config: s.store, Prefix: prefix, Name: options.Host, Address: options.Address, Engine: s.dockerHost, Log: env.Log})
	if err != nil {
		return usage(err)
	}
	return s.serve(ctx, a, beside, overrides, views)
}

// jsonPrefix is the directory in which records say everything: the other instances of services are seen
// there.
func jsonPrefix(views []registry.View, otherwise string) string {
	for _, view := range views {
		if view.Layout == registry.LayoutJSON {
			return view.Prefix
		}
	}
	return otherwise
}

// serve runs the agent, what people ask it with, and what runs beside it.
func (s *settings) serve(ctx context.Context, a *Agent, beside *running, overrides *override.Source, views []registry.View) error {
	console := &console{agent: a, beside: beside, store: s.store.Endpoints, views: views, local: local.Config{
		Program: "kvagent", Registrar: a.Registrar, Publisher: a.Publisher, Overrides: overrides, Log: a.Log, Sources: a.sources}}
	if s.socket != "" {
		socket, err := local.Listen(s.socket, console.config())
		switch {
		case err == nil:
			beside.add("socket", socket)
		case s.isSocketAsked:
			return usage(fmt.Errorf("--socket: %w", err))
		default:
			a.Log.Warn("kvagent explain, drain and the like will not be answered", "err", err)
		}
	}
	if s.statusListen != "" {
		status, err := listenStatus(s.statusListen, readOnly(local.Handler(console.config())), a.Log)
		if err != nil {
			return usage(fmt.Errorf("--status-listen: %w", err))
		}
		beside.add("status", status)
	}
	if _, err := os.Stat(systemdBooted); err == nil {
		a.Leaves, a.Drain = func(ctx context.Context) bool { return isShutdown(ctx, a.Log) }, s.drain
	}
	manager := systemdNotifier(a.Log)
	a.Ready = func() {
		args := []any{"registered", a.Publisher.Status().Registered}
		if unheard := a.notHeard(); len(unheard) > 0 {
			args = append(args, "unheard", unheard) // what these have is not registered
		}
		a.Log.Info("ready", args...)
		manager.send(daemon.SdNotifyReady)
	}
	var servers sync.WaitGroup
	defer servers.Wait()
	serving, stop := context.WithCancel(context.WithoutCancel(ctx)) // while it leaves, it can be asked
	defer stop()
	servers.Go(func() { beside.run(serving, a.Log) })
	servers.Go(func() { manager.run(serving, a) })
	if err := a.Run(ctx); err != nil {
		return &program.ExitError{Code: exitLeftover, Err: err}
	}
	return nil
}

// systemdBooted is there where systemd is the service manager.
const systemdBooted = "/run/systemd/system"

// open returns the sources that the settings name, or else those that this machine may have. An engine
// and a directory may come later; a service manager does not.
func (s *settings) open(env *program.Env) ([]Source, error) {
	known := []string{SourceDocker, SourceSystemd, SourceFile}
	for _, name := range s.sources {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("--source %q: there are %s", name, strings.Join(known, ", "))
		}
	}
	wanted := func(name string, isThere bool) bool {
		return slices.Contains(s.sources, name) || len(s.sources) == 0 && isThere
	}
	log := env.Log
	if s.dryRun {
		log = nil // it is over before there is anything to tell
	}
	var list []Source
	if wanted(SourceDocker, true) {
		config := docker.Config{Host: s.dockerHost, Hold: s.hold, FailedHold: s.registrator.failedHold(s.givenTTL), Log: log}
		if _, err := docker.New(config); err != nil {
			return nil, fmt.Errorf("--docker-host: %w", err)
		}
		list = append(list, Source{Name: SourceDocker, Detail: s.dockerHost, Expected: len(s.sources) > 0 || given(env.Origins, "docker-host"),
			Absent: func() bool { return hasNoSocket(s.dockerHost) },
			Open:   func() (workload.Source, error) { return docker.New(config) }})
	}
	if _, err := os.Stat(systemdBooted); wanted(SourceSystemd, err == nil) {
		list = append(list, Source{Name: SourceSystemd, Detail: "units with an [X-Kvd] section", Expected: len(s.sources) > 0,
			Open: func() (workload.Source, error) { return openUnits(systemd.Config{Host: s.host, Log: log}) }})
	}
	if wanted(SourceFile, true) {
		config := files.Config{Dir: s.servicesDir, Log: log}
		if _, err := files.New(config); err != nil {
			return nil, fmt.Errorf("--services-dir: %w", err)
		}
		list = append(list, Source{Name: SourceFile, Detail: s.servicesDir, Expected: len(s.sources) > 0,
			Open: func() (workload.Source, error) { return files.New(config) }})
	}
	return list, nil
}

// hasNoSocket reports whether an engine's address names a socket that is not there. An engine that has
// died leaves its socket behind.
func hasNoSocket(host string) bool {
	path, isSocket := strings.CutPrefix(host, "unix://")
	if !isSocket {
		return false
	}
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// units are a systemd.Source that says how it fares as other sources do.
type units struct{ *systemd.Source }

func openUnits(config systemd.Config) (workload.Source, error) {
	source, err := systemd.New(config)
	if err != nil {
		return nil, err
	}
	return units{source}, nil
}

// Status implements workload.Reporter.
func (u units) Status() workload.Status {
	told := u.Source.Status()
	return workload.Status{Connected: told.Connected, Since: told.Since, Err: told.Err}
}

func namesOf(sources []Source) (list []string) {
	for _, source := range sources {
		list = append(list, source.Name)
	}
	return list
}

// engineError is why the engine cannot be asked, with the exit code for it.
func engineError(err error) error {
	code := exitNoEngine
	if errors.Is(err, docker.ErrPermission) {
		code = exitDenied
	}
	return &program.ExitError{Code: code, Err: err}
}
