package store

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

func ends(leases ...command.LeaseEnd) command.Expire { return command.Expire{Leases: leases} }

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
	if due := r.Due(int64(2*time.Second)-1, 10); len(due.Ended) != 0 || due.Next != int64(2*time.Second) {
		t.Errorf("due %+v", due)
	}
	r.now = 2*time.Second - 1
	r.apply(ends(command.LeaseEnd{Lease: implicitLease | 2, Deadline: int64(2 * time.Second)}))
	r.now = time.Hour
	if got := r.get("/a", false); got != "get /a=1 {2,2} until 2s @2" {
		t.Error(got)
	}
	if due := r.Due(math.MaxInt64, 10); len(due.Ended) != 1 || due.Next != math.MaxInt64 {
		t.Errorf("due %+v", due)
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
			due := r.Due(int64(r.now), 10).Ended
			if len(due) != 1 {
				t.Fatalf("due: %v", due)
			}
			r.apply(renewal, ends(due...))
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
	due := r.Due(0, 10).Ended[0]
	r.apply(remove("/a"), lasting(kv.TTLDue, set("/a", "2")), ends(due))
	if got := r.get("/a", false); got != "get /a=2 {4,4} until 0s @4" {
		t.Error(got)
	}
	r.apply(ends(due), ends(command.LeaseEnd{Lease: 12345, Deadline: 0}), command.Expire{})
	if r.Index() != 4 {
		t.Errorf("the store went on to %d", r.Index())
	}
}

