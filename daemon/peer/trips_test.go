package peer

import (
	"testing"
	"time"
)

func TestARoundTripCountsWithinEveryBoundThatItDoesNotExceed(t *testing.T) {
	var all trips
	for _, d := range []time.Duration{1, tripShortest, tripShortest + 1, 4 * tripShortest, time.Hour} {
		all.add(d)
	}
	seen := all.look()
	for bound, want := range map[time.Duration]uint64{
		tripShortest: 2, 2 * tripShortest: 3, 4 * tripShortest: 4, tripShortest << (tripBounds - 1): 4,
	} {
		if got := seen.Within[bound]; got != want {
			t.Errorf("%d within %s, want %d", got, bound, want)
		}
	}
	if seen.Count != 5 || seen.Sum != time.Hour+6*tripShortest+2 || len(seen.Within) != tripBounds {
		t.Errorf("%+v", seen)
	}
}
