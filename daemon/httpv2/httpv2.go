// Package httpv2 serves etcd's v2 HTTP API: it turns requests into kv.Read, kv.Write and
// kv.WatchFrom, and results, events and errors into the status, headers and bytes that clients of
// etcd expect.
//
// It knows HTTP and the wire forms of pkg/etcdv2. It decides nothing that is replicated: whether a
// key exists, a comparison holds or a user may write is the store's answer, rendered here.
package httpv2

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/daemon/route"
	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/etcdv2"
)

// Cluster is what the API tells of the cluster, as this member knows it. Safe for concurrent use.
// Overview asks the other members, for a second at most; no other method blocks.
type Cluster interface {
	ClusterID() uint64              // always the same
	Members() []Member              // in any order; the caller may keep and sort the slice
	LeaderID() (uint64, bool)       // false during an election
	Position() (index, term uint64) // last log index known to be committed, and the term

	Overview(ctx context.Context) (service.ClusterView, error)

	// Authority returns the SHA-256 of the certificate of the authority that signs for members, in hex;
	// "" without TLS.
	Authority() string
}

// Member is one member of the cluster. Name and ClientURLs are empty until it has started once.
type Member struct {
	ID         uint64
	Name       string
	PeerURLs   []string
	ClientURLs []string
}

// Config is what a handler works with.
type Config struct {
	// Gate opens the store that answers; its errors are *kv.Error, whose Cause goes on the wire. It
	// bounds how long a read or write takes.
	Gate    Gate
	Cluster Cluster

	Statistics Statistics

	// MaxRequestBytes bounds the body of a form; 0 means 1.5 MiB. Longer ones are answered 413.
	MaxRequestBytes int64

	// WriteTimeout bounds how long a watcher, or the reader of a long answer, may refuse to read
	// before its connection is closed; 0 means 30 s.
	WriteTimeout time.Duration

	Log *slog.Logger // nil discards
}

const (
	defaultRequestBytes = 3 << 19
	defaultWriteTimeout = 30 * time.Second
)

// Routes returns the routes of the API. It starts no goroutine; a watch ends with its request or
// when the store closes it.
func Routes(cfg Config) []route.Route {
	if cfg.MaxRequestBytes == 0 {
		cfg.MaxRequestBytes = defaultRequestBytes
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = defaultWriteTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &handler{Config: cfg, clusterID: []string{strconv.FormatUint(cfg.Cluster.ClusterID(), 16)}}
	const get, head, put, post, del = http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete
	return []route.Route{
		{Path: etcdv2.KeysPath, Below: true, Handler: h.serveKeys, Methods: route.For(route.Rights, head, get, put, post, del)},
		{Path: membersPath, Below: true, Handler: h.serveMembers,
			Methods: slices.Concat(route.For(route.Nothing, get), route.For(route.Root, post, del, put))},
		{Path: clusterPath, Handler: h.serveCluster, Methods: route.For(route.Nothing, get)},
		{Path: clusterPath + "/check", Handler: h.serveClusterCheck, Methods: route.For(route.Nothing, post)},
		{Path: clusterPath + "/invite", Handler: h.serveClusterInvite, Methods: route.For(route.Root, post)},
		{Path: clusterPath + "/leader", Handler: h.serveClusterLeader, Methods: route.For(route.Root, post)},
		{Path: clusterPath + "/demote", Handler: h.serveClusterDemote, Methods: route.For(route.Root, post)},
		{Path: clusterPath + "/promote", Handler: h.serveClusterPromote, Methods: route.For(route.Root, post)},
		{Path: etcdv2.LeasesPath, Handler: h.serveLeases, Methods: slices.Concat(route.For(route.Root, get), route.For(route.Rights, post))},
		{Path: etcdv2.LeasesPath, Below: true, Handler: h.serveLease, Methods: route.For(route.Rights, get, put, del)},
		{Path: enablePath, Handler: h.serveEnable, Methods: slices.Concat(route.For(route.Nothing, get), route.For(route.Root, put, del))},
		{Path: usersPath, Handler: h.serveUsers, Methods: route.For(route.Root, get)},
		{Path: usersPath + "/", Handler: h.serveUsers, Methods: route.For(route.Root, get)},
		{Path: usersPath, Below: true, Handler: h.serveUser, Methods: route.For(route.Root, get, put, del)},
		{Path: rolesPath, Handler: h.serveRoles, Methods: route.For(route.Root, get)},
		{Path: rolesPath + "/", Handler: h.serveRoles, Methods: route.For(route.Root, get)},
		{Path: rolesPath, Below: true, Handler: h.serveRole, Methods: route.For(route.Root, get, put, del)},
		{Path: machinesPath, Handler: h.serveMachines, Methods: route.For(route.Nothing, get, head)},
		{Path: statsPath + "/self", Handler: h.serveSelf, Methods: route.For(route.Nothing, get)},
		{Path: statsPath + "/leader", Handler: h.serveLeader, Methods: route.For(route.Nothing, get)},
		{Path: statsPath + "/store", Handler: h.serveStore, Methods: route.For(route.Nothing, get)},
	}
}

type handler struct {
	Config
	clusterID []string // as a header has it; shared, read only

	last     atomic.Pointer[position] // that was written
	buffers  sync.Pool                // of *[]byte, for answers
	listings renderings
	lines    lines
}

const (
	machinesPath = "/v2/machines"
	membersPath  = "/v2/members"
	clusterPath  = "/v2/cluster"
	statsPath    = "/v2/stats"
)
