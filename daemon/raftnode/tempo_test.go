package raftnode

import (
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestTheElectionTimeoutIsTheShortestWhileAllIsWell(t *testing.T) {
	p := newMetronome(0).tempo
	for _, s := range []sluggishness{{}, {trip: ms}, {trip: 20 * ms, sync: 30 * ms, delay: 40 * ms}} {
		if got := p.next(s.asks(), time.Now()); got.election != time.Second {
			t.Errorf("%+v makes it %v", s, got.election)
		}
	}
}

func TestTheElectionTimeoutRisesAtOnceAndFallsStepByStep(t *testing.T) {
	now := time.Now()
	p := newMetronome(0).tempo.next(sluggishness{trip: 300 * ms, delay: 10 * ms}.asks(), now)
	if p.election != 3*time.Second {
		t.Fatalf("a round trip of 300 ms makes it %v", p.election)
	}
	if got := p.next(time.Hour, now).election; got != 10*time.Second {
		t.Errorf("it has no end: %v", got)
	}
	var seen []time.Duration
	for range 200 { // seconds
		now = now.Add(time.Second)
		next := p.next(0, now)
		if next.election != p.election {
			seen = append(seen, next.election)
		}
		p = next
	}
	if want := []time.Duration{2 * time.Second, 1500 * ms, time.Second}; !slices.Equal(seen, want) {
		t.Errorf("it fell over %v, want %v", seen, want)
	}
}

func TestTheElectionTimeoutDoesNotFallWhileItIsOftenNeeded(t *testing.T) {
	now := time.Now()
	p := newMetronome(0).tempo.next(2*time.Second, now)
	for second := range 600 {
		asked := 100 * ms
		if second%25 == 0 {
			asked = 1600 * ms
		}
		now = now.Add(time.Second)
		if p = p.next(asked, now); p.election != 2*time.Second {
			t.Fatalf("after %d seconds it is %v", second, p.election)
		}
	}
}

func TestEveryStepIsReachedFromEveryOther(t *testing.T) {
	for _, from := range electionSteps() {
		for _, to := range electionSteps() {
			p, now := tempo{election: from}, time.Now()
			for range len(electionSteps()) + 1 {
				p = p.next(to, now)
				now = now.Add(calmTime)
			}
			if p.election != to {
				t.Errorf("from %v to %v it ends at %v", from, to, p.election)
			}
		}
	}
}

func TestOneSickMemberMakesNobodyElseWait(t *testing.T) {
	quick, sick := habit{usual: ms, high: 2 * ms, seconds: 30}, habit{usual: ms, high: 800 * ms, seconds: 30}
	if got := worstTrip([]habit{quick, sick}, 3); got != 2*ms {
		t.Errorf("of three voters one answers late at times: %v", got)
	}
	if got := worstTrip([]habit{sick, sick}, 3); got != 800*ms {
		t.Errorf("two do: %v", got)
	}
	if got := worstTrip([]habit{sick}, 3); got != 800*ms {
		t.Errorf("the quick one is down: %v", got)
	}
	if got := worstTrip([]habit{quick, {usual: 250 * ms, high: 260 * ms}}, 3); got != 250*ms {
		t.Errorf("one is far away: %v", got)
	}
	if got := worstTrip([]habit{quick, quick, sick, sick}, 5); got != 2*ms {
		t.Errorf("two of five: %v", got)
	}
	if got := worstTrip(nil, 3); got != 0 {
		t.Errorf("nobody answers: %v", got)
	}
}

func TestAMemberWaitsAsLongAsAMajorityNeedsAndAsItNeedsItself(t *testing.T) {
	for _, c := range []struct {
		own    time.Duration
		others []time.Duration
		voters int
		want   time.Duration
	}{
		{1, []time.Duration{1, 9}, 3, 1},
		{9, []time.Duration{1, 1}, 3, 9},
		{1, []time.Duration{8, 9}, 3, 8},
		{1, []time.Duration{9}, 3, 9},
		{1, nil, 3, 1},
		{1, []time.Duration{9}, 2, 9},
		{1, nil, 1, 1},
		{1, []time.Duration{1, 1, 8, 9}, 5, 1},
		{1, []time.Duration{1, 7, 8, 9}, 5, 7},
	} {
		if got := agreed(c.own, slices.Clone(c.others), c.voters); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestALeaderGivesUpBeforeTheOthersElect(t *testing.T) {
	for _, e := range electionSteps() {
		if lease, others := leaderLease(e), raftTimeout(e); lease >= others || 3*others >= e {
			t.Errorf("with %v a leader leads for %v, and others wait for %v", e, lease, others)
		}
	}
}

func TestAGivenElectionTimeoutStays(t *testing.T) {
	n := &Node{metronome: newMetronome(700 * ms)}
	n.follow(sluggishness{trip: time.Second}, 10*time.Second, time.Now())
	if got := n.ElectionTimeout(); got != 700*ms {
		t.Errorf("it is %v", got)
	}
	if got := n.grace(); got != 0 {
		t.Errorf("raft's lease is stretched by %v", got)
	}
}
