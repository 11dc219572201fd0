package agent

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/kvd-io/kvd/pkg/workload"
)

// place is where others reach a port, and which rule found it.
type place struct {
	host      string // an IP address, or a name that an administrator wrote
	port      int    // 0 for a service without one
	published bool   // on an address of the host, rather than the workload's own
	claimed   bool   // by a label, for reasons that nobody here can check
	rule      string // for people
}

func (p place) hostPort() string { return net.JoinHostPort(p.host, strconv.Itoa(p.port)) }

// locate chooses where others reach a port of the workload: one place, however many bindings it has,
// because behind all of them is one process. lost says why there is none, mistake that this is
// because of something that was written down wrongly.
func (d *decision) locate(port workload.Port, w whereabouts) (found place, lost string, mistake bool) {
	bindings := d.bindings(port)
	switch {
	case w.address != "" && w.address != addressInternal && w.address != addressPublished:
		return d.written(port, bindings, w.address)
	case d.options.AddressLabel != "" && d.seen.Labels[d.options.AddressLabel] != "":
		return d.labelled(port, bindings)
	case w.address == addressInternal, w.address == "" && w.network != "", w.address == "" && d.options.Internal:
		return d.internal(port, w)
	}
	if port.Number == 0 {
		return d.host(w.family)
	}
	found, lost = d.published(bindings, w.family)
	if lost != "" && d.options.Registrator && d.seen.NetworkOf != "" {
		return d.internal(port, w)
	}
	return found, lost, w.address == addressPublished
}

// bindings are where the host publishes a port. What uses the network of another workload is published
// as that one is, and what uses the host's has all its ports there.
func (d *decision) bindings(port workload.Port) []workload.Port {
	list := bindingsOf(d.seen.Workload, port)
	if len(list) == 0 && d.owner != nil {
		list = bindingsOf(*d.owner, port)
	}
	if len(list) == 0 && d.onHost() {
		port.HostIP, port.HostNumber = netip.IPv4Unspecified().String(), port.Number
		list = []workload.Port{port}
	}
	return list
}

func bindingsOf(w workload.Workload, port workload.Port) (list []workload.Port) {
	for _, p := range w.Ports {
		if p.Number == port.Number && p.Protocol == port.Protocol && p.HostNumber != 0 {
			list = append(list, p)
		}
	}
	return list
}

// onHost reports whether the workload's ports are the host's.
func (d *decision) onHost() bool {
	return d.seen.Source != SourceDocker || d.seen.HostNetwork || d.owner != nil && d.owner.HostNetwork
}

// written is the place at an address that a label names. Only an administrator may name any.
func (d *decision) written(port workload.Port, bindings []workload.Port, address string) (place, string, bool) {
	found := place{host: address, port: port.Number, rule: "its own label names it"}
	ip, err := netip.ParseAddr(address)
	isHost := err == nil && (ip == d.options.Address || ip == d.options.Other)
	switch {
	case slices.Contains(ownAddresses(d.seen.Workload), address):
		return found, "", false
	case isHost && !d.seen.Trusted && len(bindings) == 0 && port.Number != 0: // a port of somebody else's
		return place{}, fmt.Sprintf("port %d of this host is not published for it (docker run -p)", port.Number), true
	case isHost, d.seen.Trusted:
		if len(bindings) > 0 {
			found.port, found.published = bindings[0].HostNumber, !d.onHost()
		}
		return found, "", false
	}
	return place{}, fmt.Sprintf("address %.80q is neither the container's nor this host's: only a unit or a file of this host may name another one", address), true
}

// labelled is the place at the address in the label that --use-ip-from-label names.
func (d *decision) labelled(port workload.Port, bindings []workload.Port) (place, string, bool) {
	text := d.seen.Labels[d.options.AddressLabel]
	ip, err := netip.ParseAddr(text)
	if prefix, prefixErr := netip.ParsePrefix(text); err != nil && prefixErr == nil {
		ip, err = prefix.Addr(), nil
	}
	if err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" {
		return place{}, fmt.Sprintf("label %s=%.80q: must be one IP address, with or without the length of its network", d.options.AddressLabel, text), true
	}
	found := place{host: ip.Unmap().String(), port: port.Number, claimed: true, rule: "label " + d.options.AddressLabel}
	if d.options.Internal || port.Number == 0 {
		return found, "", false
	}
	if len(bindings) == 0 {
		return place{}, notPublished, false
	}
	found.port = bindings[0].HostNumber
	return found, "", false
}

