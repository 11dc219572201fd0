package peer

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// A round trip counts as one of at most tripShortest times a power of two, or as longer than all of those.
const (
	tripShortest = 100 * time.Microsecond
	tripBounds   = 16
)

// RoundTrips are those of all pings to a member.
type RoundTrips struct {
	Count  uint64
	Sum    time.Duration
	Within map[time.Duration]uint64 // how many took so long at most: from 0.1 ms to 3.3 s
}

// trips counts round trips. It is safe for concurrent use and takes no lock.
type trips struct {
	took [tripBounds + 1]atomic.Uint64
	sum  atomic.Int64
}

// add counts a round trip of d, which is above 0.
func (t *trips) add(d time.Duration) {
	t.took[min(bits.Len64(uint64((d-1)/tripShortest)), tripBounds)].Add(1)
	t.sum.Add(int64(d))
}

func (t *trips) look() RoundTrips {
	seen := RoundTrips{Sum: time.Duration(t.sum.Load()), Within: make(map[time.Duration]uint64, tripBounds)}
	for i := range t.took {
		seen.Count += t.took[i].Load()
		if i < tripBounds {
			seen.Within[tripShortest<<i] = seen.Count
		}
	}
	return seen
}
