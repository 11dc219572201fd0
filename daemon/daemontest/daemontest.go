// Package daemontest runs real daemons inside a test process: their own data directories, free
// ports, the same code as the kvd program. It knows package daemon and nothing of its rooms.
package daemontest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/daemon"
)

// startTimeout is far more than a start takes; only a defect uses it up.
const startTimeout = 30 * time.Second

// Cluster is a running cluster that ends with its test. Its methods are for the test's goroutine.
type Cluster struct {
	t      testing.TB
	config daemon.Config
	member *daemon.Daemon // nil while stopped
	url    string
}

// Start starts a cluster of n members and stops it when the test ends. n must be 1: this version
// has no larger ones. flags are those of the kvd program, such as "--cors=*".
func Start(t testing.TB, n int, flags ...string) *Cluster {
	t.Helper()
	if n != 1 {
		t.Fatalf("daemontest: a cluster of %d members was asked for, only 1 is possible", n)
	}
	config := daemon.DefaultConfig()
	config.DataDir = t.TempDir()
	config.ListenClientURLs = []string{"http://127.0.0.1:0"}
	config.ListenPeerURLs = []string{"http://127.0.0.1:0"}
	set := pflag.NewFlagSet("daemontest", pflag.ContinueOnError)
	config.AddFlags(set)
	if err := set.Parse(flags); err != nil {
		t.Fatalf("daemontest: %v", err)
	}
	c := &Cluster{t: t, config: config}
	t.Cleanup(c.Stop)
	c.start()
	c.url = c.member.ClientURLs()[0]
	c.config.ListenClientURLs = []string{c.url}
	return c
}

// URL returns the client URL of the first member. It stays the same for the life of the cluster.
func (c *Cluster) URL() string { return c.url }

// Stop stops the cluster cleanly and keeps its data. Stopping a stopped cluster does nothing.
func (c *Cluster) Stop() {
	c.t.Helper()
	if c.member == nil {
		return
	}
	if err := c.member.Close(); err != nil {
		c.t.Errorf("daemontest: stop: %v", err)
	}
	c.member = nil
}

// Restart stops the cluster, if it runs, and starts it again with its data and its URL.
func (c *Cluster) Restart() {
	c.t.Helper()
	c.Stop()
	c.start()
}

func (c *Cluster) start() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	member, err := daemon.Open(ctx, c.config, daemon.Deps{
		Log:   slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		Fatal: func(err error) { panic(err) },
	})
	if err != nil {
		c.t.Fatalf("daemontest: start: %v", err)
	}
	c.member = member
}
