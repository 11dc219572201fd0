// Package backoff says how long to wait before trying again: exponentially longer after each
// failure, with full jitter, so that many clients of one failed server do not return together.
//
// It knows durations. It does not know what is tried, nor whether trying again is right.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// The limits of a Backoff whose own are zero.
const (
	DefaultMin = 50 * time.Millisecond
	DefaultMax = 2 * time.Second
)

// Backoff is the state of one thing that is being retried. The zero value is ready to use; it is
// not safe for concurrent use.
type Backoff struct {
	Min, Max time.Duration  // bounds of the longest wait after the first and after many failures; zero: the defaults
	Random   func() float64 // in [0, 1); nil: math/rand

	failures int
}

// Next counts a failure and returns how long to wait: uniformly from 0 to a ceiling that starts
// at Min and doubles up to Max.
func (b *Backoff) Next() time.Duration {
	ceiling, limit := b.Min, b.Max
	if ceiling <= 0 {
		ceiling = DefaultMin
	}
	if limit <= 0 {
		limit = DefaultMax
	}
	for range b.failures {
		if ceiling >= limit/2 {
			ceiling = limit
			break
		}
		ceiling *= 2
	}
	b.failures++
	random := b.Random
	if random == nil {
		random = rand.Float64
	}
	return time.Duration(random() * float64(min(ceiling, limit)))
}

// Reset forgets the failures: call it after a success.
func (b *Backoff) Reset() { b.failures = 0 }

// Wait waits for Next, or until ctx ends, whose error it then returns.
func (b *Backoff) Wait(ctx context.Context) error {
	timer := time.NewTimer(b.Next())
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
