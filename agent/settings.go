package agent

import (
	"context"
	"fmt"
	"hash/fnv"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/pkg/hostaddr"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/clientflags"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload/docker"
)

// DefaultSocket is where a running kvagent answers kvagent explain and the like.
const DefaultSocket = "/run/kvd/kvagent/kvagent.sock"

// defaultServicesDir holds the files that describe services.
const defaultServicesDir = "/etc/kvd/services.d"

// settings are those of the command; their defaults are the flags'.
type settings struct {
	store    kvclient.Config
	prefix   string
	layouts  []string
	ttl      time.Duration
	givenTTL time.Duration // 0: none was, ttl is the default
	withdraw bool
	drain    time.Duration

	host         string
	ip           string
	internal     bool
	network      string
	addressLabel string
	explicit     bool
	tags         string

	sources     []string
	dockerHost  string
	servicesDir string
	hold        time.Duration

	stateDir      string
	socket        string
	isSocketAsked bool // rather than the default
	statusListen  string

	once   bool
	dryRun bool

	registrator registrator
	uri         *uri // nil: registrator's argument was not given
	companions  []companion
}

func (s *settings) addFlags(flags *pflag.FlagSet) {
	clientflags.Add(flags, &s.store)
	flags.StringVar(&s.prefix, "prefix", registry.DefaultPrefix, "`directory` of all services in the store")
	flags.StringArrayVar(&s.layouts, "layout", nil, "`LAYOUT:WHERE` to write: json:/services, registrator:/DIRECTORY, skydns:DOMAIN, coreos:/DIRECTORY; may be repeated (default: json below --prefix)")
	flags.DurationVar(&s.ttl, "ttl", registry.DefaultTTL, "how long registrations outlive this agent when it is stopped or dies; whole seconds")
	flags.BoolVar(&s.withdraw, "withdraw-on-stop", false, "remove the registrations when the agent is stopped, to take this host out")
	flags.DurationVar(&s.drain, "shutdown-drain", DefaultShutdownDrain, "when systemd shuts this machine down: time between telling readers, by the state draining, and removing the registrations")
	flags.StringVar(&s.host, "host", "", "`name` of this machine, part of every instance's name (default: its host name)")
	flags.StringVar(&s.ip, "ip", "", "`address` to register for published ports; one for each family may be given, the first counts where nothing else is asked for (default: where the route to the store begins)")
	flags.BoolVar(&s.internal, "internal", false, "register containers' own addresses and exposed ports instead of published ones")
	flags.StringVar(&s.network, "network", "", "with --internal: `name` of the network whose addresses to register (default: the first by name)")
	flags.StringVar(&s.addressLabel, "use-ip-from-label", "", "register the address in this `label` of containers that have it")
	flags.BoolVar(&s.explicit, "explicit", false, "register only containers that name their service")
	flags.StringVar(&s.tags, "tags", "", "comma-separated `tags` to add to every registration, or a template of such, as registrator has them")
	flags.StringSliceVar(&s.sources, "source", nil, "where services come from: docker, systemd and file; may be repeated (default: each that is there, or comes)")
	flags.StringVar(&s.dockerHost, "docker-host", docker.DefaultHost, "`address` of the engine, unix:///PATH or tcp://HOST:PORT; with registrator's argument "+registratorSocket+" if that is there")
	flags.StringVar(&s.servicesDir, "services-dir", defaultServicesDir, "`directory` of YAML files that describe services")
	flags.DurationVar(&s.hold, "engine-timeout", 0, "how long registrations outlive an engine, or another source, that does not answer; 0: until it does")
	flags.StringVar(&s.stateDir, "state-dir", "", "`directory` that remembers what operators want over restarts, until the store has been read (default: nothing is kept)")
	flags.StringVar(&s.socket, "socket", DefaultSocket, "`path` of the socket on which kvagent explain, status, drain and the like are answered; empty: none")
	flags.StringVar(&s.statusListen, "status-listen", "", "`address` of a page with the status, its JSON, /metrics and /health, such as 127.0.0.1:8601 (default: none)")
	flags.BoolVar(&s.once, "once", false, "register what runs now, wait for it, tell what could not be registered, and exit; it stays for --ttl")
	flags.BoolVar(&s.dryRun, "dry-run", false, "print what would be registered and why the rest would not be, write nothing, and exit")
	s.registrator.addFlags(flags)
	for _, c := range s.companions {
		c.addFlags(flags)
	}
}

