// Package daemontest runs real daemons inside a test process: their own data directories, free
// ports, the same code as the kvd program. It knows package daemon and nothing of its rooms.
package daemontest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/daemon"
)

// startTimeout is far more than a start takes; only a defect uses it up.
const startTimeout = 30 * time.Second

// Cluster is a running cluster that ends with its test. Its methods are for the test's goroutine.
type Cluster struct {
	t       testing.TB
	flags   []string
	members []*Member
}

// Member is one member of a cluster, running or stopped. Its methods are for the test's goroutine.
type Member struct {
	Name   string
	t      testing.TB
	config daemon.Config
	daemon *daemon.Daemon // nil while stopped
	url    string

	// Until they are taken over by the daemon. Addresses must be known before anything listens there.
	clients, peers net.Listener
}

// Start starts a cluster of n members and stops it when the test ends. It returns when all members
// know each other. flags are those of the kvd program, such as "--cors=*", for every member; ADDRESS in one
// stands for the host and port of the member's clients.
func Start(t testing.TB, n int, flags ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t, flags: flags}
	t.TempDir() // the first one decides when all are removed: after Stop
	t.Cleanup(c.Stop)
	var list []string
	for i := range n {
		m := c.newMember(fmt.Sprintf("m%d", i+1))
		c.members = append(c.members, m)
		list = append(list, m.Name+"="+m.PeerURL())
	}
	if n == 1 {
		c.members[0].config.Name = daemon.DefaultConfig().Name
	} else {
		for _, m := range c.members {
			m.config.InitialCluster = strings.Join(list, ",")
		}
	}
	for _, m := range c.members {
		c.parse(m)
	}
	c.launch(c.members)
	c.await("all members know each other", func() bool {
		for _, m := range c.members {
			known := m.daemon.Members()
			if len(known) < n || slices.ContainsFunc(known, func(k daemon.Member) bool { return len(k.ClientURLs) == 0 }) {
				return false
			}
		}
		return true
	})
	return c
}

// newMember makes a member that does not run.
func (c *Cluster) newMember(name string) *Member {
	c.t.Helper()
	m := &Member{Name: name, t: c.t, config: daemon.DefaultConfig()}
	m.clients, m.peers = listen(c.t), listen(c.t)
	m.url = "http://" + m.clients.Addr().String()
	m.config.Name, m.config.DataDir = name, c.t.TempDir()
	m.config.ListenClientURLs = []string{m.url}
	m.config.ListenPeerURLs = []string{"http://" + m.peers.Addr().String()}
	return m
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("daemontest: %v", err)
	}
	return l
}

func (c *Cluster) parse(m *Member) {
	c.t.Helper()
	set := pflag.NewFlagSet("daemontest", pflag.ContinueOnError)
	m.config.AddFlags(set)
	address := m.clients.Addr().String()
	if err := set.Parse(strings.Split(strings.ReplaceAll(strings.Join(c.flags, "\n"), "ADDRESS", address), "\n")); err != nil {
		c.t.Fatalf("daemontest: %v", err)
	}
}

// launch starts members at the same time.
func (c *Cluster) launch(members []*Member) {
	c.t.Helper()
	failures := make([]error, len(members))
	var starting sync.WaitGroup
	for i, m := range members {
		starting.Go(func() { failures[i] = m.open() })
	}
	starting.Wait()
	if err := errors.Join(failures...); err != nil {
		c.t.Fatalf("daemontest: start: %v", err)
	}
}

// await waits for something that is on its way.
func (c *Cluster) await(what string, holds func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(startTimeout); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("daemontest: in %s it did not happen that %s", startTimeout, what)
		}
	}
}

// URL returns the client URL of the first member. It stays the same for the life of the cluster.
func (c *Cluster) URL() string { return c.members[0].url }

// Members returns all members, in the order in which they came. The slice is the caller's.
func (c *Cluster) Members() []*Member { return slices.Clone(c.members) }

// Leader returns the member that leads, as a running member knows it. It waits until there is one.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	var leader *Member
	c.await("a member leads", func() bool {
		for _, m := range c.members {
			if m.daemon != nil && m.daemon.Leads() {
				leader = m
				return true
			}
		}
		return false
	})
	return leader
}

