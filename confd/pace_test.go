package confd

import (
	"testing"
	"time"
)

// passes counts the passes of a group that takes no time, for changes at the given rhythm, and how long
// the oldest change had to wait at most.
func passes(changes int, every time.Duration) (count int, lateMax time.Duration) {
	p := pace{quiet: DefaultQuiet, longest: DefaultQuietMax}
	now := time.Unix(1000, 0)
	var oldest time.Time // of the changes not yet acted on
	act := func(at time.Time) {
		p.taken(at)
		count++
		lateMax = max(lateMax, at.Sub(oldest))
		oldest = time.Time{}
		p.passed(at, 0)
	}
	for range changes {
		now = now.Add(every)
		if !oldest.IsZero() && p.isDue(now) {
			act(p.due)
		}
		if oldest.IsZero() {
			oldest = now
		}
		p.changed(now)
		if p.isDue(now) {
			act(now)
		}
	}
	if !oldest.IsZero() {
		act(p.due)
	}
	return count, lateMax
}

func TestAChangeAfterAPauseIsActedOnAtOnce(t *testing.T) {
	if count, late := passes(10, DefaultQuietMax); count != 10 || late != 0 {
		t.Errorf("%d passes for 10 changes, up to %v late", count, late)
	}
}

func TestChangesThatDoNotStopCostOnePassPerQuietMaxAndNoneWaitsLonger(t *testing.T) {
	for _, every := range []time.Duration{time.Millisecond, 30 * time.Millisecond, 101 * time.Millisecond, 150 * time.Millisecond, 210 * time.Millisecond, 450 * time.Millisecond} {
		const duration = time.Minute
		count, late := passes(int(duration/every), every)
		if bound := int(duration/DefaultQuietMax) + 5; count > bound {
			t.Errorf("every %v: %d passes in %v, want at most %d", every, count, duration, bound)
		}
		if late > DefaultQuietMax {
			t.Errorf("every %v: a change waited %v", every, late)
		}
	}
}

func TestAChangeSoonAfterAPassWaitsForWhatIsLeftOfQuietMaxAndForQuietAtLeast(t *testing.T) {
	const quiet, longest = 100 * time.Millisecond, 500 * time.Millisecond
	for _, c := range []struct{ took, after, due time.Duration }{ // since the last pass began
		{50 * time.Millisecond, 60 * time.Millisecond, longest},
		{50 * time.Millisecond, 300 * time.Millisecond, longest},
		{50 * time.Millisecond, 450 * time.Millisecond, 450*time.Millisecond + quiet},
		{50 * time.Millisecond, 600 * time.Millisecond, 600 * time.Millisecond},
		{300 * time.Millisecond, 310 * time.Millisecond, 600 * time.Millisecond},
		{300 * time.Millisecond, 550 * time.Millisecond, 550*time.Millisecond + quiet},
	} {
		p := pace{quiet: quiet, longest: longest, next: longest}
		began := time.Unix(1000, 0)
		p.taken(began)
		p.passed(began.Add(c.took), c.took)
		p.next = longest
		p.changed(began.Add(c.after))
		if got := p.due.Sub(began); got != c.due {
			t.Errorf("a change %v after a pass of %v began is due after %v, want %v", c.after, c.took, got, c.due)
		}
	}
}

func TestPassesThatAreBusyForLongLeavePausesAsLongAsThatUpToQuietMax(t *testing.T) {
	const quiet, longest, every = 100 * time.Millisecond, 500 * time.Millisecond, 10 * time.Millisecond
	for _, c := range []struct{ takes, busy, pause time.Duration }{
		{50 * time.Millisecond, 50 * time.Millisecond, 450 * time.Millisecond},
		{300 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond},
		{2 * time.Second, 2 * time.Second, longest},
		{300 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond}, // a reload takes the most of it
		{2 * time.Second, 50 * time.Millisecond, quiet},
	} {
		p := pace{quiet: quiet, longest: longest}
		now := time.Unix(1000, 0)
		var ended time.Time
		var pause time.Duration
		for range 20 { // passes, while changes go on
			for p.changed(now); !p.isDue(now); p.changed(now) {
				now = now.Add(every)
			}
			pause = now.Sub(ended)
			p.taken(now)
			now = now.Add(c.takes)
			ended = now
			p.passed(now, c.busy)
		}
		if pause < c.pause || pause > c.pause+every {
			t.Errorf("between two passes of %v, busy for %v of it, there is a pause of %v, want %v", c.takes, c.busy, pause, c.pause)
		}
	}
}

func TestABucketLetsABurstThroughAndThenOnePerIntervalAndForgetsNone(t *testing.T) {
	b := bucket{burst: 3, interval: time.Second}
	start := time.Unix(1000, 0)
	now, count := start, 0
	for now.Before(start.Add(10 * time.Second)) {
		if b.ready(now).Equal(now) {
			b.take(now)
			count++
		}
		now = now.Add(10 * time.Millisecond)
	}
	if count != 3+9 {
		t.Errorf("%d in 10 s, want 3 at once and 9 more", count)
	}
	if wait := b.ready(now).Sub(now); wait < 0 || wait > time.Second {
		t.Errorf("the next one has to wait %v", wait)
	}
	now = now.Add(time.Hour)
	for range 3 {
		if !b.ready(now).Equal(now) {
			t.Fatal("after a pause there is no room for a burst")
		}
		b.take(now)
	}
	if b.ready(now).Equal(now) {
		t.Error("a fourth one went through")
	}
	none := bucket{burst: 1}
	none.take(now)
	if !none.ready(now).Equal(now) {
		t.Error("a bucket without an interval holds somebody up")
	}
}
