package confd

import (
	"context"
	"time"
)

// pace decides when a wake-up is acted on: at once after a pause, gathered in a burst. Each pass
// that follows soon on another waits twice as long for quiet, up to longest, so that changes which
// never stop cost one pass per longest, whatever their rhythm.
type pace struct {
	quiet, longest time.Duration
	next           time.Duration // quiet to wait for before the next pass, if it comes soon
	last           time.Time     // end of the last pass; zero: there was none
}

// wait returns when it is time for the pass that a signal on wake has just asked for; further
// signals are gathered. It returns early when ctx ends.
func (p *pace) wait(ctx context.Context, wake <-chan struct{}) {
	if time.Since(p.last) >= p.longest {
		p.next = p.quiet
		return
	}
	deadline := time.NewTimer(p.longest)
	defer deadline.Stop()
	pause := time.NewTimer(p.next)
	defer pause.Stop()
	for gathering := true; gathering; {
		select {
		case <-wake:
			pause.Reset(p.next)
		case <-pause.C:
			gathering = false
		case <-deadline.C:
			gathering = false
		case <-ctx.Done():
			return
		}
	}
	p.next = min(2*p.next, p.longest)
}

// passed notes that a pass has just ended.
func (p *pace) passed() { p.last = time.Now() }
