package store

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/daemon/command"
)

// BenchmarkHeapOfAKey tells what a key of 40 bytes with a value of 100 takes in memory, of a store
// that was written key by key and of one that was restored.
func BenchmarkHeapOfAKey(b *testing.B) {
	const keys = 200_000
	for b.Loop() {
		before := liveHeap()
		r := &replica{t: b, Machine: New(0)}
		value := strings.Repeat("v", 100)
		for i := 0; i < keys; i += 100 {
			bodies := make([]command.Body, 100)
			for j := range bodies {
				bodies[j] = set(fmt.Sprintf("/services/%06d/instance-%014d", i/100, i+j), value)
			}
			r.apply(bodies...)
			r.TakeEvents()
		}
		b.ReportMetric(float64(liveHeap()-before)/keys, "written-B/key")
		image := r.snapshot()
		r = nil
		before = liveHeap()
		m := New(0)
		if err := m.Restore(strings.NewReader(string(image))); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(liveHeap()-before)/keys, "restored-B/key")
		runtime.KeepAlive(m)
		runtime.KeepAlive(image)
	}
}

func liveHeap() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
