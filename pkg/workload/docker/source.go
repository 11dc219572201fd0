package docker

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
)

// DefaultHost is where an engine listens unless it is told otherwise.
const DefaultHost = "unix:///var/run/docker.sock"

// Config says which engine to follow and how. The zero value follows the engine at DefaultHost.
type Config struct {
	// Host is the engine's address, "unix:///PATH" or "tcp://HOST:PORT"; "" means DefaultHost.
	Host string
	// Relist is how often all is compared with the engine's list without an event; 0 means a minute.
	Relist time.Duration
	// Hold is how long the last snapshot stays valid once the engine no longer answers; after it
	// one empty snapshot is sent. 0 means for ever.
	Hold time.Duration
	// Timeout bounds each request to the engine, a list six times that; 0 means 5s.
	Timeout time.Duration
	// StopHold is how long a container counts as stopping at least after its stop signal: whoever
	// sends it may allow more time than the container's own stop timeout, and the engine does not
	// say so. 0 means a minute.
	StopHold time.Duration
	// FailedHold is how long a container that has failed is still told, as workload.Failed and otherwise
	// as it was last, unless it is started again or removed: one that was not told to stop and whose
	// exit code is neither 0 nor one of a signal. 0 means that it is left out at once, Always that only
	// its start or removal ends this.
	FailedHold time.Duration
	Log        *slog.Logger // nil discards
}

// Source follows one engine. It implements workload.Source and workload.Reporter.
type Source struct {
	cfg Config
	api *api

	mu       sync.Mutex // guards the fields below
	hints    *hints     // nil before Run
	counters counters
}

var (
	_ workload.Source   = (*Source)(nil)
	_ workload.Reporter = (*Source)(nil)
)

// counters are the part of the status that Run counts.
type counters struct {
	connected       bool
	since           time.Time
	err             error
	relists, missed int
}

// connect notes that the engine is followed, or with an error that it is not any more.
func (c *counters) connect(err error) {
	if isConnected := err == nil; isConnected != c.connected || c.since.IsZero() {
		c.connected, c.since = isConnected, time.Now()
	}
	c.err = err
}

// Always is a FailedHold without an end.
const Always = time.Duration(math.MaxInt64)

const (
	retryMin = 50 * time.Millisecond
	retryMax = time.Second // longest pause between two attempts to reach the engine
)

// New returns a Source for the engine at cfg.Host. It connects to nothing yet.
func New(cfg Config) (*Source, error) {
	cfg.Host = cmp.Or(cfg.Host, DefaultHost)
	cfg.Relist = cmp.Or(cfg.Relist, time.Minute)
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Second)
	cfg.StopHold = cmp.Or(cfg.StopHold, time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	api, err := newAPI(cfg.Host)
	if err != nil {
		return nil, err
	}
	return &Source{cfg: cfg, api: api}, nil
}

// Ping asks the engine whether it is there. The error says what to do about it.
func (s *Source) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	_, err := s.api.connect(ctx)
	return explain(err, s.cfg.Host)
}

// Status implements workload.Reporter.
func (s *Source) Status() workload.Status {
	s.mu.Lock()
	counted, hints := s.counters, s.hints
	s.mu.Unlock()
	status := workload.Status{Connected: counted.connected, Since: counted.since, Err: counted.err, Relists: counted.relists, Missed: counted.missed}
	if hints != nil {
		status.LastEvent, status.Lag, status.Dropped = hints.told()
	}
	return status
}

func (s *Source) note(change func(*counters)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.counters)
}

// Run implements workload.Source. An engine that is not there, or that does not let us in, is
// waited for; the log says so once for each reason, and Status all the time. While it does not
// answer the last snapshot stays valid for Config.Hold, but for containers whose process ends on this
// machine. Run returns nil, when ctx ends.
func (s *Source) Run(ctx context.Context, out chan<- workload.Snapshot) error {
	defer s.api.client.CloseIdleConnections()
	f := newFollower(s, out)
	s.mu.Lock()
	s.hints = f.hints
	s.mu.Unlock()
	pause, lost, logged := retryMin, time.Now(), ""
	for {
		synced, err := f.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		err = explain(err, s.cfg.Host)
		s.note(func(c *counters) { c.connect(err) })
		if synced {
			lost, pause, logged = time.Now(), retryMin, ""
		}
		if logged != err.Error() {
			logged = err.Error()
			s.cfg.Log.Warn("the engine cannot be followed; keeping what is known of its containers and trying again", "engine", s.cfg.Host, "hold", s.cfg.Hold, "err", err)
		}
		if s.cfg.Hold > 0 && time.Since(lost) >= s.cfg.Hold && f.forget(ctx) {
			s.cfg.Log.Error("the engine has not answered for too long; forgetting its containers", "engine", s.cfg.Host, "hold", s.cfg.Hold, "err", err)
		}
		waiting, waited := context.WithTimeout(ctx, pause)
		f.mourn(waiting)
		waited()
		if ctx.Err() != nil {
			return nil
		}
		pause = min(2*pause, retryMax)
	}
}
