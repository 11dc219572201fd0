package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/pkg/discovery"
)

const (
	discoverTimeout  = 10 * time.Second // for one look at all records and addresses
	discoverPause    = time.Second      // between two
	discoverPatience = time.Minute      // while the resolver does not know
	discoverTold     = 10 * time.Second // between two log lines about that
)

// discover makes cfg that of a member which finds the others by the SRV records of a domain, if it is told
// to and has not started before. Every member names itself and the others after what the records say, so
// that all of them have the same list. What is wrong with the records and cannot pass is a *ConfigError.
func (c *Config) discover(ctx context.Context, peerURLs []string, resolver discovery.Resolver, log *slog.Logger) error {
	if c.DiscoverySRV == "" {
		return nil
	}
	if self, started := raftnode.Started(c.dataDir()); started {
		log.Info("the records of --discovery-srv are not looked at: this member has started before, and knows the others", "member", self.MemberID)
		return nil
	}
	s := search{
		Query:    discovery.Query{Service: discovery.Servers, Name: c.DiscoverySRVName, Domain: c.DiscoverySRV},
		resolver: resolver, own: peerURLs, secure: slices.ContainsFunc(c.ListenPeerURLs, isHTTPS),
	}
	members, self, err := s.patiently(ctx, log)
	if err != nil {
		return err
	}
	var list []string
	for _, m := range members {
		list = append(list, m.String()+"="+m.URL(s.secure))
	}
	c.InitialCluster, c.founder = strings.Join(list, ","), self.String()
	log.Info("the members are known by their records", "records", s.Record(s.secure), "cluster", c.InitialCluster, "self", c.founder)
	switch {
	case len(members) > 1:
	case c.InitialClusterState == stateExisting:
		return configErrorf("discovery-srv", "%s names this member alone: to join a cluster that exists, it must name some of its members as well", s.Record(s.secure))
	default:
		log.Warn("the records name this member alone, which begins a cluster of one: a member whose record comes later has to be added with kvctl member add", "records", s.Record(s.secure))
	}
	return nil
}

// search is a look for the members of a cluster that is to begin.
type search struct {
	discovery.Query
	resolver discovery.Resolver
	own      []string // URLs that others are to reach this member under
	secure   bool     // whether this member's port speaks TLS
}

// patiently asks until the resolver answers, for a minute at most. What it answers counts at once, also
// that there is nothing: a member whose records are not there yet is started again by its service manager.
func (s search) patiently(ctx context.Context, log *slog.Logger) (members []discovery.Target, self discovery.Target, err error) {
	patience, cancel := context.WithTimeout(ctx, discoverPatience)
	defer cancel()
	var told time.Time
	for {
		attempt, done := context.WithTimeout(patience, discoverTimeout)
		members, self, err = s.look(attempt)
		done()
		var setting *ConfigError
		if err == nil || errors.As(err, &setting) || errors.Is(err, discovery.ErrNoRecords) || discovery.IsNotFound(err) {
			return members, self, err
		}
		if now := time.Now(); now.Sub(told) >= discoverTold {
			told = now
			log.Warn("the members cannot be found by their records yet", "domain", s.Domain, "err", err)
		}
		select {
		case <-time.After(discoverPause):
		case <-patience.Done():
			if ctx.Err() == nil {
				err = fmt.Errorf("%w; no answer in %s: look at /etc/resolv.conf and the servers that it names, or name the members with --initial-cluster", err, discoverPatience)
			}
			return nil, discovery.Target{}, fmt.Errorf("--discovery-srv: %w", err)
		}
	}
}

// look asks once, and returns the members and which of them this one is.
func (s search) look(ctx context.Context) (members []discovery.Target, self discovery.Target, err error) {
	found, err := discovery.Find(ctx, s.resolver, s.Query)
	if errors.Is(err, discovery.ErrNoRecords) {
		return nil, self, fmt.Errorf("--discovery-srv: %w: publish one for every member, or name the members with --initial-cluster", err)
	}
	if err != nil {
		return nil, self, err
	}
	if members, err = s.choose(found); err != nil {
		return nil, self, err
	}
	addresses, err := s.resolve(ctx, members)
	if err != nil {
		return nil, self, err
	}
	if self, err = s.whoAmI(ctx, members, addresses); err != nil {
		return nil, self, err
	}
	return members, self, nil
}

