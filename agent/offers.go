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
	granted, refusals := newPlanner(opts).offers(seen)
	offers := make([]Offer, len(granted))
	for i, offer := range granted {
		offers[i] = *offer
	}
	return offers, refusals
}

// planner is Offers that remembers what it decided about a workload until that changes.
type planner struct {
	options Options
	round   uint64 // grows with each snapshot
	known   map[workloadID]*planned
	claims  []*claim // of all that is known, as firstClaim orders them
	again   bool     // something that may come later was missing
}

type workloadID struct{ source, id string }

// planned is what was decided about a workload as it was seen. Only round changes once it is made.
type planned struct {
	seen     Seen
	owner    *workload.Workload // whose network it uses
	offers   []Offer
	refusals []Refusal
	again    bool   // something that may come later was missing
	round    uint64 // when it was seen last
}

// claim is an offer and the workload that makes it.
type claim struct {
	*Offer
	by *planned
	at int // among those of the workload
}

func newPlanner(opts Options) *planner {
	return &planner{options: opts, known: map[workloadID]*planned{}}
}

// offers returns what is to be registered. An offer of a workload that has not changed is at the address
// at which it was before. None must be changed.
func (p *planner) offers(seen []Seen) ([]*Offer, []Refusal) {
	p.round++
	p.again = false
	owners := networkOwners(seen)
	var refusals []Refusal
	var fresh []*planned
	for i := range seen {
		plan, isNew := p.plan(&seen[i], owners)
		if isNew {
			fresh = append(fresh, plan)
		}
		p.again = p.again || plan.again
		refusals = append(refusals, plan.refusals...)
	}
	p.forget(len(seen))
	p.claims = slices.DeleteFunc(p.claims, func(c *claim) bool { return c.by.round != p.round })
	for _, plan := range fresh {
		for i := range plan.offers {
			p.claims = append(p.claims, &claim{&plan.offers[i], plan, i})
		}
	}
	slices.SortFunc(p.claims, firstClaim) // quick, because few are out of order
	offers := make([]*Offer, 0, len(p.claims))
	var holder *claim
	for _, c := range p.claims {
		if holder != nil && c.Record.Instance == holder.Record.Instance && c.Record.Service == holder.Record.Service {
			refusals = append(refusals, conflict(c, holder))
			continue
		}
		holder = c
		offers = append(offers, c.Offer)
	}
	slices.SortStableFunc(refusals, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Port, b.Port))
	})
	return offers, refusals
}

// forget drops what was not seen in this round, in which there was so much.
func (p *planner) forget(seen int) {
	if len(p.known) == seen {
		return
	}
	for id, plan := range p.known {
		if plan.round != p.round {
			delete(p.known, id)
		}
	}
}

// networkOwners returns the workloads by ID if any uses the network of another, which few do.
func networkOwners(seen []Seen) map[workloadID]*Seen {
	if !slices.ContainsFunc(seen, func(s Seen) bool { return s.NetworkOf != "" }) {
		return nil
	}
	owners := make(map[workloadID]*Seen, len(seen))
	for i := range seen {
		owners[workloadID{seen[i].Source, seen[i].ID}] = &seen[i]
	}
	return owners
}

// plan returns what is decided about a workload: what was decided before, if nothing has changed.
func (p *planner) plan(s *Seen, owners map[workloadID]*Seen) (plan *planned, isNew bool) {
	var owner *workload.Workload
	if s.NetworkOf != "" {
		if found := owners[workloadID{s.Source, s.NetworkOf}]; found != nil {
			owner = &found.Workload
		}
	}
	id := workloadID{s.Source, s.ID}
	plan = p.known[id]
	if isNew = plan == nil || plan.again || !same(&plan.seen.Workload, &s.Workload) || !sameOwner(plan.owner, owner); isNew {
		plan = decide(*s, owner, p.options)
		p.known[id] = plan
	}
	plan.round = p.round
	return plan, isNew
}

// firstClaim orders by service and instance, and those who claim the same by who may keep it.
func firstClaim(a, b *claim) int {
	if c := cmp.Compare(a.Record.Service, b.Record.Service); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Record.Instance, b.Record.Instance); c != 0 {
		return c
	}
	if a.by == b.by {
		return cmp.Compare(a.at, b.at)
	}
	rank := func(s *Seen) int {
		switch {
		case s.Trusted:
			return 0
		case s.State == workload.Running:
			return 1
		}
		return 2
	}
	x, y := &a.by.seen, &b.by.seen
	return cmp.Or(cmp.Compare(rank(x), rank(y)), cmp.Compare(x.Run, y.Run), cmp.Compare(x.Source, y.Source), cmp.Compare(x.ID, y.ID))
}

func conflict(c, holder *claim) Refusal {
	s, first := &c.by.seen, &holder.by.seen
	whose := fmt.Sprintf("of %s", first.Name)
	if first.ID == s.ID && first.Source == s.Source {
		whose = "of the same one"
	}
	return Refusal{Source: s.Source, Workload: s.Name, Port: c.Port, Mistake: true,
		Reason: fmt.Sprintf("%s has an instance named %q already, %s; give one another id (%s.%s.id, %sID)",
			c.Record.Service, c.Record.Instance, whose, ownPrefix, c.Record.Service, metadataPrefix)}
}

func sameOwner(a, b *workload.Workload) bool {
	return a == b || a != nil && b != nil && same(a, b)
}
