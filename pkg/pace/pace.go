// Package pace runs loops at even intervals.
//
// It knows durations. It does not know what is done in them.
package pace

import (
	"iter"
	"time"
)

// Every returns a sequence that has an element at each interval, which must be positive, and ends when done
// is closed. The first one comes after one interval, and carries the time; one that nobody was ready for is
// left out. The sequence can be ranged over more than once, also at the same time.
func Every(done <-chan struct{}, interval time.Duration) iter.Seq[time.Time] {
	return func(yield func(time.Time) bool) {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case now := <-ticker.C:
				select {
				case <-done: // both were ready
					return
				default:
				}
				if !yield(now) {
					return
				}
			}
		}
	}
}
