package health

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// script is a check that answers from a list, true for a pass; the last answer repeats.
type script struct {
	answers []bool
	at      []time.Time
}

func (s *script) Run(context.Context) error {
	answer := s.answers[min(len(s.at), len(s.answers)-1)]
	s.at = append(s.at, time.Now())
	if !answer {
		return errors.New("down")
	}
	return nil
}

func (s *script) String() string { return "script" }

// watch runs m for d in bubble time and returns the verdicts that differ from those before in Healthy,
// or in whether the check passed.
func watch(t *testing.T, m Monitor, d time.Duration) []Verdict {
	t.Helper()
	var verdicts []Verdict
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var last Verdict
	m.Run(ctx, last, func(v Verdict) {
		if last.At.IsZero() || v.Healthy != last.Healthy || (v.Err == nil) != (last.Err == nil) {
			verdicts = append(verdicts, v)
		}
		last = v
	})
	return verdicts
}

func TestNothingIsHealthyBeforeItHasPassed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := &script{answers: []bool{false, false, false, true}}
		verdicts := watch(t, Monitor{Check: check}, 5*time.Second)
		if len(verdicts) != 2 || verdicts[0].Healthy || verdicts[0].Err == nil || !verdicts[1].Healthy || verdicts[1].Err != nil {
			t.Fatalf("verdicts %+v", verdicts)
		}
		if took := check.at[3].Sub(check.at[0]); took > time.Second {
			t.Errorf("the first pass was found after %v", took)
		}
	})
}

func TestOneFailureDoesNotMakeAHealthyServiceUnhealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := &script{answers: []bool{true, false, false, true, false, false, false, true}}
		var changes []bool
		last := false
		for _, v := range watch(t, Monitor{Check: check}, 5*time.Minute) {
			if v.Healthy != last {
				changes = append(changes, v.Healthy)
				last = v.Healthy
			}
		}
		if len(changes) != 3 || !changes[0] || changes[1] || !changes[2] {
			t.Errorf("healthy became %v, want true, false after three failures in a row, true", changes)
		}
	})
}

func TestRiseWantsSeveralPassesInARow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := &script{answers: []bool{true, true, false, true, true, true}}
		m := Monitor{Check: check, Rise: 3}
		var healthyAt int
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		m.Run(ctx, Verdict{}, func(v Verdict) {
			if v.Healthy && healthyAt == 0 {
				healthyAt = len(check.at)
			}
		})
		if healthyAt != 6 {
			t.Errorf("healthy after %d checks, want 6", healthyAt)
		}
	})
}

func TestChecksAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		check := &script{answers: []bool{true}}
		watch(t, Monitor{Check: check}, time.Hour)
		if wait := check.at[0].Sub(began); wait != 0 {
			t.Errorf("first check after %v", wait)
		}
		if gap := check.at[1].Sub(check.at[0]); gap < DefaultInterval/4 || gap > DefaultInterval {
			t.Errorf("first gap of %v", gap)
		}
		for i := 1; i < len(check.at)-1; i++ {
			if gap := check.at[i+1].Sub(check.at[i]); gap < 9*time.Second-DefaultInterval/grains || gap > 11*time.Second {
				t.Errorf("gap of %v", gap)
			}
		}
	})
}

// hang is a check that only its context ends.
type hang struct{}

func (hang) Run(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
func (hang) String() string                { return "hang" }

func TestACheckThatHangsFailsAfterItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at time.Duration
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		Monitor{Check: hang{}, Timeout: 7 * time.Second}.Run(ctx, Verdict{}, func(v Verdict) {
			if at == 0 {
				at = time.Since(began)
			}
			if v.Err == nil || v.Err.Error() != "no answer within 7s" {
				t.Errorf("reported %v", v.Err)
			}
		})
		if at < 7*time.Second || at > 8*time.Second {
			t.Errorf("reported after %v", at)
		}
	})
}

func TestWhatIsNotUpYetIsAskedSoonAndThenLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		check := &script{answers: []bool{false}}
		watch(t, Monitor{Check: check}, 5*time.Minute)
		for i, want := range []time.Duration{5, 10, 20, 40, 80, 160, 250, 250} {
			want *= time.Millisecond
			if gap := check.at[i+1].Sub(check.at[i]); gap < want*9/10 || gap > want*11/10 {
				t.Errorf("gap %d is %v, want about %v", i, gap, want)
			}
		}
		last := check.at[len(check.at)-1].Sub(check.at[len(check.at)-2])
		if down := DefaultInterval / downPart; last < down*9/10 || last > down*11/10 {
			t.Errorf("after minutes it is asked every %v, want about %v", last, down)
		}
	})
}

func TestWhoCarriesOnFromAVerdictForgetsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var verdicts []Verdict
		ctx, cancel := context.WithTimeout(t.Context(), 23*time.Second)
		defer cancel()
		since := time.Now().Add(-time.Hour)
		last := Verdict{Healthy: true, Passed: 9, Since: since, At: since}
		Monitor{Check: &script{answers: []bool{false}}}.Run(ctx, last, func(v Verdict) { verdicts = append(verdicts, v) })
		if len(verdicts) < 3 || !verdicts[0].Healthy || !verdicts[1].Healthy || verdicts[2].Healthy || verdicts[2].Failed != 3 {
			t.Fatalf("verdicts %+v", verdicts)
		}
		if !verdicts[1].Since.Equal(since) || !verdicts[2].Since.Equal(verdicts[2].At) {
			t.Errorf("since %v, then %v", verdicts[1].Since, verdicts[2].Since)
		}
	})
}

// crowd is a check that stays in until it is let out, and counts how many are in at one time.
type crowd struct {
	entered, leave chan struct{}

	mu        sync.Mutex
	now, most int
}

func (c *crowd) Run(ctx context.Context) error {
	c.count(+1)
	defer c.count(-1)
	select {
	case c.entered <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-c.leave:
	case <-ctx.Done():
	}
	return ctx.Err()
}

func (c *crowd) count(by int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += by
	c.most = max(c.most, c.now)
}

func (c *crowd) String() string { return "crowd" }

// On the real clock: a thousand goroutines that sleep in one synctest bubble are more than the race
// detector of Go 1.26 counts (golang/go#78156).
func TestAThousandChecksShareTheirSlots(t *testing.T) {
	var wait sync.WaitGroup
	check, slots := &crowd{entered: make(chan struct{}), leave: make(chan struct{})}, NewSlots()
	ctx, cancel := context.WithCancel(t.Context())
	for range 1000 {
		wait.Go(func() {
			Monitor{Check: check, Slots: slots, Timeout: time.Hour}.Run(ctx, Verdict{}, func(Verdict) {})
		})
	}
	for range connectionsMax {
		<-check.entered
	}
	for range 1000 - connectionsMax {
		check.leave <- struct{}{}
		<-check.entered
	}
	cancel()
	wait.Wait()
	if check.most != connectionsMax {
		t.Errorf("%d at one time, want %d", check.most, connectionsMax)
	}
}

// chatty is a check that says a lot.
type chatty struct{ text string }

func (c chatty) Run(context.Context) error { return errors.New(c.text) }
func (c chatty) String() string            { return "chatty" }

func TestAVerdictKeepsALittleOfWhatACheckSays(t *testing.T) {
	v := Monitor{Check: chatty{strings.Repeat("ä", 10_000)}}.withDefaults().once(t.Context(), Verdict{})
	if text := v.Err.Error(); len(text) > shortBytesMax+3 || !utf8.ValidString(text) {
		t.Errorf("it keeps %d bytes", len(text))
	}
}
