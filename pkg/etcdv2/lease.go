package etcdv2

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// LeasesPath is where kvd has its leases, which etcd's v2 API has not.
const LeasesPath = "/v2/leases"

// SnapshotPath is where a member gives a snapshot of itself, kvd's own. HeaderSnapshot names the
// snapshot, for who has to ask again for the rest of it.
const (
	SnapshotPath   = "/v2/snapshot"
	HeaderSnapshot = "Kvd-Snapshot"
)

// Lease is the JSON form of kv.Lease. Times are in seconds, what is left is rounded up.
type Lease struct {
	ID        string   `json:"id"`
	TTL       int64    `json:"ttl"`
	Remaining int64    `json:"remaining"`
	Attached  int      `json:"attached"`
	Keys      []string `json:"keys,omitzero"` // only where they were asked for
}

// Leases is the JSON form of a list of leases.
type Leases struct {
	Leases []Lease `json:"leases"`
}

// EncodeLease returns the wire form of l.
func EncodeLease(l kv.Lease) Lease {
	return Lease{ID: l.ID.String(), TTL: TTLSeconds(l.TTL), Remaining: TTLSeconds(l.Remaining), Attached: l.Attached, Keys: l.Keys}
}

// EncodeLeases returns the wire form of a list.
func EncodeLeases(list []kv.Lease) Leases {
	wire := Leases{Leases: make([]Lease, 0, len(list))}
	for _, l := range list {
		wire.Leases = append(wire.Leases, EncodeLease(l))
	}
	return wire
}

// Decode returns the lease that wire stands for. Errors by Kind: Invalid.
func (wire Lease) Decode() (kv.Lease, error) {
	id, err := kv.ParseLeaseID(wire.ID)
	if err != nil {
		return kv.Lease{}, err
	}
	return kv.Lease{ID: id, TTL: seconds(wire.TTL), Remaining: seconds(wire.Remaining), Attached: wire.Attached, Keys: wire.Keys}, nil
}

func seconds(n int64) time.Duration {
	if n <= 0 {
		return 0
	}
	return TTLFromSeconds(uint64(n))
}

// GrantRequest returns the request for a lease of ttl.
func GrantRequest(ttl time.Duration) Request {
	return Request{Method: http.MethodPost, Path: LeasesPath, Form: url.Values{"ttl": {strconv.FormatInt(TTLSeconds(ttl), 10)}}}
}

// KeepAliveRequest returns the request to keep a lease alive.
func KeepAliveRequest(id kv.LeaseID) Request {
	return Request{Method: http.MethodPut, Path: LeasesPath + "/" + id.String()}
}

// LeaseRequest returns the request for a lease with its keys.
func LeaseRequest(id kv.LeaseID) Request {
	return Request{Method: http.MethodGet, Path: LeasesPath + "/" + id.String()}
}

// LeasesRequest returns the request for the leases above after.
func LeasesRequest(after kv.LeaseID) Request {
	r := Request{Method: http.MethodGet, Path: LeasesPath}
	if after != 0 {
		r.Query = url.Values{"after": {after.String()}}
	}
	return r
}

// RevokeRequest returns the request to end a lease.
func RevokeRequest(id kv.LeaseID) Request {
	return Request{Method: http.MethodDelete, Path: LeasesPath + "/" + id.String()}
}
