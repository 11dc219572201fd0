package raftnode

import (
	"testing"
	"time"
)

// at returns a moment so many seconds after r began.
func at(r *recent, seconds float64) time.Time {
	return r.began.Add(time.Duration(seconds * float64(time.Second)))
}

func TestOneLongStopIsNoHabitAndThreeAre(t *testing.T) {
	r := newRecent()
	for second := range 20 {
		r.add(at(r, float64(second)+0.5), time.Millisecond)
	}
	r.add(at(r, 20.5), 5*time.Second)
	if h := r.look(at(r, 20.6)); h.high != time.Millisecond || h.usual != time.Millisecond || h.seconds != 21 {
		t.Errorf("after one stop: %+v", h)
	}
	r.add(at(r, 22.5), 400*time.Millisecond)
	r.add(at(r, 24.5), 300*time.Millisecond)
	if h := r.look(at(r, 24.6)); h.high != 300*time.Millisecond {
		t.Errorf("after three: %+v", h)
	}
}

func TestWhatIsLongAgoIsForgotten(t *testing.T) {
	r := newRecent()
	for second := range 10 {
		r.add(at(r, float64(second)), time.Second/2)
	}
	if h := r.look(at(r, recentSeconds+5)); h.seconds != 4 {
		t.Errorf("%+v, want the last four seconds", h)
	}
	if h := r.look(at(r, 5*recentSeconds)); h != (habit{}) {
		t.Errorf("%+v, want nothing", h)
	}
	r.add(at(r, 5*recentSeconds+3.5), time.Millisecond)
	if h := r.look(at(r, 5*recentSeconds+3.5)); h.seconds != 1 || h.usual != 0 {
		t.Errorf("%+v, want what came since", h)
	}
}

func TestWhatGoesOnForSecondsIsUsualInAllOfThem(t *testing.T) {
	r := newRecent()
	for end := 3; end <= 30; end += 3 {
		r.spread(at(r, float64(end)), 2900*time.Millisecond)
	}
	if h := r.look(at(r, 30)); h.seconds < 20 || h.usual != 2900*time.Millisecond || h.high != 2900*time.Millisecond {
		t.Errorf("%+v", h)
	}
	r = newRecent()
	r.spread(at(r, 1), time.Hour) // longer than the window, and since before it began
	if h := r.look(at(r, 1)); h.seconds != 2 {
		t.Errorf("%+v", h)
	}
}
