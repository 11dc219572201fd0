package sidekick

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/hostaddr"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload/systemd"
)

// Defaults of a Config.
const (
	DefaultDrain       = time.Second
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
	TTL      time.Duration

	Check   string
	Monitor health.Monitor // its Check comes from Check above

	Drain           time.Duration
	StopTimeout     time.Duration
	WithdrawTimeout time.Duration

	Unit    string   // what to follow:
	Command []string // exactly one of the two
}

// plan is what the settings amount to on this machine.
type plan struct {
	record          registry.Record
	monitor         health.Monitor
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
	p.record, p.monitor = record, cfg.Monitor
	p.monitor.Check, err = health.Parse(cfg.checkForm(), net.JoinHostPort(record.Address, strconv.Itoa(record.Port)))
	if err != nil {
		return p, fmt.Errorf("--check: %w", err)
	}
	return p, nil
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
