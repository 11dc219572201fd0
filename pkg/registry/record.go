// Package registry keeps what a host offers in the store: records of services, who owns them, and
// a publisher that makes the store hold exactly the desired set for as long as its owner lives.
//
// It knows records, their layouts in the store, keys, leases and ownership. It does not know where services come from (pkg/workload),
// whether they are healthy (pkg/health), nor how the store is reached (kv.Store).
package registry

import (
	"maps"
	"slices"
)

// DefaultPrefix is the directory of all services.
const DefaultPrefix = "/services"

// States of a record. Whoever reads records should route to StateUp only. In layouts that know no
// state, a record that is not up has no key.
const (
	StateUp          = "up"
	StateDraining    = "draining"    // finishes what it has begun; nothing new
	StateMaintenance = "maintenance" // taken out by an operator
	StateUnhealthy   = "unhealthy"   // fails its checks
)

// Record is one instance of a service: the JSON value of the key PREFIX/SERVICE/INSTANCE.
type Record struct {
	Service  string            `json:"service"`
	Instance string            `json:"instance"` // unique within the service, one path segment
	Address  string            `json:"address"`  // IP address or host name, never with a port
	Port     int               `json:"port"`     // 0: the service has none
	Protocol string            `json:"protocol"` // "tcp" or "udp"
	State    string            `json:"state"`
	Kept     bool              `json:"kept,omitempty"`   // up although it fails: as the last one of its service, or because whoever runs it wants what has ended to be found
	Weight   int               `json:"weight,omitempty"` // 1 to WeightMax; 0 leaves it to the reader
	Tags     []string          `json:"tags,omitempty"`
	Meta     map[string]string `json:"meta,omitempty"`
	Host     string            `json:"host,omitempty"`  // name of the machine it runs on
	Owner    string            `json:"owner,omitempty"` // who may change or remove it: see Publisher

	// ID names the instance in LayoutRegistrator, "host:container:port" or with ":udp" behind it; ""
	// means Instance. One path segment.
	ID string `json:"-"`
}

// equal reports whether the two say the same. A nil and an empty list or map do.
func (r Record) equal(other Record) bool {
	return r.Service == other.Service && r.Instance == other.Instance && r.Address == other.Address && r.Port == other.Port &&
		r.Protocol == other.Protocol && r.State == other.State && r.Kept == other.Kept && r.Weight == other.Weight &&
		r.Host == other.Host && r.Owner == other.Owner && r.ID == other.ID &&
		slices.Equal(r.Tags, other.Tags) && maps.Equal(r.Meta, other.Meta)
}

// clone returns a copy that shares nothing that can change.
func (r Record) clone() Record {
	r.Tags, r.Meta = slices.Clone(r.Tags), maps.Clone(r.Meta)
	return r
}
