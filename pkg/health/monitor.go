package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Defaults of a Monitor.
const (
	DefaultInterval      = 10 * time.Second
	DefaultStartInterval = 250 * time.Millisecond
	DefaultTimeout       = 2 * time.Second
	DefaultRise          = 1
	DefaultFall          = 3
)

const (
	// firstRetry is the time between the first two checks: what is up in milliseconds is found in
	// milliseconds.
	firstRetry = 5 * time.Millisecond

	// startPeriod is how long something that has not passed yet is asked at its start interval;
	// from then on it is asked like something that has failed.
	startPeriod = time.Minute

	// downPart of the interval is the time between the checks of what has failed, but no less than
	// downMin: who comes back is found sooner than who goes.
	downPart = 6
	downMin  = 500 * time.Millisecond
)

// Monitor runs a check again and again and says what follows from its results. Its fields are set
// before it runs and not changed afterwards; zero fields take the defaults.
type Monitor struct {
	Check    Check
	Interval time.Duration // between checks

	// StartInterval is the longest time between checks as long as none has passed yet, so that a
	// service is found soon after it comes up.
	StartInterval time.Duration

	Timeout time.Duration // of one check
	Rise    int           // passes in a row that make an unhealthy service healthy
	Fall    int           // failures in a row that make a healthy service unhealthy

	// Slots bound how many checks run at one time, over all monitors that share them; nil does not.
	Slots *Slots
}

// Verdict is what a Monitor knows. The zero Verdict is that of something that was never checked.
type Verdict struct {
	Healthy bool
	Err     error         // why the latest check failed; nil if it passed
	Output  string        // what the latest check saw when it passed, in one short line; may be empty
	Passed  int           // checks passed in a row
	Failed  int           // checks failed in a row
	At      time.Time     // when the latest check began
	Took    time.Duration // how long it ran
	Since   time.Time     // when Healthy last changed, or the first check began
}

// Validate reports settings that make no sense.
func (m Monitor) Validate() error {
	for name, d := range map[string]time.Duration{"interval": m.Interval, "start interval": m.StartInterval, "timeout": m.Timeout} {
		if d < 0 {
			return fmt.Errorf("check %s %v: must not be negative", name, d)
		}
	}
	if m.Rise < 0 || m.Fall < 0 {
		return fmt.Errorf("check rise %d, fall %d: must not be negative", m.Rise, m.Fall)
	}
	return nil
}

// Run checks until ctx ends and calls report from its own goroutine after every check. It carries
// on from the verdict last; with the zero Verdict nothing is healthy before it has passed. report
// must not block for long.
//
// The first check runs at once. As long as nothing has passed the time to the next one grows from a
// few milliseconds to StartInterval. The one after the first pass follows within an interval, at random,
// and later ones at their interval ±10 %, so that services that started together are not checked together.
func (m Monitor) Run(ctx context.Context, last Verdict, report func(Verdict)) {
	m = m.withDefaults()
	p := pace{monitor: m, started: time.Now(), starting: !last.Healthy, delay: firstRetry}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		release, ok := m.Slots.take(ctx, m.Check)
		if !ok {
			return
		}
		verdict := m.once(ctx, last)
		release()
		if ctx.Err() != nil {
			return // a check that was cut off says nothing
		}
		report(verdict)
		last = verdict
		timer.Reset(p.next(verdict))
	}
}

func (m Monitor) withDefaults() Monitor {
	if m.Interval <= 0 {
		m.Interval = DefaultInterval
	}
	if m.StartInterval <= 0 {
		m.StartInterval = DefaultStartInterval
	}
	m.StartInterval = min(m.StartInterval, m.Interval)
	if m.Timeout <= 0 {
		m.Timeout = DefaultTimeout
	}
	if m.Rise <= 0 {
		m.Rise = DefaultRise
	}
	if m.Fall <= 0 {
		m.Fall = DefaultFall
	}
	return m
}

// pace says when to check again.
type pace struct {
	monitor  Monitor // with its defaults
	started  time.Time
	starting bool          // it has not been healthy yet
	delay    time.Duration // before the next check while starting
}

func (p *pace) next(v Verdict) time.Duration {
	m := p.monitor
	isFirst := p.starting && v.Healthy
	p.starting = p.starting && !v.Healthy
	switch {
	case isFirst: // those who came up together part here
		return m.Interval/4 + rand.N(m.Interval*3/4)
	case v.Healthy:
		return together(jitter(m.Interval), m.Interval/grains)
	case v.Err == nil: // on its way up: find out soon
		return jitter(m.StartInterval)
	case p.starting && time.Since(p.started) < startPeriod:
		delay := min(p.delay, m.StartInterval)
		p.delay = 2 * delay
		return jitter(delay)
	}
	return jitter(min(m.Interval, max(m.Interval/downPart, m.StartInterval, downMin)))
}

// grains are the parts of an interval at whose ends checks are made. A thousand checks then wake the
// process as often as a hundred do, which is most of what they cost.
const grains = 100

// together shortens a wait so that it ends with those of others.
func together(wait, grain time.Duration) time.Duration {
	end := time.Now().Add(wait)
	return wait - end.Sub(end.Truncate(max(grain, 1)))
}

// once checks and returns the verdict after last.
func (m Monitor) once(ctx context.Context, last Verdict) Verdict {
	ctx, cancel := context.WithTimeoutCause(ctx, m.Timeout, fmt.Errorf("no answer within %v", m.Timeout))
	defer cancel()
	v := Verdict{Healthy: last.Healthy, At: time.Now(), Since: last.Since}
	v.Output, v.Err = ask(ctx, m.Check)
	v.Output, v.Err = shorten(v.Output), shortenError(v.Err)
	v.Took = time.Since(v.At)
	if v.Err == nil {
		v.Passed = last.Passed + 1
		v.Healthy = last.Healthy || v.Passed >= m.Rise
	} else {
		v.Failed = last.Failed + 1
		v.Healthy = last.Healthy && v.Failed < m.Fall
	}
	if v.Healthy != last.Healthy || v.Since.IsZero() {
		v.Since = v.At
	}
	return v
}

func ask(ctx context.Context, check Check) (string, error) {
	if talker, ok := check.(Talker); ok {
		return talker.Ask(ctx)
	}
	return "", check.Run(ctx)
}

// shortBytesMax is how much of what a check says a Verdict keeps.
const shortBytesMax = 512

func shorten(text string) string {
	if len(text) <= shortBytesMax {
		return text
	}
	return strings.ToValidUTF8(text[:shortBytesMax], "") + "..."
}

func shortenError(err error) error {
	if err == nil || len(err.Error()) <= shortBytesMax {
		return err
	}
	return errors.New(shorten(err.Error()))
}

// jitter spreads d by a tenth either way.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}
