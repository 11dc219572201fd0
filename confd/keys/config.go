package keys

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/confd/keys/etcdv3"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// The backends.
const (
	BackendEtcd   = "etcd" // the v2 API, as kvd has it
	BackendKvd    = "kvd"  // the same
	BackendEtcdV3 = "etcdv3"
	BackendEnv    = "env"
	BackendFile   = "file"
)

// Backends returns the names of the backends, the usual one first.
func Backends() []string {
	return []string{BackendEtcd, BackendKvd, BackendEtcdV3, BackendEnv, BackendFile}
}

// Config says where keys come from.
type Config struct {
	Backend string          // one of Backends
	Client  kvclient.Config // of the store; Log is set by Open
	Scheme  string          // of endpoints given without one
	SRV     string          // SRV record that names the endpoints; "" uses Client.Endpoints
	Files   []string        // file backend: files and directories
	Filter  string          // file backend: pattern for the names of files in directories

	Watch    bool          // follow changes; otherwise look at every Interval
	Interval time.Duration // between two looks at everything, with or without Watch; positive

	// StateDir is the directory for what is known of stores, so that the next start is not without keys if its
	// store does not answer; "" for none. It is made if it is not there.
	StateDir string
}

// Deps is what sources take from the outside. The zero value is the real world.
type Deps struct {
	Log     *slog.Logger                          // nil: silent
	Store   kv.Store                              // nil: a client made of the settings
	Lookup  func(record string) ([]string, error) // host:port of an SRV record; nil: DNS
	Environ func() []string                       // nil: os.Environ
}

// Validate reports what is wrong with c.
func (c Config) Validate() error {
	switch {
	case !slices.Contains(Backends(), c.Backend):
		return fmt.Errorf("backend %q is not known; use one of %s", c.Backend, strings.Join(Backends(), ", "))
	case c.Backend == BackendFile && len(c.Files) == 0:
		return fmt.Errorf("the file backend needs at least one file")
	case c.Interval <= 0:
		return fmt.Errorf("interval %v: it must be positive", c.Interval)
	}
	return nil
}

// Naming says for which keys of the source a key stands.
func (c Config) Naming() Naming {
	switch {
	case c.Polls():
		return Textual
	case c.Backend == BackendEtcdV3:
		return Unhidden
	}
	return Segments
}

// Polls reports whether the backend is read as a whole from time to time, rather than followed.
func (c Config) Polls() bool { return c.Backend == BackendEnv || c.Backend == BackendFile }

// Key returns the key of the backend that stands for a key of a resource file: in the environment "_" and
// "/" are the same.
func (c Config) Key(key string) string {
	if c.Backend == BackendEnv {
		return environmentKey(key)
	}
	return key
}

// Open returns the source that cfg names. It connects to nobody yet, but may ask the DNS. Errors are about
// the settings, the files that they name and the DNS.
func Open(cfg Config, deps Deps) (Source, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	if deps.Environ == nil {
		deps.Environ = os.Environ
	}
	switch cfg.Backend {
	case BackendEnv:
		return &polled{read: environmentReader(deps.Environ), interval: cfg.Interval, log: deps.Log}, nil
	case BackendFile:
		return &polled{read: fileReader(cfg.Files, cfg.Filter), interval: cfg.Interval, log: deps.Log}, nil
	}
	if cfg.Backend == BackendEtcdV3 {
		return openV3(cfg, deps)
	}
	f := &followed{store: deps.Store, watch: cfg.Watch, interval: cfg.Interval, directories: true, log: deps.Log}
	if f.store == nil {
		client, err := NewClient(cfg, deps)
		if err != nil {
			return nil, err
		}
		f.store, f.close = client, func() { client.Close() }
	}
	return keptOn(f, cfg, deps.Log), nil
}

// openV3 returns an etcd as a source over its v3 API.
func openV3(cfg Config, deps Deps) (Source, error) {
	endpoints, err := endpoints(cfg, deps)
	if err != nil {
		return nil, err
	}
	cfg.Client.Endpoints, cfg.Client.Log = endpoints, deps.Log
	store, err := etcdv3.New(cfg.Client)
	if err != nil {
		return nil, err
	}
	f := &followed{store: store, close: func() { store.Close() }, watch: cfg.Watch, interval: cfg.Interval, log: deps.Log}
	return keptOn(f, cfg, deps.Log), nil
}

// keptOn returns source as it keeps what it knows on disk, if cfg says where.
func keptOn(source Source, cfg Config, log *slog.Logger) Source {
	if cfg.StateDir == "" {
		return source
	}
	return &kept{source, cfg, log}
}

// NewClient returns a client of the store that cfg names. It connects to nobody yet, but may ask the DNS.
func NewClient(cfg Config, deps Deps) (*kvclient.Client, error) {
	endpoints, err := endpoints(cfg, deps)
	if err != nil {
		return nil, err
	}
	cfg.Client.Endpoints, cfg.Client.Log = endpoints, deps.Log
	return kvclient.New(cfg.Client)
}

// endpoints returns the members of the store, each with its scheme.
func endpoints(cfg Config, deps Deps) ([]string, error) {
	found := cfg.Client.Endpoints
	if cfg.SRV != "" {
		lookup := deps.Lookup
		if lookup == nil {
			lookup = lookupSRV
		}
		var err error
		if found, err = lookup(cfg.SRV); err != nil {
			return nil, fmt.Errorf("cannot find the store by the SRV record %s: %w", cfg.SRV, err)
		}
	}
	full := make([]string, len(found))
	for i, endpoint := range found {
		full[i] = endpoint
		if cfg.Scheme != "" && !strings.Contains(endpoint, "://") {
			full[i] = cfg.Scheme + "://" + endpoint
		}
	}
	return full, nil
}

func lookupSRV(record string) ([]string, error) {
	_, targets, err := net.LookupSRV("", "", record)
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, t := range targets {
		hosts = append(hosts, net.JoinHostPort(strings.TrimSuffix(t.Target, "."), strconv.Itoa(int(t.Port))))
	}
	return hosts, nil
}
