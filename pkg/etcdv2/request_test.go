package etcdv2

import (
	"math"
	"net/url"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/pkg/kv"
)

func TestAnEscapedKeyComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := kv.Clean(hostile(t, "key"))
		path, err := url.PathUnescape(EscapeKey(key))
		if err != nil || path != KeysPath+key {
			t.Fatalf("%q becomes %q, and that %q, %v", key, EscapeKey(key), path, err)
		}
	})
}

func TestTTLsAreRoundedUpAndSaturate(t *testing.T) {
	for ttl, want := range map[time.Duration]int64{
		kv.TTLDue: 0, 1: 1, time.Second: 1, time.Second + 1: 2, math.MaxInt64: 9223372037,
	} {
		if got := TTLSeconds(ttl); got != want {
			t.Errorf("%d ns: %d s, want %d", ttl, got, want)
		}
	}
	for seconds, want := range map[uint64]time.Duration{
		0: kv.TTLDue, 1: time.Second, 9223372036: 9223372036 * time.Second, 9223372037: math.MaxInt64, math.MaxUint64: math.MaxInt64,
	} {
		if got := TTLFromSeconds(seconds); got != want {
			t.Errorf("%d s: %d, want %d", seconds, got, want)
		}
	}
}

func TestAComparisonWithoutAConditionIsRefused(t *testing.T) {
	for _, op := range []kv.Op{kv.OpCompareAndSwap, kv.OpCompareAndDelete} {
		if r, err := WriteRequest(kv.Write{Op: op, Key: "/a"}); !kv.Is(err, kv.Invalid) {
			t.Errorf("%v: %+v, %v", op, r, err)
		}
	}
	if _, err := WriteRequest(kv.Write{Op: 99, Key: "/a"}); !kv.Is(err, kv.Invalid) {
		t.Errorf("an unknown operation: %v", err)
	}
}
