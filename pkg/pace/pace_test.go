package pace

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestTheLoopRunsAtEachIntervalUntilItIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done, began, rounds := make(chan struct{}), time.Now(), 0
		for now := range Every(done, time.Minute) {
			rounds++
			if since := now.Sub(began); since != time.Duration(rounds)*time.Minute {
				t.Errorf("round %d came after %s", rounds, since)
			}
			if rounds == 3 {
				close(done)
				time.Sleep(time.Hour) // the next round is due, and must not come
			}
		}
		if rounds != 3 {
			t.Errorf("%d rounds", rounds)
		}
		for range Every(nil, time.Second) {
			break
		}
	})
}
