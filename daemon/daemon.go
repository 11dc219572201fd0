// Package daemon is kvd as a library: one member of a cluster with its API, in this process. It
// only composes its rooms (raftnode, store, watch, service, httpv2, admin) and holds what they
// share with the outside world: settings, addresses and the HTTP server.
//
//	d, err := daemon.Open(ctx, daemon.DefaultConfig(), daemon.Deps{Log: log})
//	...
//	err = d.Close()
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/daemon/admin"
	"github.com/kvd-io/kvd/daemon/backup"
	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/httpv2"
	"github.com/kvd-io/kvd/daemon/peer"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/route"
	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/discovery"
	"github.com/kvd-io/kvd/pkg/pace"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

// Deps is what the daemon takes from the outside world. The zero value means the real one.
type Deps struct {
	Log    *slog.Logger // nil discards
	Now    func() time.Time
	Listen func(network, address string) (net.Listener, error)
	Fatal  func(error) // see raftnode.Deps

	Hostname func() (string, error) // of this machine
	Resolver discovery.Resolver     // of --discovery-srv
	HashCost int                    // see service.Config
}

func (d Deps) withDefaults() Deps {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Listen == nil {
		d.Listen = net.Listen
	}
	if d.Hostname == nil {
		d.Hostname = os.Hostname
	}
	if d.Resolver == nil {
		d.Resolver = net.DefaultResolver
	}
	return d
}

// Daemon is a running member that serves clients. It is safe for concurrent use.
type Daemon struct {
	config  Config
	node    *raftnode.Node
	service *service.Service
	backups *backup.Backups
	table   *route.Table
	server  *server
	traffic traffic
	door    *door
	front   *front
	secure  *tlsconfig.Server // of the https ports for clients; nil without any
	members *peer.TLS         // of the https ports for members; nil without any
	now     func() time.Time
	started time.Time

	clientURLs []string // advertised
	listening  []string // where it listens
	close      sync.Once

	cancel context.CancelFunc // of loops
	loops  sync.WaitGroup     // what the member does beside serving
}

