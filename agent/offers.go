package agent

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// Options say what is registered and under which names.
type Options struct {
	Host     string     // name of this machine: part of every instance's name
	Address  netip.Addr // to reach ports that are published on all addresses
	Internal bool       // register containers' own addresses and exposed ports
	Network  string     // whose address Internal registers; "" means the first by name
	Explicit bool       // only containers that name their service
	Tags     []string   // added to those of every container
}

// Offer is one port of a container that is to be registered once it answers.
type Offer struct {
	Record   registry.Record
	Workload workload.Workload
	Port     int // inside the container
	Checks   Checks
}

// Refusal is a container, or one of its ports, that is not registered as its maker may expect.
type Refusal struct {
	Container string // its name
	Port      int    // 0: the whole container
	Reason    string
	Mistake   bool // somebody wrote something that cannot be used
}

// Offers decides what to register of workloads. It depends on its arguments alone and returns
// offers by service and instance, refusals by container and port. Labels and environment are
// untrusted: whatever they contain, a record's key is one service and one instance below the
// prefix, and every record is valid.
func Offers(workloads []workload.Workload, opts Options) ([]Offer, []Refusal) {
	var offers []Offer
	var refusals []Refusal
	// The container that has run longest keeps a name that two claim.
	workloads = slices.SortedFunc(slices.Values(workloads), func(a, b workload.Workload) int {
		return cmp.Or(cmp.Compare(a.Run, b.Run), cmp.Compare(a.ID, b.ID))
	})
	holders := map[[2]string]string{}
	for _, w := range workloads {
		d := decision{workload: w, said: readMetadata(w.Env, w.Labels), options: opts}
		d.make()
		refusals = append(refusals, d.refusals...)
		for _, offer := range d.offers {
			name := [2]string{offer.Record.Service, offer.Record.Instance}
			if holder, taken := holders[name]; taken {
				refusals = append(refusals, Refusal{Container: w.Name, Port: offer.Port, Mistake: true,
					Reason: fmt.Sprintf("%s has an instance named %q already, of container %s; give one another SERVICE_ID", name[0], name[1], holder)})
				continue
			}
			holders[name] = w.Name
			offers = append(offers, offer)
		}
	}
	slices.SortFunc(offers, func(a, b Offer) int {
		return cmp.Or(cmp.Compare(a.Record.Service, b.Record.Service), cmp.Compare(a.Record.Instance, b.Record.Instance))
	})
	slices.SortStableFunc(refusals, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Port, b.Port))
	})
	return offers, refusals
}

// decision is being made about one container.
type decision struct {
	workload workload.Workload
	said     metadata // about all its ports and about each
	options  Options
	offers   []Offer
	refusals []Refusal
}

func (d *decision) refuse(port int, reason string) {
	d.refusals = append(d.refusals, Refusal{Container: d.workload.Name, Port: port, Reason: reason})
}

func (d *decision) mistake(port int, reason string) {
	d.refusals = append(d.refusals, Refusal{Container: d.workload.Name, Port: port, Reason: reason, Mistake: true})
}

func (d *decision) make() {
	switch {
	case d.said.isTrue(keyIgnore):
		d.refuse(0, metadataPrefix+keyIgnore+" is set")
		return
	case d.workload.State != workload.Running:
		d.refuse(0, "it is "+d.workload.Reason)
		return
	}
	candidates := d.candidates()
	// tcp and udp of one number are one service that speaks both.
	several := slices.ContainsFunc(candidates, func(c candidate) bool { return c.port.Number != candidates[0].port.Number })
	for _, c := range candidates {
		d.offer(c, several)
	}
}

// candidate is a port that others can reach and that nobody wants ignored.
type candidate struct {
	port     workload.Port
	said     metadata // about this port
	endpoint endpoint
}

func (d *decision) candidates() []candidate {
	var list []candidate
	for _, bindings := range byPort(d.workload.Ports) {
		c := candidate{port: bindings[0], said: d.said.forPort(bindings[0].Number)}
		number := c.port.Number
		if c.said.isTrue(keyIgnore) {
			d.refuse(number, fmt.Sprintf("%s%d_%s is set", metadataPrefix, number, keyIgnore))
			continue
		}
		if d.options.Explicit && c.said[keyName] == "" {
			d.refuse(number, fmt.Sprintf("it has no %s%s, which --explicit asks for", metadataPrefix, keyName))
			continue
		}
		var unreachable string
		if c.endpoint, unreachable = endpointOf(d.workload, bindings, d.options); unreachable != "" {
			d.refuse(number, unreachable)
			continue
		}
		list = append(list, c)
	}
	return list
}

// offer offers a candidate unless it has no usable name or is not healthy. What else cannot be
// used is left out and named.
func (d *decision) offer(c candidate, several bool) {
	number := c.port.Number
	service, serviceErr := serviceName(d.workload, d.said, number, several)
	instance, instanceErr := instanceName(d.workload, c.said, c.port, d.options.Host)
	if err := errors.Join(serviceErr, instanceErr); err != nil {
		d.mistake(number, err.Error())
		return
	}
	tags, problems := c.said.tags(d.options.Tags)
	meta, metaProblems := c.said.meta()
	weight, weightErr := c.said.weight()
	checks, unhealthy, checkErr := checksOf(d.workload, c)
	for _, err := range []error{weightErr, checkErr} {
		if err != nil {
			problems = append(problems, err.Error())
		}
	}
	for _, problem := range append(problems, metaProblems...) {
		d.mistake(number, problem)
	}
	if unhealthy != "" {
		d.refuse(number, unhealthy)
		return
	}
	record := registry.Record{
		Service: service, Instance: instance, Protocol: c.port.Protocol,
		Address: c.endpoint.address.Addr().String(), Port: int(c.endpoint.address.Port()),
		State: registry.StateUp, Weight: weight, Tags: tags, Meta: meta, Host: d.options.Host,
	}
	if err := record.Validate(); err != nil {
		d.mistake(number, err.Error())
		return
	}
	d.offers = append(d.offers, Offer{Record: record, Workload: d.workload, Port: number, Checks: checks})
}

// byPort groups the entries of each port, by number and protocol.
func byPort(ports []workload.Port) [][]workload.Port {
	ports = slices.SortedFunc(slices.Values(ports), func(a, b workload.Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.HostIP, b.HostIP), cmp.Compare(a.HostNumber, b.HostNumber))
	})
	var groups [][]workload.Port
	for _, port := range ports {
		last := len(groups) - 1
		if last >= 0 && groups[last][0].Number == port.Number && groups[last][0].Protocol == port.Protocol {
			groups[last] = append(groups[last], port)
		} else {
			groups = append(groups, []workload.Port{port})
		}
	}
	return groups
}
