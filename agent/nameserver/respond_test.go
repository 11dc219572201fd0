package nameserver

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/registry"
)

// crowd returns a catalog with n instances of web, and their tag on each.
func crowd(n int) *shelf {
	var all []registry.Record
	for i := range n {
		all = append(all, offer("web", fmt.Sprintf("h%d_web_80", i), fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), 80, tags("blue")))
	}
	return shelve(all...)
}

func TestWhatDoesNotFitIsAskedForAgainOverTCP(t *testing.T) {
	s := serve(t, Config{Catalog: crowd(1000)})
	for _, c := range []struct {
		edit []func(*dns.Msg)
		max  int
	}{
		{nil, 512},
		{[]func(*dns.Msg){withEDNS(0)}, 512},
		{[]func(*dns.Msg){withEDNS(700)}, 700},
		{[]func(*dns.Msg){withEDNS(1232)}, 1232},
		{[]func(*dns.Msg){withEDNS(65535)}, 1232},
	} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeTXT} {
			packet := question(t, "web.service.kvd.", qtype, c.edit...)
			size := len(s.respond(packet, localhost, true))
			reply := respond(t, s, packet, true)
			if !reply.Truncated || size > c.max || size < c.max-120 || len(reply.Answer) == 0 || (reply.IsEdns0() != nil) != (c.edit != nil) {
				t.Errorf("%d bytes where %d may be: %v", size, c.max, reply.MsgHdr)
			}
			if reply = respond(t, s, packet, false); reply.Truncated || len(reply.Answer) != 1000 {
				t.Errorf("over TCP: %d answers, %v", len(reply.Answer), reply.MsgHdr)
			}
		}
	}
	reply := respond(t, s, question(t, "_web._tcp.service.kvd.", dns.TypePTR), true)
	if !reply.Truncated {
		t.Errorf("%v", reply)
	}
}

func TestWhatFitsIsWholeAndWhatNobodyAskedForGoesFirst(t *testing.T) {
	for n, want := range map[int]struct{ answers, extra int }{3: {3, 3}, 9: {9, 0}} {
		s := serve(t, Config{Catalog: crowd(n)})
		reply := respond(t, s, question(t, "web.service.kvd.", dns.TypeSRV), true)
		if reply.Truncated || len(reply.Answer) != want.answers || len(reply.Extra) != want.extra {
			t.Errorf("%d instances: %d answers, %d beside them, %v", n, len(reply.Answer), len(reply.Extra), reply.MsgHdr)
		}
	}
	for _, n := range []int{74, 75} { // of 16 bytes each, beside 44 others
		s := serve(t, Config{Catalog: crowd(n)})
		reply := respond(t, s, question(t, "web.service.kvd.", dns.TypeA, withEDNS(1232)), true)
		if len(reply.Answer) != 74 || reply.Truncated != (n > 74) {
			t.Errorf("%d addresses: %d answers, truncated %v", n, len(reply.Answer), reply.Truncated)
		}
	}
}

func TestMoreThanAMessageHoldsIsCutAndSaysSo(t *testing.T) {
	s := serve(t, Config{Catalog: crowd(5000)})
	for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeTXT} {
		reply := respond(t, s, question(t, "web.service.kvd.", qtype, withEDNS(1232)), false)
		if !reply.Truncated || len(reply.Answer) < 500 || len(reply.Answer) > 4096 {
			t.Errorf("%d answers, truncated %v", len(reply.Answer), reply.Truncated)
		}
	}
}

