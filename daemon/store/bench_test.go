package store

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// filled returns a machine with n registrations of services that have 100 instances each.
func filled(b *testing.B, n int) *replica {
	b.Helper()
	r := &replica{t: b, Machine: New(0)}
	for i := 0; i < n; i += 100 {
		bodies := make([]command.Body, min(100, n-i))
		for j := range bodies {
			bodies[j] = set(instance(i+j), `{"address":"10.1.2.3","port":8080,"tags":["a","b"]}`)
		}
		r.apply(bodies...)
	}
	r.TakeEvents()
	return r
}

func instance(i int) string { return fmt.Sprintf("/services/%05d/instance-%03d", i/100, i%100) }

// each applies one command per entry.
func each(b *testing.B, r *replica, body func(i int) command.Body) {
	batch := command.Batch{Commands: make([]command.Command, 1)}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		batch.Commands[0].Body = body(i)
		i++
		r.index++
		if res := r.Apply(r.index, 1, &batch); res[0].Err != nil {
			b.Fatal(res[0].Err)
		}
		r.TakeEvents()
	}
}

func BenchmarkPutNewAmong100k(b *testing.B) {
	each(b, filled(b, 100_000), func(i int) command.Body { return set(instance(100_000+i), "value") })
}

func BenchmarkOverwriteAmong100k(b *testing.B) {
	each(b, filled(b, 100_000), func(i int) command.Body { return set(instance(i*7919%100_000), "value") })
}

func BenchmarkRefreshAmong100k(b *testing.B) {
	r := filled(b, 100_000)
	each(b, r, func(i int) command.Body { return refresh(3600e9, update(instance(i*7919%100_000), "")) })
}

func BenchmarkOverwriteWhileAnotherReads(b *testing.B) {
	r := filled(b, 100_000)
	each(b, r, func(i int) command.Body {
		r.current()
		return set(instance(i*7919%100_000), "value")
	})
}

func read(b *testing.B, r *replica, want int, next func(i int) kv.Read) {
	b.Helper()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		res, err := r.Read(next(i), 0)
		if err != nil || len(res.Node.Nodes) != want {
			b.Fatal(err, len(res.Node.Nodes))
		}
		i++
	}
}

func BenchmarkGetAmong100k(b *testing.B) {
	read(b, filled(b, 100_000), 0, func(i int) kv.Read { return kv.Read{Key: instance(i * 7919 % 100_000)} })
}

func BenchmarkList100Of100k(b *testing.B) {
	read(b, filled(b, 100_000), 100, func(i int) kv.Read { return kv.Read{Key: kv.Parent(instance(i * 7919 % 100_000))} })
}

func BenchmarkListRecursive10k(b *testing.B) {
	read(b, filled(b, 10_000), 100, func(int) kv.Read { return kv.Read{Key: "/services", Recursive: true} })
}

func BenchmarkSnapshot100k(b *testing.B) {
	r := filled(b, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		n, err := r.Snapshot().WriteTo(io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}

func BenchmarkRestore100k(b *testing.B) {
	written := filled(b, 100_000).snapshot()
	b.SetBytes(int64(len(written)))
	b.ReportAllocs()
	for b.Loop() {
		if err := New(0).Restore(bytes.NewReader(written)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRemove10kRecursively(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		r := filled(b, 10_000)
		b.StartTimer()
		if res := r.apply(rmr("/services")); res[0].Err != nil {
			b.Fatal(res[0].Err)
		}
	}
}
