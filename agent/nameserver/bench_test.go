package nameserver

import (
	"fmt"
	"testing"

	"github.com/miekg/dns"

	"github.com/kvd-io/kvd/pkg/registry"
)

// BenchmarkRespond is one question over UDP, from packet to packet.
func BenchmarkRespond(b *testing.B) {
	for _, n := range []int{3, 100, 1000} {
		for name, qtype := range map[string]uint16{"web.service.kvd.": dns.TypeA, "_web._tcp.service.kvd.": dns.TypeSRV, "nobody.service.kvd.": dns.TypeA} {
			b.Run(fmt.Sprintf("%s/%s/%d", name, dns.TypeToString[qtype], n), func(b *testing.B) {
				s := serve(b, Config{Catalog: quick{crowd(n)}})
				packet := question(b, name, qtype, withEDNS(1232))
				b.ReportAllocs()
				for b.Loop() {
					s.respond(packet, localhost, true)
				}
			})
		}
	}
}

// quick is a shelf that takes no time.
type quick struct{ *shelf }

func (q quick) Fold(name string) []string {
	if name == "web" {
		return []string{"web"}
	}
	return nil
}

func (q quick) Instances(string) []registry.Record { return q.records }
