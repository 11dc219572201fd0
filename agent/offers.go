package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/workload"
)

// The sources of workloads.
const (
	SourceDocker  = "docker"  // containers of an engine
	SourceSystemd = "systemd" // units with an X-Kvd section
	SourceFile    = "file"    // files in a directory
)

// Seen is a workload and the source that reported it.
type Seen struct {
	Source string
	workload.Workload
}

// Options say what is registered and under which names.
type Options struct {
	Host    string     // name of this machine: part of every instance's name
	Address netip.Addr // to reach ports that are published on all addresses
	Other   netip.Addr // the same of the other family; the zero Addr if this machine has none

	Internal     bool   // register containers' own addresses and exposed ports
	Network      string // whose address Internal registers; "" means the first by name
	Explicit     bool   // only containers that name their service
	AddressLabel string // a label of containers that holds the address to register; "" means none is looked for
	Tags         *Tags  // added to those of every workload; nil: none

	// Registrator names services and instances exactly as registrator does.
	Registrator bool
	// Forced says that Address takes the place of whatever other address a port is published on.
	Forced bool
}

// Refusal is a workload, or one of its ports or services, that is not registered as its maker may expect.
type Refusal struct {
	Source   string
	Workload string // its name
	Port     int    // 0: the whole workload, or a service without one
	Reason   string
	Mistake  bool // somebody wrote something that cannot be used
}

// Offer is one instance of a service that a workload has.
type Offer struct {
	registrar.Offer
	ID   string // of the workload
	Port int    // inside the workload; 0: it has none
}

// Offers decides what to register of workloads. It depends on its arguments alone and returns
// offers by service and instance, refusals by source and workload. Labels and environment are
// untrusted unless the workload says otherwise: whatever they contain, a record's key is one service
// and one instance below the prefix, and every record is valid. What two workloads claim goes to the
// one that its administrator wrote down, then to the one that has run longest.
func Offers(seen []Seen, opts Options) ([]Offer, []Refusal) {
	return newPlanner(opts).offers(seen)
}

// planner is Offers that remembers what it decided about a workload until that changes.
type planner struct {
	options Options
	known   map[workloadID]*planned
	again   bool // something that may come later was missing
}

type workloadID struct{ source, id string }

// planned is what was decided about a workload as it was seen.
type planned struct {
	seen     Seen
	owner    *workload.Workload // whose network it uses
	offers   []Offer
	refusals []Refusal
	again    bool // something that may come later was missing
}

func newPlanner(opts Options) *planner {
	return &planner{options: opts, known: map[workloadID]*planned{}}
}

func (p *planner) offers(seen []Seen) ([]Offer, []Refusal) {
	claims := make([]*Seen, len(seen)) // workloads are large: pointers are sorted
	byID := make(map[workloadID]*Seen, len(seen))
	for i := range seen {
		claims[i] = &seen[i]
		byID[workloadID{seen[i].Source, seen[i].ID}] = &seen[i]
	}
	slices.SortFunc(claims, firstClaim)
	known := make(map[workloadID]*planned, len(seen))
	holders := make(map[[2]string]*Seen, len(seen))
	granted := make([]*Offer, 0, len(seen))
	var refusals []Refusal
	p.again = false
	for _, s := range claims {
		plan := p.plan(s, byID)
		known[workloadID{s.Source, s.ID}] = plan
		p.again = p.again || plan.again
		refusals = append(refusals, plan.refusals...)
		for i := range plan.offers {
			offer := &plan.offers[i]
			name := [2]string{offer.Record.Service, offer.Record.Instance}
			if holder, taken := holders[name]; taken {
				refusals = append(refusals, conflict(s, offer, holder))
				continue
			}
			holders[name] = s
			granted = append(granted, offer)
		}
	}
	p.known = known
	slices.SortFunc(granted, func(a, b *Offer) int {
		return cmp.Or(cmp.Compare(a.Record.Service, b.Record.Service), cmp.Compare(a.Record.Instance, b.Record.Instance))
	})
	slices.SortStableFunc(refusals, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Port, b.Port))
	})
	offers := make([]Offer, len(granted))
	for i, offer := range granted {
		offers[i] = *offer
	}
	return offers, refusals
}

// plan returns what is decided about a workload: what was decided before, if nothing has changed.
func (p *planner) plan(s *Seen, all map[workloadID]*Seen) *planned {
	var owner *workload.Workload
	if s.NetworkOf != "" {
		if found := all[workloadID{s.Source, s.NetworkOf}]; found != nil {
			owner = &found.Workload
		}
	}
	plan := p.known[workloadID{s.Source, s.ID}]
	if plan == nil || plan.again || !same(plan.seen.Workload, s.Workload) || !sameOwner(plan.owner, owner) {
		plan = decide(*s, owner, p.options)
	}
	return plan
}

// firstClaim orders workloads by who may keep a name that two claim.
func firstClaim(a, b *Seen) int {
	rank := func(s *Seen) int {
		switch {
		case s.Trusted:
			return 0
		case s.State == workload.Running:
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Run, b.Run), cmp.Compare(a.Source, b.Source), cmp.Compare(a.ID, b.ID))
}

func conflict(s *Seen, offer *Offer, holder *Seen) Refusal {
	whose := fmt.Sprintf("of %s", holder.Name)
	if holder.ID == s.ID && holder.Source == s.Source {
		whose = "of the same one"
	}
	return Refusal{Source: s.Source, Workload: s.Name, Port: offer.Port, Mistake: true,
		Reason: fmt.Sprintf("%s has an instance named %q already, %s; give one another id (%s.%s.id, %sID)",
			offer.Record.Service, offer.Record.Instance, whose, ownPrefix, offer.Record.Service, metadataPrefix)}
}

func sameOwner(a, b *workload.Workload) bool {
	return a == b || a != nil && b != nil && same(*a, *b)
}
