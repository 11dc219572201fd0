package service

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/pkg/kv"
)

// BenchmarkWritesDuringASnapshot has 64 writers beside a snapshot of a million keys, and without
// one. It needs some 3 GB of memory and two minutes. An operation is both; what counts are the figures.
func BenchmarkWritesDuringASnapshot(b *testing.B) {
	const keys, writers = 1_000_000, 64
	dir := b.TempDir()
	config := raftnode.Config{Name: "m", DataDir: filepath.Join(dir, "m")}
	open := func(snapshotLogBytes int64) (*State, *raftnode.Node) {
		peers, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		state := NewState()
		config.SnapshotLogBytes = snapshotLogBytes
		node, err := raftnode.Open(b.Context(), config, raftnode.Deps{Peers: []net.Listener{peers}}, state)
		if err != nil {
			b.Fatal(err)
		}
		return state, node
	}
	value := func() string {
		var v [256]byte
		for i := range v {
			v[i] = byte(rand.Uint32())
		}
		return string(v[:])
	}
	set := func(ctx context.Context, node *raftnode.Node, i int) {
		w := kv.Write{Op: kv.OpSet, Key: fmt.Sprintf("/services/%05d/instance-%03d", i/100, i%100), Value: value()}
		if result, err := node.Propose(ctx, command.Command{Body: w}); err != nil || result.Err != nil {
			b.Error(err, result.Err)
		}
	}
	const never = 1 << 40
	_, node := open(never)
	var group sync.WaitGroup
	for part := range 1000 {
		group.Go(func() {
			for i := part; i < keys; i += 1000 {
				set(b.Context(), node, i)
			}
		})
	}
	group.Wait()
	if err := node.Close(); err != nil { // with a snapshot
		b.Fatal(err)
	}
	snapshots := func() []string {
		list, err := filepath.Glob(filepath.Join(config.DataDir, "*", "snapshots", "*-*[0-9]"))
		if err != nil {
			b.Fatal(err)
		}
		return list
	}
	// measure returns the latencies of writes until one snapshot more is there, or for some seconds.
	measure := func(snapshotLogBytes int64) []time.Duration {
		before := snapshots()
		_, node := open(snapshotLogBytes)
		begun := time.Now()
		ctx, cancel := context.WithCancel(b.Context())
		var mu sync.Mutex
		var all []time.Duration
		var group sync.WaitGroup
		for range writers {
			group.Go(func() {
				var took []time.Duration
				for ctx.Err() == nil {
					start := time.Now()
					set(b.Context(), node, rand.IntN(keys))
					took = append(took, time.Since(start))
				}
				mu.Lock()
				all = append(all, took...)
				mu.Unlock()
			})
		}
		for time.Since(begun) < 2*time.Minute {
			time.Sleep(50 * time.Millisecond)
			if now := snapshots(); snapshotLogBytes == never && time.Since(begun) > 8*time.Second || len(now) > 0 && !slices.Equal(now, before) {
				break
			}
		}
		cancel()
		group.Wait()
		if err := node.Close(); err != nil {
			b.Fatal(err)
		}
		slices.Sort(all)
		return all
	}
	for b.Loop() {
		for _, c := range []struct {
			name  string
			bytes int64
		}{{"without", never}, {"with", 1}, {"without-again", never}} {
			took := measure(c.bytes)
			for _, p := range []int{50, 99} {
				b.ReportMetric(float64(took[len(took)*p/100].Microseconds())/1000, fmt.Sprintf("ms-p%d-%s", p, c.name))
			}
		}
	}
}