func TestAnExpiryAgainDoesNothing(t *testing.T) {
	r := newReplica(t)
	r.apply(lasting(kv.TTLDue, set("/a", "1")))
	due := r.Due(0, 10).Ended[0]
	results := r.apply(ends(due), ends(due, due))
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
	due := r.Due(4, 3)
	want := []command.LeaseEnd{{Lease: implicitLease | 6, Deadline: 1}, {Lease: implicitLease | 5, Deadline: 2}, {Lease: implicitLease | 4, Deadline: 3}}
	if !slices.Equal(due.Ended, want) || due.Changes != 3 || due.Next != 4 {
		t.Errorf("due %+v", due)
	}
	if due = r.Due(4, 100); len(due.Ended) != 4 || due.Next != 5 {
		t.Errorf("due %+v", due)
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

const shared = 0xabc

// leased returns a replica with a shared lease of a minute and a half.
func leased(t *testing.T) *replica {
	r := newReplica(t)
	if res := r.apply(command.LeaseGrant{ID: shared, TTL: 90 * time.Second})[0]; res.Err != nil || res.Index != 1 {
		t.Fatalf("granting took a number or failed: %+v", res)
	}
	return r
}

func TestASharedLeaseTakesAllThatIsAttachedInKeyOrderWithANumberForEach(t *testing.T) {
	r := leased(t)
	r.apply(attached(shared, set("/z", "1")), attached(shared, asDir(create("/d", ""))), set("/d/x", ""), attached(shared, set("/d/y", "")),
		attached(shared, set("/d-", "")), attached(shared, post("/q", "job")), set("/other", ""))
	r.now = 90 * time.Second
	want := []string{
		"expire /d/ {3,9} <- /d/ {3,3} lease 2748",
		"expire /d- {6,10} <- /d- {6,6} lease 2748",
		"expire /q/00000000000000000007 {7,11} <- /q/00000000000000000007=job {7,7} lease 2748",
		"expire /z {2,12} <- /z=1 {2,2} lease 2748",
	}
	if got := r.expire(); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got := r.get("", true); got != "get / {0,0} (/other {8,8}, /q/ {7,7}) @12" || r.Leases() != 0 {
		t.Errorf("%s, %d leases", got, r.Leases())
	}
}

func TestRevokingRemovesWhatIsAttachedAndSaysDelete(t *testing.T) {
	r := leased(t)
	r.apply(attached(shared, set("/b", "1")), attached(shared, set("/a", "2")))
	r.TakeEvents()
	if res := r.apply(command.LeaseRevoke{ID: shared})[0]; res.Err != nil || res.Index != 5 {
		t.Errorf("%+v", res)
	}
	want := []string{"delete /a {3,4} <- /a=2 {3,3} lease 2748", "delete /b {2,5} <- /b=1 {2,2} lease 2748"}
	if got := r.seen(); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if res := r.apply(command.LeaseRevoke{ID: shared})[0]; !kv.Is(res.Err, kv.NoLease) || r.Index() != 5 {
		t.Errorf("again: %v at %d", res.Err, r.Index())
	}
}

func TestWritesMoveANodeBetweenLeases(t *testing.T) {
	const other = 0xdef
	for name, c := range map[string]struct {
		write kv.Write
		want  string // what is read of the key then, when /a was attached at 3
		uses  int
	}{
		"set with the same":  {attached(shared, set("/a", "2")), "/a=2 {4,4} ttl 90 until 1m30s lease 2748", 1},
		"update with other":  {attached(other, update("/a", "2")), "/a=2 {3,4} ttl 10 until 10s lease 3567", 0},
		"swap with other":    {attached(other, cas("/a", "2", "1", 0)), "/a=2 {3,4} ttl 10 until 10s lease 3567", 0},
		"set without":        {set("/a", "2"), "/a=2 {4,4}", 0},
		"update without":     {update("/a", "2"), "/a=2 {3,4}", 0},
		"set with a TTL":     {lasting(5*time.Second, set("/a", "2")), "/a=2 {4,4} ttl 5 until 5s", 0},
		"refresh":            {refresh(5*time.Second, update("/a", "")), "/a=1 {3,4} ttl 5 until 5s", 0},
		"failed swap":        {cas("/a", "2", "x", 0), "/a=1 {3,3} ttl 90 until 1m30s lease 2748", 1},
		"a directory, other": {attached(other, asDir(set("/a", ""))), "/a/ {4,4} ttl 10 until 10s lease 3567", 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := leased(t)
			r.apply(command.LeaseGrant{ID: other, TTL: 10 * time.Second}, set("/x", ""), attached(shared, set("/a", "1")))
			r.apply(c.write)
			if res, err := r.Read(kv.Read{Key: "/a"}, 0); err != nil || renderNode(res.Node) != c.want {
				t.Errorf("got %s, %v\nwant %s", renderNode(res.Node), err, c.want)
			}
			if l, err := r.Lease(shared, 0, 10); err != nil || l.Attached != c.uses || len(l.Keys) != c.uses {
				t.Errorf("the first lease is %+v, %v", l, err)
			}
			if err := audit(r.Machine); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestADirectoryGetsAndLosesASharedLease(t *testing.T) {
	r := leased(t)
	r.apply(set("/d/x", ""), attached(shared, update("/d", "")))
	if got := r.get("/d", false); got != "get /d/ {2,2} ttl 90 until 1m30s lease 2748 (/d/x {2,2}) @3" {
		t.Error(got)
	}
	r.apply(update("/d", ""))
	if got := r.get("/d", false); got != "get /d/ {2,2} (/d/x {2,2}) @4" {
		t.Error(got)
	}
}

func TestALeaseThatDoesNotExistIsSaidBeforeAnythingElse(t *testing.T) {
	r := leased(t)
	r.apply(set("/a", "1"), lasting(time.Minute, set("/ttl", "")))
	for name, w := range map[string]kv.Write{
		"unknown":          attached(9, set("/a", "2")),
		"of a TTL":         attached(kv.LeaseID(implicitLease|3), set("/a", "2")),
		"and a wrong swap": attached(9, cas("/a", "2", "x", 0)),
		"in order":         attached(9, post("/q", "")),
		"no key":           attached(9, update("/none", "")),
	} {
		if got, want := r.do(w), fmt.Sprintf("lease not found (%s) @3", w.Lease); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := r.do(attached(9, remove("/a"))); got != "delete /a {2,4} <- /a=1 {2,2} @4" {
		t.Errorf("a delete has no lease: %s", got)
	}
}

func TestGrantsThatNoProposerShouldMakeAreRefused(t *testing.T) {
	r := leased(t)
	for name, c := range map[string]struct {
		grant command.LeaseGrant
		kind  kv.Kind
	}{
		"taken":               {command.LeaseGrant{ID: shared, TTL: time.Second}, kv.Exists},
		"no id":               {command.LeaseGrant{TTL: time.Second}, kv.Invalid},
		"an id of TTLs":       {command.LeaseGrant{ID: implicitLease | 5, TTL: time.Second}, kv.Invalid},
		"too short":           {command.LeaseGrant{ID: 5, TTL: time.Second - 1}, kv.Invalid},
		"too long":            {command.LeaseGrant{ID: 5, TTL: kv.LeaseTTLMax + time.Second}, kv.Invalid},
		"parts of the second": {command.LeaseGrant{ID: 5, TTL: 1500 * time.Millisecond}, kv.Invalid},
	} {
		if res := r.apply(c.grant)[0]; !kv.Is(res.Err, c.kind) || r.Leases() != 1 {
			t.Errorf("%s: %v, %d leases", name, res.Err, r.Leases())
		}
	}
	if res := r.apply(command.LeaseGrant{ID: 5, TTL: kv.LeaseTTLMax})[0]; res.Err != nil {
		t.Error(res.Err)
	}
}

func TestARenewedLeaseEndsLaterAndReadsSayWhen(t *testing.T) {
	r := leased(t)
	r.Resume(0, 0)
	r.apply(attached(shared, set("/a", "1")))
	r.TakeEvents()
	if _, checkpointed, err := r.Renew(shared, int64(80*time.Second)); err != nil || checkpointed {
		t.Fatal(checkpointed, err)
	}
	r.now = 100 * time.Second
	if got := r.expire(); len(got) != 0 {
		t.Errorf("it ended: %q", got)
	}
	if got := r.get("/a", false); got != "get /a=1 {2,2} ttl 70 until 2m50s lease 2748 @2" {
		t.Error(got)
	}
	r.apply(attached(shared, set("/a", "2"))) // events are the same on members that know nothing of it
	if got := r.seen(); !slices.Equal(got, []string{"set /a=2 {3,3} lease 2748 <- /a=1 {2,2} lease 2748"}) {
		t.Errorf("%q", got)
	}
	r.now = 170 * time.Second
	if got := r.expire(); len(got) != 1 {
		t.Errorf("it did not end: %q", got)
	}
}

func TestACheckpointTellsALaterLeaderWhatIsLeft(t *testing.T) {
	r := leased(t)
	due := r.Due(int64(45*time.Second)-1, 10)
	if len(due.Silent) != 0 || due.Next != int64(45*time.Second) {
		t.Fatalf("early: %+v", due)
	}
	r.now = 46 * time.Second
	due = r.Due(int64(r.now), 10)
	if want := []command.LeaseEnd{{Lease: shared, Deadline: int64(90 * time.Second)}}; !slices.Equal(due.Silent, want) {
		t.Fatalf("silent for more than half of its time: %+v", due)
	}
	r.apply(command.LeaseCheckpoint{Leases: append(due.Silent, command.LeaseEnd{Lease: 9, Deadline: 1})})
	if due = r.Due(int64(r.now), 10); len(due.Silent) != 0 || due.Next != int64(90*time.Second) {
		t.Errorf("after the checkpoint: %+v", due)
	}

	next := newReplica(t) // the other member leads from here
	if err := next.Restore(bytes.NewReader(r.snapshot())); err != nil {
		t.Fatal(err)
	}
	next.Resume(int64(50*time.Second), 5*time.Second)
	if l, err := next.Lease(shared, int64(50*time.Second), 0); err != nil || l.Remaining != 49*time.Second {
		t.Errorf("the next leader gives it %v, %v; want the 44 s of the checkpoint and 5", l.Remaining, err)
	}
	if _, checkpointed, err := next.Renew(shared, int64(60*time.Second)); err != nil || !checkpointed {
		t.Errorf("renewed: %v, %v", checkpointed, err)
	}
	next.index, next.now = r.index, 60*time.Second
	next.apply(command.LeaseCheckpoint{Leases: []command.LeaseEnd{{Lease: shared}}})
	if _, checkpointed, err := next.Renew(shared, int64(60*time.Second)); err != nil || checkpointed {
		t.Errorf("after the log was told: %v, %v", checkpointed, err)
	}
}

func TestANewLeaderGivesALeaseItsFullTimeAndNotMore(t *testing.T) {
	r := leased(t)
	r.Resume(int64(30*time.Second), 5*time.Second)
	if l, err := r.Lease(shared, int64(30*time.Second), 0); err != nil || l.Remaining != 90*time.Second {
		t.Errorf("%v, %v", l.Remaining, err)
	}
	r.Forget()
	if l, err := r.Lease(shared, int64(30*time.Second), 0); err != nil || l.Remaining != time.Minute {
		t.Errorf("without leadership: %v, %v", l.Remaining, err)
	}
}

func TestALeaseThatIsRenewedDuringAReadHasNoMoreThanItsTTLLeft(t *testing.T) {
	r := leased(t)
	r.apply(attached(shared, set("/a", "1")))
	r.Resume(0, 0)
	r.now = 80 * time.Second // when the reader has looked at the clock
	if _, _, err := r.Renew(shared, int64(r.now)+1); err != nil {
		t.Fatal(err)
	}
	if got := r.get("/a", false); got != "get /a=1 {2,2} ttl 90 until 2m50s lease 2748 @2" {
		t.Error(got)
	}
	if l, err := r.Lease(shared, int64(r.now), 0); err != nil || l.Remaining != l.TTL {
		t.Errorf("%v of %v, %v", l.Remaining, l.TTL, err)
	}
}

// It knows of no renewals. To say that the time is over would be to call every lease dead that lives for long.
func TestAMemberThatDoesNotLeadShowsWhatTheLogSaysThatALeaseHasLeft(t *testing.T) {
	r := leased(t)
	r.apply(attached(shared, set("/a", "1")))
	r.now = 1000 * time.Second // it was renewed by the leader ever since
	if got := r.get("/a", false); got != "get /a=1 {2,2} ttl 90 until 18m10s lease 2748 @2" {
		t.Error(got)
	}
	r.apply(command.LeaseCheckpoint{Leases: []command.LeaseEnd{{Lease: shared, Deadline: int64(1040 * time.Second)}}})
	if got := r.get("/a", false); got != "get /a=1 {2,2} ttl 40 until 17m20s lease 2748 @2" {
		t.Error(got)
	}
	r.Resume(int64(r.now), 5*time.Second)
	r.now += 10 * time.Second
	if got := r.get("/a", false); got != "get /a=1 {2,2} ttl 35 until 17m25s lease 2748 @2" {
		t.Errorf("a new leader: %s", got)
	}
}

func TestAnExpiryOfASharedLeaseThatTheLogRenewedDoesNothing(t *testing.T) {
	r := leased(t)
	r.apply(attached(shared, set("/a", "")))
	r.now = 90 * time.Second
	due := r.Due(int64(r.now), 10).Ended
	r.apply(command.LeaseCheckpoint{Leases: []command.LeaseEnd{{Lease: shared}}}, ends(due...))
	if len(due) != 1 || r.Index() != 2 {
		t.Errorf("%d were due, the store is at %d", len(due), r.Index())
	}
}

func TestDueStopsAtTheLeaseThatFillsItsLimit(t *testing.T) {
	r := newReplica(t)
	for id := range uint64(5) {
		r.apply(command.LeaseGrant{ID: id + 1, TTL: time.Second})
	}
	for i := range 10 {
		r.apply(attached(2, set(fmt.Sprintf("/%d", i), "")))
	}
	if due := r.Due(int64(time.Second), 5); len(due.Ended) != 2 || due.Changes != 11 || due.Next != int64(time.Second) {
		t.Errorf("%+v", due)
	}
}

func TestSharedLeasesAreListedInPagesWithoutThoseOfTTLs(t *testing.T) {
	r := newReplica(t)
	for _, id := range []uint64{1, 5, implicitLease - 1, implicitLease | 1<<48, 1<<64 - 1} {
		r.apply(command.LeaseGrant{ID: id, TTL: time.Second}, lasting(time.Second, set(fmt.Sprintf("/%d", id), "")))
	}
	var got []uint64
	for after := kv.LeaseID(0); ; {
		page, _ := r.SharedLeases(after, 0, 2)
		if len(page) == 0 {
			break
		}
		for _, l := range page {
			got = append(got, uint64(l.ID))
			after = l.ID
		}
	}
	if want := []uint64{1, 5, implicitLease - 1, implicitLease | 1<<48, 1<<64 - 1}; !slices.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

func TestWhoeverMayWriteAllThatIsOnALeaseMayEndIt(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := leased(t)
		pieces := rapid.SampledFrom([]string{"/a", "/b", "/a/b", "/a0", "/a/", "/0", "/a-", "/b/a/a", "/a\x00"})
		var on []attachment
		for _, key := range rapid.SliceOfN(pieces, 1, 4).Draw(rt, "keys") {
			a := attachment{lease: uint64(shared), path: kv.Clean(key), dir: rapid.Bool().Draw(rt, "dir")}
			w := set(a.path, "")
			w.Dir = a.dir
			if r.apply(attached(shared, w))[0].Err == nil {
				on = append(on, a)
			}
		}
		for range 20 {
			var held []kv.KeyRange
			for _, pattern := range rapid.SliceOfN(pieces, 1, 4).Draw(rt, "patterns") {
				held = append(held, kv.PatternRange(pattern+rapid.SampledFrom([]string{"", "*", "/*", "/"}).Draw(rt, "end")))
			}
			rights := &Rights{write: newSpans(held)}
			want := true
			for _, a := range on {
				_, value := r.state.records.Get(a.path)
				_, dir := r.state.dirs.Get(a.path)
				if a.dir && dir || !a.dir && value { // else it was overwritten since
					want = want && rights.Decide(Need{Write: true, Key: a.path, Below: a.dir}) == Allowed
				}
			}
			if got := r.MayEnd(rights, shared); got != want {
				rt.Fatalf("%v with %q: %v, want %v", on, held, got, want)
			}
		}
	})
}

func TestToMayEndALeaseIsAskedInTheSameTimeHoweverMuchIsOnIt(t *testing.T) {
	r := leased(t)
	for i := range 2000 {
		r.apply(attached(shared, set(fmt.Sprintf("/a/%d", i), "")))
	}
	seen := 0
	r.state.attached = newTree(func(a, b attachment) bool { seen++; return a.less(b) })
	for i := range 2000 {
		r.state.attached.Set(attachment{lease: uint64(shared), path: fmt.Sprintf("/a/%d", i)})
	}
	seen = 0
	if !r.MayEnd(&Rights{write: newSpans(ranges("/a/*"))}, shared) || seen > 100 {
		t.Errorf("%d comparisons", seen)
	}
}

func TestALeaseOfATTLIsNoSharedLeaseToAnybody(t *testing.T) {
	r := guarded(t, nil, ranges("/mine"))
	r.apply(lasting(time.Hour, set("/theirs", "1")))
	id := implicitLease | r.Index()
	w := set("/mine", "1")
	w.Lease = kv.LeaseID(id)
	for _, body := range []command.Body{w, command.LeaseRevoke{ID: id}, command.LeaseRevoke{ID: id + 1}} {
		if err := r.as("u", false, body); !kv.Is(err, kv.NoLease) {
			t.Errorf("%+v: %v", body, err)
		}
	}
	if _, err := r.Lease(kv.LeaseID(id), 0, 1); !kv.Is(err, kv.NoLease) {
		t.Error(err)
	}
	if _, _, err := r.Renew(kv.LeaseID(id), 0); !kv.Is(err, kv.NoLease) {
		t.Error(err)
	}
}
