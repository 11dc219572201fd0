package store

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestWhatIsDueExpiresInTheOrderOfItsDeadline(t *testing.T) {
	r := newReplica(t)
	r.apply(lasting(3*time.Second, set("/c", "3")), lasting(time.Second, set("/x/a", "1")), lasting(2*time.Second, set("/b", "2")),
		lasting(time.Second, set("/y", "")), lasting(4*time.Second, set("/later", "")))
	r.now = 3 * time.Second
	want := []string{
		"expire /x/a {3,7} <- /x/a=1 {3,3} until 1s",
		"expire /y {5,8} <- /y {5,5} until 1s",
		"expire /b {4,9} <- /b=2 {4,4} until 2s",
		"expire /c {2,10} <- /c=3 {2,2} until 3s",
	}
	if got := r.expire(); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got := r.get("", true); got != "get / {0,0} (/later {6,6} ttl 1 until 4s, /x/ {3,3}) @10" {
		t.Error(got)
	}
	if r.Leases() != 1 {
		t.Errorf("%d leases are left", r.Leases())
	}
}

func TestNothingExpiresBeforeItsDeadlineAndItIsReadUntilThen(t *testing.T) {
	r := newReplica(t)
	r.apply(lasting(2*time.Second, set("/a", "1")))
	due, next := r.Due(int64(2*time.Second)-1, 10)
	if len(due) != 0 || next != int64(2*time.Second) {
		t.Errorf("due %v, next %d", due, next)
	}
	r.now = 2*time.Second - 1
	r.apply(command.Expire{Lease: implicitLease | 2, Deadline: int64(2 * time.Second)})
	r.now = time.Hour
	if got := r.get("/a", false); got != "get /a=1 {2,2} until 2s @2" {
		t.Error(got)
	}
	if due, next := r.Due(math.MaxInt64, 10); len(due) != 1 || next != math.MaxInt64 {
		t.Errorf("due %v, next %d", due, next)
	}
}