func TestQuestionsThatAreNotUnderstood(t *testing.T) {
	s := serve(t, Config{Catalog: town})
	good := question(t, "web.service.kvd.", dns.TypeA)
	change := func(at int, value byte) []byte {
		packet := slices.Clone(good)
		packet[at] = value
		return packet
	}
	twice := question(t, "web.service.kvd.", dns.TypeA, withEDNS(1232), func(q *dns.Msg) { q.Extra = append(q.Extra, q.Extra[0]) })
	for what, c := range map[string]struct {
		packet []byte
		rcode  int // -1: no answer
	}{
		"nothing":              {nil, -1},
		"half a header":        {good[:11], -1},
		"an answer":            {change(2, 0x81), -1},
		"half a question":      {good[:20], dns.RcodeFormatError},
		"a header alone":       {good[:12], dns.RcodeFormatError},
		"no question":          {change(5, 0), dns.RcodeFormatError},
		"two questions":        {change(5, 2), dns.RcodeFormatError},
		"an answer within":     {change(7, 1), dns.RcodeFormatError},
		"an authority within":  {change(9, 1), dns.RcodeFormatError},
		"many options":         {change(10, 1), dns.RcodeFormatError},
		"options twice":        {twice, dns.RcodeFormatError},
		"an update":            {change(2, dns.OpcodeUpdate<<3), dns.RcodeNotImplemented},
		"a notification":       {change(2, dns.OpcodeNotify<<3), dns.RcodeNotImplemented},
		"another class":        {question(t, "version.bind.", dns.TypeTXT, func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		"the class CHAOS":      {question(t, "web.service.kvd.", dns.TypeA, func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		"a transfer":           {question(t, "kvd.", dns.TypeAXFR), dns.RcodeRefused},
		"a pointer in circles": {append(slices.Clone(good[:12]), 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
	} {
		for _, overUDP := range []bool{true, false} {
			if c.rcode < 0 {
				if answer := s.respond(c.packet, localhost, overUDP); answer != nil {
					t.Errorf("%s: %x", what, answer)
				}
				continue
			}
			if reply := respond(t, s, c.packet, overUDP); reply.Rcode != c.rcode || len(reply.Answer) > 0 {
				t.Errorf("%s: %v", what, reply)
			}
		}
	}
	next := respond(t, s, question(t, "web.service.kvd.", dns.TypeA, withEDNS(1232), func(q *dns.Msg) { q.IsEdns0().SetVersion(1) }), true)
	if next.Rcode != dns.RcodeBadVers || next.IsEdns0().Version() != 0 || len(next.Answer) > 0 {
		t.Errorf("the next version of EDNS: %v", next)
	}
}

func TestStrangersAreRefusedAndLearnNothing(t *testing.T) {
	packet := question(t, "web.service.kvd.", dns.TypeA, withEDNS(4096))
	for _, c := range []struct {
		allow []netip.Prefix
		from  string
		want  bool
	}{
		{nil, "127.0.0.1", true}, {nil, "::1", true}, {nil, "::ffff:10.1.2.3", true}, {nil, "172.17.0.2", true}, {nil, "192.168.1.1", true}, {nil, "fd00::1", true}, {nil, "fe80::1%eth0", true},
		{nil, "8.8.8.8", false}, {nil, "2001:db8::1", false}, {nil, "172.32.0.1", false}, {nil, "::ffff:8.8.8.8", false},
		{nil, "192.0.2.2", true}, {nil, "192.0.2.3", false}, {[]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, "192.0.2.2", false},
		{[]netip.Prefix{}, "127.0.0.1", false},
		{[]netip.Prefix{netip.MustParsePrefix("8.8.0.0/16")}, "8.8.4.4", true},
		{[]netip.Prefix{netip.MustParsePrefix("8.8.0.0/16")}, "127.0.0.1", false},
		{[]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}, "9.9.9.9", true},
	} {
		s := serve(t, Config{Catalog: town, Allow: c.allow})
		s.self.interfaces = func() ([]net.Addr, error) {
			return []net.Addr{&net.IPNet{IP: net.IPv4(192, 0, 2, 2), Mask: net.CIDRMask(24, 32)}}, nil
		}
		answer := s.respond(packet, netip.MustParseAddr(c.from), true)
		var reply dns.Msg
		if err := reply.Unpack(answer); err != nil {
			t.Fatal(err)
		}
		if got := reply.Rcode == ok && len(reply.Answer) == 2; got != c.want {
			t.Errorf("%s: %v", c.from, reply)
		}
		if !c.want && (reply.Rcode != dns.RcodeRefused || len(answer) > len(packet)) {
			t.Errorf("%s: %d bytes for %d, %v", c.from, len(answer), len(packet), reply)
		}
	}
}

// FuzzQuestion: whatever comes, there is no panic, every answer is a message that fits, and it answers what came.
func FuzzQuestion(f *testing.F) {
	for _, name := range []string{"web.service.kvd.", "_web._tcp.service.kvd.", "blue.web.service.kvd.", "_services._dns-sd._udp.service.kvd.", "kvd.", "loop.service.kvd.", "example.org."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeTXT, dns.TypePTR, dns.TypeSOA, dns.TypeANY} {
			f.Add(question(f, name, qtype), true)
			f.Add(question(f, name, qtype, withEDNS(1232)), false)
		}
	}
	f.Add([]byte{}, true)
	shelf := crowd(100)
	shelf.records = append(shelf.records, town.records[4:]...)
	shelf.records = append(shelf.records, offer("loop", "a", "loop.service.kvd", 1), offer("odd", "\xff.\\", "-.-", 1, meta("\\", "\\\"")))
	s := serve(f, Config{Catalog: shelf})
	f.Fuzz(func(t *testing.T, packet []byte, overUDP bool) {
		if len(packet) > questionSizeMax {
			return
		}
		var answer []byte
		fuzztest.WantBounded(t, 64*uint64(len(packet))+fuzztest.Fixed, func() { answer = s.respond(packet, localhost, overUDP) })
		if answer == nil {
			if len(packet) >= headerSize && packet[2]&0x80 == 0 {
				t.Fatal("a question without an answer")
			}
			return
		}
		if overUDP && len(answer) > udpSizeMax {
			t.Fatalf("%d bytes over UDP", len(answer))
		}
		var reply dns.Msg
		if err := reply.Unpack(answer); err != nil {
			t.Fatalf("%x: %v", answer, err)
		}
		if !reply.Response || answer[0] != packet[0] || answer[1] != packet[1] {
			t.Fatalf("%x is answered with %v", packet, reply)
		}
		if reply.Rcode == dns.RcodeServerFailure {
			t.Fatalf("%x cannot be answered: %v", packet, reply)
		}
	})
}

// FuzzRecord: whatever valid record the store holds, answers about it can be packed and read.
func FuzzRecord(f *testing.F) {
	f.Add("web", "a", "10.0.0.1", "tag", "meta", uint16(80))
	f.Add("web", "a.b", "host.example.com", "\\", "\"\\\u00fc", uint16(0))
	f.Add(strings.Repeat("w", 63), strings.Repeat("i", 64), "10.0.0.1", "_tcp", strings.Repeat("m", 300), uint16(1))
	s := serve(f, Config{Catalog: shelve()})
	f.Fuzz(func(t *testing.T, service, instance, address, tag, text string, port uint16) {
		r := offer(service, instance, address, int(port), tags(tag), meta(text, text))
		if r.Validate() != nil {
			return
		}
		s.cfg.Catalog = shelve(r, offer("web", "other", "10.0.0.2", 1))
		names := []string{"web.service.kvd.", "_services._dns-sd._udp.service.kvd."}
		if isLabel(service) {
			names = append(names, service+".service.kvd.", "_"+service[:min(len(service), 62)]+"._tcp.service.kvd.")
		}
		for _, name := range names {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypePTR} {
				reply := ask(t, s, name, qtype)
				if reply.Rcode != ok && reply.Rcode != nxdomain {
					t.Fatalf("%+v: %v", r, reply)
				}
				for _, answer := range reply.Answer {
					if srv, is := answer.(*dns.SRV); is && strings.HasSuffix(srv.Target, ".service.kvd.") && isIP(address) {
						if got := ask(t, s, srv.Target, dns.TypeANY); got.Rcode != ok {
							t.Fatalf("%+v: %v is nowhere", r, srv)
						}
					}
				}
			}
		}
	})
}

func isIP(text string) bool { _, err := netip.ParseAddr(text); return err == nil }
