package proxy

import (
	"context"
	"time"
)

// How often something is looked at that may change at any moment: the longer it takes, the less often,
// so that what is told comes late by a tenth of the wait at most, within these bounds.
const (
	pollMin = time.Millisecond
	pollMax = 20 * time.Millisecond
)

// poll paces looks.
type poll struct{ since time.Time }

func newPoll() *poll { return &poll{time.Now()} }

// wait returns when it is time for the next look; false: ctx has ended.
func (p *poll) wait(ctx context.Context) bool {
	timer := time.NewTimer(min(max(time.Since(p.since)/10, pollMin), pollMax))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// isOver reports whether ctx has ended, or its deadline is past: what waits for the latter may know
// it before ctx does.
func isOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}
