// Package nameserver answers the DNS with what a catalog of services holds, for one domain:
//
//	web.service.kvd.              A AAAA CNAME SRV TXT   the instances of web that are up
//	blue.web.service.kvd.         A AAAA CNAME SRV TXT   those with the tag blue
//	_web._tcp.service.kvd.        SRV PTR                those that speak tcp (RFC 2782); PTR: their names
//	_web._blue.service.kvd.       SRV PTR                those with the tag blue
//	INSTANCE.web.service.kvd.     A AAAA CNAME SRV TXT   this one, in every state: what SRV records point to
//	_services._dns-sd._udp.service.kvd.  PTR             all services (RFC 6763)
//	kvd.                          SOA NS                 and the address of ns.kvd.
//
// It has no store of its own, asks nobody, and knows no other domain: anything else is refused. It answers
// from what is known, however old that is, unless it is told how old is too old. It does not know where
// the catalog comes from.
//
// # Bounds
//
// UDP packets are answered by a few workers, what comes faster stays in the kernel's queue and is dropped
// there. An answer over UDP is at most 1232 bytes, or what the client says it takes if that is less, 512
// if it says nothing; what does not fit is asked for again over TCP. TCP connections are bounded in
// number, in how long they may be idle and in how long they may take to read an answer.
package nameserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/kvd-io/kvd/pkg/catalog"
	"github.com/kvd-io/kvd/pkg/listening"
	"github.com/kvd-io/kvd/pkg/mirror"
	"github.com/kvd-io/kvd/pkg/registry"
)

// Catalog is what the server needs of a catalog of services; a *catalog.Catalog is one. It is asked from
// several goroutines, for each question.
type Catalog interface {
	Services() []string
	Fold(name string) []string
	Instances(service string) []registry.Record
	Mirror() mirror.State
	State() catalog.State
}

// DefaultDomain is the domain of a Config that names none.
const DefaultDomain = "kvd."

// Bounds on settings.
const (
	TTLMax         = time.Hour
	domainBytesMax = 100 // so that every name in the domain has room for its labels
)

// Config says what to answer, and to whom. Catalog and Listen are required.
type Config struct {
	Catalog Catalog
	Listen  []string // ADDRESS:PORT or INTERFACE:PORT, each for UDP and TCP; ":PORT" is everywhere
	Domain  string   // what it answers for, such as "kvd."; "": DefaultDomain

	// Allow are the networks whose questions are answered; nil: loopback, private and link-local ones, and all
	// addresses of this machine. Others are refused, in no more bytes than they have sent.
	Allow []netip.Prefix

	// TTL is how long an answer may be kept by who has asked: whole seconds up to TTLMax, 0 is not at all. For
	// an answer that there is nothing it is 5 seconds at most.
	TTL time.Duration

	// StaleMax is how long the server answers with what was known last after the store is heard no more; then
	// it says that it cannot tell, so that clients ask another server. 0: for ever.
	StaleMax time.Duration

	Addresses []netip.Addr // of this server, for its NS record; those that are not valid are passed over
	Log       *slog.Logger // nil discards

	Now    func() time.Time // nil: time.Now
	Random func() float64   // in [0, 1), from any goroutine; nil: math/rand
}

// Server is a server of names. Its methods may be called from any goroutine.
type Server struct {
	cfg    Config
	domain string // canonical: lower-case and fully qualified
	nsName string
	places *listening.Follower[port]
	counts counters
	conns  connections

	allowSelf bool
	self      self
}

// New checks cfg. It listens nowhere yet.
func New(cfg Config) (*Server, error) {
	domain, err := checkDomain(cmp.Or(cfg.Domain, DefaultDomain))
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.TTL < 0 || cfg.TTL > TTLMax || cfg.TTL%time.Second != 0:
		return nil, fmt.Errorf("ttl %v: must be whole seconds from 0 to %v", cfg.TTL, TTLMax)
	case cfg.StaleMax < 0:
		return nil, fmt.Errorf("how old answers may be, %v: must not be negative", cfg.StaleMax)
	case len(cfg.Listen) == 0:
		return nil, errors.New("no address to listen on")
	}
	allowSelf := cfg.Allow == nil
	if allowSelf {
		cfg.Allow = defaultAllow()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = rand.Float64
	}
	cfg.Addresses = slices.DeleteFunc(slices.Clone(cfg.Addresses), func(a netip.Addr) bool { return !a.IsValid() })
	s := &Server{cfg: cfg, domain: domain, nsName: "ns." + domain}
	s.allowSelf, s.self.interfaces = allowSelf, net.InterfaceAddrs
	s.conns.open = map[net.Conn]struct{}{}
	places, err := parsePlaces(cfg.Listen)
	if err != nil {
		return nil, err
	}
	s.places = s.follow(places)
	return s, nil
}

// checkDomain returns the canonical spelling of a domain.
func checkDomain(text string) (string, error) {
	domain := strings.ToLower(dns.Fqdn(text))
	if domain == "." || len(domain) > domainBytesMax {
		return "", fmt.Errorf("domain %q: must be a name of at most %d bytes, such as %s", text, domainBytesMax, DefaultDomain)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(domain, "."), ".") {
		if !isLabel(label) {
			return "", fmt.Errorf("domain %q: %q is no label of letters, digits and '-', at most 63 of them", text, label)
		}
	}
	return domain, nil
}

// Run answers until ctx ends. Where it cannot listen it tries again, for as long as that takes. It is called once
// and returns nil.
func (s *Server) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.conns.closeAll)()
	s.places.Run(ctx)
	return nil
}

// seconds returns a TTL as records hold it.
func seconds(d time.Duration) uint32 { return uint32(min(d/time.Second, math.MaxInt32)) }
