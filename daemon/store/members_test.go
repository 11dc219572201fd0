package store

import (
	"strings"
	"testing"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestAMemberThatWasRemovedNeverComesBack(t *testing.T) {
	r := newReplica(t)
	r.apply(command.Member{ID: 0xa1, Name: "one", Voter: true}, command.Member{ID: 0xa2, Name: "two", Learner: true})
	if res := r.apply(command.MemberRemove{ID: 0xa1})[0]; res.Err != nil {
		t.Fatal(res.Err)
	}
	if got := r.Members(); len(got) != 1 || got[0].Name != "two" || !got[0].Learner {
		t.Errorf("members are %+v", got)
	}
	if !r.Removed(0xa1) || r.Removed(0xa2) || r.Removed(0) {
		t.Error("the wrong ids are removed")
	}
	res := r.apply(command.Member{ID: 0xa1, Name: "one"}, command.MemberRemove{ID: 0xa1}, command.MemberRemove{})
	if !kv.Is(res[0].Err, kv.Invalid) || !strings.Contains(res[0].Err.Error(), "member a1 was removed from this cluster, and its id never comes back") {
		t.Errorf("it came back: %v", res[0].Err)
	}
	if !kv.Is(res[1].Err, kv.NotFound) || !kv.Is(res[2].Err, kv.Invalid) {
		t.Errorf("removing it again: %v; removing nobody: %v", res[1].Err, res[2].Err)
	}
}

func TestAMemberMayBeRemovedBeforeItHasToldItsName(t *testing.T) {
	r := newReplica(t)
	if res := r.apply(command.MemberRemove{ID: 5})[0]; res.Err != nil || !r.Removed(5) {
		t.Error(res.Err)
	}
}

func TestTheNewestRemovalsAreRemembered(t *testing.T) {
	r := newReplica(t)
	for id := range uint64(removedMax + 2) {
		r.apply(command.MemberRemove{ID: id + 1})
	}
	if r.Removed(2) || !r.Removed(3) || !r.Removed(removedMax+2) || len(r.state.removed) != removedMax {
		t.Errorf("%d are remembered", len(r.state.removed))
	}
}
