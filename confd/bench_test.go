package confd

import (
	"fmt"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
)

// BenchmarkAChangeOfOneServiceOf5000 is the way of one change from the mirror to the rendered file of the
// shipped HAProxy template, without check and reload.
func BenchmarkAChangeOfOneServiceOf5000(b *testing.B) {
	r := newRig(b, nil)
	r.install("haproxy", "")
	r.cfg.SyncOnly, r.cfg.Quiet, r.cfg.QuietMax = true, 0, 0
	loaded, err := resource.Load(r.cfg.ConfDir, "")
	if err != nil || loaded[0].Err != nil {
		b.Fatal(err, loaded)
	}
	record := func(i, port int) string {
		return fmt.Sprintf(`{"service":"s%d","instance":"i","address":"10.0.0.1","port":%d,"protocol":"tcp","state":"up"}`, i, port)
	}
	pairs := map[string]string{}
	for i := range 5000 {
		pairs[fmt.Sprintf("/services/s%d/i", i)] = record(i, 80)
	}
	m := keys.NewMirror(keys.Segments)
	m.Replace([]string{"/services"}, keys.Origin{Cluster: "c", Index: 1}, pairs)
	g := newGroup(newShared(r.cfg, r.deps), []task{{Resource: loaded[0].Resource, mirror: m}})
	defer g.end()
	g.turn(b.Context())
	for n := range b.N {
		i := n % 5000
		m.Apply(kv.Event{Action: kv.ActionSet, Node: &kv.Node{Key: fmt.Sprintf("/services/s%d/i", i), Value: record(i, n%60000+81), ModifiedIndex: kv.Index(n + 2)}})
		for next := g.turn(b.Context()); !next.IsZero(); next = g.turn(b.Context()) {
			time.Sleep(time.Until(next))
		}
	}
	if state := g.targets[0].outputs[0].status; state.State != "converged" {
		b.Fatalf("%+v", state)
	}
}
