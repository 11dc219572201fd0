package store

import (
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestEveryOperationIsCountedOnceByItsOutcome(t *testing.T) {
	r := newReplica(t)
	for _, w := range []kv.Write{
		set("/a", "1"), asDir(set("/d", "")), set("/d", "1"), create("/b", "1"), create("/b", "1"), post("/q", "1"), post("/b", "1"),
		update("/a", "2"), update("/absent", ""), cas("/a", "3", "2", 0), cas("/a", "3", "2", 0), remove("/b"), remove("/b"),
		cad("/a", "1", 0), cad("/a", "3", 0), refresh(time.Second, set("/absent", "")), set("", "1"), rmr(""),
	} {
		r.do(w)
	}
	before := r.Counts()
	want := Counts{All: 18}
	for op, tally := range map[kv.Op]Tally{
		kv.OpSet: {2, 3}, kv.OpCreate: {1, 1}, kv.OpCreateInOrder: {1, 1}, kv.OpUpdate: {1, 1}, kv.OpCompareAndSwap: {1, 1},
		kv.OpDelete: {1, 2}, kv.OpCompareAndDelete: {1, 1},
	} {
		want.Writes[op] = tally
	}
	if before != want {
		t.Errorf("counted %+v, want %+v", before, want)
	}

	r.do(lasting(time.Second, set("/t", "1")))
	r.do(lasting(time.Second, asDir(set("/u", ""))))
	r.do(set("/u/1", "1"))
	r.now = time.Second
	r.expire()
	r.apply(command.Tick{})
	want = Counts{Expired: 2, All: 4}
	want.Writes[kv.OpSet].Done = 3
	if got := r.Counts().Since(before); got != want {
		t.Errorf("counted later %+v, want %+v", got, want)
	}
}

func TestTheExtentFollowsWhatIsHeld(t *testing.T) {
	r := newReplica(t)
	if got, want := r.Extent(), (Extent{Directories: 1, Bytes: 128}); got != want {
		t.Errorf("of an empty store %+v, want %+v", got, want)
	}
	r.do(lasting(time.Second, set("/a/b/c", "12345")))
	want := Extent{Keys: 1, Directories: 3, Leases: 1, Events: 1, Bytes: 128 + (128 + 2) + (128 + 4) + (128 + 6 + 5) + 128}
	if got := r.Extent(); got != want {
		t.Errorf("with a key %+v, want %+v", got, want)
	}
	r.do(rmr("/a"))
	if got, want := r.Extent(), (Extent{Directories: 1, Events: 2, Bytes: 128}); got != want {
		t.Errorf("after its removal %+v, want %+v", got, want)
	}
}

func TestAWriteThatWillFailDoesNotGrowTheState(t *testing.T) {
	r := newReplica(t)
	r.do(set("/f", "1"))
	r.do(set("/d/f", "1"))
	for _, w := range []kv.Write{
		set("/d", "1"), set("/f/x", "1"), create("/f", "22"), create("/d", ""), post("/f", "1"), update("/x", "1"), cas("/x", "1", "1", 0),
		remove("/x"), rmr("/d"), cad("/f", "1", 0), refresh(time.Second, set("/x", "")), set("", "1"),
	} {
		if got := r.Growth(w); got != 0 {
			t.Errorf("%v %q: %d", w.Op, w.Key, got)
		}
	}
}