// choose returns the targets of the kind that this member speaks. Those of the other kind would be members
// that it cannot speak to.
func (s search) choose(found discovery.Targets) ([]discovery.Target, error) {
	members, others, scheme, other := found.Plain, found.Secure, "http", "https"
	if s.secure {
		members, others, scheme, other = others, members, other, scheme
	}
	switch {
	case len(members) > 0 && len(others) > 0:
		return nil, configErrorf("discovery-srv", "there are records for both %s (%s) and %s (%s): members speak one of http and https, all the same; remove the records of the other",
			s.Record(true), texts(found.Secure), s.Record(false), texts(found.Plain))
	case len(members) == 0:
		return nil, configErrorf("discovery-srv", "there are records %s, but none %s, and this member speaks %s: give --listen-peer-urls the scheme %s, or publish the others",
			s.Record(!s.secure), s.Record(s.secure), scheme, other)
	}
	for i, m := range members {
		if slices.Contains(members[:i], m) {
			return nil, configErrorf("discovery-srv", "two records %s name %s: there is one record for each member", s.Record(s.secure), m)
		}
	}
	return members, nil
}

// resolve returns the addresses of each target. No two have one in common.
func (s search) resolve(ctx context.Context, members []discovery.Target) ([][]netip.AddrPort, error) {
	addresses, problems := make([][]netip.AddrPort, len(members)), make([]error, len(members))
	var asking sync.WaitGroup
	for i, m := range members {
		asking.Go(func() {
			if addresses[i], problems[i] = s.addresses(ctx, m); problems[i] != nil {
				problems[i] = fmt.Errorf("--discovery-srv: a record %s names the host %s, which has no address: %w", s.Record(s.secure), m.Host, problems[i])
			}
		})
	}
	asking.Wait()
	owners := map[netip.AddrPort]discovery.Target{}
	for i, m := range members {
		if problems[i] != nil {
			return nil, problems[i] // the others may be temporary, or the same
		}
		for _, address := range addresses[i] {
			if other, taken := owners[address]; taken {
				return nil, configErrorf("discovery-srv", "the records %s name %s and %s, and both are at %s: each member needs an address of its own", s.Record(s.secure), other, m, address)
			}
			owners[address] = m
		}
	}
	return addresses, nil
}

// addresses returns where a target is, each address once.
func (s search) addresses(ctx context.Context, t discovery.Target) ([]netip.AddrPort, error) {
	ips, err := s.resolver.LookupNetIP(ctx, "ip", t.Host)
	var list []netip.AddrPort
	for _, ip := range ips {
		if at := netip.AddrPortFrom(ip.Unmap(), t.Port); !slices.Contains(list, at) {
			list = append(list, at)
		}
	}
	return list, err
}

// whoAmI returns the target that leads to this member.
func (s search) whoAmI(ctx context.Context, members []discovery.Target, addresses [][]netip.AddrPort) (self discovery.Target, err error) {
	var mine []netip.AddrPort
	for _, text := range s.own {
		own, err := targetOf(text)
		if err != nil {
			return self, configErrorf("initial-advertise-peer-urls", "%v", err)
		}
		at, err := s.addresses(ctx, own)
		if err != nil {
			return self, fmt.Errorf("--initial-advertise-peer-urls: the host %s of this member has no address: %w", own.Host, err)
		}
		mine = append(mine, at...)
	}
	var matches, found []string
	for i, m := range members {
		if slices.ContainsFunc(addresses[i], func(at netip.AddrPort) bool { return slices.Contains(mine, at) }) {
			self = m
			matches = append(matches, m.String())
		}
		found = append(found, m.String()+" at "+texts(addresses[i]))
	}
	switch len(matches) {
	case 0:
		return self, configErrorf("discovery-srv", "the records %s name %s, and this member is at %s: publish a record for it, or give --initial-advertise-peer-urls what its record says",
			s.Record(s.secure), strings.Join(found, ", "), texts(mine))
	case 1:
		return self, nil
	}
	return self, configErrorf("discovery-srv", "several records %s lead to this member: %s; there is one record for each member, as others take them for several members",
		s.Record(s.secure), strings.Join(matches, ", "))
}

// targetOf returns the host and port of a URL that was validated.
func targetOf(text string) (discovery.Target, error) {
	u, err := url.Parse(text)
	if err != nil {
		return discovery.Target{}, err
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		return discovery.Target{}, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return discovery.Target{Host: host, Port: uint16(number)}, err
}

// texts joins things as their String does.
func texts[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i, one := range list {
		words[i] = one.String()
	}
	return strings.Join(words, ", ")
}
