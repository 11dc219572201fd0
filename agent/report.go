package agent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
)

// Report is how an agent does at one moment: its status as JSON.
type Report struct {
	Version string    `json:"version"`
	Host    string    `json:"host"`
	Address string    `json:"address"`
	Started time.Time `json:"started"`
	Ready   bool      `json:"ready"`
	// Problems are what keeps the registry from being true, in words; empty if all is well.
	Problems []string `json:"problems"`

	Store     StoreReport     `json:"store"`
	Sources   []SourceStatus  `json:"sources"`
	Servers   []ServerReport  `json:"servers"` // that run beside registering
	Instances []Instance      `json:"instances"`
	Refused   []RefusalReport `json:"refused"`
}

// StoreReport is how far the store agrees.
type StoreReport struct {
	Endpoints   []string  `json:"endpoints"`
	Layouts     []string  `json:"layouts"`
	Wanted      int       `json:"wanted"`
	Registered  int       `json:"registered"`
	Removed     int       `json:"removed"`
	Lease       string    `json:"lease,omitempty"` // "" : each key has a TTL of its own
	Heartbeat   time.Time `json:"heartbeat,omitzero"`
	Expires     time.Time `json:"expires,omitzero"`
	Writes      int       `json:"writes"`
	Renewals    int       `json:"renewals"`
	Corrections int       `json:"corrections"`
	LeasesLost  int       `json:"leasesLost"`
	Err         string    `json:"error,omitempty"`
}

// ServerReport is a server that runs beside registering.
type ServerReport struct {
	Name string `json:"name"`
	Err  string `json:"error,omitempty"` // why it runs no more

	Listening []string `json:"listening,omitempty"` // addresses, of a server that tells
	Waiting   []string `json:"waiting,omitempty"`   // why it listens at no others
	Figures   []Figure `json:"figures,omitempty"`
}

// Figure is something that a server measures.
type Figure struct {
	Name  string  `json:"name"` // as a metric has it, without what all have in common
	Kind  string  `json:"-"`    // counter or gauge
	Help  string  `json:"-"`
	Value float64 `json:"value"`
}

// Instance is one instance of a service that is offered.
type Instance struct {
	Source   string   `json:"source"`
	Workload string   `json:"workload"`
	ID       string   `json:"id"` // of the workload
	Service  string   `json:"service"`
	Instance string   `json:"instance"`
	Address  string   `json:"address"` // with the port, if it has one
	Protocol string   `json:"protocol"`
	Rule     string   `json:"rule"` // which gave it its address
	Tags     []string `json:"tags,omitempty"`

	Phase    string             `json:"phase"`
	Since    time.Time          `json:"since,omitzero"`
	Reason   string             `json:"reason,omitempty"`
	State    string             `json:"state,omitempty"` // of its record; "": it has none
	Kept     bool               `json:"kept,omitempty"`
	Weight   int                `json:"weight,omitempty"`
	Check    *CheckReport       `json:"check,omitempty"`
	Health   string             `json:"health,omitempty"` // the engine's own verdict
	Override *override.Override `json:"override,omitempty"`
	Keys     []KeyReport        `json:"keys"`
}

// CheckReport is what is checked, and what the latest check said.
type CheckReport struct {
	Check   string        `json:"check"`
	Healthy bool          `json:"healthy"`
	Output  string        `json:"output,omitempty"`
	At      time.Time     `json:"at,omitzero"`
	Took    time.Duration `json:"tookNanoseconds"`
	Passed  int           `json:"passed"` // in a row
	Failed  int           `json:"failed"` // in a row
}

// KeyReport is one key of an instance.
type KeyReport struct {
	Key    string    `json:"key"`
	Layout string    `json:"layout"`
	State  string    `json:"state"`
	Since  time.Time `json:"since,omitzero"`
	Owner  string    `json:"owner,omitempty"` // who holds it instead
	Err    string    `json:"error,omitempty"`
}

// RefusalReport is a Refusal.
type RefusalReport struct {
	Source   string `json:"source"`
	Workload string `json:"workload"`
	Port     int    `json:"port,omitempty"`
	Reason   string `json:"reason"`
	Mistake  bool   `json:"mistake"`
}

// Explanation is all that is known about a workload.
type Explanation struct {
	What      string          `json:"what"`
	Found     bool            `json:"found"`
	Workloads []WorkloadState `json:"workloads"`
	Instances []Instance      `json:"instances"`
	Refused   []RefusalReport `json:"refused"`
	Heartbeat time.Time       `json:"heartbeat,omitzero"` // when the store last confirmed that the agent lives
	StoreErr  string          `json:"storeError,omitempty"`
	Sources   []SourceStatus  `json:"sources"` // that were asked
}

