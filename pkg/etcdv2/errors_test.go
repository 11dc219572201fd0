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
		kv.Internal: kv.Unknown, kv.Closed: kv.Unknown, kv.TooLarge: kv.Invalid,
	}
	for kind := kv.Internal; kind <= kv.Corrupt; kind++ {
		plain := &kv.Error{Op: "set", Key: "/a", Kind: kind, Cause: "because", Index: 7}
		for _, err := range []error{plain, fmt.Errorf("wrapped: %w", plain)} {
			wire := EncodeError(err)
			cause := "because"
			switch kind {
			case kv.NoLeader:
				cause = "etcdserver: no leader"
			case kv.Timeout:
				cause = "etcdserver: request timed out"
			case kv.Unavailable:
				cause = "etcdserver: too many requests"
			case kv.NoSpace:
				cause = "etcdserver: mvcc: database space exceeded: because"
			case kv.Corrupt:
				cause = "etcdserver: corrupt cluster: because"
			}
			if wire.Message == "" || wire.Cause != cause || wire.Status() < 400 {
				t.Errorf("%v: %+v, status %d", kind, wire, wire.Status())
			}
			if wantIndex := wire.Code != CodeRaftInternal; wantIndex != (wire.Index == 7) {
				t.Errorf("%v: index %d", kind, wire.Index)
			}
			want, changed := comesBackAs[kind]
			if !changed {
				want = kind
			}
			if back := wire.Decode("set", "/a"); back.Kind != want || back.Cause != cause || !errors.Is(back, wire) {
				t.Errorf("%v comes back as %v, want %v", kind, back, want)
			}
		}
	}
}

func TestTheTimeoutsOfEtcdAreTimeouts(t *testing.T) {
	for _, cause := range []string{
		"etcdserver: request timed out", "etcdserver: request timed out, possibly due to previous leader failure",
		"etcdserver: request timed out, possibly due to connection lost",
	} {
		if got := NewError(CodeRaftInternal, cause).Decode("set", "/a"); got.Kind != kv.Timeout {
			t.Errorf("%s: %v", cause, got.Kind)
		}
	}
}

func TestALimitIsUnavailableAndNamed(t *testing.T) {
	wire := Overloaded("no more than 2 watches")
	if back := wire.Decode("watch", "/a"); back.Kind != kv.Unavailable || wire.Cause != "etcdserver: too many requests: no more than 2 watches" {
		t.Errorf("%+v comes back as %v", wire, back)
	}
}

func TestMembersThatCannotBeAskedAreNoLimit(t *testing.T) {
	wire := Unreached("cannot reach http://a:2379")
	if back := wire.Decode("set", "/a"); back.Kind != kv.NoLeader || wire.Cause != "etcdserver: no leader: no member can be asked: cannot reach http://a:2379" {
		t.Errorf("%+v comes back as %v", wire, back)
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
	if status := EncodeError(&kv.Error{Kind: kv.NoSpace}).Status(); status != http.StatusForbidden {
		t.Errorf("a store that is full has status %d", status)
	}
}

func TestAnErrorWithoutAKindIsRaftInternal(t *testing.T) {
	if wire := EncodeError(errors.New("disk gone")); wire.Code != CodeRaftInternal || wire.Cause != "disk gone" || wire.Index != 0 {
		t.Errorf("%+v", wire)
	}
}
