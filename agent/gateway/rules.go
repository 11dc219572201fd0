package gateway

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/pace"
)

// right is what may be done with a key. Each includes the ones before it.
type right uint8

const (
	nothing right = iota
	reading
	writing
)

// rulesMax bounds the rules of one network: each request is held against all of them.
const rulesMax = 256

var rightNames = map[string]right{"none": nothing, "r": reading, "rw": writing}

// rule gives a right on a key and all below it that has no longer rule.
type rule struct {
	key   string // clean
	right right
}

// rules are those of one network, the longest key first.
type rules []rule

func parseRules(text string) (rules, error) {
	if strings.Count(text, ",") >= rulesMax {
		return nil, fmt.Errorf("a network has at most %d rules", rulesMax)
	}
	var list rules
	for one := range strings.SplitSeq(text, ",") {
		name, key, ok := strings.Cut(strings.TrimSpace(one), ":")
		right, known := rightNames[name]
		if !ok || !known || !strings.HasPrefix(key, "/") {
			return nil, fmt.Errorf("%q is no rule: use r:/KEY, rw:/KEY or none:/KEY", one)
		}
		key = kv.Clean(key)
		if slices.ContainsFunc(list, func(r rule) bool { return r.key == key }) {
			return nil, fmt.Errorf("there are two rules for %s", nameOf(key))
		}
		list = append(list, rule{key, right})
	}
	slices.SortFunc(list, func(a, b rule) int { return len(b.key) - len(a.key) })
	return list, nil
}

// at returns the right on a clean key itself.
func (l rules) at(key string) right {
	for _, r := range l {
		if key == r.key || kv.Below(key, r.key) {
			return r.right
		}
	}
	return nothing
}

// below reports whether every rule for something below key, which counts accepts, gives want.
func (l rules) below(key string, want right, counts func(key string) bool) bool {
	return !slices.ContainsFunc(l, func(r rule) bool { return r.right < want && kv.Below(r.key, key) && counts(r.key) })
}

func always(string) bool { return true }

// mayRead reports whether the key may be read, with all below it or with what a directory shows of itself.
func (l rules) mayRead(key string, recursive bool) bool {
	shown := func(below string) bool { return recursive || kv.Parent(below) == key }
	return l.at(key) >= reading && l.below(key, reading, shown)
}

// mayWatch is mayRead for changes, of which a directory shows only its own.
func (l rules) mayWatch(key string, recursive bool) bool {
	return l.at(key) >= reading && (!recursive || l.below(key, reading, always))
}

// mayWrite reports whether the key may be written and removed, with all below it: a time to live takes it
// along, and a value in its place would keep it out.
func (l rules) mayWrite(key string) bool {
	return l.at(key) == writing && l.below(key, writing, always)
}

// mayWriteAnything reports whether there is a key that may be written.
func (l rules) mayWriteAnything() bool {
	return slices.ContainsFunc(l, func(r rule) bool { return r.right == writing })
}

// grant is what one network may do.
type grant struct {
	prefix netip.Prefix // not valid for the others
	docker string       // name of an engine's network, "" for none
	unix   bool
	rules  rules
}

// policy says who may do what. It is safe for concurrent use.
type policy struct {
	grants   []grant // as configured; none: defaults
	defaults rules
	networks atomic.Pointer[[]grant] // of those with a prefix, also of an engine's, the longest first
}

func newPolicy(allow []string, services string) (*policy, error) {
	p := &policy{defaults: rules{{kv.Clean(services), reading}}}
	for _, text := range allow {
		g, err := parseGrant(text)
		if err != nil {
			return nil, fmt.Errorf("--gateway-allow %q: %w", text, err)
		}
		if slices.ContainsFunc(p.grants, func(other grant) bool {
			return other.prefix == g.prefix && other.docker == g.docker && other.unix == g.unix
		}) {
			return nil, fmt.Errorf("--gateway-allow %q: this network has rules already: give them all at once", text)
		}
		p.grants = append(p.grants, g)
	}
	p.resolve(nil)
	return p, nil
}

