package nameserver

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/kvd-io/kvd/pkg/registry"
)

const (
	chainMax     = 8    // names that lead to names in the domain
	textSizeMax  = 1300 // of all strings of one TXT record, as RFC 6763 advises
	stringMax    = 255  // of one string of a TXT record
	mailbox      = "hostmaster."
	weightUnset  = 1 // as proxies take it
	soaRefresh   = 3600
	soaRetry     = 600
	soaExpire    = 86400
	serviceLabel = "service."
)

// reply is an answer that is being made.
type reply struct {
	*dns.Msg
	server *Server
	serial uint32 // of the zone
	max    int    // answers; with as many the message does not fit, so that nobody believes that they were all
}

// selection is the instances of a service that a name stands for.
type selection struct {
	all    []registry.Record  // of the service
	chosen []*registry.Record // to be answered with
	exists bool               // there is the name, if only for instances that are not up
}

// resolve adds the answers to q, and reports whether there is the name that they end with, and whether that has
// anything of the type asked for.
func (r *reply) resolve(q dns.Question) (exists, has bool) {
	owner := q.Name // as it was asked for: some compare even its case
	for range chainMax {
		before := len(r.Answer)
		if !r.add(owner, q.Qtype) {
			return false, false
		}
		if len(r.Answer) == before {
			return true, false
		}
		link, ok := r.Answer[before].(*dns.CNAME)
		if !ok || q.Qtype == dns.TypeCNAME || !dns.IsSubDomain(r.server.domain, strings.ToLower(link.Target)) {
			return true, true
		}
		owner = link.Target
	}
	return true, true
}

// add adds what there is of a type at a name in the domain, and reports whether there is the name.
func (r *reply) add(owner string, qtype uint16) bool {
	s := r.server
	m := understand(strings.ToLower(owner), s.domain)
	selected := s.choose(m)
	switch {
	case !selected.exists:
		return false
	case qtype == dns.TypeANY: // RFC 8482: who wants everything gets next to nothing
		r.Answer = append(r.Answer, &dns.HINFO{Hdr: s.header(owner, dns.TypeHINFO), Cpu: "RFC8482"})
		return true
	}
	switch m.what {
	case apex:
		r.addApex(owner, qtype)
	case nameserver:
		for _, ip := range s.cfg.Addresses {
			r.Answer = s.appendAddress(r.Answer, owner, qtype, ip)
		}
	case listing:
		if qtype == dns.TypePTR {
			r.addServices(owner)
		}
	case protocols:
		switch qtype {
		case dns.TypeSRV:
			r.addSRV(owner, selected)
		case dns.TypePTR:
			r.addNames(owner, selected)
		}
	case service:
		switch qtype {
		case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME:
			r.addAddresses(owner, qtype, selected)
		case dns.TypeSRV:
			r.addSRV(owner, selected)
		case dns.TypeTXT:
			r.addTexts(owner, selected)
		}
	}
	return true
}

// choose returns what a name stands for.
func (s *Server) choose(m meaning) selection {
	switch m.what {
	case nothing:
		return selection{}
	case service, protocols:
	default:
		return selection{exists: true}
	}
	if !isLabel(m.service) {
		return selection{}
	}
	found := selection{all: s.instances(m.service)}
	matches := func(r *registry.Record) bool { return true }
	switch {
	case m.what == protocols && (m.part == "tcp" || m.part == "udp"):
		matches = func(r *registry.Record) bool { return r.Protocol == m.part }
	case m.part != "":
		matches = func(r *registry.Record) bool { return hasTag(r, m.part) }
	}
	for i := range found.all {
		if r := &found.all[i]; matches(r) {
			found.exists = true
			if r.State == registry.StateUp {
				found.chosen = append(found.chosen, r)
			}
		}
	}
	if !found.exists && m.what == service { // no tag: an instance, which may be draining, but it was asked for
		label := labels(found.all)
		for i := range found.all {
			if r := &found.all[i]; strings.EqualFold(label(r), m.part) {
				return selection{all: found.all, chosen: []*registry.Record{r}, exists: true}
			}
		}
	}
	found.chosen = s.shuffle(found.chosen)
	return found
}

