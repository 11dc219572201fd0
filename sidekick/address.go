package sidekick

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"time"
)

// resolveTimeout bounds the look-up of the store's name.
const resolveTimeout = time.Second

// Addresses from the ranges for documentation: the routes to them are the default routes.
const (
	anywhere4 = "198.51.100.1"
	anywhere6 = "2001:db8::1"
)

// hostAddress returns the address under which others probably reach this machine: the one from
// which it reaches the store. If the store is on this machine too, that says nothing, and it is
// the one from which it would reach the rest of the world; loopback if there is no such route.
func hostAddress(ctx context.Context, endpoints []string) netip.Addr {
	var hosts []string
	for _, endpoint := range endpoints {
		if u, err := url.Parse(endpoint); err == nil && u.Hostname() != "" {
			hosts = append(hosts, u.Hostname())
		} else if host, _, err := net.SplitHostPort(endpoint); err == nil {
			hosts = append(hosts, host)
		}
	}
	for _, host := range append(hosts, anywhere4, anywhere6) {
		if ip, ok := routeSource(ctx, host); ok && !ip.IsLoopback() {
			return ip
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// routeSource returns the local address of packets to host. Connecting a datagram socket asks the
// routing table and sends nothing.
func routeSource(ctx context.Context, host string) (netip.Addr, bool) {
	dialer := net.Dialer{Timeout: resolveTimeout}
	connection, err := dialer.DialContext(ctx, "udp", net.JoinHostPort(host, "9"))
	if err != nil {
		return netip.Addr{}, false
	}
	defer connection.Close()
	local, ok := connection.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	return local.AddrPort().Addr().Unmap().WithZone(""), true
}