// Followers returns the running members that do not lead. It waits until one leads.
func (c *Cluster) Followers() []*Member {
	c.t.Helper()
	leader := c.Leader()
	return slices.DeleteFunc(c.Members(), func(m *Member) bool { return m == leader || m.daemon == nil })
}

// Add starts a new member that was added to the cluster with its peer URL, which added is told to do.
func (c *Cluster) Add(name string, add func(peerURL string)) *Member {
	c.t.Helper()
	m := c.newMember(name)
	list := []string{m.Name + "=" + m.PeerURL()}
	for _, other := range c.members {
		list = append(list, other.Name+"="+other.PeerURL())
	}
	m.config.InitialCluster, m.config.InitialClusterState = strings.Join(list, ","), "existing"
	c.parse(m)
	add(m.PeerURL())
	c.members = append(c.members, m)
	c.launch([]*Member{m})
	return m
}

// Invite starts a new member that joins by an invitation, and returns why that failed. A member that did
// not start can be tried again with Open.
func (c *Cluster) Invite(name, invitation string) (*Member, error) {
	c.t.Helper()
	m := c.newMember(name)
	m.config.Join = invitation
	c.parse(m)
	c.members = append(c.members, m)
	return m, m.open()
}

// Stop stops the cluster cleanly and keeps its data. Stopping a stopped cluster does nothing.
func (c *Cluster) Stop() {
	c.t.Helper()
	var stopping sync.WaitGroup
	for _, m := range c.members {
		stopping.Go(m.Stop)
	}
	stopping.Wait()
}

// Restart stops the cluster, if it runs, and starts it again with its data and its URLs.
func (c *Cluster) Restart() {
	c.t.Helper()
	c.Stop()
	c.launch(c.members)
}

// URL returns the client URL of the member. It stays the same.
func (m *Member) URL() string { return m.url }

// PeerURL returns the peer URL of the member. It stays the same.
func (m *Member) PeerURL() string { return m.config.ListenPeerURLs[0] }

// Running reports whether the member runs.
func (m *Member) Running() bool { return m.daemon != nil }

// Stop stops the member cleanly and keeps its data. Stopping a stopped member does nothing.
func (m *Member) Stop() { m.end((*daemon.Daemon).Close) }

// Kill stops the member without a word to the others: a leader does not hand over.
func (m *Member) Kill() { m.end((*daemon.Daemon).Abandon) }

func (m *Member) end(how func(*daemon.Daemon) error) {
	m.t.Helper()
	for _, l := range []net.Listener{m.clients, m.peers} { // of a start that never was
		if l != nil {
			l.Close()
		}
	}
	m.clients, m.peers = nil, nil
	if m.daemon == nil {
		return
	}
	if err := how(m.daemon); err != nil {
		m.t.Errorf("daemontest: stop %s: %v", m.Name, err)
	}
	m.daemon = nil
}

// Start starts the stopped member again with its data and its URLs.
func (m *Member) Start() {
	m.t.Helper()
	if err := m.open(); err != nil {
		m.t.Fatalf("daemontest: start: %v", err)
	}
}

// Wipe removes the data of the stopped member.
func (m *Member) Wipe() { m.config.DataDir = m.t.TempDir() }

// Open starts the stopped member and returns why that failed, nil if it did not.
func (m *Member) Open() error { return m.open() }

func (m *Member) open() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	d, err := daemon.Open(ctx, m.config, daemon.Deps{
		Log:    slog.New(slog.NewTextHandler(m.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		Fatal:  func(err error) { panic(err) },
		Listen: m.listen,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	m.daemon = d
	return nil
}

// listen hands over the listener that holds an address already, the first time.
func (m *Member) listen(network, address string) (net.Listener, error) {
	for _, held := range []*net.Listener{&m.clients, &m.peers} {
		if l := *held; l != nil && l.Addr().String() == address {
			*held = nil
			return l, nil
		}
	}
	return net.Listen(network, address)
}
