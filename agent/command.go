package agent

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/hostaddr"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/clientflags"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload/docker"
)

// settings are those of the command; their defaults are the flags'.
type settings struct {
	store         kvclient.Config
	prefix        string
	ttl           time.Duration
	host          string
	ip            string
	internal      bool
	network       string
	explicit      bool
	tags          []string
	dockerHost    string
	engineTimeout time.Duration
	withdraw      bool
	dryRun        bool
	companions    []companion
}

// Program is kvagent.
func Program() program.Program {
	aliases := clientflags.EnvAliases()
	aliases["docker-host"] = []string{"DOCKER_HOST"}
	return program.Program{Name: "kvagent", Command: command, EnvAliases: aliases, ConfigFile: "/etc/kvd/kvagent.yaml", HangupEnds: true}
}

func command() *cobra.Command {
	s := settings{companions: companions()}
	cmd := &cobra.Command{
		Use:   "kvagent",
		Short: "Keep the containers of this host registered",
		Long: `kvagent follows the containers of a Docker engine and keeps each published port
that answers registered in the store, as PREFIX/SERVICE/INSTANCE with a TTL.
Run one on each host. Containers name their service with the label SERVICE_NAME.

It starts without the store and registers when that answers, but not without the engine. When it is
stopped its registrations stay until their TTL is over, and the next run carries on with them.

Exit codes: 0 ended as asked, 1 bad arguments or configuration, 2 no engine answers at the start,
3 this user may not ask the engine, 5 ended with records that were to be removed left to their TTL.`,
		Example: `  kvagent                                      # the engine and the store of this machine
  kvagent --dry-run                            # say what would be registered, and why not the rest
  kvagent --endpoints http://10.0.0.1:2379 --ip 10.0.0.7
  docker run -d -p 80 -l SERVICE_NAME=web IMAGE`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	clientflags.Add(flags, &s.store)
	flags.StringVar(&s.prefix, "prefix", registry.DefaultPrefix, "`directory` of all services in the store")
	flags.DurationVar(&s.ttl, "ttl", registry.DefaultTTL, "how long registrations outlive this agent when it is stopped or dies; whole seconds")
	flags.StringVar(&s.host, "host", "", "`name` of this machine, part of every instance's name (default: its host name)")
	flags.StringVar(&s.ip, "ip", "", "`address` to register for published ports (default: where the route to the store begins)")
	flags.BoolVar(&s.internal, "internal", false, "register containers' own addresses and exposed ports instead of published ones")
	flags.StringVar(&s.network, "network", "", "with --internal: `name` of the network whose addresses to register (default: the first by name)")
	flags.BoolVar(&s.explicit, "explicit", false, "register only containers that set SERVICE_NAME")
	flags.StringSliceVar(&s.tags, "tags", nil, "comma-separated `tags` to add to every registration")
	flags.StringVar(&s.dockerHost, "docker-host", docker.DefaultHost, "`address` of the engine, unix:///PATH or tcp://HOST:PORT")
	flags.DurationVar(&s.engineTimeout, "engine-timeout", time.Minute, "how long registrations outlive an engine that does not answer; 0: for ever")
	flags.BoolVar(&s.withdraw, "withdraw-on-stop", false, "remove the registrations when the agent is stopped, to take this host out")
	flags.BoolVar(&s.dryRun, "dry-run", false, "print what would be registered and why the rest would not be, write nothing, and exit")
	for _, c := range s.companions {
		c.addFlags(flags)
	}
	return cmd
}

func (s settings) run(ctx context.Context) error {
	env := program.EnvFrom(ctx)
	options, err := s.options(ctx)
	if err != nil {
		return usage(err)
	}
	sourceLog := env.Log
	if s.dryRun {
		sourceLog = nil // it is over before there is anything to tell
	}
	source, err := docker.New(docker.Config{Host: s.dockerHost, Hold: s.engineTimeout, Log: sourceLog})
	if err != nil {
		return usage(fmt.Errorf("--docker-host: %w", err))
	}
	client, err := kvclient.New(s.store)
	if err != nil {
		return usage(err)
	}
	defer client.Close()
	if err := source.Ping(ctx); err != nil {
		return &program.ExitError{Code: exitCode(err, exitNoEngine), Err: err}
	}
	if s.dryRun {
		return dryRun(ctx, source, options, env.Stdout)
	}
	if options.Address.IsLoopback() && s.ip == "" {
		env.Log.Warn("this machine has no address but loopback: only this machine can use what is registered; --ip names another one", "ip", options.Address)
	}
	env.Log.Info("starting", "host", options.Host, "ip", options.Address, "prefix", s.prefix, "ttl", s.ttl, "engine", s.dockerHost, "store", s.store.Endpoints)

	beside, err := open(s.companions, host{Store: client, Config: s.store, Prefix: s.prefix, Name: options.Host, Address: options.Address, Log: env.Log})
	if err != nil {
		return usage(err)
	}
	publisher := registry.NewPublisher(registry.PublisherConfig{
		Store: client, Prefix: s.prefix, TTL: s.ttl, Owner: s.owner(options), Keep: !s.withdraw, Log: env.Log})
	a := Agent{Source: source, Publisher: publisher, Options: options, Log: env.Log, Ready: func() {
		env.Log.Info("ready", "registered", publisher.Status().Registered)
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			env.Log.Warn("cannot tell systemd that the agent is ready", "err", err)
		}
	}}
	var servers sync.WaitGroup
	defer servers.Wait()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	servers.Go(func() { beside.run(serving, env.Log) })
	if err := a.Run(ctx); err != nil {
		return &program.ExitError{Code: exitCode(err, exitLeftover), Err: err}
	}
	return nil
}

