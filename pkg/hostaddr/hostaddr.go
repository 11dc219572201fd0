// Package hostaddr guesses the address under which other hosts reach this one. It asks the routing
// table and sends nothing; whoever knows better says so with a setting instead.
package hostaddr

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

// resolveTimeout bounds the look-up of the store's name.
const resolveTimeout = time.Second

// Addresses from the ranges kept for documentation: somewhere else, whatever "here" is.
const (
	elsewhere4 = "198.51.100.1:9"
	elsewhere6 = "[2001:db8::1]:9"
)

// Find returns the address under which other hosts probably reach this one: the one that
// the route to the store begins at, else the default route, else any that is not loopback. It is
// loopback only where there is nothing else. Endpoints are URLs or HOST:PORT; those that are
// neither, or whose name is not resolved within a second, are passed over.
func Find(ctx context.Context, endpoints []string) netip.Addr {
	var targets []string
	for _, endpoint := range endpoints {
		host := ""
		if target, err := url.Parse(endpoint); err == nil {
			host = target.Hostname()
		}
		if host == "" { // an endpoint may do without a scheme
			host, _, _ = net.SplitHostPort(endpoint)
		}
		if host != "" {
			targets = append(targets, net.JoinHostPort(host, "9"))
		}
	}
	for _, target := range append(targets, elsewhere4, elsewhere6) {
		if ip, ok := routeSource(ctx, target); ok && !ip.IsLoopback() {
			return ip
		}
	}
	if addresses, err := net.InterfaceAddrs(); err == nil {
		if ip, ok := firstGlobal(addresses); ok {
			return ip
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// routeSource returns the address that packets to target would carry. Connecting a datagram
// socket asks the routing table and sends nothing.
func routeSource(ctx context.Context, target string) (netip.Addr, bool) {
	dialer := net.Dialer{Timeout: resolveTimeout}
	conn, err := dialer.DialContext(ctx, "udp", target)
	if err != nil {
		return netip.Addr{}, false
	}
	defer conn.Close()
	local, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	return local.AddrPort().Addr().Unmap().WithZone(""), true
}

// firstGlobal prefers IPv4, as whoever publishes a port does.
func firstGlobal(addresses []net.Addr) (netip.Addr, bool) {
	var found []netip.Addr
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil {
			if ip := prefix.Addr().Unmap(); ip.IsGlobalUnicast() {
				found = append(found, ip)
			}
		}
	}
	if i := slices.IndexFunc(found, netip.Addr.Is4); i >= 0 {
		return found[i], true
	}
	if len(found) > 0 {
		return found[0], true
	}
	return netip.Addr{}, false
}
