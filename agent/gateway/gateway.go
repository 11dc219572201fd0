// Package gateway lets the containers of a host use the store at an address of that host.
//
// It listens at the address of a bridge or at a Unix socket, passes on the v2 API to a cluster as pkg/kvclient
// does for itself (one endpoint after the other, writes once), and holds every request to rules by the network
// that it comes from. What it has read it may give again while a watch tells that nothing has changed.
//
// It knows requests and what they touch, in the spelling in which they are passed on. It does not know what the
// keys mean, who the users of the store are, or what runs in the containers.
//
//	server, err := gateway.New(gateway.Config{Listen: []string{"docker0:2379"}, Services: "/services", Store: store})
//	...
//	err = server.Run(ctx)
//
// # What a client may rely on
//
// A client is an address, or all who use one socket. In this order of strength:
//
//   - A write that was answered here is seen by every read here that begins later, by whoever it is. So is an
//     event that a watch here has sent.
//   - No answer is older than an X-Etcd-Index that the same client was told before, also when another endpoint
//     answers, and one that lags behind.
//   - No answer that comes from memory is older than 5 seconds, nor older than 1 second where something in it
//     has a time to live, whatever becomes of the watch: renewals wake no watcher.
//   - The X-Etcd-Index of an answer is one at which the store was in the state that it shows. A watch from the
//     index after it misses nothing.
//
// Reads with quorum=true, with credentials of their own and of hidden keys always go to the cluster.
package gateway

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/listening"
)

// Limits on what clients may make the gateway wait for or keep. There is none on the time of an answer, which
// a watch may need, but on each part of it.
const (
	readHeaderTimeout = 10 * time.Second
	bodyTimeout       = time.Minute
	answerTimeout     = 30 * time.Second // to take each part of an answer
	idleTimeout       = 2 * time.Minute
	headerBytesMax    = 1 << 20
	bodyBytesMax      = 3 << 19 // of a form, as in kvd
	stopGrace         = 5 * time.Second
	largeBytes        = 64 << 10 // from which on a form or an answer in memory is large
	largeMost         = 32       // at a time
	networksInterval  = 10 * time.Second
)

// What a Config of zeros means.
const (
	DefaultConnections          = 2048
	DefaultConnectionsPerClient = 256
	DefaultWatchesPerClient     = 256
)

// Config says where to listen and what to allow.
type Config struct {
	// Listen holds "ADDRESS:PORT", "INTERFACE:PORT" for the addresses of an interface, which need not exist yet
	// and may change, and "unix:PATH" or "unix:PATH?mode=0666". There is at least one.
	Listen []string

	// Allow holds "NETWORK=RULES". NETWORK is an address or a CIDR prefix, "docker:NAME", or "unix" for all
	// sockets; of several that hold a client the longest prefix counts. RULES are separated by commas:
	// "r:KEY", "rw:KEY" and "none:KEY" for the key and all below it; the longest key counts. Whom no network
	// holds may do nothing. Empty: "r:SERVICES" for the networks of the addresses listened at, and for sockets.
	Allow    []string
	Services string // directory of all services, for that

	// Hosts are names that clients may use beside addresses, localhost, names without a dot and those in
	// .internal: a web page can make the name of its own server lead here.
	Hosts []string

	Store kvclient.Config // the cluster; OnRequest and IdleConnections are the gateway's

	// Subnets returns the addresses of a container engine's network, for "docker:NAME", none if there is no such
	// network. nil: such rules hold nobody.
	Subnets func(ctx context.Context, network string) ([]netip.Prefix, error)

	CacheBytes int64 // for answers that are given again; 0: none are

	Connections          int // at a time; 0: DefaultConnections
	ConnectionsPerClient int // 0: DefaultConnectionsPerClient
	WatchesPerClient     int // 0: DefaultWatchesPerClient

	Log *slog.Logger // nil: silent
}

// Server is a gateway. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	places  *listening.Follower[*doorway]
	server  *http.Server
	policy  *policy
	hosts   map[string]bool
	store   *kvclient.Client
	clients *clients
	cache   *cache // nil: none
	counts  counts

	large    chan struct{}   // has one for each large form or answer that is held in memory
	stopping context.Context // ends with Run's
	running  sync.WaitGroup  // what Run waits for
	requests sync.WaitGroup  // being answered
}