func TestAnExpiryThatARenewalOvertookDoesNothing(t *testing.T) {
	for name, renewal := range map[string]kv.Write{
		"refresh":             refresh(time.Hour, update("/a", "")),
		"set":                 lasting(time.Hour, set("/a", "2")),
		"update":              lasting(time.Hour, update("/a", "2")),
		"compare-and-swap":    lasting(time.Hour, cas("/a", "2", "1", 0)),
		"permanent":           set("/a", "2"),
		"a directory now":     asDir(set("/a", "")),
		"only a little later": lasting(time.Millisecond, set("/a", "2")),
	} {
		t.Run(name, func(t *testing.T) {
			r := newReplica(t)
			r.apply(lasting(time.Second, set("/a", "1")))
			r.now = time.Second
			due, _ := r.Due(int64(r.now), 10)
			if len(due) != 1 {
				t.Fatalf("due: %v", due)
			}
			r.apply(renewal, due[0])
			if r.Index() != 3 {
				t.Errorf("the store went on to %d: %q", r.Index(), r.seen())
			}
			if err := audit(r.Machine); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnExpiryDoesNotHitTheNextKeyOfTheSameName(t *testing.T) {
	r := newReplica(t)
	r.apply(lasting(kv.TTLDue, set("/a", "1")))
	due, _ := r.Due(0, 10)
	r.apply(remove("/a"), lasting(kv.TTLDue, set("/a", "2")), due[0])
	if got := r.get("/a", false); got != "get /a=2 {4,4} until 0s @4" {
		t.Error(got)
	}
	r.apply(due[0], command.Expire{Lease: 12345, Deadline: 0}, command.Expire{})
	if r.Index() != 4 {
		t.Errorf("the store went on to %d", r.Index())
	}
}

func TestAnExpiryAgainDoesNothing(t *testing.T) {
	r := newReplica(t)
	r.apply(lasting(kv.TTLDue, set("/a", "1")))
	due, _ := r.Due(0, 10)
	results := r.apply(due[0], due[0])
	if r.Index() != 3 || results[0].Err != nil || results[1].Err != nil {
		t.Errorf("the store is at %d: %v", r.Index(), results)
	}
}

func TestADirectoryExpiresWithEverythingBelowAsOneChange(t *testing.T) {
	r := newReplica(t)
	r.apply(lasting(2*time.Second, asDir(set("/d", ""))), set("/d/forever", "1"), lasting(time.Hour, set("/d/e/f", "1")),
		lasting(time.Second, set("/d/short", "1")), set("/d-", "1"))
	r.now = 2 * time.Second
	want := []string{
		"expire /d/short {5,7} <- /d/short=1 {5,5} until 1s",
		"expire /d/ {2,8} <- /d/ {2,2} until 2s",
	}
	if got := r.expire(); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got := r.get("", true); got != "get / {0,0} (/d-=1 {6,6}) @8" || r.Leases() != 0 {
		t.Errorf("%s, %d leases", got, r.Leases())
	}
}

func TestAChildAndItsDirectoryDueTogetherGoInOrder(t *testing.T) {
	r := newReplica(t)
	r.apply(lasting(time.Second, asDir(set("/d", ""))), lasting(time.Second, set("/d/f", "1")))
	r.now = time.Second
	if got, want := r.expire(), []string{"expire /d/ {2,4} <- /d/ {2,2} until 1s"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	r.apply(lasting(time.Second, set("/d/f", "1")), lasting(time.Second, update("/d", "")))
	r.now = 2 * time.Second
	want := []string{"expire /d/f {5,7} <- /d/f=1 {5,5} until 2s", "expire /d/ {5,8} <- /d/ {5,5} until 2s"}
	if got := r.expire(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestADirectoryWithoutTTLDoesNotExpire(t *testing.T) {
	r := newReplica(t)
	r.apply(lasting(time.Second, asDir(set("/d", ""))), set("/d/f", ""), update("/d", ""))
	r.now = time.Hour
	if got := r.expire(); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestTheLongestTTLLastsForEverInsteadOfWrapping(t *testing.T) {
	r := newReplica(t)
	r.now = time.Hour
	r.apply(lasting(math.MaxInt64, set("/a", "1")), lasting(math.MaxInt64, asDir(set("/d", ""))), lasting(math.MaxInt64-time.Hour, set("/b", "")))
	r.now = 1 << 61
	if got := r.expire(); len(got) != 0 {
		t.Errorf("%q", got)
	}
	end := time.Unix(0, math.MaxInt64).UTC()
	for _, key := range []string{"/a", "/b", "/d"} {
		res, err := r.Read(kv.Read{Key: key}, 0)
		if err != nil || !res.Node.Expiration.Equal(end) || res.Node.TTL <= 0 {
			t.Errorf("%s: %v, %+v", key, err, res.Node)
		}
	}
}

func TestDueTakesTheEarliestUpToItsLimit(t *testing.T) {
	r := newReplica(t)
	for i, key := range []string{"/e", "/d", "/c", "/b", "/a"} {
		r.apply(lasting(time.Duration(5-i), set(key, "")))
	}
	due, next := r.Due(4, 3)
	want := []command.Expire{{Lease: implicitLease | 6, Deadline: 1}, {Lease: implicitLease | 5, Deadline: 2}, {Lease: implicitLease | 4, Deadline: 3}}
	if !slices.Equal(due, want) || next != 4 {
		t.Errorf("due %v, next %d", due, next)
	}
	if due, next = r.Due(4, 100); len(due) != 4 || next != 5 {
		t.Errorf("due %v, next %d", due, next)
	}
}

func TestTheClockNeverGoesBack(t *testing.T) {
	m := New(0)
	for i, b := range []struct{ clock, offset, wantClock, wantOffset int64 }{
		{100, 7, 100, 7}, {50, 9, 100, 7}, {100, 8, 100, 8}, {101, 5, 101, 5},
	} {
		m.Apply(uint64(i+1), 1, &command.Batch{Clock: b.clock, WallOffset: b.offset})
		if clock, offset := m.LeaseClock(); clock != b.wantClock || offset != b.wantOffset {
			t.Errorf("batch %d: clock %d, offset %d; want %d, %d", i, clock, offset, b.wantClock, b.wantOffset)
		}
	}
}
