package raftnode

import (
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

func TestTheLeadershipMovesOnlyToAMemberThatIsMuchFaster(t *testing.T) {
	disk := func(sync time.Duration) figures { return figures{sync: sync, syncs: 30, reach: ms} }
	link := func(reach time.Duration) figures { return figures{sync: ms, syncs: 30, reach: reach} }
	idle := figures{sync: ms, reach: ms, syncs: seatSyncs - 1}
	for name, c := range map[string]struct {
		leader figures
		others map[ID]figures
		want   ID
	}{
		"a slow disk":                       {disk(60 * ms), map[ID]figures{2: disk(ms), 3: disk(2 * ms)}, 2},
		"the other one is better":           {disk(60 * ms), map[ID]figures{2: disk(3 * ms), 3: disk(2 * ms)}, 3},
		"both are as good":                  {disk(60 * ms), map[ID]figures{3: disk(ms), 2: disk(ms)}, 2},
		"slower, but not much":              {disk(60 * ms), map[ID]figures{2: disk(12 * ms), 3: disk(20 * ms)}, 0},
		"many times slower, but quick":      {disk(18 * ms), map[ID]figures{2: disk(ms), 3: disk(ms)}, 0},
		"all are slow":                      {disk(300 * ms), map[ID]figures{2: disk(280 * ms), 3: disk(310 * ms)}, 0},
		"the leader is the quick one":       {disk(ms), map[ID]figures{2: disk(300 * ms), 3: disk(300 * ms)}, 0},
		"far from a majority":               {link(120 * ms), map[ID]figures{2: link(ms), 3: link(ms)}, 2},
		"all are far from each other":       {link(120 * ms), map[ID]figures{2: link(120 * ms), 3: link(120 * ms)}, 0},
		"a good disk at the end of nowhere": {disk(60 * ms), map[ID]figures{2: link(120 * ms), 3: disk(50 * ms)}, 0},
		"the leader hardly writes":          {figures{sync: time.Second, syncs: 2, reach: ms}, map[ID]figures{2: disk(ms)}, 0},
		"the others hardly write":           {disk(60 * ms), map[ID]figures{2: idle, 3: idle}, 0},
		"the others do not tell":            {disk(60 * ms), map[ID]figures{2: {}, 3: {}}, 0},
		"there is nobody else":              {disk(60 * ms), nil, 0},
	} {
		if got := betterSeat(c.leader, c.others); got != c.want {
			t.Errorf("%s: it moves to %v, want %v", name, got, c.want)
		}
	}
}

func FuzzFiguresOfAnotherMember(f *testing.F) {
	f.Add(figures{asks: time.Second, sync: ms, syncs: 30, reach: 2 * ms}.append(nil))
	f.Add([]byte{})
	f.Add(appendNumbers(nil, 1<<63, 1<<64-1, 1<<40, 1<<63))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got figures
		var err error
		fuzztest.WantBounded(t, 64*uint64(len(data))+fuzztest.Fixed, func() { got, err = parseFigures(data) })
		if err != nil {
			return
		}
		if got.asks < 0 || got.sync < 0 || got.reach < 0 || got.syncs < 0 || got.syncs > recentSeconds {
			t.Errorf("%x is %+v", data, got)
		}
		if again, err := parseFigures(got.append(nil)); err != nil || again != got {
			t.Errorf("%+v becomes %+v, %v", got, again, err)
		}
		// Whatever another member says, the timeout stays in its bounds, and sums do not wrap.
		if e := (tempo{election: time.Second}).next(agreed(ms, []time.Duration{got.asks}, 2), time.Now()).election; e < time.Second || e > 10*time.Second {
			t.Errorf("%+v makes the timeout %v", got, e)
		}
		betterSeat(got, map[ID]figures{1: got})
	})
}
