package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/kvd-io/kvd/pkg/workload"
)

// endpoint is where others reach a port.
type endpoint struct {
	address   netip.AddrPort
	published bool // on an address of the host, rather than the container's own
}

// endpointOf chooses where others reach a port: one endpoint, however many bindings it has,
// because behind all of them is one process. unreachable says why there is none.
func endpointOf(w workload.Workload, bindings []workload.Port, opts Options) (chosen endpoint, unreachable string) {
	isPublished := func(p workload.Port) bool { return p.HostNumber != 0 }
	onHost := len(w.Addresses) == 0 // with the host's network its address is the host's
	if opts.Internal && !(onHost && slices.ContainsFunc(bindings, isPublished)) {
		ip, unreachable := ownAddress(w, opts.Network)
		return endpoint{address: netip.AddrPortFrom(ip, uint16(bindings[0].Number))}, unreachable
	}

	const unusable = 4
	best := unusable
	unreachable = "it is not published (docker run -p), and --internal is not set"
	for _, binding := range bindings {
		if !isPublished(binding) {
			continue
		}
		ip, err := netip.ParseAddr(binding.HostIP)
		if err != nil {
			unreachable = fmt.Sprintf("it is published on %q, which is not an IP address", binding.HostIP)
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
			unreachable = fmt.Sprintf("it is published on %s alone, where other hosts cannot reach it; --ip %s registers it for this host", ip, ip)
		}
		if rank < best {
			best = rank
			chosen = endpoint{address: netip.AddrPortFrom(address, uint16(binding.HostNumber)), published: true}
		}
	}
	if best < unusable {
		unreachable = ""
	}
	return chosen, unreachable
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