// Open starts the member described by cfg, new or from its data directory, and serves clients when
// it returns. Errors in cfg are *ConfigError, possibly several joined. If ctx ends first, nothing
// is left running.
func Open(ctx context.Context, cfg Config, deps Deps) (*Daemon, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	pages, err := newCORS(cfg.CORS)
	if err != nil {
		return nil, err
	}
	openFiles, err := openFilesMax()
	if err != nil {
		return nil, err
	}
	limits, err := limitsOf(&cfg, openFiles)
	if err != nil {
		return nil, err
	}
	deps = deps.withDefaults()
	secure, secureErr := cfg.clientTLS(deps)
	members, membersErr := cfg.peerTLS(deps)
	if err := errors.Join(secureErr, membersErr); err != nil {
		return nil, err
	}
	if cfg.ForceNewCluster {
		if err := forceNewCluster(cfg.dataDir(), deps.Log, deps.Now()); err != nil {
			return nil, err
		}
	}

	taken := map[int]bool{}
	clients, clientErr := listenAll(deps.Listen, "listen-client-urls", cfg.ListenClientURLs, taken)
	peers, peerErr := listenAll(deps.Listen, "listen-peer-urls", cfg.ListenPeerURLs, taken)
	if err := errors.Join(clientErr, peerErr); err != nil {
		closeAll(slices.Concat(clients, peers))
		return nil, err
	}
	useTLS(clients, secure)
	d := &Daemon{config: cfg, secure: secure, members: members, door: newDoor(limits, deps.Log), front: newFront(), now: deps.Now, started: deps.Now(), listening: reachable(clients), clientURLs: cfg.AdvertiseClientURLs}
	if d.clientURLs == nil {
		d.clientURLs = d.listening
	}
	names := cfg.HostWhitelist
	if name, err := deps.Hostname(); err == nil {
		names = append(slices.Clone(names), name)
	}
	known := newHosts(slices.Concat(cfg.ListenClientURLs, d.clientURLs), names)
	d.server = serve(clients, d.traffic.wrap(limitBody(unsniffed(known.wrap(pages.wrap(d.front))))), d.door, deps.Log)
	peerURLs := cfg.peerURLs()
	if peerURLs == nil {
		peerURLs = reachable(peers)
	}
	err = d.config.accept(ctx, peerURLs, members, deps.Log)
	if err == nil {
		err = d.config.discover(ctx, peerURLs, deps.Resolver, deps.Log)
	}
	if err != nil {
		closeAll(peers)
		return nil, d.giveUp(err)
	}
	if d.config.founder != "" {
		peerURLs = d.config.peerURLs()
	}
	if urls := reachable(slices.DeleteFunc(slices.Clone(peers), onLoopback)); len(urls) > 0 && members == nil {
		deps.Log.Warn("whoever reaches the peer port may take part in this cluster, and so read and change everything, whatever access control says: it speaks plain http", "peers", urls,
			"try", "keep others away from it, or give the members --peer-cert-file, --peer-key-file and --peer-trusted-ca-file")
	}
	if err := d.openMember(ctx, deps, peers, peerURLs, limits.watchers); err != nil {
		return nil, d.giveUp(err)
	}
	if urls := reachable(slices.DeleteFunc(slices.Clone(clients), onLoopback)); len(urls) > 0 && d.service.OpenToAll() {
		why, remedy := "access control is off", enableRemedy(d.listening[0])
		if d.service.AuthEnabled() {
			why, remedy = "the role guest permits it", "curl -u root -X DELETE "+d.listening[0]+"/v2/auth/roles/guest"
		}
		deps.Log.Warn("anybody who reaches this member may read and write all keys: "+why, "clients", urls, "try", remedy)
	}
	member := memberView{d, uint64(d.node.Status().ClusterID)}
	door := gate{d.service}
	d.backups = d.openBackups(deps.Log)
	d.table = route.New(httpv2.OnlyRoot(door), slices.Concat(
		httpv2.Routes(httpv2.Config{Gate: door, Cluster: member, Statistics: member, MaxRequestBytes: cfg.MaxRequestBytes, Log: deps.Log}),
		admin.Routes(member, d.metricsPage(deps.Log)),
		d.backups.Routes(),
	)...)
	d.front.open(d.table)
	return d, nil
}

// giveUp ends serving clients, who have only been told that the member starts, and returns why it does not.
func (d *Daemon) giveUp(err error) error {
	d.front.open(nil)
	return errors.Join(err, d.server.Close())
}

// enableRemedy says how to turn access control on.
func enableRemedy(url string) string {
	return "curl " + url + `/v2/auth/users/root -X PUT -d '{"user":"root","password":"..."}', then curl -X PUT ` + url +
		"/v2/auth/enable, then curl -u root -X DELETE " + url + "/v2/auth/roles/guest; or listen on 127.0.0.1"
}

