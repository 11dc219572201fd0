package agent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// composeService is the label in which docker compose keeps the service's name.
const composeService = "com.docker.compose.service"

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
		made, refused := offersOf(w, opts)
		refusals = append(refusals, refused...)
		for _, offer := range made {
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

// offersOf decides about one container.
func offersOf(w workload.Workload, opts Options) (offers []Offer, refusals []Refusal) {
	refuse := func(port int, mistake bool, format string, args ...any) {
		refusals = append(refusals, Refusal{Container: w.Name, Port: port, Mistake: mistake, Reason: fmt.Sprintf(format, args...)})
	}
	all := readMetadata(w.Env, w.Labels)
	switch {
	case all.isTrue(keyIgnore):
		refuse(0, false, "%s%s is set", metadataPrefix, keyIgnore)
		return nil, refusals
	case w.State != workload.Running:
		refuse(0, false, "it is %s", w.Reason)
		return nil, refusals
	}

	type eligible struct {
		port      workload.Port
		said      metadata
		endpoint  netip.AddrPort
		published bool
	}
	var ports []eligible
	for _, bindings := range byPort(w.Ports) {
		port := bindings[0]
		said := all.forPort(port.Number)
		if said.isTrue(keyIgnore) {
			refuse(port.Number, false, "%s%d_%s is set", metadataPrefix, port.Number, keyIgnore)
			continue
		}
		if opts.Explicit && said[keyName] == "" {
			refuse(port.Number, false, "it has no %s%s, which --explicit asks for", metadataPrefix, keyName)
			continue
		}
		endpoint, published, why := endpointOf(w, bindings, opts)
		if why != "" {
			refuse(port.Number, false, "%s", why)
			continue
		}
		ports = append(ports, eligible{port, said, endpoint, published})
	}
	// tcp and udp of one number are one service that speaks both.
	several := slices.ContainsFunc(ports, func(e eligible) bool { return e.port.Number != ports[0].port.Number })

	for _, e := range ports {
		mistake := func(format string, args ...any) { refuse(e.port.Number, true, format, args...) }
		service, err := serviceName(w, all, e.port.Number, several)
		if err != nil {
			mistake("%v", err)
			continue
		}
		instance, err := instanceName(w, e.said, e.port, opts.Host)
		if err != nil {
			mistake("%v", err)
			continue
		}
		tags, problems := e.said.tags()
		for _, tag := range opts.Tags {
			if !slices.Contains(tags, tag) && len(tags) < entriesMax {
				tags = append(tags, tag)
			}
		}
		meta, metaProblems := e.said.meta()
		weight, err := e.said.weight()
		if err != nil {
			problems = append(problems, err.Error())
		}
		checks, why, err := checksOf(w, e.said, e.port, e.endpoint, e.published)
		if err != nil {
			problems = append(problems, err.Error())
		}
		for _, problem := range append(problems, metaProblems...) {
			mistake("%s", problem)
		}
		if why != "" {
			refuse(e.port.Number, false, "%s", why)
			continue
		}
		record := registry.Record{
			Service: service, Instance: instance,
			Address: e.endpoint.Addr().String(), Port: int(e.endpoint.Port()), Protocol: e.port.Protocol,
			State: registry.StateUp, Weight: weight, Tags: tags, Meta: meta, Host: opts.Host,
		}
		if err := record.Validate(); err != nil {
			mistake("%v", err)
			continue
		}
		offers = append(offers, Offer{Record: record, Workload: w, Port: e.port.Number, Checks: checks})
	}
	return offers, refusals
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

// endpointOf chooses where others reach a port: one endpoint, however many bindings it has,
// because behind all of them is one process. published says that it is an address of the host.
func endpointOf(w workload.Workload, bindings []workload.Port, opts Options) (endpoint netip.AddrPort, published bool, why string) {
	isPublished := func(p workload.Port) bool { return p.HostNumber != 0 }
	onHost := len(w.Addresses) == 0 // with the host's network its address is the host's
	if opts.Internal && !(onHost && slices.ContainsFunc(bindings, isPublished)) {
		address, why := ownAddress(w, opts.Network)
		return netip.AddrPortFrom(address, uint16(bindings[0].Number)), false, why
	}

	const unusable = 4
	best := unusable
	why = "it is not published (docker run -p), and --internal is not set"
	for _, binding := range bindings {
		if !isPublished(binding) {
			continue
		}
		ip, err := netip.ParseAddr(binding.HostIP)
		if err != nil {
			why = fmt.Sprintf("it is published on %q, which is not an IP address", binding.HostIP)
			continue
		}
		ip = ip.Unmap()
		rank, address := unusable, ip
		switch {
		case ip.IsUnspecified() && ip.Is4() == opts.Address.Is4():
			rank, address = 0, opts.Address
		case ip.IsUnspecified():
			rank, address = 1, opts.Address
		case !ip.IsLoopback():
			rank = 2
		case opts.Address.IsLoopback():
			rank = 3
		default:
			why = fmt.Sprintf("it is published on %s alone, where other hosts cannot reach it; --ip %s registers it for this host", ip, ip)
		}
		if rank < best {
			best, endpoint = rank, netip.AddrPortFrom(address, uint16(binding.HostNumber))
		}
	}
	if best == unusable {
		return netip.AddrPort{}, false, why
	}
	return endpoint, true, ""
}

// ownAddress returns the container's address in network, or in the first of its networks by name.
func ownAddress(w workload.Workload, network string) (netip.Addr, string) {
	names := sortedNetworks(w)
	if network != "" {
		names = []string{network}
	}
	for _, name := range names {
		if ip, err := netip.ParseAddr(w.Addresses[name]); err == nil {
			return ip.Unmap(), ""
		}
	}
	if network != "" {
		return netip.Addr{}, fmt.Sprintf("it has no address in network %q", network)
	}
	return netip.Addr{}, "it has no address of its own"
}

func sortedNetworks(w workload.Workload) []string {
	names := make([]string, 0, len(w.Addresses))
	for name := range w.Addresses {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// serviceName is SERVICE_<port>_NAME, else the container's name for itself with the port's number
// if several ports are registered.
func serviceName(w workload.Workload, all metadata, port int, several bool) (string, error) {
	key := strconv.Itoa(port) + "_" + keyName
	if name := all[key]; name != "" {
		return checkedName(metadataPrefix+key, name)
	}
	name, err := "", error(nil)
	switch {
	case all[keyName] != "":
		name, err = checkedName(metadataPrefix+keyName, all[keyName])
	case w.Labels[composeService] != "":
		name, err = checkedName(composeService, w.Labels[composeService])
	default:
		if name = imageName(w.Image); !isName(name) {
			err = fmt.Errorf("image %.80q gives no name for a service; set %s%s", w.Image, metadataPrefix, keyName)
		}
	}
	if err == nil && several {
		name += "-" + strconv.Itoa(port)
	}
	return name, err
}

// instanceName is SERVICE_ID, else HOST_CONTAINER_PORT, with "_udp" behind a udp port. A host's name
// has no '_', so that no two of them can be the same.
func instanceName(w workload.Workload, said metadata, port workload.Port, host string) (string, error) {
	if id := said[keyID]; id != "" {
		return checkedName(metadataPrefix+keyID, id)
	}
	name := fmt.Sprintf("%s_%s_%d", host, cleanName(cmp.Or(w.Name, w.ID)), port.Number)
	if port.Protocol != "tcp" {
		name += "_" + port.Protocol
	}
	return name, nil
}

func checkedName(key, name string) (string, error) {
	if !isName(name) {
		return "", fmt.Errorf("%s=%.80q: a name has at most %d letters, digits, '.', '-' and '_', and begins with a letter or digit", key, name, nameBytesMax)
	}
	return name, nil
}

const weightMax = 256

func (m metadata) weight() (int, error) {
	text := strings.TrimSpace(m[keyWeight])
	if text == "" {
		return 0, nil
	}
	weight, err := strconv.Atoi(text)
	if err != nil || weight < 1 || weight > weightMax {
		return 0, fmt.Errorf("%s%s=%.20q: must be a number from 1 to %d; left out", metadataPrefix, keyWeight, text, weightMax)
	}
	return weight, nil
}
