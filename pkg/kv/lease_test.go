package kv

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestALeaseIDHasOneSpelling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := LeaseID(rapid.Uint64Min(1).Draw(t, "id"))
		if got, err := ParseLeaseID(id.String()); err != nil || got != id || len(id.String()) != 16 {
			t.Fatalf("%q became %v, %v", id.String(), got, err)
		}
	})
	for _, text := range []string{"", "0", "1f", "0000000000000000", "000000000000000G", "00000000000000AB", " 00000000000001f", "+00000000000001f", "0x0000000000001f", "10000000000000000"} {
		if got, err := ParseLeaseID(text); !Is(err, Invalid) {
			t.Errorf("%q became %v, %v", text, got, err)
		}
	}
}

func TestALeaseLastsForWholeSecondsWithinLimits(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{
		time.Second: time.Second, time.Second + 1: 2 * time.Second, time.Minute: time.Minute, LeaseTTLMax: LeaseTTLMax, LeaseTTLMax - 1: LeaseTTLMax,
	} {
		if got, err := LeaseTTL(ttl); err != nil || got != want {
			t.Errorf("%v became %v, %v", ttl, got, err)
		}
	}
	for _, ttl := range []time.Duration{0, TTLDue, time.Second - 1, LeaseTTLMax + 1, 1<<63 - 1} {
		if got, err := LeaseTTL(ttl); !Is(err, Invalid) {
			t.Errorf("%v became %v, %v", ttl, got, err)
		}
	}
}
