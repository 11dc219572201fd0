package keys

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
)

// BenchmarkOneChange is one change of 100,000 keys, told to 200 readers of the same directory, each of which takes
// a view; bytes/key is what the mirror holds for one key.
func BenchmarkOneChange(b *testing.B) {
	const keys, readers = 100_000, 200
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m := NewMirror(Segments)
	pairs := map[string]string{}
	for i := range keys {
		pairs[fmt.Sprintf("/services/s%d/10.0.%d.%d:8080", i/20, i/250, i%250)] = fmt.Sprintf(`{"address":"10.0.%d.%d:8080"}`, i/250, i%250)
	}
	m.Replace([]string{"/services"}, Origin{Index: 1}, pairs)
	pairs = nil
	var subscriptions []*Subscription
	for range readers {
		s := m.Subscribe([]string{"/services"})
		s.Take()
		subscriptions = append(subscriptions, s)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/keys, "bytes/key")
	event := kv.Event{Action: kv.ActionSet, Node: &kv.Node{Key: "/services/s7/10.0.0.1:8080"}}
	for i := 0; b.Loop(); i++ {
		event.Node.Value, event.Node.ModifiedIndex = fmt.Sprint(i), kv.Index(i+2)
		m.Apply(event)
		for _, s := range subscriptions {
			if _, changes, all := s.Take(); len(changes) != 1 || all {
				b.Fatal(changes, all)
			}
		}
	}
}
