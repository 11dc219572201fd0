// Package local shows a registrar to who is on its host, and takes in what they want of it: JSON over
// HTTP on a unix socket, and metrics. It has the server and the client.
//
//	GET /v1/status                            Report
//	GET /v1/explain?what=NAME                 the instances, workloads and services of that name: []Instance; 404 if there is none
//	PUT /v1/override?service=S&instance=I     an override.Override: it counts when this returns
//	GET /metrics                              for Prometheus
//
// Who may open the socket may do all of it: its file's mode decides. It decides nothing itself.
package local

import (
	"cmp"
	"net"
	"strconv"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// Report is how a registrar does at one moment.
type Report struct {
	Program   string     `json:"program"`
	Time      time.Time  `json:"time"` // of the report
	Store     Store      `json:"store"`
	Overrides Overrides  `json:"overrides"`
	Checks    Checks     `json:"checks"`
	Sources   []Source   `json:"sources"`
	Instances []Instance `json:"instances"`
}

// Store is how far the store agrees.
type Store struct {
	Up          bool      `json:"up"` // it answers, and nothing is wrong with any key
	Err         string    `json:"error,omitempty"`
	Wanted      int       `json:"wanted"`     // keys
	Registered  int       `json:"registered"` // keys
	Lease       string    `json:"lease,omitempty"`
	Heartbeat   time.Time `json:"heartbeat,omitzero"` // the latest that the store has confirmed
	Expires     time.Time `json:"expires,omitzero"`
	Writes      int       `json:"writes"`
	Renewals    int       `json:"renewals"`
	Corrections int       `json:"corrections"`
	LeasesLost  int       `json:"leasesLost"`
}

// Overrides is what is known of the wishes of operators.
type Overrides struct {
	IsRead   bool              `json:"isRead"`   // from the store; before, what the host remembers counts
	Count    int               `json:"count"`    // of the whole registry
	Pending  int               `json:"pending"`  // wait to be written to the store
	Problems map[string]string `json:"problems"` // keys that are ignored, and why
}

// Checks are counts since the start.
type Checks struct {
	Total  uint64 `json:"total"`
	Failed uint64 `json:"failed"`
}

// Source is an engine that is followed.
type Source struct {
	Name      string        `json:"name"`
	Connected bool          `json:"connected"`
	Since     time.Time     `json:"since,omitzero"`
	Err       string        `json:"error,omitempty"`
	LastEvent time.Time     `json:"lastEvent,omitzero"`
	Lag       time.Duration `json:"lagNanoseconds"`
}

// Instance is an offer, and where it stands.
type Instance struct {
	Source   string   `json:"source"`
	Workload string   `json:"workload"`
	Run      string   `json:"run,omitempty"`
	Service  string   `json:"service"`
	Instance string   `json:"instance"`
	Address  string   `json:"address"` // with the port, if it has one
	Protocol string   `json:"protocol"`
	Rule     string   `json:"rule,omitempty"` // which gave it its address
	Tags     []string `json:"tags,omitempty"`

	Phase    string             `json:"phase"` // of registrar.Phase
	Since    time.Time          `json:"since,omitzero"`
	Reason   string             `json:"reason,omitempty"`
	State    string             `json:"state,omitempty"` // of its record; "": it has none
	Kept     bool               `json:"kept,omitempty"`
	Weight   int                `json:"weight,omitempty"`
	Health   string             `json:"health,omitempty"` // the engine's own verdict
	Check    *Check             `json:"check,omitempty"`
	Override *override.Override `json:"override,omitempty"`
	Keys     []Key              `json:"keys"`
}

// Check is what is checked, and what came of it last.
type Check struct {
	Check   string        `json:"check"`
	Healthy bool          `json:"healthy"`
	Since   time.Time     `json:"since,omitzero"`
	Output  string        `json:"output,omitempty"` // of the latest, or why it failed
	At      time.Time     `json:"at,omitzero"`
	Took    time.Duration `json:"tookNanoseconds"`
	Passed  int           `json:"passed"` // in a row
	Failed  int           `json:"failed"` // in a row
}

// Key is one key of an instance.
type Key struct {
	Key    string    `json:"key"`
	Layout string    `json:"layout"`
	State  string    `json:"state"` // of registry.KeyState
	Since  time.Time `json:"since,omitzero"`
	Owner  string    `json:"owner,omitempty"` // who holds it instead
	Err    string    `json:"error,omitempty"`
}

// Report returns what is known now.
func (cfg Config) Report() Report {
	status, stats := cfg.Publisher.Status(), cfg.Registrar.Stats()
	r := Report{
		Program: cfg.Program, Time: time.Now(),
		Store: Store{
			Up: status.Err == nil, Err: text(status.Err), Wanted: status.Wanted, Registered: status.Registered,
			Heartbeat: status.Heartbeat, Expires: status.Expires, Writes: status.Writes, Renewals: status.Renewals,
			Corrections: status.Corrections, LeasesLost: status.LeasesLost,
		},
		Overrides: Overrides{Problems: map[string]string{}},
		Checks:    Checks{Total: stats.Checks, Failed: stats.Failures},
		Sources:   []Source{}, Instances: cfg.instances(),
	}
	if status.Lease != 0 {
		r.Store.Lease = status.Lease.String()
	}
	if cfg.Overrides != nil {
		o := cfg.Overrides.Status()
		r.Overrides = Overrides{IsRead: o.IsRead, Count: o.Count, Pending: o.Pending, Problems: o.Problems}
	}
	if cfg.Sources != nil {
		for name, s := range cfg.Sources() {
			r.Sources = append(r.Sources, source(name, s))
		}
	}
	return r
}

func source(name string, s workload.Status) Source {
	return Source{Name: name, Connected: s.Connected, Since: s.Since, Err: text(s.Err), LastEvent: s.LastEvent, Lag: s.Lag}
}

func (cfg Config) instances() []Instance {
	entries := cfg.Registrar.Entries()
	list := make([]Instance, len(entries))
	for i, e := range entries {
		list[i] = InstanceOf(e)
	}
	return list
}

// InstanceOf returns an entry as it is shown.
func InstanceOf(e registrar.Entry) Instance {
	r := e.Offer.Record
	i := Instance{
		Source: e.Offer.Source, Workload: e.Offer.Workload, Run: e.Offer.Run, Service: r.Service, Instance: r.Instance,
		Address: r.Address, Protocol: r.Protocol, Rule: e.Offer.Address, Tags: r.Tags,
		Phase: string(e.Phase), Since: e.Since, Reason: e.Reason, State: e.State, Kept: e.Kept, Weight: e.Weight,
		Health: string(e.Offer.Health), Keys: []Key{},
	}
	if r.Port != 0 {
		i.Address = net.JoinHostPort(r.Address, strconv.Itoa(r.Port))
	}
	if !e.Override.IsZero() {
		i.Override = &e.Override
	}
	if m := e.Offer.Monitor; m != nil {
		i.Check = checkOf(m, e.Verdict)
	}
	for _, k := range e.Keys {
		i.Keys = append(i.Keys, keyOf(k))
	}
	return i
}

func checkOf(m *health.Monitor, v health.Verdict) *Check {
	return &Check{
		Check: m.Check.String(), Healthy: v.Healthy || !health.Asks(m.Check), Since: v.Since,
		Output: cmp.Or(text(v.Err), v.Output), At: v.At, Took: v.Took, Passed: v.Passed, Failed: v.Failed,
	}
}

func keyOf(k registry.KeyStatus) Key {
	return Key{Key: k.Key, Layout: string(k.View.Layout), State: string(k.State), Since: k.Since, Owner: k.Owner, Err: text(k.Err)}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
