package guard_test

import (
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/guard"
)

var noon = time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC)

func TestAFileIsHeldForTheFirstReasonThatApplies(t *testing.T) {
	limits := guard.Limits{MinKeys: 2, MaxShrinkPercent: 50, ShrinkGrace: time.Minute, MaxExpiredPercent: 30, ExpiryGrace: time.Hour, ReplacedGrace: 30 * time.Second}
	shrinkOnly := guard.Limits{MaxShrinkPercent: 50}
	for name, c := range map[string]struct {
		limits guard.Limits
		seen   guard.Seen
		want   guard.Reason
		until  time.Duration // after noon; 0: never
	}{
		"enough keys":                       {limits, guard.Seen{Keys: 10, Applied: 10}, "", 0},
		"nothing was applied before":        {limits, guard.Seen{Keys: 10, Applied: guard.Unknown}, "", 0},
		"no limits":                         {guard.Limits{}, guard.Seen{Keys: 0, Applied: 100, Expired: 100, ReplacedAt: noon}, "", 0},
		"too few":                           {limits, guard.Seen{Keys: 1, Applied: 2}, guard.MinKeys, 0},
		"too few from the start":            {limits, guard.Seen{Keys: 1, Applied: guard.Unknown}, guard.MinKeys, 0},
		"half is not more than half":        {limits, guard.Seen{Keys: 5, Applied: 10}, "", 0},
		"more than half":                    {limits, guard.Seen{Keys: 4, Applied: 10}, guard.MassRemoval, time.Minute},
		"more than half, no grace":          {shrinkOnly, guard.Seen{Keys: 4, Applied: 10}, guard.MassRemoval, 0},
		"everything, without min_keys":      {shrinkOnly, guard.Seen{Keys: 0, Applied: 1}, guard.MassRemoval, 0},
		"as many expired as may":            {limits, guard.Seen{Keys: 7, Applied: 10, Expired: 3}, "", 0},
		"more expired":                      {limits, guard.Seen{Keys: 6, Applied: 10, Expired: 4}, guard.MassExpiry, time.Hour},
		"expiry goes before shrinking":      {limits, guard.Seen{Keys: 2, Applied: 10, Expired: 8}, guard.MassExpiry, time.Hour},
		"expired, but others have come":     {limits, guard.Seen{Keys: 10, Applied: 10, Expired: 4}, "", 0},
		"some expired were applied before":  {limits, guard.Seen{Keys: 6, Applied: 7, Expired: 4}, guard.MassExpiry, time.Hour},
		"replaced by an empty store":        {limits, guard.Seen{Keys: 0, Applied: 3, Lost: 3, ReplacedAt: noon.Add(-10 * time.Second)}, guard.Replaced, 20 * time.Second},
		"replaced, and one key is back":     {limits, guard.Seen{Keys: 1, Applied: 3, Lost: 3, ReplacedAt: noon.Add(-10 * time.Second)}, guard.Replaced, 20 * time.Second},
		"replaced long ago":                 {limits, guard.Seen{Keys: 0, Applied: 3, Lost: 3, ReplacedAt: noon.Add(-time.Hour)}, guard.MinKeys, 0},
		"replaced, nothing was there":       {guard.Limits{ReplacedGrace: time.Hour}, guard.Seen{Keys: 0, Applied: 0, ReplacedAt: noon}, "", 0},
		"replaced by one with keys":         {limits, guard.Seen{Keys: 3, Applied: 3, Lost: 3, ReplacedAt: noon}, "", 0},
		"a snapshot with less":              {guard.Limits{}, guard.Seen{Keys: 9, Applied: 10, Stale: true, Exists: true}, guard.Stale, 0},
		"a snapshot, nobody knows of what":  {guard.Limits{}, guard.Seen{Keys: 9, Applied: guard.Unknown, Stale: true, Exists: true}, guard.Stale, 0},
		"an older snapshot":                 {guard.Limits{}, guard.Seen{Keys: 10, Applied: 10, Stale: true, Exists: true, Older: true}, guard.Stale, 0},
		"a snapshot with as much":           {guard.Limits{}, guard.Seen{Keys: 10, Applied: 10, Stale: true, Exists: true}, "", 0},
		"a snapshot where there is no file": {guard.Limits{}, guard.Seen{Keys: 9, Applied: 10, Stale: true}, "", 0},
		"released":                          {limits, guard.Seen{Keys: 0, Applied: 10, Expired: 10, ReplacedAt: noon, Released: true}, "", 0},
		"a snapshot cannot be released":     {limits, guard.Seen{Keys: 0, Applied: 10, Stale: true, Exists: true, Released: true}, guard.Stale, 0},
	} {
		hold := guard.Decide(noon, c.limits, c.seen, guard.Hold{})
		var until time.Time
		if c.until > 0 {
			until = noon.Add(c.until)
		}
		if hold.Reason != c.want || !hold.Until.Equal(until) {
			t.Errorf("%s: held because of %q until %v, want %q until %v", name, hold.Reason, hold.Until, c.want, until)
		}
		if (hold.Reason == "") != (hold.Text == "") || (hold.Reason == "") != hold.Since.IsZero() {
			t.Errorf("%s: %+v", name, hold)
		}
	}
}

func TestAGraceIsCountedFromTheFirstDecision(t *testing.T) {
	limits := guard.Limits{MaxShrinkPercent: 50, ShrinkGrace: time.Minute}
	seen := guard.Seen{Keys: 1, Applied: 10}
	first := guard.Decide(noon, limits, seen, guard.Hold{})
	later := guard.Decide(noon.Add(59*time.Second), limits, seen, first)
	if later.Reason != guard.MassRemoval || !later.Since.Equal(noon) || !later.Until.Equal(first.Until) {
		t.Errorf("just before the end of the grace: %+v after %+v", later, first)
	}
	if over := guard.Decide(noon.Add(time.Minute), limits, seen, later); over.Reason != "" {
		t.Errorf("when the grace is over: %+v", over)
	}
	back := guard.Decide(noon.Add(30*time.Second), limits, guard.Seen{Keys: 10, Applied: 10}, later)
	again := guard.Decide(noon.Add(40*time.Second), limits, seen, back)
	if back.Reason != "" || !again.Since.Equal(noon.Add(40*time.Second)) {
		t.Errorf("gone, back, gone: %+v, %+v; the grace starts anew", back, again)
	}
}

func TestAnotherReasonStartsItsOwnGrace(t *testing.T) {
	limits := guard.Limits{MaxShrinkPercent: 50, ShrinkGrace: time.Minute, MaxExpiredPercent: 10, ExpiryGrace: time.Minute}
	removed := guard.Decide(noon, limits, guard.Seen{Keys: 4, Applied: 10}, guard.Hold{})
	expired := guard.Decide(noon.Add(30*time.Second), limits, guard.Seen{Keys: 2, Applied: 10, Expired: 2}, removed)
	if expired.Reason != guard.MassExpiry || !expired.Since.Equal(noon.Add(30*time.Second)) {
		t.Errorf("got %+v", expired)
	}
}
