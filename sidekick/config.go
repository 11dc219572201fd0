package sidekick

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/hostaddr"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload/systemd"
)

// Defaults of a Config.
const (
	// DefaultDrain is what a proxy needs that hears of the change, renders its configuration, checks it
	// and reloads, several times over, and also what a DNS answer of a few seconds needs to be forgotten.
	// It leaves half of the ten seconds that docker stop gives a container to the command.
	DefaultDrain       = 5 * time.Second
	DefaultStopTimeout = 10 * time.Second
)

// Config is every setting of kvsidekick; the flags in addFlags document the fields.
type Config struct {
	Store kvclient.Config

	Service  string
	Port     int
	Address  string
	Instance string
	Host     string
	Tags     []string
	Meta     []string // "key=value"
	Weight   int
	Protocol string
	Prefix   string
	Layouts  []string // see registry.ParseView; none: JSON below Prefix
	TTL      time.Duration

	Check       string
	Monitor     health.Monitor // its Check comes from Check above
	OnUnhealthy string         // registrar.UnhealthyRemove or UnhealthyMark
	KeepLast    bool

	Drain           time.Duration
	StopTimeout     time.Duration
	WithdrawTimeout time.Duration

	StateDir string // where what operators want is remembered; "": nowhere
	Socket   string // where it tells how it stands and is told what to do; "": nowhere

	Unit    string   // what to follow:
	Command []string // exactly one of the two
}

// plan is what the settings amount to on this machine.
type plan struct {
	record          registry.Record
	views           []registry.View
	owner           string // "" for a new one with each run
	monitor         *health.Monitor
	guessedLoopback bool
}

// plan checks the settings and fills in what they leave to this machine.
func (cfg *Config) plan(ctx context.Context) (plan, error) {
	if err := cfg.check(); err != nil {
		return plan{}, err
	}
	var p plan
	record := registry.Record{
		Service: cfg.Service, Instance: cfg.Instance, Address: cfg.Address, Port: cfg.Port,
		Protocol: cfg.Protocol, State: registry.StateUp, Weight: cfg.Weight, Tags: cfg.Tags, Host: cfg.Host,
	}
	if record.Host == "" {
		name, err := os.Hostname()
		if err != nil {
			return p, fmt.Errorf("cannot find out the name of this machine (%w); set --host", err)
		}
		record.Host = name
	}
	if record.Address == "" {
		ip := hostaddr.Find(ctx, cfg.Store.Endpoints)
		record.Address, p.guessedLoopback = ip.String(), ip.IsLoopback()
	}
	if record.Instance == "" {
		record.Instance = instanceName(record.Host, record.Port)
	}
	var err error
	if record.Meta, err = parseMeta(cfg.Meta); err != nil {
		return p, err
	}
	if err := record.Validate(); err != nil {
		return p, err
	}
	if p.views, err = cfg.views(); err != nil {
		return p, err
	}
	check, err := health.Parse(cfg.checkForm(), net.JoinHostPort(record.Address, strconv.Itoa(record.Port)))
	if err != nil {
		return p, fmt.Errorf("--check: %w", err)
	}
	if engine, of := check.(health.Engine); of && (engine.Name != "systemd" || cfg.Unit == "") {
		return p, fmt.Errorf("--check %s: kvsidekick asks no engine; with --unit there is --check systemd", engine.Name)
	}
	if health.Asks(check) {
		monitor := cfg.Monitor
		monitor.Check, p.monitor = check, &monitor
	}
	p.record, p.owner = record, cfg.owner(record)
	return p, nil
}

// views are where and how the record is written.
func (cfg *Config) views() ([]registry.View, error) {
	if len(cfg.Layouts) == 0 {
		return []registry.View{{Prefix: cfg.Prefix, Layout: registry.LayoutJSON}}, nil
	}
	var views []registry.View
	for _, text := range cfg.Layouts {
		view, err := registry.ParseView(text)
		if err != nil {
			return nil, fmt.Errorf("--layout: %w", err)
		}
		views = append(views, view)
	}
	if err := registry.ValidateViews(views); err != nil {
		return nil, fmt.Errorf("--layout: %w", err)
	}
	return views, nil
}

