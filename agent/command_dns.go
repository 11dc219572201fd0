package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/agent/nameserver"
	"github.com/kvd-io/kvd/pkg/catalog"
)

// dnsCompanion answers the DNS from the records in the store.
type dnsCompanion struct {
	flags  *pflag.FlagSet
	listen []string
	domain string
	allow  []string
	ttl    time.Duration
	stale  time.Duration
}

func (d *dnsCompanion) name() string { return "dns" }

func (d *dnsCompanion) addFlags(flags *pflag.FlagSet) {
	d.flags = flags
	flags.StringSliceVar(&d.listen, "dns-listen", nil, "answer the DNS over UDP and TCP at `address`, such as 127.0.0.1:8600 or docker0:53; repeatable (default: nowhere)")
	flags.StringVar(&d.domain, "dns-domain", nameserver.DefaultDomain, "`domain` of the names: web.service.DOMAIN")
	flags.StringSliceVar(&d.allow, "dns-allow", nil, "`network` whose questions are answered, such as 10.0.0.0/8; repeatable (default: loopback, private and link-local ones, and this machine)")
	flags.DurationVar(&d.ttl, "dns-ttl", 0, "how long answers may be cached; whole seconds, 0: not at all")
	flags.DurationVar(&d.stale, "dns-stale", 0, "how old answers may get while the store does not answer; 0: for ever")
}

func (d *dnsCompanion) open(host host) (runner, error) {
	if len(d.listen) == 0 {
		return nil, d.unused()
	}
	var allow []netip.Prefix
	for _, text := range d.allow {
		network, err := parseNetwork(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("--dns-allow %q: must be a network such as 10.0.0.0/8, or an address", text)
		}
		allow = append(allow, network)
	}
	log := host.Log.With("server", d.name())
	services := catalog.New(catalog.Config{Source: host.Store, Prefix: host.Prefix, Log: log})
	server, err := nameserver.New(nameserver.Config{
		Catalog: services, Listen: d.listen, Domain: d.domain, Allow: allow, TTL: d.ttl, StaleMax: d.stale,
		Addresses: []netip.Addr{host.Address}, Log: log,
	})
	if err != nil {
		return nil, fmt.Errorf("--dns-listen, --dns-domain, --dns-ttl, --dns-stale: %w", err)
	}
	if err := server.Taken(); err != nil {
		return nil, fmt.Errorf("--dns-listen: %w", err)
	}
	return &dnsRunner{services, server}, nil
}

// unused complains of flags that have no effect.
func (d *dnsCompanion) unused() error {
	for _, name := range []string{"dns-domain", "dns-allow", "dns-ttl", "dns-stale"} {
		if d.flags.Changed(name) {
			return fmt.Errorf("--%s: has a meaning only with --dns-listen", name)
		}
	}
	return nil
}

// parseNetwork reads a network, or an address as the network of it alone.
func parseNetwork(text string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(text); err == nil {
		ip = ip.Unmap().WithZone("")
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	return network.Masked(), err
}

// dnsRunner is a server of names and the catalog that it answers from.
type dnsRunner struct {
	catalog *catalog.Catalog
	server  *nameserver.Server
}

// Run runs both until ctx or one of them ends.
func (r *dnsRunner) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var catalogErr error
	var following sync.WaitGroup
	following.Go(func() {
		defer cancel()
		catalogErr = r.catalog.Run(ctx)
	})
	serverErr := r.server.Run(ctx)
	cancel()
	following.Wait()
	return errors.Join(serverErr, catalogErr)
}

// report says how the server of names fares, and how old its answers are.
func (r *dnsRunner) report() ServerReport {
	s := r.server.Status()
	complete := 0.0
	if s.Complete {
		complete = 1
	}
	count := func(name, help string, value uint64) Figure { return Figure{name, "counter", help, float64(value)} }
	return ServerReport{Listening: s.Addresses, Waiting: s.Waiting, Figures: []Figure{
		{"complete", "gauge", "Whether the store was read once, so that there are answers.", complete},
		{"age_seconds", "gauge", "Since the store was heard last; 0 while it is.", s.AgeSeconds},
		{"services", "gauge", "Services that are known.", float64(s.Services)},
		{"unreachable_services", "gauge", "Services whose names cannot be asked for.", float64(s.Unreachable)},
		{"unreadable_keys", "gauge", "Keys that are no valid record.", float64(s.Unreadable)},
		count("answers_total", "Answers with records.", s.Answered),
		count("answers_negative_total", "Answers that there is no such name or record.", s.Negative),
		count("answers_refused_total", "Answers that it is not for this server, or not for who asks.", s.Refused),
		count("answers_unknown_total", "Answers that nobody can tell now.", s.Failed),
		count("answers_invalid_total", "Answers that the question is not understood.", s.Invalid),
		count("truncated_total", "Answers that were too large for UDP.", s.Truncated),
		count("disallowed_total", "Questions and connections from networks that are not allowed.", s.Disallowed),
		{"connections", "gauge", "TCP connections.", float64(s.Connections)},
		count("connections_refused_total", "TCP connections that there was no room for.", s.Crowded),
	}}
}