// counts are what Stats tells, since the start.
type counts struct {
	requests, hits, misses, failures, moved, refused atomic.Uint64
	watches                                          atomic.Int64
}

// Stats is what a gateway has done so far, and what it does.
type Stats struct {
	Listening        []string // addresses
	Waiting          []string // why something in Listen is not listened at
	Connections      int
	Watches          int
	Requests         uint64
	CacheHits        uint64 // reads that were answered from memory
	CacheMisses      uint64 // reads that might have been
	CacheBytes       int64
	UpstreamFailures uint64 // requests that no endpoint has answered, or with 5xx
	Moved            uint64 // endpoints that were left for the next one
	Refused          uint64 // requests that no rule allows, and connections and watches over a limit
}

// New checks cfg. It connects to nobody and listens nowhere yet.
func New(cfg Config) (*Server, error) {
	if len(cfg.Listen) == 0 {
		return nil, errors.New("a gateway listens somewhere: name an address such as docker0:2379")
	}
	cfg.Connections = cmp.Or(cfg.Connections, DefaultConnections)
	cfg.ConnectionsPerClient = cmp.Or(cfg.ConnectionsPerClient, DefaultConnectionsPerClient)
	cfg.WatchesPerClient = cmp.Or(cfg.WatchesPerClient, DefaultWatchesPerClient)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	places, err := parsePlaces(cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Log, large: make(chan struct{}, largeMost), hosts: map[string]bool{}}
	if s.policy, err = newPolicy(cfg.Allow, cfg.Services); err != nil {
		return nil, err
	}
	for _, name := range cfg.Hosts {
		s.hosts[plainHost(name)] = true
	}
	cfg.Store.IdleConnections = 64
	if s.store, err = kvclient.New(cfg.Store); err != nil {
		return nil, err
	}
	s.clients = newClients(cfg.Connections, cfg.ConnectionsPerClient)
	s.places = s.follow(places)
	s.server = &http.Server{
		Handler: s, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytesMax,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, visitKey{}, c) },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if cfg.CacheBytes > 0 {
		s.cache = newCache(cfg.CacheBytes, s.policy.readable())
	}
	return s, nil
}

// Run serves until ctx ends, and then ends watches and gives requests a few seconds to finish. What it cannot
// listen at it tries again. It is called once and returns nil.
func (s *Server) Run(ctx context.Context) error {
	stopping, stop := context.WithCancel(ctx)
	defer stop()
	s.stopping = stopping
	s.running.Go(func() { s.places.Run(stopping) })
	if names := s.policy.dockerNames(); len(names) > 0 && s.cfg.Subnets != nil {
		s.running.Go(func() { s.followNetworks(stopping, names) })
	}
	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if s.server.Shutdown(grace) != nil {
		s.server.Close()
	}
	s.running.Wait()
	s.clients.wait()
	s.store.Close() // ends what was not over in time
	s.requests.Wait()
	return nil
}

// takeLarge reports whether there is room for something large; then leaveLarge has to follow.
func (s *Server) takeLarge() bool {
	select {
	case s.large <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *Server) leaveLarge() { <-s.large }

// Stats tells what the gateway has done so far.
func (s *Server) Stats() Stats {
	stats := Stats{
		Connections: s.clients.connections(), Watches: int(s.counts.watches.Load()), Requests: s.counts.requests.Load(),
		CacheHits: s.counts.hits.Load(), CacheMisses: s.counts.misses.Load(),
		UpstreamFailures: s.counts.failures.Load(), Moved: s.counts.moved.Load(),
		Refused: s.counts.refused.Load() + s.clients.turnedAway(),
	}
	if s.cache != nil {
		stats.CacheBytes = s.cache.size()
	}
	stats.Listening, stats.Waiting = s.places.Whereabouts()
	return stats
}

// visitKey is the key of a request's connection, a *visit, in its context.
type visitKey struct{}

// told notes that c learns of the store's state at an index in a cluster.
func (s *Server) told(c *client, cluster string, index kv.Index) {
	if s.clients.told(c, cluster, index) && s.cache != nil {
		s.cache.clear()
	}
}

// replaced forgets everything about a store that has gone back.
func (s *Server) replaced() {
	s.clients.forget()
	if s.cache != nil {
		s.cache.clear()
	}
}