// canonical is the directory of all services of the view that other programs read, and whose overrides
// count.
func canonical(views []registry.View, otherwise string) string {
	for _, view := range views {
		if view.Layout == registry.LayoutJSON {
			return view.Prefix
		}
	}
	return otherwise
}

// owner names the record of a unit's sidekick, the same in every run of it, so that one that was killed
// is followed by one that carries on. Who follows another unit, or registers another instance, is another
// program, and so is who runs under another host name: machines are cloned with their identities. A
// command does not outlive its sidekick, so that no run of it carries on where another one ended.
func (cfg *Config) owner(record registry.Record) string {
	if cfg.Unit == "" {
		return ""
	}
	which := fnv.New64a()
	fmt.Fprintf(which, "%q %q %q %q", record.Host, cfg.Unit, record.Service, record.Instance)
	return registry.StandingOwner(record.Host, fmt.Sprintf("kvsidekick-%016x", which.Sum64()), fmt.Sprintf("%+v %q", record, cfg.Layouts))
}

// check reports settings that make no sense whatever the machine; it completes the unit's name.
func (cfg *Config) check() error {
	if cfg.Unit != "" && !strings.Contains(cfg.Unit, ".") {
		cfg.Unit += ".service"
	}
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if cfg.Service == "" {
		problem("--service is missing: it names what is registered, as in --service web")
	}
	switch {
	case cfg.Port == 0:
		problem("--port is missing: the port on which the service answers, as in --port 8080")
	case cfg.Port < 1 || cfg.Port > 65535:
		problem("--port %d: must be 1 to 65535, the port on which the service answers", cfg.Port)
	}
	switch {
	case cfg.Unit == "" && len(cfg.Command) == 0:
		problems = append(problems, errNothingToFollow)
	case cfg.Unit != "" && len(cfg.Command) > 0:
		problem("--unit %s and the command %q exclude each other", cfg.Unit, cfg.Command[0])
	case cfg.Unit != "":
		if err := systemd.ValidateName(cfg.Unit); err != nil {
			problem("--unit: %w", err)
		}
	}
	switch cfg.OnUnhealthy {
	case registrar.UnhealthyRemove, registrar.UnhealthyMark:
	default:
		problem("--on-unhealthy %q: must be %s or %s", cfg.OnUnhealthy, registrar.UnhealthyRemove, registrar.UnhealthyMark)
	}
	if err := registry.ValidatePrefix(cfg.Prefix); err != nil {
		problem("--prefix: %w", err)
	}
	if err := registry.ValidateTTL(cfg.TTL); err != nil {
		problem("--ttl: %w", err)
	}
	if err := cfg.Monitor.Validate(); err != nil {
		problems = append(problems, err)
	}
	for name, d := range map[string]time.Duration{"drain": cfg.Drain, "stop-timeout": cfg.StopTimeout, "withdraw-timeout": cfg.WithdrawTimeout} {
		if d < 0 {
			problem("--%s %v: must not be negative", name, d)
		}
	}
	return errors.Join(problems...)
}

// checkForm is the check asked for; nothing accepts connections on a udp port.
func (cfg *Config) checkForm() string {
	switch {
	case cfg.Check != "":
		return cfg.Check
	case cfg.Protocol == "udp":
		return "none"
	}
	return "tcp"
}

func parseMeta(pairs []string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	meta := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--meta %q: must be key=value", pair)
		}
		meta[key] = value
	}
	return meta, nil
}

// instanceName joins host and port to one label that is legal in DNS: at most 63 letters, digits
// and dashes.
func instanceName(host string, port int) string {
	host, _, _ = strings.Cut(host, ".")
	label := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, host)
	label = strings.Trim(label[:min(len(label), 57)], "-") // 57 and a dash and five digits
	if label == "" {
		label = "host"
	}
	return label + "-" + strconv.Itoa(port)
}