// instances returns all instances of the services of a name, whatever its case.
func (s *Server) instances(name string) []registry.Record {
	services := s.cfg.Catalog.Fold(name)
	if len(services) == 1 {
		return s.cfg.Catalog.Instances(services[0])
	}
	var all []registry.Record
	for _, service := range services {
		all = append(all, s.cfg.Catalog.Instances(service)...)
	}
	return all
}

// shuffle puts records into a random order, in which the first is one of weight w as often as w is of the sum of
// all weights, and so on with those left: clients that take the first address follow the weights too.
func (s *Server) shuffle(records []*registry.Record) []*registry.Record {
	type ticket struct {
		record *registry.Record
		at     float64
	}
	tickets := make([]ticket, len(records))
	for i, r := range records {
		tickets[i] = ticket{r, -math.Log(1-s.cfg.Random()) / float64(weight(r))} // the soonest of exponential times
	}
	slices.SortFunc(tickets, func(a, b ticket) int { return cmp.Compare(a.at, b.at) })
	for i, t := range tickets {
		records[i] = t.record
	}
	return records
}

func weight(r *registry.Record) int { return cmp.Or(r.Weight, weightUnset) }

// addAddresses adds the addresses of instances, each once. If all of them have names in place of addresses, it
// is one of the names: there can be no other record beside it.
func (r *reply) addAddresses(owner string, qtype uint16, selected selection) {
	s := r.server
	seen := map[netip.Addr]bool{}
	alternative := ""
	for _, record := range selected.chosen {
		ip, host := address(record)
		if host != "" && alternative == "" {
			alternative = host
		}
		if !ip.IsValid() || seen[ip] {
			continue
		}
		seen[ip] = true
		if len(r.Answer) < r.max {
			r.Answer = s.appendAddress(r.Answer, owner, qtype, ip)
		}
	}
	if len(seen) == 0 && alternative != "" {
		r.Answer = append(r.Answer, &dns.CNAME{Hdr: s.header(owner, dns.TypeCNAME), Target: alternative})
	}
}

// addSRV adds where instances listen, and the addresses of these places.
func (r *reply) addSRV(owner string, selected selection) {
	s := r.server
	label := labels(selected.all)
	for _, record := range selected.chosen {
		ip, host := address(record)
		if record.Port == 0 || !ip.IsValid() && host == "" || len(r.Answer) >= r.max {
			continue
		}
		target := host
		if ip.IsValid() {
			target = s.instanceName(record, label)
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
				r.Extra = s.appendAddress(r.Extra, target, qtype, ip)
			}
		}
		r.Answer = append(r.Answer, &dns.SRV{Hdr: s.header(owner, dns.TypeSRV), Weight: uint16(weight(record)), Port: uint16(record.Port), Target: target})
	}
}

// addNames adds the names of instances.
func (r *reply) addNames(owner string, selected selection) {
	label := labels(selected.all)
	for _, record := range selected.chosen[:min(len(selected.chosen), r.max)] {
		r.Answer = append(r.Answer, &dns.PTR{Hdr: r.server.header(owner, dns.TypePTR), Ptr: r.server.instanceName(record, label)})
	}
}

// addTexts adds what else is known of instances.
func (r *reply) addTexts(owner string, selected selection) {
	for _, record := range selected.chosen[:min(len(selected.chosen), r.max)] {
		r.Answer = append(r.Answer, &dns.TXT{Hdr: r.server.header(owner, dns.TypeTXT), Txt: texts(record)})
	}
}

// instanceName returns the name that stands for r alone.
func (s *Server) instanceName(r *registry.Record, label func(*registry.Record) string) string {
	return label(r) + "." + strings.ToLower(r.Service) + "." + serviceLabel + s.domain
}