func parseGrant(text string) (g grant, err error) {
	network, list, ok := strings.Cut(text, "=")
	if !ok {
		return g, fmt.Errorf("use NETWORK=RULES, such as 172.17.0.0/16=r:/services")
	}
	network = strings.TrimSpace(network)
	if name, isDocker := strings.CutPrefix(network, "docker:"); isDocker && name != "" {
		g.docker = name
	} else if network == "unix" {
		g.unix = true
	} else if g.prefix, err = parsePrefix(network); err != nil {
		return g, err
	}
	g.rules, err = parseRules(list)
	return g, err
}

func parsePrefix(text string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(text); err == nil && address.Zone() == "" {
		address = address.Unmap()
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		return prefix, fmt.Errorf("%q is no network: use an address, a prefix such as 172.17.0.0/16, docker:NAME or unix", text)
	}
	return prefix.Masked(), nil
}

// resolve notes the subnets of an engine's networks by name.
func (p *policy) resolve(docker map[string][]netip.Prefix) {
	var list []grant
	for _, g := range p.grants {
		if g.prefix.IsValid() {
			list = append(list, g)
		}
		for _, prefix := range docker[g.docker] {
			list = append(list, grant{prefix: prefix.Masked(), docker: g.docker, rules: g.rules})
		}
	}
	slices.SortStableFunc(list, func(a, b grant) int { return b.prefix.Bits() - a.prefix.Bits() })
	p.networks.Store(&list)
}

func (p *policy) dockerNames() (names []string) {
	for _, g := range p.grants {
		if g.docker != "" {
			names = append(names, g.docker)
		}
	}
	return names
}

// of returns the rules for who is at an address, or at a socket if the address is not valid, and came to a
// place with networks of its own.
func (p *policy) of(address netip.Addr, own []netip.Prefix) rules {
	if !address.IsValid() {
		if len(p.grants) == 0 {
			return p.defaults
		}
		at := slices.IndexFunc(p.grants, func(g grant) bool { return g.unix })
		if at < 0 {
			return nil
		}
		return p.grants[at].rules
	}
	if len(p.grants) == 0 {
		if slices.ContainsFunc(own, func(prefix netip.Prefix) bool { return prefix.Contains(address) }) {
			return p.defaults
		}
		return nil
	}
	for _, g := range *p.networks.Load() {
		if g.prefix.Contains(address) {
			return g.rules
		}
	}
	return nil
}

// readable returns the keys that a rule lets somebody read, without those below another.
func (p *policy) readable() (keys []string) {
	all := slices.Clone(p.defaults)
	if len(p.grants) > 0 {
		all = nil
	}
	for _, g := range p.grants {
		all = append(all, g.rules...)
	}
	for _, r := range all {
		covered := func(other rule) bool { return other.right >= reading && kv.Below(r.key, other.key) }
		if r.right >= reading && !slices.Contains(keys, r.key) && !slices.ContainsFunc(all, covered) {
			keys = append(keys, r.key)
		}
	}
	return keys
}

// followNetworks keeps the subnets of an engine's networks. One that cannot be had now stays as it was known
// last: addresses are given away again only with the network.
func (s *Server) followNetworks(ctx context.Context, names []string) {
	known, troubled := map[string][]netip.Prefix{}, map[string]bool{}
	look := func() {
		for _, name := range names {
			subnets, err := s.cfg.Subnets(ctx, name)
			if err != nil && ctx.Err() == nil && !troubled[name] {
				s.log.Warn("cannot find out the addresses of a network, its rules stay as they are", "network", name, "err", err)
			}
			if troubled[name] = err != nil; err == nil && !slices.Equal(known[name], subnets) {
				s.log.Info("a network has other addresses", "network", name, "subnets", subnets)
				known[name] = subnets
			}
		}
		s.policy.resolve(known)
	}
	look()
	for range pace.Every(ctx.Done(), networksInterval) {
		look()
	}
}

// nameOf is key as a person writes it.
func nameOf(key string) string {
	if key == "" {
		return "/"
	}
	return key
}
