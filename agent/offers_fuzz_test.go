package agent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// Whatever the labels of a container are, each record is valid, and its key in every layout is one
// service and one instance below the prefix.
func FuzzOffers(f *testing.F) {
	for _, seed := range []string{
		"SERVICE_NAME=web\nSERVICE_80_TAGS=a,b", "kvd.web.port=80\nkvd.web.check=exec:/bin/sh", "kvd.../x.port=80\nSERVICE_ID=../..", "kvd.web.meta.a=b\nkvd.web.meta.=x",
		"kvd.web.address=1.2.3.4\nkvd.web.family=6", "SERVICE_CHECK_HTTP=//x\nSERVICE_CHECK_SCRIPT=rm", "kvd.ignore=false\nkvd..port=1\nkvd.web=x", "net.ip=10.0.0.1/8\nSERVICE_NAME=_x",
		"com.docker.compose.service=a/b\nSERVICE_80_ID=::", "kvd.web.port=none\nkvd.web.check-interval=1ns\nkvd.web.weight=-1", "SERVICE_\x00=\xff\nSERVICE_80_=x\nSERVICE_99999999999999999999_NAME=x",
	} {
		f.Add(seed, "web:1", "w1", byte(0))
	}
	f.Fuzz(func(t *testing.T, text, image, name string, how byte) {
		if len(text)+len(image)+len(name) > 32<<10 {
			return
		}
		labels := map[string]string{}
		for line := range strings.SplitSeq(text, "\n") {
			label, value, _ := strings.Cut(line, "=")
			labels[label] = value
		}
		w := container(published(80, 8080), workload.Port{Number: 53, Protocol: "udp", HostIP: "::", HostNumber: 53}, exposed(443))
		w.Labels, w.Image, w.Name, w.Trusted = labels, image, name, how&1 != 0
		opts := options()
		opts.Other, opts.AddressLabel = netip.MustParseAddr("fd00::7"), "net.ip"
		opts.Internal, opts.Registrator, opts.Forced = how&2 != 0, how&4 != 0, how&4 != 0
		w.HostNetwork = how&8 != 0
		fuzztest.WantBounded(t, 4096*uint64(len(text)+len(image)+len(name))+fuzztest.Fixed, func() {
			offers, _ := decided([]workload.Workload{w}, opts)
			taken := map[string]bool{}
			for _, offer := range offers {
				r := offer.Record
				if err := r.Validate(); err != nil {
					t.Fatalf("invalid record %+v: %v", r, err)
				}
				for _, segment := range []string{r.Service, r.Instance, r.ID} {
					if segment == "" || segment[0] == '.' || segment[0] == '_' || strings.ContainsAny(segment, "/\\ \x00") {
						t.Fatalf("%+v: %q is no segment of a key", r, segment)
					}
				}
				key := r.Key(registry.DefaultPrefix)
				if taken[key] {
					t.Fatalf("two offers have the key %q", key)
				}
				taken[key] = true
				if !w.Trusted && offer.Monitor != nil && strings.Contains(fmt.Sprint(offer.Monitor.Check), "exec:") {
					t.Fatalf("a container makes the agent run %s", offer.Monitor.Check)
				}
			}
		})
	})
}

// BenchmarkOneChangeAmongAThousand is what one event costs when all other containers are as they were.
func BenchmarkOneChangeAmongAThousand(b *testing.B) {
	var seen []Seen
	for i := range 1000 {
		w := labelled(container(published(80, 10000+i)), "SERVICE_NAME=web", "SERVICE_TAGS=a,b", "kvd.api.port=80", "kvd.api.meta.zone=eu")
		w.ID, w.Name, w.Run = fmt.Sprintf("%064d", i), fmt.Sprintf("w%d", i), fmt.Sprint(i)
		for j := range 20 {
			w.Labels[fmt.Sprintf("org.example.label%d", j)] = "x"
		}
		seen = append(seen, Seen{SourceDocker, w})
	}
	plan := newPlanner(options())
	plan.offers(seen)
	for b.Loop() {
		seen[500].State, seen[500].Reason = workload.Stopping, seen[500].Reason+"x"
		plan.offers(seen)
	}
}
