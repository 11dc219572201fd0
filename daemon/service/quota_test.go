package service

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/pkg/kv"
)

// openBounded returns a service with a quota, and what it logs.
func openBounded(quota int64) (*Service, *memoryLog, *bytes.Buffer) {
	_, log := open()
	var told bytes.Buffer
	return New(log.state, log, Config{QuotaBytes: quota, Log: slog.New(slog.NewTextHandler(&told, nil))}), log, &told
}

// fillUp writes values of a hundred bytes until one is refused, and returns how many were not.
func fillUp(t *testing.T, s *Service) int {
	t.Helper()
	for i := range 10_000 {
		_, err := s.Write(t.Context(), set(fmt.Sprintf("/fill/%04d", i), strings.Repeat("x", 100), 0))
		if kv.Is(err, kv.NoSpace) {
			return i
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("ten thousand values were taken")
	return 0
}

func TestAFullStoreRefusesWhatMakesItGrowAndNothingElse(t *testing.T) {
	const quota = 1 << 20
	s, _, told := openBounded(quota)
	write(t, s, set("/leased", "1", time.Hour))
	write(t, s, set("/dir/a", "1", 0))
	if n := fillUp(t, s); n < 4000 || s.Stats().Bytes > quota || s.Stats().Bytes < quota-400 {
		t.Errorf("%d values and %d bytes were taken of %d", n, s.Stats().Bytes, quota)
	}
	if got := s.Alarms(); !slices.Equal(got, []string{"NOSPACE"}) {
		t.Errorf("alarms %q", got)
	}
	for _, c := range []struct {
		name  string
		write kv.Write
		want  kv.Kind // Internal for none
	}{
		{"a new key", set("/new", "", 0), kv.NoSpace},
		{"a new directory", kv.Write{Op: kv.OpSet, Key: "/newdir", Dir: true}, kv.NoSpace},
		{"a key in order", kv.Write{Op: kv.OpCreateInOrder, Key: "/dir"}, kv.NoSpace},
		{"a longer value", set("/dir/a", "22", 0), kv.NoSpace},
		{"a longer value by comparison", kv.Write{Op: kv.OpCompareAndSwap, Key: "/dir/a", Value: "22", PrevValue: "1"}, kv.NoSpace},
		{"a TTL for a key without one", set("/dir/a", "1", time.Hour), kv.NoSpace},
		{"a value of the same length", set("/dir/a", "2", 0), kv.Internal},
		{"another TTL", set("/leased", "2", time.Minute), kv.Internal},
		{"a refresh", kv.Write{Op: kv.OpUpdate, Key: "/leased", Refresh: true, TTL: time.Hour}, kv.Internal},
		{"a key that exists", kv.Write{Op: kv.OpCreate, Key: "/dir/a", Value: "22"}, kv.Exists},
		{"a key that is absent", kv.Write{Op: kv.OpUpdate, Key: "/absent", Value: "22"}, kv.NotFound},
		{"a removal", kv.Write{Op: kv.OpDelete, Key: "/dir", Recursive: true}, kv.Internal},
	} {
		_, err := s.Write(t.Context(), c.write)
		if (err == nil) != (c.want == kv.Internal) || err != nil && !kv.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := s.Grant(t.Context(), time.Minute); !kv.Is(err, kv.NoSpace) {
		t.Errorf("a lease: %v", err)
	}
	if _, err := s.Read(t.Context(), kv.Read{Key: "/fill/0000", Quorum: true}); err != nil {
		t.Errorf("a read: %v", err)
	}
	_, err := s.Write(t.Context(), set("/new", "", 0))
	for _, want := range []string{"of 1048576 bytes are used", "delete keys until it is 996148", "--quota-backend-bytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
	if n := strings.Count(told.String(), "the store is full"); n != 1 {
		t.Errorf("it was told %d times that the store is full:\n%s", n, told)
	}
}

func TestTheAlarmEndsWhenATwentiethOfTheQuotaIsFree(t *testing.T) {
	const quota = 1 << 20
	s, _, told := openBounded(quota)
	fillUp(t, s)
	for i := 0; s.Stats().Bytes > quota-quota/20; i++ {
		if len(s.Alarms()) == 0 {
			t.Fatalf("it ended at %d bytes", s.Stats().Bytes)
		}
		if _, err := s.Write(t.Context(), set("/new", "", 0)); !kv.Is(err, kv.NoSpace) {
			t.Fatalf("at %d bytes: %v", s.Stats().Bytes, err)
		}
		write(t, s, kv.Write{Op: kv.OpDelete, Key: fmt.Sprintf("/fill/%04d", i)})
	}
	if got := s.Alarms(); len(got) != 0 {
		t.Errorf("alarms %q", got)
	}
	write(t, s, set("/new", "", 0))
	if n := strings.Count(told.String(), "has room again"); n != 1 {
		t.Errorf("it was told %d times that there is room again:\n%s", n, told)
	}
}

func TestExpiriesMakeRoom(t *testing.T) {
	s, log, _ := openBounded(1 << 20)
	log.state.Flush()
	for i := range 2000 {
		write(t, s, set(fmt.Sprintf("/brief/%d", i), "", time.Millisecond))
	}
	fillUp(t, s)
	lead(t, s)
	for deadline := time.Now().Add(20 * time.Second); len(s.Alarms()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the alarm is still raised at %d bytes", s.Stats().Bytes)
		}
	}
	write(t, s, set("/new", "", 0))
}

func TestAWriteThatDoesNotFitRaisesNoAlarmWhileThereIsRoomForOthers(t *testing.T) {
	s, _, _ := openBounded(1 << 20)
	_, err := s.Write(t.Context(), set("/large", strings.Repeat("x", 1<<20), 0))
	if !kv.Is(err, kv.NoSpace) || !strings.Contains(err.Error(), "this write needs 1048710") {
		t.Errorf("got %v", err)
	}
	if got := s.Alarms(); len(got) != 0 {
		t.Errorf("alarms %q", got)
	}
	write(t, s, set("/small", "1", 0))
}

func TestAStoreThatIsOverItsQuotaAtTheStartIsFull(t *testing.T) {
	const quota = 1 << 20
	s, log, _ := openBounded(quota)
	fillUp(t, s)
	for _, c := range []struct {
		quota int64
		full  bool
	}{{quota, true}, {quota / 2, true}, {2 * quota, false}} {
		again := New(log.state, log, Config{QuotaBytes: c.quota})
		if full := len(again.Alarms()) > 0; full != c.full {
			t.Errorf("with a quota of %d it is full: %v", c.quota, full)
		}
	}
}

func TestWritersSideBySideDoNotPassTheQuota(t *testing.T) {
	const quota, writers = 1 << 20, 16
	s, log, _ := openBounded(quota)
	var running sync.WaitGroup
	for w := range writers {
		running.Go(func() {
			for i := 0; ; i++ {
				_, err := s.Write(t.Context(), set(fmt.Sprintf("/w/%d/%d", w, i), strings.Repeat("x", 1000), 0))
				if kv.Is(err, kv.NoSpace) {
					return
				} else if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	running.Wait()
	if used := s.Stats().Bytes; used > quota || used < quota-writers*1500 {
		t.Errorf("%d of %d bytes are used", used, quota)
	}
	if s.quota.reserved != 0 {
		t.Errorf("%d bytes are still reserved", s.quota.reserved)
	}
	if err := log.state.machine.Audit(); err != nil {
		t.Error(err)
	}
}

func TestWhatWasReservedForAWriteThatFailedIsFreeAgain(t *testing.T) {
	s, log, _ := openBounded(1 << 20)
	log.fail(&kv.Error{Kind: kv.NoLeader})
	for range 100 {
		if _, err := s.Write(t.Context(), set("/a", strings.Repeat("x", 100_000), 0)); !kv.Is(err, kv.NoLeader) {
			t.Fatal(err)
		}
	}
}

func TestADiskThatIsNearlyFullIsTheSameAlarmWithItsOwnCause(t *testing.T) {
	s, log, _ := openBounded(1 << 20)
	write(t, s, set("/a", "1", 0))
	log.space = raftnode.Space{Free: 5 << 20, Reserve: 70 << 20, Short: true}
	_, err := s.Write(t.Context(), set("/b", "1", 0))
	if !kv.Is(err, kv.NoSpace) || !strings.Contains(err.Error(), "5 MiB are free for the data of this member, and it needs 70 MiB") {
		t.Errorf("got %v", err)
	}
	if got := s.Alarms(); !slices.Equal(got, []string{"NOSPACE"}) {
		t.Errorf("alarms %q", got)
	}
	write(t, s, set("/a", "2", 0))
	write(t, s, kv.Write{Op: kv.OpDelete, Key: "/a"})
	log.space = raftnode.Space{}
	write(t, s, set("/b", "1", 0))
	if got := s.Alarms(); len(got) != 0 {
		t.Errorf("with room again: %q", got)
	}
}