// openMember starts the replicated state and the service over it.
func (d *Daemon) openMember(ctx context.Context, deps Deps, peers []net.Listener, peerURLs []string, watchers int) error {
	state := service.NewState()
	state.LimitWatchers(watchers)
	node, err := raftnode.Open(ctx, raftnode.Config{
		Name: d.config.Name, DataDir: d.config.dataDir(), ClusterToken: d.config.InitialClusterToken,
		LogStore: d.config.LogStore, ElectionTimeout: d.config.electionTimeout(), KeepLeader: d.config.KeepLeader,
		PeerURLs: peerURLs, Founders: d.config.founders(), Founder: d.config.founder, Join: d.config.InitialClusterState == stateExisting,
	}, raftnode.Deps{Peers: peers, PeerTLS: d.members, Log: deps.Log, Now: deps.Now, Fatal: deps.Fatal, Waits: d.front.wait}, state)
	if err != nil {
		return err
	}
	d.node = node
	d.service = service.New(state, node, service.Config{
		QuotaBytes: d.config.QuotaBackendBytes, Log: deps.Log, Now: deps.Now, HashCost: deps.HashCost, CertUsers: d.config.CertUsers,
		Timeout: func() time.Duration { return requestTimeout(node.ElectionTimeout()) }, ReadQuorum: d.config.ReadMode == readQuorum,
	})
	node.LeadWhile(d.service.Lead)
	node.Answer(raftnode.MethodRenew, d.service.AnswerRenew)
	node.Answer(raftnode.MethodLease, d.service.AnswerLease)
	d.service.Govern(node)
	node.Answer(raftnode.MethodMembers, d.service.AnswerMembers)
	node.Answer(raftnode.MethodStatus, d.service.AnswerStatus)
	node.LeadWhile(d.service.LeadMembers)
	node.HandlePeers("POST "+joinPath, http.HandlerFunc(d.serveJoin))
	status := node.Status()
	d.service.StartChecks(uint64(status.MemberID))
	self := command.Member{ID: uint64(status.MemberID), Name: status.Name, PeerURLs: peerURLs, ClientURLs: d.clientURLs, Voter: true}
	if node.Alone() {
		if err := d.service.Publish(ctx, self); err != nil {
			d.service.Close()
			return errors.Join(fmt.Errorf("tell the cluster about member %s: %w", d.config.Name, err), node.Close())
		}
	}
	running, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	d.loops.Go(func() { d.publish(running, self) })
	d.loops.Go(func() { d.watchLeader(running) })
	return nil
}

const (
	publishRetry  = 500 * time.Millisecond
	leaderChecked = 50 * time.Millisecond
)

// publish tells the cluster about this member as soon as that is possible.
func (d *Daemon) publish(ctx context.Context, self command.Member) {
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, requestTimeout(d.node.ElectionTimeout()))
		err := d.service.Announce(attempt, self)
		cancel()
		if err == nil {
			d.node.Published()
			return
		}
		select {
		case <-time.After(publishRetry):
		case <-ctx.Done():
		}
	}
}

// watchLeader ends watches while this member is cut off from the leader: they would wait for events
// that others have seen.
func (d *Daemon) watchLeader(ctx context.Context) {
	lost := false
	for range pace.Every(ctx.Done(), leaderChecked) {
		if now := d.node.CutOff(); now != lost {
			lost = now
			d.service.CutOff(lost)
		}
	}
}

// ClientURLs returns the URLs that clients reach this member under.
func (d *Daemon) ClientURLs() []string { return slices.Clone(d.clientURLs) }

// DataDir returns the absolute path of the data directory.
func (d *Daemon) DataDir() string {
	path, err := filepath.Abs(d.config.dataDir())
	if err != nil {
		return d.config.dataDir()
	}
	return path
}

// Removed returns a channel that is closed when this member has learned that it was removed from its
// cluster. It serves nothing of use from then on, and should be closed.
func (d *Daemon) Removed() <-chan struct{} { return d.node.Removed() }

// Alive returns when raft's main loop has answered: a member whose disk hangs does not return.
func (d *Daemon) Alive() error { return d.node.Alive() }

// Member is one member of the cluster as this one knows it.
type Member = httpv2.Member

// Members returns the members of the cluster by ascending id, as this one knows them.
func (d *Daemon) Members() []Member { return memberView{d: d}.Members() }

// Leads reports whether this member leads the cluster.
func (d *Daemon) Leads() bool {
	status := d.node.Status()
	return status.State == "leader"
}

// Close stops serving, ends all watches, and stops the member cleanly: a leader hands over to another
// member first. It may be called twice.
func (d *Daemon) Close() error {
	d.node.HandOver() // while requests are still answered, so that none waits for an election
	return d.Abandon()
}

// Abandon is Close without handing over: the others find out by themselves that this member has gone.
func (d *Daemon) Abandon() error {
	var err error
	d.close.Do(func() {
		d.server.drain()
		d.backups.Close()
		d.cancel()
		d.loops.Wait()
		d.service.Close() // watches end, so that their requests do
		err = errors.Join(d.server.Close(), d.node.Close())
	})
	return err
}
