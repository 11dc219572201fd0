package proxy

import (
	"context"
	"time"
)

// How often something is looked at that may change at any moment: at first as soon as it can be
// told apart, then at a pace that costs next to nothing.
const (
	pollMin = time.Millisecond
	pollMax = 20 * time.Millisecond
)

// poll paces looks.
type poll struct{ next time.Duration }

func newPoll() *poll { return &poll{pollMin} }

// wait returns when it is time for the next look; false: ctx has ended.
func (p *poll) wait(ctx context.Context) bool {
	timer := time.NewTimer(p.next)
	defer timer.Stop()
	p.next = min(p.next*3/2, pollMax)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
