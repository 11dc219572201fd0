// Package registry keeps what a host offers in the store: records of services, who owns them, and
// a publisher that makes the store hold exactly the desired set for as long as its owner lives.
//
// It knows records, keys and ownership. It does not know where services come from (pkg/workload),
// whether they are healthy (pkg/health), nor how the store is reached (kv.Store).
package registry

// DefaultPrefix is the directory of all services.
const DefaultPrefix = "/services"

// States of a record. A template that reads records should route to StateUp only.
const (
	StateUp       = "up"
	StateDraining = "draining"
)

// Record is one instance of a service: the JSON value of the key PREFIX/SERVICE/INSTANCE.
type Record struct {
	Service  string            `json:"service"`
	Instance string            `json:"instance"` // unique within the service, one path segment
	Address  string            `json:"address"`  // IP address or host name, never with a port
	Port     int               `json:"port"`
	Protocol string            `json:"protocol"` // "tcp" or "udp"
	State    string            `json:"state"`
	Weight   int               `json:"weight,omitempty"` // 1 to WeightMax; 0 leaves it to the reader
	Tags     []string          `json:"tags,omitempty"`
	Meta     map[string]string `json:"meta,omitempty"`
	Host     string            `json:"host,omitempty"`  // name of the machine it runs on
	Owner    string            `json:"owner,omitempty"` // who may change or remove it: see Publisher
}
