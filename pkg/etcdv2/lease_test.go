package etcdv2

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

func TestALeaseSurvivesTheWire(t *testing.T) {
	for want, l := range map[string]kv.Lease{
		`{"id":"00000000000000ab","ttl":60,"remaining":42,"attached":2,"keys":["/a","/b"]}`: {ID: 0xab, TTL: time.Minute, Remaining: 42 * time.Second, Attached: 2, Keys: []string{"/a", "/b"}},
		`{"id":"00000000000000ab","ttl":60,"remaining":60,"attached":0}`:                    {ID: 0xab, TTL: time.Minute, Remaining: time.Minute},
		`{"id":"00000000000000ab","ttl":60,"remaining":0,"attached":0,"keys":[]}`:           {ID: 0xab, TTL: time.Minute, Keys: []string{}},
	} {
		got, err := json.Marshal(EncodeLease(l))
		if err != nil || string(got) != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
		var wire Lease
		if err := json.Unmarshal(got, &wire); err != nil {
			t.Fatal(err)
		}
		if back, err := wire.Decode(); err != nil || !reflect.DeepEqual(back, l) {
			t.Errorf("%+v came back as %+v, %v", l, back, err)
		}
	}
	if _, err := (Lease{ID: "x"}).Decode(); !kv.Is(err, kv.Invalid) {
		t.Errorf("got %v", err)
	}
	if l, err := (Lease{ID: "00000000000000ab", TTL: -5, Remaining: 1 << 62}).Decode(); err != nil || l.TTL != 0 || l.Remaining <= 0 {
		t.Errorf("got %+v, %v", l, err)
	}
}

func TestWhatIsLeftOfALeaseIsRoundedUp(t *testing.T) {
	if got := EncodeLease(kv.Lease{TTL: time.Minute, Remaining: 1}); got.Remaining != 1 {
		t.Errorf("%+v", got)
	}
}
