package nameserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/pkg/catalog"
	"github.com/kvd-io/kvd/pkg/mirror"
	"github.com/kvd-io/kvd/pkg/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var localhost = netip.MustParseAddr("127.0.0.1")

// shelf is a catalog that holds what it is given.
type shelf struct {
	records []registry.Record
	state   mirror.State
}

func shelve(records ...registry.Record) *shelf {
	return &shelf{records: records, state: mirror.State{Complete: true, Index: 42, Since: time.Now()}}
}

func (s *shelf) Services() (names []string) {
	for _, r := range s.records {
		names = append(names, r.Service)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (s *shelf) Fold(name string) []string {
	return slices.DeleteFunc(s.Services(), func(other string) bool { return !strings.EqualFold(name, other) })
}

func (s *shelf) Instances(service string) []registry.Record {
	return slices.DeleteFunc(slices.Clone(s.records), func(r registry.Record) bool { return r.Service != service })
}

func (s *shelf) Mirror() mirror.State { return s.state }

func (s *shelf) State() catalog.State {
	return catalog.State{State: s.state, Services: len(s.Services()), Instances: len(s.records)}
}

// offer returns a record that is up. edit may change it.
func offer(service, instance, address string, port int, edit ...func(*registry.Record)) registry.Record {
	r := registry.Record{Service: service, Instance: instance, Address: address, Port: port, Protocol: "tcp", State: registry.StateUp}
	for _, e := range edit {
		e(&r)
	}
	return r
}

func tags(tags ...string) func(*registry.Record) { return func(r *registry.Record) { r.Tags = tags } }
func weighs(w int) func(*registry.Record)        { return func(r *registry.Record) { r.Weight = w } }
func draining(r *registry.Record)                { r.State = registry.StateDraining }
func udp(r *registry.Record)                     { r.Protocol = "udp" }
func meta(key, v string) func(*registry.Record) {
	return func(r *registry.Record) { r.Meta = map[string]string{key: v} }
}

// serve returns a server that is not running.
func serve(t testing.TB, cfg Config) *Server {
	t.Helper()
	cfg.Listen = []string{"127.0.0.1:0"}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// question returns a packet. edit may change what it asks.
func question(t testing.TB, name string, qtype uint16, edit ...func(*dns.Msg)) []byte {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, qtype)
	for _, e := range edit {
		e(q)
	}
	packet, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

func withEDNS(size uint16) func(*dns.Msg) { return func(q *dns.Msg) { q.SetEdns0(size, false) } }

// respond returns what s answers.
func respond(t testing.TB, s *Server, packet []byte, overUDP bool) *dns.Msg {
	t.Helper()
	answer := s.respond(packet, localhost, overUDP)
	reply := new(dns.Msg)
	if err := reply.Unpack(answer); err != nil {
		t.Fatalf("%x: %v", answer, err)
	}
	if !reply.Response || reply.Id != uint16(packet[0])<<8|uint16(packet[1]) {
		t.Errorf("the answer to %x is %v", packet, reply)
	}
	return reply
}

// ask asks over TCP.
func ask(t testing.TB, s *Server, name string, qtype uint16) *dns.Msg {
	t.Helper()
	return respond(t, s, question(t, name, qtype), false)
}

// said returns records as text, in order, without TTL and class.
func said(records []dns.RR) []string {
	all := []string{}
	for _, r := range records {
		fields := strings.Fields(r.String())
		all = append(all, strings.Join(append([]string{fields[0]}, fields[3:]...), " "))
	}
	slices.Sort(all)
	return all
}

// want checks an answer: its code, and what it says.
func want(t *testing.T, reply *dns.Msg, rcode int, records ...string) {
	t.Helper()
	slices.Sort(records)
	if got := said(reply.Answer); reply.Rcode != rcode || !slices.Equal(got, records) {
		t.Errorf("%s: %s %q, want %s %q", reply.Question[0].String(), dns.RcodeToString[reply.Rcode], got, dns.RcodeToString[rcode], records)
	}
	if !reply.Authoritative || reply.RecursionAvailable || reply.Truncated {
		t.Errorf("%s: flags of %v", reply.Question[0].String(), reply.MsgHdr)
	}
	if hasSOA := len(reply.Ns) == 1 && reply.Ns[0].Header().Rrtype == dns.TypeSOA; hasSOA != (len(records) == 0 || rcode != dns.RcodeSuccess) {
		t.Errorf("%s: authority %v", reply.Question[0].String(), reply.Ns)
	}
}

const (
	ok       = dns.RcodeSuccess
	nxdomain = dns.RcodeNameError
)

var town = shelve(
	offer("web", "a", "10.0.0.1", 8080, tags("blue", "v2")),
	offer("web", "b", "10.0.0.2", 8080, tags("green"), weighs(50)),
	offer("web", "c", "2001:db8::3", 8081, tags("Blue")),
	offer("web", "d", "10.0.0.4", 8080, tags("red"), draining),
	offer("ntp", "one", "10.0.0.1", 123, udp),
	offer("gone", "x", "10.0.0.9", 1, draining),
	offer("db", "x.y:z", "db1.example.com", 5432),
	offer("job", "1", "10.0.0.5", 0),
)

func TestNamesOfServices(t *testing.T) {
	s := serve(t, Config{Catalog: town, TTL: time.Minute})
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
	}{
		{"web.service.kvd.", dns.TypeA, ok, []string{"web.service.kvd. A 10.0.0.1", "web.service.kvd. A 10.0.0.2"}},
		{"web.service.kvd.", dns.TypeAAAA, ok, []string{"web.service.kvd. AAAA 2001:db8::3"}},
		{"wEb.SERVICE.Kvd.", dns.TypeAAAA, ok, []string{"wEb.SERVICE.Kvd. AAAA 2001:db8::3"}},
		{"web.service.kvd.", dns.TypeMX, ok, nil},
		{"web.service.kvd.", dns.TypePTR, ok, nil},
		{"web.service.kvd.", dns.TypeANY, ok, []string{`web.service.kvd. HINFO "RFC8482" ""`}},
		{"nobody.service.kvd.", dns.TypeA, nxdomain, nil},
		{"nobody.service.kvd.", dns.TypeANY, nxdomain, nil},

		// Tags, whatever their case, and instances.
		{"blue.web.service.kvd.", dns.TypeA, ok, []string{"blue.web.service.kvd. A 10.0.0.1"}},
		{"blue.web.service.kvd.", dns.TypeAAAA, ok, []string{"blue.web.service.kvd. AAAA 2001:db8::3"}},
		{"red.web.service.kvd.", dns.TypeA, ok, nil},
		{"pink.web.service.kvd.", dns.TypeA, nxdomain, nil},
		{"a.web.service.kvd.", dns.TypeA, ok, []string{"a.web.service.kvd. A 10.0.0.1"}},
		{"d.web.service.kvd.", dns.TypeA, ok, []string{"d.web.service.kvd. A 10.0.0.4"}},
		{"x.y.web.service.kvd.", dns.TypeA, nxdomain, nil},

		// RFC 2782.
		{"_web._tcp.service.kvd.", dns.TypeSRV, ok, []string{
			"_web._tcp.service.kvd. SRV 0 1 8080 a.web.service.kvd.", "_web._tcp.service.kvd. SRV 0 50 8080 b.web.service.kvd.", "_web._tcp.service.kvd. SRV 0 1 8081 c.web.service.kvd."}},
		{"_web._udp.service.kvd.", dns.TypeSRV, nxdomain, nil},
		{"_ntp._udp.service.kvd.", dns.TypeSRV, ok, []string{"_ntp._udp.service.kvd. SRV 0 1 123 one.ntp.service.kvd."}},
		{"_WEB._Green.service.kvd.", dns.TypeSRV, ok, []string{"_WEB._Green.service.kvd. SRV 0 50 8080 b.web.service.kvd."}},
		{"_web._red.service.kvd.", dns.TypeSRV, ok, nil},
		{"_web._pink.service.kvd.", dns.TypeSRV, nxdomain, nil},
		{"_web._tcp.service.kvd.", dns.TypeA, ok, nil},
		{"_tcp.service.kvd.", dns.TypeSRV, ok, nil},
		{"green.web.service.kvd.", dns.TypeSRV, ok, []string{"green.web.service.kvd. SRV 0 50 8080 b.web.service.kvd."}},
		{"gone.service.kvd.", dns.TypeSRV, ok, nil},
		{"job.service.kvd.", dns.TypeSRV, ok, nil},
		{"job.service.kvd.", dns.TypeA, ok, []string{"job.service.kvd. A 10.0.0.5"}},

		// Hosts that are names.
		{"db.service.kvd.", dns.TypeA, ok, []string{"db.service.kvd. CNAME db1.example.com."}},
		{"db.service.kvd.", dns.TypeCNAME, ok, []string{"db.service.kvd. CNAME db1.example.com."}},
		{"db.service.kvd.", dns.TypeSRV, ok, []string{"db.service.kvd. SRV 0 1 5432 db1.example.com."}},

		// What there is.
		{"_services._dns-sd._udp.service.kvd.", dns.TypePTR, ok, []string{
			"_services._dns-sd._udp.service.kvd. PTR _db._tcp.service.kvd.", "_services._dns-sd._udp.service.kvd. PTR _gone._tcp.service.kvd.", "_services._dns-sd._udp.service.kvd. PTR _job._tcp.service.kvd.",
			"_services._dns-sd._udp.service.kvd. PTR _ntp._udp.service.kvd.", "_services._dns-sd._udp.service.kvd. PTR _web._tcp.service.kvd."}},
		{"_dns-sd._udp.service.kvd.", dns.TypePTR, ok, nil},
		{"_ntp._udp.service.kvd.", dns.TypePTR, ok, []string{"_ntp._udp.service.kvd. PTR one.ntp.service.kvd."}},

		// The domain.
		{"kvd.", dns.TypeSOA, ok, []string{"kvd. SOA ns.kvd. hostmaster.kvd. 42 3600 600 86400 5"}},
		{"kvd.", dns.TypeNS, ok, []string{"kvd. NS ns.kvd."}},
		{"kvd.", dns.TypeA, ok, nil},
		{"ns.kvd.", dns.TypeA, ok, nil},
		{"service.kvd.", dns.TypeA, ok, nil},
		{"web.kvd.", dns.TypeA, nxdomain, nil},
		{"service.service.kvd.", dns.TypeA, nxdomain, nil},
		{`web\.service.kvd.`, dns.TypeA, nxdomain, nil},
		{`\255.service.kvd.`, dns.TypeA, nxdomain, nil},
	} {
		want(t, ask(t, s, c.name, c.qtype), c.rcode, c.want...)
	}
}

func TestTextsSayWhatElseIsKnown(t *testing.T) {
	s := serve(t, Config{Catalog: shelve(
		offer("web", "a", "10.0.0.1", 80, tags("blue", "v2"), meta("path", `C:\x "y"`), func(r *registry.Record) { r.Host = "h1" }),
		offer("web", "b", "10.0.0.2", 80, meta("long", strings.Repeat("x", 300))),
		offer("odd", strings.Repeat("x", 250), "10.0.0.2", 80),
	)})
	want(t, ask(t, s, "a.web.service.kvd.", dns.TypeTXT), ok, `a.web.service.kvd. TXT "instance=a" "host=h1" "tags=blue,v2" "path=C:\\x \"y\""`)
	want(t, ask(t, s, "b.web.service.kvd.", dns.TypeTXT), ok, `b.web.service.kvd. TXT "instance=b"`)
	want(t, ask(t, s, "odd.service.kvd.", dns.TypeTXT), ok, `odd.service.kvd. TXT ""`)
	if got := ask(t, s, "web.service.kvd.", dns.TypeTXT); len(got.Answer) != 2 {
		t.Errorf("%v", got)
	}
}

func TestAnSRVRecordPointsToItsInstanceAlone(t *testing.T) {
	s := serve(t, Config{Catalog: shelve(
		offer("web", "plain", "10.0.0.1", 1),
		offer("web", "h1:shop:80", "10.0.0.2", 2), // no label
		offer("web", "blue", "10.0.0.3", 3, tags("v1")),
		offer("web", "other", "10.0.0.4", 4, tags("Blue")), // the tag is called as the instance before
		offer("web", "twice", "10.0.0.5", 5),
		offer("web", "TWICE", "10.0.0.6", 6),
		offer("Web", "plain2", "10.0.0.7", 7), // another service to the store, the same to the DNS
		offer("web", "i-0123456789abcdef0123", "10.0.0.8", 8),
		offer("web", strings.Repeat("l", 64), "10.0.0.9", 9),
		offer("web", "h1_shop_80", "2001:db8::1", 10),
		offer("web", "named", "host.example.com", 11),
	)})
	reply := ask(t, s, "web.service.kvd.", dns.TypeSRV)
	if len(reply.Answer) != 11 || len(reply.Extra) != 10 {
		t.Fatalf("%v", reply)
	}
	plain := 0
	for _, answer := range reply.Answer {
		srv := answer.(*dns.SRV)
		if srv.Port == 11 {
			if srv.Target != "host.example.com." {
				t.Errorf("%v", srv)
			}
			continue
		}
		if !strings.HasPrefix(srv.Target, "i-") {
			plain++
		}
		address, qtype := fmt.Sprintf("%s A 10.0.0.%d", srv.Target, srv.Port), dns.TypeA
		if srv.Port == 10 {
			address, qtype = srv.Target+" AAAA 2001:db8::1", dns.TypeAAAA
		}
		if !slices.Contains(said(reply.Extra), address) {
			t.Errorf("%s is not among %q", address, said(reply.Extra))
		}
		want(t, ask(t, s, srv.Target, qtype), ok, address)
	}
	if plain != 4 { // plain, other, plain2, h1_shop_80
		t.Errorf("%d have their own names: %q", plain, said(reply.Answer))
	}
	if got := ask(t, s, "blue.web.service.kvd.", dns.TypeA); len(got.Answer) != 1 || got.Answer[0].(*dns.A).A.String() != "10.0.0.4" {
		t.Errorf("the tag: %v", got)
	}
}

func TestAnAddressIsToldOnceAndANameOnlyWhereThereIsNone(t *testing.T) {
	s := serve(t, Config{Catalog: shelve(
		offer("web", "a", "10.0.0.1", 1), offer("web", "b", "10.0.0.1", 2), offer("web", "c", "::ffff:10.0.0.1", 3), offer("web", "d", "host.example.com", 4),
		offer("bad", "a", strings.Repeat("x", 64)+".example.com", 1), offer("bad", "b", "a..b", 1), offer("bad", "c", ".", 1), offer("bad", "d", "..", 1),
		offer("loop", "a", "loop2.service.kvd", 1), offer("loop2", "a", "loop.service.kvd", 1),
		offer("alias", "a", "web.service.kvd", 1), offer("lost", "a", "nobody.service.kvd", 1), offer("empty", "a", "service.kvd", 1),
	)})
	want(t, ask(t, s, "web.service.kvd.", dns.TypeA), ok, "web.service.kvd. A 10.0.0.1")
	want(t, ask(t, s, "bad.service.kvd.", dns.TypeA), ok)
	want(t, ask(t, s, "bad.service.kvd.", dns.TypeSRV), ok)
	want(t, ask(t, s, "alias.service.kvd.", dns.TypeA), ok, "alias.service.kvd. CNAME web.service.kvd.", "web.service.kvd. A 10.0.0.1")
	want(t, ask(t, s, "lost.service.kvd.", dns.TypeA), nxdomain, "lost.service.kvd. CNAME nobody.service.kvd.")
	if got := ask(t, s, "empty.service.kvd.", dns.TypeA); len(got.Answer) != 1 || len(got.Ns) != 1 || got.Rcode != ok {
		t.Errorf("a name of nothing: %v", got)
	}
	if got := ask(t, s, "loop.service.kvd.", dns.TypeA); len(got.Answer) != chainMax {
		t.Errorf("a circle: %v", got)
	}
}

func TestTheDomainIsOnesChoice(t *testing.T) {
	for _, domain := range []string{"Cluster.Local", "cluster.local."} {
		s := serve(t, Config{Catalog: town, Domain: domain, Addresses: []netip.Addr{localhost, {}, netip.MustParseAddr("2001:db8::53")}})
		if got := ask(t, s, "web.service.cluster.local.", dns.TypeA); len(got.Answer) != 2 {
			t.Errorf("%v", got)
		}
		if got := ask(t, s, "cluster.local.", dns.TypeNS); len(got.Answer) != 1 || !slices.Equal(said(got.Extra), []string{"ns.cluster.local. A 127.0.0.1", "ns.cluster.local. AAAA 2001:db8::53"}) {
			t.Errorf("%v", got)
		}
		want(t, ask(t, s, "ns.cluster.local.", dns.TypeA), ok, "ns.cluster.local. A 127.0.0.1")
		for _, other := range []string{"web.service.kvd.", "local.", ".", "xcluster.local.", `web.service\.cluster.local.`} {
			if got := ask(t, s, other, dns.TypeA); got.Rcode != dns.RcodeRefused || got.Authoritative || len(got.Answer)+len(got.Ns)+len(got.Extra) > 0 {
				t.Errorf("%v", got)
			}
		}
	}
}

func TestTheOrderIsRandomAndFollowsTheWeights(t *testing.T) {
	s := serve(t, Config{Catalog: shelve(offer("web", "a", "10.0.0.1", 1, weighs(1)), offer("web", "b", "10.0.0.2", 1, weighs(3)), offer("web", "c", "10.0.0.3", 1, weighs(6)))})
	first := map[string]int{}
	const rounds = 5000
	for range rounds {
		reply := ask(t, s, "web.service.kvd.", dns.TypeA)
		first[reply.Answer[0].(*dns.A).A.String()]++
	}
	// Five standard deviations of the widest of the three are 3.5 %.
	for address, share := range map[string]float64{"10.0.0.1": 0.1, "10.0.0.2": 0.3, "10.0.0.3": 0.6} {
		if got := float64(first[address]) / rounds; got < share-0.035 || got > share+0.035 {
			t.Errorf("%s comes first in %.3f of the answers, its weight is %.1f", address, got, share)
		}
	}
}

func TestAnswersSayHowLongTheyHold(t *testing.T) {
	for ttl, negative := range map[time.Duration]uint32{0: 0, 2 * time.Second: 2, time.Hour: 5} {
		s := serve(t, Config{Catalog: town, TTL: ttl})
		if got := ask(t, s, "web.service.kvd.", dns.TypeA).Answer[0].Header().Ttl; got != seconds(ttl) {
			t.Errorf("%v: an address holds %d s", ttl, got)
		}
		soa := ask(t, s, "nobody.service.kvd.", dns.TypeA).Ns[0].(*dns.SOA)
		if soa.Hdr.Ttl != negative || soa.Minttl != negative {
			t.Errorf("%v: that there is nothing holds %d and %d s", ttl, soa.Hdr.Ttl, soa.Minttl)
		}
	}
}

func TestWithoutTheStoreItAnswersWithWhatItKnowsAndSaysHowOldThatIs(t *testing.T) {
	now := time.Now()
	shelf := shelve(offer("web", "a", "10.0.0.1", 1))
	told := func(s *Server) (*dns.Msg, string) {
		t.Helper()
		reply := respond(t, s, question(t, "web.service.kvd.", dns.TypeA, withEDNS(1232)), true)
		text := ""
		for _, option := range reply.IsEdns0().Option {
			text += option.String()
		}
		return reply, text
	}
	for _, c := range []struct {
		state    mirror.State
		staleMax time.Duration
		rcode    int
		says     string
	}{
		{mirror.State{}, 0, dns.RcodeServerFailure, "14 (Not Ready): (the store was not read yet)"},
		{mirror.State{Err: errors.New("away")}, time.Second, dns.RcodeServerFailure, "14 (Not Ready): (the store was not read yet)"},
		{mirror.State{Complete: true, Since: now}, time.Second, ok, ""},
		{mirror.State{Complete: true, Since: now.Add(-time.Hour)}, time.Second, ok, ""}, // it is heard: Since is what the clock was
		{mirror.State{Complete: true, Since: now.Add(-5 * time.Second), Err: errors.New("away")}, 0, ok, ""},
		{mirror.State{Complete: true, Since: now.Add(-time.Hour), Err: errors.New("away")}, 0, ok, "3 (Stale Answer): (the store was heard last 1h0m0s ago)"},
		{mirror.State{Complete: true, Since: now.Add(-time.Minute), Err: errors.New("away")}, time.Hour, ok, "3 (Stale Answer): (the store was heard last 1m0s ago)"},
		{mirror.State{Complete: true, Since: now.Add(-2 * time.Hour), Err: errors.New("away")}, time.Hour, dns.RcodeServerFailure, "22 (No Reachable Authority): (the store was heard last 2h0m0s ago)"},
	} {
		shelf.state = c.state
		s := serve(t, Config{Catalog: shelf, StaleMax: c.staleMax, Now: func() time.Time { return now }})
		reply, text := told(s)
		if reply.Rcode != c.rcode || text != c.says || (len(reply.Answer) == 1) != (c.rcode == ok) {
			t.Errorf("%+v: %s, %q, want %s, %q", c.state, dns.RcodeToString[reply.Rcode], text, dns.RcodeToString[c.rcode], c.says)
		}
		if status := s.Status(); c.state.Err != nil && (status.Problem != "away" || c.state.Complete && status.AgeSeconds != now.Sub(c.state.Since).Seconds()) {
			t.Errorf("%+v: status %+v", c.state, status)
		}
	}
}

func TestStatusCountsAnswersAndNamesWhatNobodyCanAskFor(t *testing.T) {
	s := serve(t, Config{Catalog: shelve(offer("web", "a", "10.0.0.1", 1), offer("a.b", "a", "10.0.0.1", 1), offer("x y", "a", "10.0.0.1", 1))})
	ask(t, s, "web.service.kvd.", dns.TypeA)
	ask(t, s, "web.service.kvd.", dns.TypeAAAA)
	ask(t, s, "nobody.service.kvd.", dns.TypeAAAA)
	ask(t, s, "example.org.", dns.TypeA)
	want(t, ask(t, s, `a\.b.service.kvd.`, dns.TypeA), nxdomain)
	want(t, ask(t, s, `x\032y.service.kvd.`, dns.TypeA), nxdomain)
	s.respond([]byte("hello"), localhost, true)
	got := s.Status()
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"domain":"kvd.","addresses":null,"complete":true,"ageSeconds":0,"services":3,"instances":3,"unreachable":2,"examples":["a.b","x y"],"unreadable":0,` +
		`"answered":1,"negative":4,"refused":1,"failed":0,"invalid":0,"disallowed":0,"dropped":1,"truncated":0,"crowded":0,"unsent":0,"connections":0}`
	if string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
}
