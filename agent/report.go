package agent

import (
	"cmp"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registrar/local"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// Report is how an agent does at one moment, beyond what its registrar says of itself.
type Report struct {
	local.Report
	Version string    `json:"version"`
	Host    string    `json:"host"`
	Address string    `json:"address"`
	Started time.Time `json:"started"`
	Ready   bool      `json:"ready"`

	Endpoints []string `json:"endpoints"` // of the store
	Layouts   []string `json:"layouts"`
	// Problems are what keeps the registry from being true, in words; empty if all is well.
	Problems []string        `json:"problems"`
	Follows  []SourceStatus  `json:"follows"`
	Servers  []ServerReport  `json:"servers"` // that run beside registering
	Refused  []RefusalReport `json:"refused"`
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
	What      string           `json:"what"`
	Found     bool             `json:"found"`
	Workloads []WorkloadState  `json:"workloads"`
	Instances []local.Instance `json:"instances"`
	Refused   []RefusalReport  `json:"refused"`
	Heartbeat time.Time        `json:"heartbeat,omitzero"` // when the store last confirmed that the agent lives
	StoreErr  string           `json:"storeError,omitempty"`
	Follows   []SourceStatus   `json:"follows"` // that were asked
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

func (a *Agent) refusals() []RefusalReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]RefusalReport, len(a.refused))
	for i, r := range a.refused {
		list[i] = RefusalReport(r)
	}
	return list
}

// fill adds what the agent knows to a report. It is safe for concurrent use.
func (a *Agent) fill(r *Report) {
	r.Host, r.Address, r.Follows, r.Refused = a.Options.Host, a.Options.Address.String(), a.SourceStatus(), a.refusals()
	a.mu.Lock()
	r.Started, r.Ready = a.started, a.isReady
	a.mu.Unlock()
	r.Problems = append(r.Problems, a.problems(r.Follows)...)
}

// problems are what keeps the registry from being true.
func (a *Agent) problems(sources []SourceStatus) []string {
	problems := []string{}
	if err := a.Publisher.Status().Err; err != nil {
		problems = append(problems, fmt.Sprintf("not all is in the store: %v", err))
	}
	for _, s := range sources {
		if !s.Connected && (s.Expected || s.Reported) {
			problems = append(problems, fmt.Sprintf("%s does not answer: %s", s.Name, cmp.Or(s.Err, untold)))
		}
	}
	if part := a.stuck(time.Now()); part != "" {
		problems = append(problems, part+" makes no progress")
	}
	return problems
}

// sources are all sources in the words of others.
func (a *Agent) sources() iter.Seq2[string, workload.Status] {
	return func(yield func(string, workload.Status) bool) {
		for _, s := range a.SourceStatus() {
			told := workload.Status{Connected: s.Connected, Since: s.Since, LastEvent: s.LastEvent, Lag: s.Lag, Relists: s.Relists, Missed: s.Missed, Dropped: s.Dropped}
			if s.Err != "" {
				told.Err = sourceError(s.Err)
			}
			if !yield(s.Name, told) {
				return
			}
		}
	}
}

type sourceError string

func (e sourceError) Error() string { return string(e) }

// Explain returns what is known about the workloads that what names: by its name, its ID or the beginning
// of that, or one of its services or instances. It is safe for concurrent use.
func (a *Agent) Explain(what string) Explanation {
	status := a.Publisher.Status()
	e := Explanation{What: what, Workloads: []WorkloadState{}, Instances: []local.Instance{}, Refused: []RefusalReport{},
		Heartbeat: status.Heartbeat, StoreErr: text(status.Err), Follows: a.SourceStatus()}
	type workloadName struct{ source, name string }
	meant, shown := map[workloadName]bool{}, map[workloadName]bool{}
	seen, entries := a.seen(), a.Registrar.Entries()
	for _, s := range seen {
		if isCalled(what, s) {
			meant[workloadName{s.Source, s.Name}] = true
			shown[workloadName{s.Source, s.Name}] = true
		}
	}
	offered := map[workloadName]bool{} // by whom what is a service that stands somewhere
	for _, entry := range entries {
		r, of := entry.Offer.Record, workloadName{entry.Offer.Source, entry.Offer.Workload}
		isService := what == r.Instance || what == r.Service || what == r.Service+"/"+r.Instance
		offered[of] = offered[of] || what == r.Service
		if meant[of] || isService {
			e.Instances = append(e.Instances, local.InstanceOf(entry))
			shown[of] = true
		}
	}
	for _, s := range seen {
		if of := (workloadName{s.Source, s.Name}); !offered[of] && describes(s, what) {
			shown[of], meant[of] = true, true
		}
	}
	for _, s := range seen {
		if shown[workloadName{s.Source, s.Name}] {
			e.Workloads = append(e.Workloads, WorkloadState{Source: s.Source, Name: s.Name, ID: s.ID, State: string(s.State), Reason: s.Reason, Health: string(s.Health), Image: s.Image, PID: s.PID})
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

// isCalled reports whether what names a workload.
func isCalled(what string, s Seen) bool {
	base := s.ID[strings.LastIndexByte(s.ID, '/')+1:]
	return what != "" && (slices.Contains([]string{s.Name, s.ID, base}, what) ||
		what+".service" == s.Name ||
		s.Source == SourceDocker && len(what) >= shortIDMin && strings.HasPrefix(s.ID, what) ||
		strings.TrimPrefix(what, "/") == s.Name)
}

// describes reports whether a workload is meant to be a service, however wrongly it says so.
func describes(s Seen, service string) bool {
	if slices.Contains(s.Unread, service) {
		return true
	}
	for label := range s.Labels {
		if rest, isOwn := strings.CutPrefix(label, ownPrefix+"."); isOwn {
			if name, _, _ := splitOption(rest); name == service && name != "" {
				return true
			}
		}
	}
	return false
}

// console answers what people ask a running agent: see package local for /v1/status, /v1/explain,
// /v1/override and /metrics.
type console struct {
	agent  *Agent
	local  local.Config // without More and MoreMetrics
	beside *running
	store  []string // endpoints
	views  []registry.View
}

// report returns how everything does.
func (c *console) report() Report {
	r := Report{Report: c.local.Report(), Version: program.Version(), Endpoints: c.store, Servers: c.beside.report(), Problems: []string{}}
	for _, view := range c.views {
		r.Layouts = append(r.Layouts, view.String())
	}
	c.agent.fill(&r)
	for _, server := range r.Servers {
		if server.Err != "" {
			r.Problems = append(r.Problems, fmt.Sprintf("%s does not run any more: %s", server.Name, server.Err))
		}
	}
	return r
}

// config is what the socket serves.
func (c *console) config() local.Config {
	config := c.local
	config.More = c.more()
	config.MoreMetrics = func(w io.Writer) { writeMetrics(w, c.report()) }
	return config
}

// readOnly passes on what changes nothing.
func readOnly(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "this page changes nothing; use kvagent drain and the like, or kvctl service", http.StatusMethodNotAllowed)
			return
		}
		inner.ServeHTTP(w, r)
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