// internal is the place at the workload's own address.
func (d *decision) internal(port workload.Port, w whereabouts) (place, string, bool) {
	if d.onHost() {
		found, lost := d.published(d.bindings(port), w.family)
		return found, lost, false
	}
	network := w.network
	if network == "" {
		network = d.options.Network
	}
	networks := []map[string]string{d.seen.Addresses, d.seen.Addresses6}
	names := slices.Concat(sortedKeys(d.seen.Addresses), sortedKeys(d.seen.Addresses6))
	slices.Sort(names)
	if network != "" {
		names = []string{network}
	}
	for _, name := range slices.Compact(names) {
		for _, addresses := range networks {
			ip, err := netip.ParseAddr(addresses[name])
			if err != nil || !isFamily(ip, w.family) {
				continue
			}
			rule := "its address in network " + name
			if d.seen.NetworkOf != "" {
				rule += ", which it has from another container"
			}
			return place{host: ip.Unmap().String(), port: port.Number, rule: rule}, "", false
		}
	}
	what := "it has no address"
	if w.family != 0 {
		what = fmt.Sprintf("it has no IPv%d address", w.family)
	}
	if network != "" {
		what += fmt.Sprintf(" in network %q", network)
	} else {
		what += " of its own"
	}
	return place{}, what, w.network != "" || w.family != 0
}

func isFamily(ip netip.Addr, family int) bool {
	return family == 0 || ip.Unmap().Is4() == (family == 4)
}

const notPublished = "it is not published (docker run -p), and --internal is not set"

// ownAddress is this host's address of the family.
func (d *decision) ownAddress(family int) (own netip.Addr, lost string) {
	own = d.options.Address
	if !isFamily(own, family) {
		own = d.options.Other
	}
	if !own.IsValid() {
		return own, fmt.Sprintf("this host has no IPv%d address that is known; --ip names one", family)
	}
	return own, ""
}

// host is the place of a service without a port, which nothing can publish.
func (d *decision) host(family int) (place, string, bool) {
	own, lost := d.ownAddress(family)
	if lost != "" {
		return place{}, lost, true
	}
	return place{host: own.String(), rule: "this host's, as there is no port that could be published"}, "", false
}

// published is the best place among those that the host publishes a port at.
func (d *decision) published(bindings []workload.Port, family int) (found place, lost string) {
	own, lost := d.ownAddress(family)
	if lost != "" {
		return place{}, lost
	}
	const unusable = 4
	best := unusable
	lost = notPublished
	for _, binding := range bindings {
		ip, err := netip.ParseAddr(binding.HostIP)
		if err != nil {
			lost = fmt.Sprintf("it is published on %q, which is not an IP address", binding.HostIP)
			continue
		}
		ip = ip.Unmap()
		rank, address, rule := unusable, ip, "published on "+ip.String()
		switch {
		case ip.IsUnspecified() && (ip.Is4() == own.Is4() || d.onHost()):
			rank, address, rule = 0, own, "published on every address of this host"
		case ip.IsUnspecified() && family != 0:
			lost = fmt.Sprintf("it is not published on IPv%d", family)
		case ip.IsUnspecified():
			rank, address, rule = 1, own, "published on every address of this host"
		case !isFamily(ip, family):
			lost = fmt.Sprintf("it is not published on IPv%d", family)
		case !ip.IsLoopback() && d.options.Forced:
			rank, address, rule = 2, own, rule+", and --ip stands for it"
		case !ip.IsLoopback():
			rank = 2
		case own.IsLoopback():
			rank = 3
		default:
			lost = fmt.Sprintf("it is published on %s alone, where other hosts cannot reach it; --ip %s registers it for this host", ip, ip)
		}
		if rank < best {
			best = rank
			found = place{host: address.String(), port: binding.HostNumber, published: true, rule: rule}
		}
	}
	if best < unusable {
		lost = ""
	}
	if d.onHost() {
		found.published, found.rule = false, "the host's own network"
	}
	return found, lost
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
