package nameserver

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// defaultAllow are the networks whose questions are answered if a Config names none: loopback, private
// addresses, and those of one link.
func defaultAllow() []netip.Prefix {
	var all []netip.Prefix
	for _, text := range []string{
		"127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "169.254.0.0/16", "fe80::/10",
	} {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// allowed reports whether a question from an address is answered.
func (s *Server) allowed(from netip.Addr) bool {
	from = from.Unmap().WithZone("")
	if slices.ContainsFunc(s.cfg.Allow, func(p netip.Prefix) bool { return p.Contains(from) }) {
		return true
	}
	return s.allowSelf && s.self.has(from, s.cfg.Now())
}

// self are the addresses of this machine, of which a public one is seen where it asks itself at docker0: packets
// that leave a bridge for elsewhere are masqueraded, and those to oneself count as such.
type self struct {
	interfaces func() ([]net.Addr, error)

	mu        sync.Mutex // guards the fields below
	read      time.Time  // zero: never
	addresses map[netip.Addr]bool
}

// has reports whether address was one of this machine's within the last lookEvery.
func (s *self) has(address netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.read.IsZero() || now.Sub(s.read) >= lookEvery {
		s.read = now
		s.addresses = map[netip.Addr]bool{}
		all, _ := s.interfaces() // without an answer nobody is known, and refused
		for _, one := range all {
			if network, err := netip.ParsePrefix(one.String()); err == nil {
				s.addresses[network.Addr()] = true
			}
		}
	}
	return s.addresses[address]
}
