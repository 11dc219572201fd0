// Package fuzztest is what fuzz targets share: a look at how much memory a parser takes. It knows
// no parser. It is for tests only.
//
//	fuzztest.WantBounded(t, 64*uint64(len(data))+fuzztest.Fixed, func() { v, err = Parse(data) })
package fuzztest

import (
	"runtime/metrics"
	"testing"
)

// Fixed is the room that a parser may take whatever its input: buffers, tables and what the runtime
// counts late. A length that is read from the input and believed is soon far beyond it.
const Fixed = 8 << 20

// WantBounded calls f and fails the test if more than limit bytes were allocated meanwhile. Small
// objects are counted some kilobytes late, and those of other goroutines as well.
func WantBounded(t testing.TB, limit uint64, f func()) {
	t.Helper()
	before := allocated()
	f()
	if taken := allocated() - before; taken > limit {
		t.Fatalf("%d bytes were allocated, %d are enough for this input", taken, limit)
	}
}

// allocated returns how many bytes the process has ever allocated on its heap.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
