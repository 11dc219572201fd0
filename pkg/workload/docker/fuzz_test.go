package docker

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/workload"
)

// Whatever an engine says of a container, what becomes of it holds to what workload promises.
func FuzzDetails(f *testing.F) {
	f.Add([]byte(`{"Id":"id","Name":"/name","State":{"Running":true,"StartedAt":"2026-01-02T03:04:05.6Z","Health":{"Status":"healthy"}},
		"Config":{"Image":"web:1","Env":["A=1","B"],"Labels":{"l":"v"},"ExposedPorts":{"80/tcp":{},"9/sctp":{}},"StopSignal":"SIGRTMIN+3","StopTimeout":-1},
		"HostConfig":{"NetworkMode":"container:id"},
		"NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"::","HostPort":"8080"}],"81/udp":null},"Networks":{"a":{"IPAddress":"10.0.0.1","GlobalIPv6Address":"fd00::1"},"b":null}}}`))
	f.Add([]byte(`{"Id":"id","State":{"Status":"stopping"},"Config":{"ExposedPorts":{"80":{},"0/tcp":{},"-1/tcp":{},"x":{}}},"HostConfig":{"NetworkMode":"host"}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzztest.WantBounded(t, 256*uint64(len(data))+fuzztest.Fixed, func() {
			var answer details
			if json.Unmarshal(data, &answer) != nil || answer.State == nil || answer.Config == nil {
				return
			}
			c, runs := read(answer)
			if !runs {
				return
			}
			if c.stopTimeout < 0 || c.stopTimeout > stopTimeoutMax*time.Second {
				t.Errorf("a stop timeout of %v", c.stopTimeout)
			}
			known := map[string]*container{c.ID: {running: c}}
			for _, w := range []workload.Workload{c.Workload, resolve(c, known)} {
				for _, port := range w.Ports {
					_, err := netip.ParseAddr(port.HostIP)
					if port.Number < 1 || port.Number > 65535 || port.Protocol != "tcp" && port.Protocol != "udp" ||
						(port.HostNumber != 0) != (port.HostIP != "") || port.HostIP != "" && err != nil {
						t.Errorf("port %+v", port)
					}
				}
				for _, addresses := range []map[string]string{w.Addresses, w.Addresses6} {
					for network, address := range addresses {
						if _, err := netip.ParseAddr(address); err != nil {
							t.Errorf("address %q in network %q", address, network)
						}
					}
				}
			}
		})
	})
}

// Whatever an engine says has happened, it is read to its end, and taken in within bounds.
func FuzzEvents(f *testing.F) {
	f.Add([]byte(`{"Type":"container","Action":"kill","Actor":{"ID":"a","Attributes":{"signal":"15"}},"time":1,"timeNano":1000000001}` + "\n" +
		`{"Type":"network","Action":"connect","Actor":{"ID":"n","Attributes":{"container":"a"}}}`))
	f.Add([]byte(`{"Type":7} [] null "x" {"Type":"container"`))
	f.Fuzz(func(t *testing.T, data []byte) {
		fuzztest.WantBounded(t, 256*uint64(len(data))+fuzztest.Fixed, func() {
			s := &stream{body: io.NopCloser(bytes.NewReader(data))}
			s.decoder = json.NewDecoder(s)
			h := newHints()
			for range len(data) + 1 {
				e, err := s.next()
				if err == nil {
					h.add(e, time.Now())
				} else if !errors.Is(err, errEvent) {
					if noted, _ := h.take(); len(noted) > hintsMax {
						t.Errorf("%d hints", len(noted))
					}
					return
				}
			}
			t.Error("there are more events than bytes")
		})
	})
}
