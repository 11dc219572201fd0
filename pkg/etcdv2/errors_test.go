package etcdv2

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
)

func TestEveryKindHasAFormOnTheWire(t *testing.T) {
	comesBackAs := map[kv.Kind]kv.Kind{ // those that a client has to take for something else
		kv.Internal: kv.Unknown, kv.NoLeader: kv.Unknown, kv.Timeout: kv.Unknown, kv.Unavailable: kv.Unknown,
		kv.Closed: kv.Unknown, kv.TooLarge: kv.Invalid,
	}
	for kind := kv.Internal; kind <= kv.TooLarge; kind++ {
		plain := &kv.Error{Op: "set", Key: "/a", Kind: kind, Cause: "because", Index: 7}
		for _, err := range []error{plain, fmt.Errorf("wrapped: %w", plain)} {
			wire := EncodeError(err)
			if wire.Message == "" || wire.Cause != "because" || wire.Status() < 400 {
				t.Errorf("%v: %+v, status %d", kind, wire, wire.Status())
			}
			if wantIndex := wire.Code != CodeRaftInternal; wantIndex != (wire.Index == 7) {
				t.Errorf("%v: index %d", kind, wire.Index)
			}
			want, changed := comesBackAs[kind]
			if !changed {
				want = kind
			}
			if back := wire.Decode("set", "/a"); back.Kind != want || back.Cause != "because" || !errors.Is(back, wire) {
				t.Errorf("%v comes back as %v, want %v", kind, back, want)
			}
		}
	}
}

func TestADefiniteFailureIsNever5xx(t *testing.T) {
	// Clients of etcd take 5xx for a member without a leader and try the next one.
	for code, known := range codes {
		definite := known.kind != kv.Unknown && known.kind != kv.NoLeader
		if definite && known.status >= http.StatusInternalServerError {
			t.Errorf("%d has status %d", code, known.status)
		}
	}
}

func TestAnErrorWithoutAKindIsRaftInternal(t *testing.T) {
	if wire := EncodeError(errors.New("disk gone")); wire.Code != CodeRaftInternal || wire.Cause != "disk gone" || wire.Index != 0 {
		t.Errorf("%+v", wire)
	}
}
