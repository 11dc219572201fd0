// Package admin answers what operators and their probes ask a member: which version it speaks and
// whether it can serve.
//
// It knows what the member tells about itself through Member. It knows no keys.
package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/kvd-io/kvd/daemon/route"
	"github.com/kvd-io/kvd/pkg/kv"
)

// The paths that are served.
const (
	VersionPath = "/version"
	HealthPath  = "/health"
	StatePath   = "/debug/state"
	MetricsPath = "/metrics"
)

// serverVersion is the release of etcd whose v2 API this is, to the byte. Clients take it apart
// into three numbers and choose what to ask by them.
const (
	serverVersion  = "3.5.33"
	clusterVersion = "3.5.0"
)

// healthTimeout bounds the read that decides whether a member is healthy.
const healthTimeout = time.Second

// Member is the member as admin needs it.
type Member interface {
	// HasLeader reports whether the member knows a leader.
	HasLeader() bool
	// ReadBarrier returns nil if the member can answer a linearizable read now.
	ReadBarrier(ctx context.Context) error
	// Alarms returns what is wrong with the store, in the words of etcd, such as NOSPACE.
	Alarms() []string
	// Mark returns the place in the log that the member's state has reached, and its sum.
	Mark() Mark
}

// Mark is the answer of StatePath. Members with the same RaftIndex have the same Sum, and so has a
// member that has read its log again; the sum is a fingerprint of all keys, directories and leases.
type Mark struct {
	Index     kv.Index `json:"index"`     // of the last change of the store
	RaftIndex uint64   `json:"raftIndex"` // of the last log entry executed
	Sum       string   `json:"sum"`       // 32 hexadecimal digits
}

// Routes returns the routes of VersionPath, HealthPath, StatePath and MetricsPath; metrics answers
// the last.
func Routes(member Member, metrics http.Handler) []route.Route {
	get := route.For(route.Nothing, http.MethodGet)
	return []route.Route{
		{Path: VersionPath, Methods: get, Handler: serveVersion},
		{Path: HealthPath, Methods: get, Handler: func(w http.ResponseWriter, r *http.Request) { serveHealth(w, r, member) }},
		{Path: MetricsPath, Methods: route.For(route.Nothing, http.MethodGet, http.MethodHead), Handler: metrics.ServeHTTP},
		// The sum lets whoever knows the rest find out a value by trying.
		{Path: StatePath, Methods: route.For(route.Root, http.MethodGet), Handler: func(w http.ResponseWriter, _ *http.Request) { serveState(w, member) }},
	}
}

func serveVersion(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, `{"etcdserver":"`+serverVersion+`","etcdcluster":"`+clusterVersion+`"}`)
}

// serveHealth does what a client would do and tells how it went.
func serveHealth(w http.ResponseWriter, r *http.Request, member Member) {
	reason := unhealthy(r, member)
	body, err := json.Marshal(health{Health: strconv.FormatBool(reason == ""), Reason: reason})
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case reason != "":
		http.Error(w, string(body), http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write(body)
	}
}

// health is the wire form of an answer; etcd's Health is text, not a boolean.
type health struct {
	Health string `json:"health"`
	Reason string `json:"reason"`
}

// unhealthy returns why the member cannot serve, "" if it can. Alarms come first, but for those that
// exclude names. With serializable=true it is then enough that the member answers at all, as a
// serializable read would.
func unhealthy(r *http.Request, member Member) string {
	query := r.URL.Query()
	for _, alarm := range member.Alarms() {
		if !slices.Contains(query["exclude"], alarm) {
			return "ALARM " + alarm
		}
	}
	if query.Get("serializable") == "true" {
		return ""
	}
	if !member.HasLeader() {
		return "RAFT NO LEADER"
	}
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	if err := member.ReadBarrier(ctx); err != nil {
		return "QGET ERROR:" + err.Error()
	}
	return ""
}

func serveState(w http.ResponseWriter, member Member) {
	body, err := json.Marshal(member.Mark())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(body, '\n'))
}
