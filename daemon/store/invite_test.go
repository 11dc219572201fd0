package store

import (
	"bytes"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

func invitationOf(b byte, ttl time.Duration) command.Invitation {
	return command.Invitation{Hash: [32]byte{31: b}, TTL: ttl}
}

func TestAnInvitationIsUsedOnceAndInTime(t *testing.T) {
	r := newReplica(t)
	for i, c := range []struct {
		at   time.Duration
		body command.Invitation
		kind kv.Kind
		ok   bool
	}{
		{0, invitationOf(1, 0), kv.NotFound, false},
		{0, invitationOf(1, time.Minute), 0, true},
		{0, invitationOf(1, time.Minute), kv.Exists, false},
		{0, invitationOf(2, time.Minute), 0, true},
		{0, invitationOf(3, -1), kv.Invalid, false},
		{0, invitationOf(3, inviteTTLMax+1), kv.Invalid, false},
		{time.Minute - 1, invitationOf(1, 0), 0, true},
		{time.Minute - 1, invitationOf(1, 0), kv.CompareFailed, false},
		{time.Minute, invitationOf(2, 0), kv.NotFound, false},
	} {
		r.now = c.at
		err := r.apply(c.body)[0].Err
		if (err == nil) != c.ok || !c.ok && !kv.Is(err, c.kind) {
			t.Errorf("step %d: %v", i, err)
		}
	}
}

func TestInvitationsSurviveASnapshotAndAreForgottenWhenTheyAreOver(t *testing.T) {
	r := newReplica(t)
	for i := range invitedMax {
		if err := r.apply(invitationOf(byte(i), time.Minute))[0].Err; err != nil {
			t.Fatal(err)
		}
	}
	if err := r.apply(invitationOf(200, time.Minute))[0].Err; !kv.Is(err, kv.Invalid) {
		t.Errorf("one too many: %v", err)
	}
	if err := r.apply(invitationOf(7, 0))[0].Err; err != nil {
		t.Fatal(err)
	}
	again := newReplica(t)
	if err := again.Restore(bytes.NewReader(r.snapshot())); err != nil {
		t.Fatal(err)
	}
	for b, kind := range map[byte]kv.Kind{7: kv.CompareFailed, 200: kv.NotFound} {
		if err := again.Invited(invitationOf(b, 0).Hash, 0); !kv.Is(err, kind) {
			t.Errorf("%d: %v", b, err)
		}
	}
	if err := again.Invited(invitationOf(8, 0).Hash, 0); err != nil {
		t.Error(err)
	}
	if err := r.apply(invitationOf(200, time.Minute))[0].Err; err != nil || r.Invited(invitationOf(7, 0).Hash, 0) == nil || !kv.Is(r.Invited(invitationOf(7, 0).Hash, 0), kv.NotFound) {
		t.Errorf("the used one makes no room: %v", err)
	}
}
