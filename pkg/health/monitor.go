package health

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// Monitor runs a check again and again and says when the verdict changes. Its fields are set
// before Run and not changed afterwards; zero fields take the defaults.
type Monitor struct {
	Check    Check
	Interval time.Duration // between checks

	// StartInterval is the time between checks as long as none has passed yet, so that a service is
	// found soon after it comes up.
	StartInterval time.Duration

	Timeout time.Duration // of one check
	Rise    int           // passes in a row that make an unhealthy service healthy
	Fall    int           // failures in a row that make a healthy service unhealthy
}

// Verdict is what a Monitor knows.
type Verdict struct {
	Healthy bool
	Err     error // why the latest check failed; nil if it passed
	Passed  int   // checks passed in a row
	Failed  int   // checks failed in a row
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

// Run checks until ctx ends. The verdict starts as unhealthy: nothing is healthy before it has
// passed. report is called from Run after every check whose verdict differs from the one before in
// Healthy or in the text of Err, and after the first. It must not block for long.
//
// The first check runs after a random part of StartInterval, so that services that start together
// are not checked together; later ones follow at ±10 % of their interval.
func (m Monitor) Run(ctx context.Context, report func(Verdict)) {
	m = m.withDefaults()
	var last Verdict
	everPassed, wait := false, rand.N(m.StartInterval)
	for first := true; ; first = false {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := m.once(ctx)
		if ctx.Err() != nil {
			return // a check that was cut off says nothing
		}
		verdict := m.next(last, err)
		if first || verdict.Healthy != last.Healthy || text(verdict.Err) != text(last.Err) {
			report(verdict)
		}
		last = verdict
		everPassed = everPassed || err == nil
		wait = jitter(m.Interval)
		if !everPassed || !verdict.Healthy && err == nil { // on its way up: find out soon
			wait = jitter(m.StartInterval)
		}
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

// next is the verdict after one more result.
func (m Monitor) next(last Verdict, err error) Verdict {
	v := Verdict{Healthy: last.Healthy, Err: err}
	if err == nil {
		v.Passed = last.Passed + 1
		v.Healthy = last.Healthy || v.Passed >= m.Rise
		return v
	}
	v.Failed = last.Failed + 1
	v.Healthy = last.Healthy && v.Failed < m.Fall
	return v
}

func (m Monitor) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.Timeout, fmt.Errorf("no answer within %v", m.Timeout))
	defer cancel()
	return m.Check.Run(ctx)
}

// jitter spreads d by a tenth either way.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
