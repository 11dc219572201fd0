package confd

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// passes counts the passes of a group that takes no time, for signals at the given rhythm.
func passes(t *testing.T, signals int, every time.Duration) (count int, lateMax time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		wake := make(chan struct{}, 1)
		var oldest time.Time // of the signals not yet acted on
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			p := pace{quiet: DefaultQuiet, longest: DefaultQuietMax}
			for {
				select {
				case <-ctx.Done():
					return
				case <-wake:
				}
				p.wait(ctx, wake)
				if ctx.Err() == nil {
					count++
					lateMax = max(lateMax, time.Since(oldest))
					oldest = time.Time{}
				}
				p.passed()
			}
		}()
		for range signals {
			time.Sleep(every)
			synctest.Wait()
			if oldest.IsZero() {
				oldest = time.Now()
			}
			select {
			case wake <- struct{}{}:
			default:
			}
			synctest.Wait()
		}
		time.Sleep(time.Minute)
		cancel()
		<-ended
	})
	return count, lateMax
}

func TestAChangeAfterAPauseIsActedOnAtOnce(t *testing.T) {
	if count, late := passes(t, 10, DefaultQuietMax); count != 10 || late != 0 {
		t.Errorf("%d passes for 10 changes, up to %v late", count, late)
	}
}

func TestChangesThatDoNotStopCostOnePassPerQuietMaxAndNoneWaitsLonger(t *testing.T) {
	for _, every := range []time.Duration{time.Millisecond, 30 * time.Millisecond, 101 * time.Millisecond, 150 * time.Millisecond, 210 * time.Millisecond, 450 * time.Millisecond} {
		const duration = time.Minute
		count, late := passes(t, int(duration/every), every)
		if bound := int(duration/DefaultQuietMax) + 5; count > bound {
			t.Errorf("every %v: %d passes in %v, want at most %d", every, count, duration, bound)
		}
		if late > DefaultQuietMax {
			t.Errorf("every %v: a change waited %v", every, late)
		}
	}
}