// WorkloadState is what a source says of a workload.
type WorkloadState struct {
	Source string `json:"source"`
	Name   string `json:"name"`
	ID     string `json:"id"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	Health string `json:"health,omitempty"`
	Image  string `json:"image,omitempty"`
	PID    int    `json:"pid,omitempty"`
}

// instances joins what was decided with what the registrar knows.
func (a *Agent) instances() []Instance {
	a.mu.Lock()
	ids := make(map[[2]string]string, len(a.offers))
	for _, offer := range a.offers {
		ids[[2]string{offer.Record.Service, offer.Record.Instance}] = offer.ID
	}
	a.mu.Unlock()
	entries := a.Registrar.Entries()
	list := make([]Instance, len(entries))
	for i, e := range entries {
		of := [2]string{e.Offer.Record.Service, e.Offer.Record.Instance}
		list[i] = instance(e, ids[of])
	}
	return list
}

func instance(e registrar.Entry, id string) Instance {
	r := e.Offer.Record
	i := Instance{
		Source: e.Offer.Source, Workload: e.Offer.Workload, ID: id, Service: r.Service, Instance: r.Instance,
		Address: addressText(r.Address, r.Port), Protocol: r.Protocol, Rule: e.Offer.Address, Tags: r.Tags,
		Phase: string(e.Phase), Since: e.Since, Reason: e.Reason, State: e.State, Kept: e.Kept, Weight: e.Weight,
		Health: string(e.Offer.Health), Keys: []KeyReport{},
	}
	for _, k := range e.Keys {
		i.Keys = append(i.Keys, KeyReport{Key: k.Key, Layout: string(k.View.Layout), State: string(k.State), Since: k.Since, Owner: k.Owner, Err: text(k.Err)})
	}
	if !e.Override.IsZero() {
		wanted := e.Override
		i.Override = &wanted
	}
	if m := e.Offer.Monitor; m != nil {
		v := e.Verdict
		i.Check = &CheckReport{Check: m.Check.String(), Healthy: v.Healthy, Output: cmp.Or(text(v.Err), v.Output), At: v.At, Took: v.Took, Passed: v.Passed, Failed: v.Failed}
	}
	return i
}

func (a *Agent) refusals() []RefusalReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]RefusalReport, len(a.refused))
	for i, r := range a.refused {
		list[i] = RefusalReport{Source: r.Source, Workload: r.Workload, Port: r.Port, Reason: r.Reason, Mistake: r.Mistake}
	}
	return list
}

// Report returns how the agent does. It is safe for concurrent use.
func (a *Agent) Report() Report {
	status := a.Publisher.Status()
	r := Report{
		Host: a.Options.Host, Address: a.Options.Address.String(), Sources: a.SourceStatus(), Instances: a.instances(), Refused: a.refusals(),
		Store: StoreReport{
			Wanted: status.Wanted, Registered: status.Registered, Removed: status.Removed, Heartbeat: status.Heartbeat, Expires: status.Expires,
			Writes: status.Writes, Renewals: status.Renewals, Corrections: status.Corrections, LeasesLost: status.LeasesLost, Err: text(status.Err),
		},
	}
	if status.Lease != 0 {
		r.Store.Lease = fmt.Sprint(status.Lease)
	}
	a.mu.Lock()
	r.Started, r.Ready = a.started, a.isReady
	a.mu.Unlock()
	r.Problems = a.problems(status, r.Sources)
	return r
}

// problems are what keeps the registry from being true.
func (a *Agent) problems(status registry.Status, sources []SourceStatus) []string {
	problems := []string{}
	if status.Err != nil {
		problems = append(problems, fmt.Sprintf("the store does not agree: %v", status.Err))
	}
	for _, s := range sources {
		if !s.Connected && (s.Expected || s.Reported) {
			problems = append(problems, fmt.Sprintf("%s does not answer: %s", s.Name, cmp.Or(s.Err, "it has not told anything yet")))
		}
	}
	if part := a.stuck(time.Now()); part != "" {
		problems = append(problems, part+" makes no progress")
	}
	return problems
}

// Explain returns what is known about the workloads that what names: by its name, its ID or the beginning
// of that, or one of its services or instances. It is safe for concurrent use.
func (a *Agent) Explain(what string) Explanation {
	status := a.Publisher.Status()
	e := Explanation{What: what, Workloads: []WorkloadState{}, Instances: []Instance{}, Refused: []RefusalReport{},
		Heartbeat: status.Heartbeat, StoreErr: text(status.Err), Sources: a.SourceStatus()}
	type workloadName struct{ source, name string }
	meant := map[workloadName]bool{}
	for _, s := range a.seen() {
		if names(what, s) {
			meant[workloadName{s.Source, s.Name}] = true
			e.Workloads = append(e.Workloads, WorkloadState{Source: s.Source, Name: s.Name, ID: s.ID, State: string(s.State), Reason: s.Reason, Health: string(s.Health), Image: s.Image, PID: s.PID})
		}
	}
	for _, i := range a.instances() {
		if meant[workloadName{i.Source, i.Workload}] || i.Instance == what || i.Service == what || i.Service+"/"+i.Instance == what {
			e.Instances = append(e.Instances, i)
		}
	}
	for _, r := range a.refusals() {
		if meant[workloadName{r.Source, r.Workload}] {
			e.Refused = append(e.Refused, r)
		}
	}
	e.Found = len(e.Workloads)+len(e.Instances) > 0
	return e
}

// shortIDMin is how much of an ID names a container at least.
const shortIDMin = 4

// allPhases are those in which an instance can be.
func allPhases() []string {
	var list []string
	for _, phase := range []registrar.Phase{registrar.Starting, registrar.Checking, registrar.Up, registrar.Unhealthy, registrar.Draining,
		registrar.Maintenance, registrar.Stopping, registrar.Held, registrar.WaitingForStore} {
		list = append(list, string(phase))
	}
	return list
}

// names reports whether what names a workload.
func names(what string, s Seen) bool {
	base := s.ID[strings.LastIndexByte(s.ID, '/')+1:]
	return what != "" && (slices.Contains([]string{s.Name, s.ID, base}, what) ||
		what+".service" == s.Name ||
		s.Source == SourceDocker && len(what) >= shortIDMin && strings.HasPrefix(s.ID, what) ||
		strings.TrimPrefix(what, "/") == s.Name)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
