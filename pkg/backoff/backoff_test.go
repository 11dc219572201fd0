package backoff_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
)

func almostOne() float64 { return 0.999999 }

func TestCeilingDoublesFromMinToMaxAndStaysThere(t *testing.T) {
	b := backoff.Backoff{Min: 100 * time.Millisecond, Max: 700 * time.Millisecond, Random: almostOne}
	for failure, ceiling := range []time.Duration{100, 200, 400, 700, 700, 700} {
		ceiling *= time.Millisecond
		if got := b.Next(); got > ceiling || got < ceiling-time.Millisecond {
			t.Errorf("failure %d: waits %v, want just under %v", failure, got, ceiling)
		}
	}
	b.Reset()
	if got := b.Next(); got > 100*time.Millisecond {
		t.Errorf("after Reset: waits %v, want the first ceiling again", got)
	}
}

func TestJitterReachesDownToZero(t *testing.T) {
	b := backoff.Backoff{Random: func() float64 { return 0 }}
	if got := b.Next(); got != 0 {
		t.Errorf("waits %v, want 0", got)
	}
}

func TestZeroValueStaysWithinTheDefaultsForever(t *testing.T) {
	var b backoff.Backoff
	for range 10_000 {
		if got := b.Next(); got < 0 || got > backoff.DefaultMax {
			t.Fatalf("waits %v, want 0 to %v", got, backoff.DefaultMax)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := backoff.Backoff{Min: time.Hour, Max: time.Hour, Random: almostOne}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := b.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait returned %v, want the context's error", err)
		}
		start := time.Now()
		if err := b.Wait(t.Context()); err != nil {
			t.Errorf("Wait returned %v", err)
		}
		if waited := time.Since(start); waited < 59*time.Minute {
			t.Errorf("waited %v, want about an hour", waited)
		}
	})
}