// address returns the IP address of a record or, if it has a host name that can be a name in the DNS, that name.
func address(r *registry.Record) (ip netip.Addr, host string) {
	if ip, err := netip.ParseAddr(r.Address); err == nil {
		return ip.Unmap(), ""
	}
	host = dns.Fqdn(r.Address)
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if !isLabel(label) {
			return netip.Addr{}, ""
		}
	}
	if _, ok := dns.IsDomainName(host); !ok {
		return netip.Addr{}, ""
	}
	return netip.Addr{}, host
}

// appendAddress appends ip if it is of the type asked for.
func (s *Server) appendAddress(records []dns.RR, owner string, qtype uint16, ip netip.Addr) []dns.RR {
	switch {
	case qtype == dns.TypeA && ip.Is4():
		return append(records, &dns.A{Hdr: s.header(owner, qtype), A: ip.AsSlice()})
	case qtype == dns.TypeAAAA && ip.Is6():
		return append(records, &dns.AAAA{Hdr: s.header(owner, qtype), AAAA: ip.AsSlice()})
	}
	return records
}

func (r *reply) addApex(owner string, qtype uint16) {
	s := r.server
	switch qtype {
	case dns.TypeSOA:
		soa := s.soa(s.cfg.TTL, r.serial)
		soa.Hdr.Name = owner
		r.Answer = append(r.Answer, soa)
	case dns.TypeNS:
		r.Answer = append(r.Answer, &dns.NS{Hdr: s.header(owner, dns.TypeNS), Ns: s.nsName})
		for _, ip := range s.cfg.Addresses {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
				r.Extra = s.appendAddress(r.Extra, s.nsName, qtype, ip)
			}
		}
	}
}

// addServices adds the names of the services that can be asked for, by protocol.
func (r *reply) addServices(owner string) {
	s := r.server
	for _, name := range s.cfg.Catalog.Services() {
		if !isLabel("_" + name) {
			continue
		}
		instances := s.cfg.Catalog.Instances(name)
		for _, protocol := range []string{"tcp", "udp"} {
			speaks := func(record registry.Record) bool { return record.Protocol == protocol }
			if len(r.Answer) < r.max && slices.ContainsFunc(instances, speaks) {
				target := "_" + strings.ToLower(name) + "._" + protocol + "." + serviceLabel + s.domain
				r.Answer = append(r.Answer, &dns.PTR{Hdr: s.header(owner, dns.TypePTR), Ptr: target})
			}
		}
	}
}

// texts returns what a TXT record says of an instance, as KEY=VALUE (RFC 6763). What is too long is left out.
func texts(r *registry.Record) []string {
	all := []string{"instance=" + r.Instance}
	add := func(key, value string) {
		if value != "" {
			all = append(all, key+"="+value)
		}
	}
	add("host", r.Host)
	add("tags", strings.Join(r.Tags, ","))
	for _, key := range sortedKeys(r.Meta) {
		all = append(all, key+"="+r.Meta[key])
	}
	room := textSizeMax
	var taken []string
	for _, text := range all {
		if len(text) > stringMax || len(text)+1 > room {
			continue
		}
		room -= len(text) + 1
		taken = append(taken, strings.ReplaceAll(text, `\`, `\\`)) // the library's form of a string
	}
	if taken == nil {
		taken = []string{""} // the least that a TXT record holds
	}
	return taken
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// soa returns the record of the domain's authority, which says for how long it holds that there is nothing.
func (s *Server) soa(ttl time.Duration, serial uint32) *dns.SOA {
	header := s.header(s.domain, dns.TypeSOA)
	header.Ttl = seconds(ttl)
	return &dns.SOA{
		Hdr: header, Ns: s.nsName, Mbox: mailbox + s.domain, Serial: serial,
		Refresh: soaRefresh, Retry: soaRetry, Expire: soaExpire, Minttl: seconds(min(s.cfg.TTL, negativeTTLMax)),
	}
}

func (s *Server) header(owner string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: seconds(s.cfg.TTL)}
}