// settle checks the settings as far as they are independent of this machine, and fills in what follows
// from registrator's argument.
func (s *settings) settle(arguments []string, isTLS, endpointsGiven bool) error {
	if len(arguments) > 1 && !strings.Contains(arguments[0], "://") {
		return notURI(arguments[0])
	}
	if len(arguments) > 1 {
		return fmt.Errorf("unexpected argument %q: registrator's URI is the only one", arguments[1])
	}
	if len(arguments) == 1 {
		u, err := parseURI(arguments[0], isTLS)
		if err != nil {
			return err
		}
		if len(u.endpoints) > 0 && endpointsGiven {
			return fmt.Errorf("%q and --endpoints both name the store: leave one out", arguments[0])
		}
		if len(u.endpoints) > 0 {
			s.store.Endpoints = u.endpoints
		}
		s.uri = &u
	}
	if s.ttl == 0 { // registrator's word for a registration that stays for ever
		s.ttl = registry.DefaultTTL
	}
	switch {
	case s.network != "" && !s.internal:
		return fmt.Errorf("--network %q: has a meaning only with --internal", s.network)
	case s.hold < 0:
		return fmt.Errorf("--engine-timeout %v: must not be negative", s.hold)
	case s.drain < 0:
		return fmt.Errorf("--shutdown-drain %v: must not be negative", s.drain)
	case s.once && s.dryRun:
		return fmt.Errorf("--once writes and --dry-run does not: choose one")
	}
	if err := registry.ValidatePrefix(s.prefix); err != nil {
		return fmt.Errorf("--prefix: %w", err)
	}
	if err := registry.ValidateTTL(s.ttl); err != nil {
		return fmt.Errorf("--ttl: %w", err)
	}
	return s.registrator.validate()
}

// views says where and how records are written.
func (s *settings) views() ([]registry.View, error) {
	var views []registry.View
	for _, text := range s.layouts {
		view, err := registry.ParseView(text)
		if err != nil {
			return nil, fmt.Errorf("--layout: %w", err)
		}
		views = append(views, view)
	}
	switch {
	case len(views) > 0:
	case s.uri != nil:
		views = append(views, s.uri.view)
	default:
		views = append(views, registry.View{Prefix: s.prefix, Layout: registry.LayoutJSON})
	}
	if err := registry.ValidateViews(views); err != nil {
		return nil, fmt.Errorf("--layout: %w", err)
	}
	return views, nil
}

// options checks the settings and fills in what this machine knows itself. fetch is for templates of tags.
func (s *settings) options(ctx context.Context, fetch func(string) ([]byte, error)) (Options, error) {
	o := Options{Host: s.host, Internal: s.internal, Network: s.network, Explicit: s.explicit, AddressLabel: s.addressLabel, Registrator: s.uri != nil}
	if o.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("cannot find out the name of this machine (%w); set --host", err)
		}
		// '_' parts the host from the container in an instance's name.
		o.Host = strings.ReplaceAll(name, "_", "-")
	}
	if !isName(o.Host) || strings.Contains(o.Host, "_") {
		return o, fmt.Errorf("--host %q: a host's name has at most %d letters, digits, '.' and '-'", o.Host, nameBytesMax)
	}
	var err error
	if o.Tags, err = ParseTags(s.tags, fetch); err != nil {
		return o, fmt.Errorf("--tags: %w", err)
	}
	if s.ip == "" {
		o.Address = hostaddr.Find(ctx, s.store.Endpoints)
		return o, nil
	}
	o.Forced = o.Registrator
	for i, text := range strings.Split(s.ip, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(text))
		ip = ip.Unmap()
		switch {
		case err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "":
			return o, fmt.Errorf("--ip %q: must be an address of this machine, like 10.0.0.7 or fd00::7", text)
		case i == 0:
			o.Address = ip
		case i == 1 && ip.Is4() != o.Address.Is4():
			o.Other = ip
		default:
			return o, fmt.Errorf("--ip %q: at most one address of each family can be registered", s.ip)
		}
	}
	return o, nil
}

// owner names the records of this agent, the same for every run of it. An agent of another host name
// or engine is another program: machines are cloned with their identities, and one may have two engines.
func (s *settings) owner(o Options, views []registry.View) string {
	engine := fnv.New64a()
	fmt.Fprintf(engine, "%s %s", o.Host, s.dockerHost)
	what := fmt.Sprintf("%s %s %v %q %v %q %v %q %v", o.Address, o.Other, o.Internal, o.Network, o.Explicit, o.AddressLabel, o.Registrator, s.tags, views)
	return registry.StandingOwner(o.Host, fmt.Sprintf("kvagent-%016x", engine.Sum64()), what)
}
