package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/docker/docker/client"

	"github.com/kvd-io/kvd/pkg/workload"
)

// DefaultHost is where an engine listens unless it is told otherwise.
const DefaultHost = client.DefaultDockerHost

// Config says which engine to follow and how. The zero value follows the engine at DefaultHost.
type Config struct {
	// Host is the engine's address, "unix:///PATH" or "tcp://HOST:PORT"; "" means DefaultHost.
	Host string
	// Relist is how often all containers are looked at without an event; 0 means 45s.
	Relist time.Duration
	// Hold is how long the last snapshot stays valid once the engine no longer answers; after it
	// one empty snapshot is sent. 0 means for ever.
	Hold time.Duration
	// Timeout bounds each request to the engine; 0 means 5s.
	Timeout time.Duration
	Log     *slog.Logger // nil discards
}

// Source follows one engine. It implements workload.Source.
type Source struct {
	cfg    Config
	client *client.Client
}

var _ workload.Source = (*Source)(nil)

// retryMax is the longest pause between two attempts to reach the engine.
const retryMax = 3 * time.Second

// New returns a Source for the engine at cfg.Host. It connects to nothing yet.
func New(cfg Config) (*Source, error) {
	cfg.Host = cmp.Or(cfg.Host, DefaultHost)
	cfg.Relist = cmp.Or(cfg.Relist, 45*time.Second)
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Second)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	host, err := client.ParseHostURL(cfg.Host)
	if err != nil || host.Scheme != "unix" && host.Scheme != "tcp" {
		return nil, fmt.Errorf("engine address %q: use unix:///PATH or tcp://HOST:PORT", cfg.Host)
	}
	engine, err := client.NewClientWithOpts(client.WithHost(cfg.Host), client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("engine address %q: %w", cfg.Host, err)
	}
	return &Source{cfg: cfg, client: engine}, nil
}

// Ping asks the engine whether it is there. The error says what to do about it.
func (s *Source) Ping(ctx context.Context) error {
	return explain(s.ping(ctx), s.cfg.Host)
}

func (s *Source) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	_, err := s.client.Ping(ctx)
	return err
}

// Run implements workload.Source. While the engine does not answer the last snapshot stays valid
// for Config.Hold. The only error is ErrPermission, which no waiting mends.
func (s *Source) Run(ctx context.Context, out chan<- workload.Snapshot) error {
	defer s.client.Close()
	f := &follower{Source: s, out: out, known: map[string]running{}, stopping: map[string]time.Time{}}
	pause := 100 * time.Millisecond
	lost := time.Now()
	for {
		synced, err := f.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		err = explain(err, s.cfg.Host)
		if errors.Is(err, ErrPermission) {
			return err
		}
		if synced {
			lost, pause = time.Now(), 100*time.Millisecond
			s.cfg.Log.Warn("lost the engine; keeping what is known of its containers", "engine", s.cfg.Host, "hold", s.cfg.Hold, "err", err)
		} else {
			s.cfg.Log.Debug("the engine does not answer", "engine", s.cfg.Host, "err", err)
		}
		if s.cfg.Hold > 0 && time.Since(lost) >= s.cfg.Hold && f.forget(ctx) {
			s.cfg.Log.Error("the engine has not answered for too long; forgetting its containers", "engine", s.cfg.Host, "hold", s.cfg.Hold, "err", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, retryMax)
	}
}
