// Package httpv2 serves etcd's v2 HTTP API: it turns requests into kv.Read, kv.Write and
// kv.WatchFrom, and results, events and errors into the status, headers and bytes that clients of
// etcd expect.
//
// It knows HTTP and the wire forms of pkg/etcdv2. It decides nothing that is replicated: whether a
// key exists, a comparison holds or a user may write is the store's answer, rendered here.
package httpv2

import (
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Cluster is what the API tells of the cluster, as this member knows it. Safe for concurrent use;
// no method blocks.
type Cluster interface {
	ClusterID() uint64
	Members() []Member              // in any order; the caller may keep and sort the slice
	LeaderID() (uint64, bool)       // false during an election
	Position() (index, term uint64) // last log index known to be committed, and the term
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
	// Store answers; its errors are *kv.Error, whose Cause goes on the wire. It bounds how long a
	// read or write takes.
	Store   kv.Store
	Cluster Cluster

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

// New returns the handler of /v2/keys, /v2/machines and /v2/members. Every other path is answered
// 404, those of etcd's access control and statistics with the reason in JSON. It starts no goroutine; a watch ends with its request or when the store closes it.
func New(cfg Config) http.Handler {
	if cfg.MaxRequestBytes == 0 {
		cfg.MaxRequestBytes = defaultRequestBytes
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = defaultWriteTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &handler{Config: cfg}
}

type handler struct{ Config }

const (
	machinesPath = "/v2/machines"
	membersPath  = "/v2/members"

	// Not served. Their clients take a plain 404 for JSON and complain about its first letter.
	authPath  = "/v2/auth"
	statsPath = "/v2/stats"
)

// ServeHTTP routes by the escaped path, so that an escaped separator or dot is part of a key and
// never of the route.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	escaped := r.URL.EscapedPath()
	if escaped == "*" { // the server as a whole, of which only OPTIONS can be asked
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if clean := cleanPath(escaped); clean != escaped {
		redirect(w, r, clean)
		return
	}
	switch {
	case under(escaped, etcdv2.KeysPath):
		h.serveKeys(w, r)
	case under(escaped, membersPath):
		h.serveMembers(w, r)
	case escaped == machinesPath:
		h.serveMachines(w, r)
	case routed(escaped, authPath, "enable", "users", "roles"):
		h.replyMessage(w, http.StatusNotFound, "access control is not available in this version of kvd")
	case routed(escaped, statsPath, "self", "leader", "store"):
		h.replyMessage(w, http.StatusNotFound, "statistics are not available in this version of kvd")
	default:
		http.NotFound(w, r)
	}
}

func under(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

// routed reports whether path is that of one of the resources of root, or of something below it.
func routed(path, root string, resources ...string) bool {
	return slices.ContainsFunc(resources, func(resource string) bool { return under(path, root+"/"+resource) })
}

// cleanPath returns the path without empty, "." and ".." segments; a trailing slash stays.
func cleanPath(escaped string) string {
	if !strings.HasPrefix(escaped, "/") {
		escaped = "/" + escaped
	}
	clean := path.Clean(escaped) // allocates nothing for a path that is clean
	switch {
	case clean == "/" || !strings.HasSuffix(escaped, "/"):
		return clean
	case len(clean)+1 == len(escaped):
		return escaped
	}
	return clean + "/"
}

// redirect sends the client to the clean spelling with the same method and body. It has no body of
// its own: nothing that a client sent comes back as HTML.
func redirect(w http.ResponseWriter, r *http.Request, escaped string) {
	if r.URL.RawQuery != "" {
		escaped += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", escaped)
	w.WriteHeader(http.StatusTemporaryRedirect)
}

// allow reports whether the method is one of allowed, a list joined by commas; else it answers 405.
func allow(w http.ResponseWriter, r *http.Request, allowed string) bool {
	for method := range strings.SplitSeq(allowed, ",") {
		if method == r.Method {
			return true
		}
	}
	w.Header().Set("Allow", allowed)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}
