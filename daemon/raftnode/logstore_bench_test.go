package raftnode

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// BenchmarkAppend appends one entry to each log store in turn, and writes as many bytes into a file
// whose blocks are there and syncs it: what the disk alone takes. It reports medians in microseconds,
// and the ratios to the disk alone.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{256, 4 << 10, 64 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			data := make([]byte, size)
			var stores []logStore
			for _, kind := range []string{LogStoreWAL, LogStoreBoltDB} {
				store, err := openLogStore(kind, b.TempDir(), true, &failStop{deadline: time.Minute})
				if err != nil {
					b.Fatal(err)
				}
				defer store.Close()
				stores = append(stores, store)
			}
			raw := newRawFile(b)
			took := make([][]time.Duration, 3)
			for i := range b.N {
				index := uint64(i + 1)
				start := time.Now()
				raw.append(b, data)
				took[0] = append(took[0], time.Since(start))
				for k, store := range stores {
					start := time.Now()
					if err := store.StoreLog(&raft.Log{Index: index, Term: 1, Data: data}); err != nil {
						b.Fatal(err)
					}
					took[k+1] = append(took[k+1], time.Since(start))
					if index%1024 == 0 && index > 2048 { // as after a snapshot
						if err := store.DeleteRange(1, index-1024); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			median := func(k int) float64 {
				slices.Sort(took[k])
				return float64(took[k][len(took[k])/2].Nanoseconds()) / 1e3
			}
			p99 := func(k int) float64 { return float64(took[k][len(took[k])*99/100].Nanoseconds()) / 1e3 }
			disk, ours, bolt := median(0), median(1), median(2)
			b.ReportMetric(disk, "disk-µs")
			b.ReportMetric(ours, "wal-µs")
			b.ReportMetric(bolt, "boltdb-µs")
			b.ReportMetric(p99(0), "disk-p99-µs")
			b.ReportMetric(p99(1), "wal-p99-µs")
			b.ReportMetric(ours/disk, "wal/disk")
			b.ReportMetric(bolt/disk, "boltdb/disk")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// rawFile is written from its beginning to its end, over and over.
type rawFile struct {
	*os.File
	off int64
}

const rawBytes = 16 << 20

func newRawFile(b *testing.B) *rawFile {
	f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	if _, err := f.Write(make([]byte, rawBytes)); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return &rawFile{File: f}
}

func (f *rawFile) append(b *testing.B, data []byte) {
	if f.off+int64(len(data)) > rawBytes {
		f.off = 0
	}
	if _, err := f.WriteAt(data, f.off); err != nil {
		b.Fatal(err)
	}
	if err := syscall.Fdatasync(int(f.Fd())); err != nil {
		b.Fatal(err)
	}
	f.off += (int64(len(data)) + 511) / 512 * 512
}