// Exit codes of kvagent beyond those of every program.
const (
	exitNoEngine = 2 // no engine answered at the start
	exitDenied   = 3 // this user may not ask the engine
	exitLeftover = 5 // ended, but the store did not answer: what was to be removed was left to its TTL
)

func exitCode(err error, otherwise int) int {
	if errors.Is(err, docker.ErrPermission) {
		return exitDenied
	}
	return otherwise
}

// owner names the records of this agent, the same for every run of it. An agent of another host name
// or engine is another program: machines are cloned with their identities, and one may have two engines.
func (s settings) owner(options Options) string {
	engine := fnv.New64a()
	fmt.Fprintf(engine, "%s %s", options.Host, s.dockerHost)
	return registry.StandingOwner(options.Host, fmt.Sprintf("kvagent-%016x", engine.Sum64()), fmt.Sprintf("%+v", options))
}

// noArguments explains what people who come from registrator try.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	uri, err := url.Parse(args[0])
	if err != nil || uri.Scheme != "etcd" || uri.Host == "" {
		return fmt.Errorf("unexpected argument %q: kvagent has flags only; try: kvagent --help", args[0])
	}
	flags := "--endpoints http://" + uri.Host
	if prefix := strings.TrimRight(uri.Path, "/"); prefix != "" {
		flags += " --prefix " + prefix
	}
	return fmt.Errorf("unexpected argument %q: the store is named by flags; use %s", args[0], flags)
}

func usage(err error) error { return &program.ExitError{Code: program.ExitUsage, Err: err} }

// options checks the settings and fills in what this machine knows itself.
func (s settings) options(ctx context.Context) (Options, error) {
	options := Options{Host: s.host, Internal: s.internal, Network: s.network, Explicit: s.explicit}
	if err := registry.ValidatePrefix(s.prefix); err != nil {
		return options, fmt.Errorf("--prefix: %w", err)
	}
	if err := registry.ValidateTTL(s.ttl); err != nil {
		return options, fmt.Errorf("--ttl: %w", err)
	}
	if s.network != "" && !s.internal {
		return options, fmt.Errorf("--network %q: has a meaning only with --internal", s.network)
	}
	if s.engineTimeout < 0 {
		return options, fmt.Errorf("--engine-timeout %v: must not be negative", s.engineTimeout)
	}
	if options.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			return options, fmt.Errorf("cannot find out the name of this machine (%w); set --host", err)
		}
		// '_' parts the host from the container in an instance's name.
		options.Host = strings.ReplaceAll(name, "_", "-")
	}
	if !isName(options.Host) || strings.Contains(options.Host, "_") {
		return options, fmt.Errorf("--host %q: a host's name has at most %d letters, digits, '.' and '-'", options.Host, nameBytesMax)
	}
	for _, tag := range s.tags {
		if tag = strings.TrimSpace(tag); tag == "" || len(tag) > tagBytesMax || !isPrintable(tag) {
			return options, fmt.Errorf("--tags %q: a tag is printable text of at most %d bytes", tag, tagBytesMax)
		}
		options.Tags = append(options.Tags, tag)
	}
	if s.ip == "" {
		options.Address = hostaddr.Find(ctx, s.store.Endpoints)
		return options, nil
	}
	ip, err := netip.ParseAddr(s.ip)
	if err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		return options, fmt.Errorf("--ip %q: must be one address of this machine, like 10.0.0.7 or fd00::7", s.ip)
	}
	options.Address = ip.Unmap()
	return options, nil
}
