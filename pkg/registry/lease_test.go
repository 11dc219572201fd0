package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// leased starts a publisher whose store has leases.
func leased(t *testing.T, store *memStore, cfg PublisherConfig) *bench {
	t.Helper()
	cfg.Leaser = store
	return start(t, store, cfg)
}

// many are records of n instances of the service web.
func many(n int) []Record {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("i%04d", i))
	}
	return instances(names...)
}

func TestAllKeysShareOneLeaseThatIsRenewedWithoutAWriteOrAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := leased(t, store, PublisherConfig{TTL: 9 * time.Second})
		b.Set(many(100))
		b.mustSettle(t)
		if len(store.leases) != 1 || len(store.attached(store.granted)) != 100 {
			t.Fatalf("%d leases, %d keys attached", len(store.leases), len(store.attached(store.granted)))
		}
		events, writes, index := len(store.events), len(store.writes), store.index
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if len(store.events) != events || len(store.writes) != writes || store.index != index {
			t.Errorf("at rest: %d events, %d writes", len(store.events)-events, len(store.writes)-writes)
		}
		status := b.Status()
		if status.Registered != 100 || status.Lease != store.granted || status.Writes != 100 || status.LeasesLost != 0 {
			t.Errorf("status is %+v", status)
		}
		if status.Renewals < 180 || status.Renewals > 225 || time.Since(status.Heartbeat) > 4*time.Second || !status.Expires.After(time.Now()) {
			t.Errorf("renewals are %+v", status)
		}
		if store.reads > 1 { // whoever owns nothing for longer than a run needs no look
			t.Errorf("%d reads", store.reads)
		}
	})
}

func TestTheEndOfAPublisherIsTheEndOfItsLeaseInOneStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := leased(t, store, PublisherConfig{})
		b.Set(many(100))
		b.mustSettle(t)
		writes := len(store.writes)
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		if len(store.nodes) != 0 || len(store.leases) != 0 || len(store.writes) != writes {
			t.Errorf("%d keys and %d leases are left, %d writes", len(store.nodes), len(store.leases), len(store.writes)-writes)
		}
		if b.Status().Removed != 100 || strings.Count(b.log.String(), "msg=removed") != 100 {
			t.Errorf("status %+v", b.Status())
		}
	})
}

func TestALeaseThatOthersUseIsNotRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := leased(t, store, PublisherConfig{})
		b.Set(many(3))
		b.mustSettle(t)
		if _, err := store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/services/web/another", Value: "x", Lease: b.Status().Lease}); err != nil {
			t.Fatal(err)
		}
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		if len(store.nodes) != 1 || store.nodes["/services/web/another"] == nil {
			t.Errorf("left are %v", slices.Collect(maps.Keys(store.nodes)))
		}
	})
}

func TestALeaseThatEndedIsReplacedAndEverythingRegisteredAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := leased(t, store, PublisherConfig{})
		b.Set(many(1000))
		b.mustSettle(t)
		first := b.Status().Lease
		time.Sleep(2 * time.Second)
		store.mu.Lock()
		store.endLease(first, kv.ActionExpire)
		store.mu.Unlock()
		synctest.Wait()
		began := 1000
		time.Sleep(spreadMax + time.Second)
		b.mustSettle(t)
		status := b.Status()
		if status.Registered != 1000 || status.Lease == first || status.LeasesLost != 1 || len(store.attached(status.Lease)) != 1000 {
			t.Errorf("status is %+v", status)
		}
		if status.Corrections != 0 {
			t.Errorf("%d corrections", status.Corrections)
		}
		var order []string
		for _, write := range store.writes[began:] {
			if write.Lease == status.Lease {
				order = append(order, write.Key)
			}
		}
		if len(order) != 1000 || slices.IsSorted(order) {
			t.Errorf("%d writes, sorted %v", len(order), slices.IsSorted(order))
		}
	})
}

func TestALeaseThatIsLostDuringAnOutageCostsSecondsOnceItIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := leased(t, store, PublisherConfig{})
		b.Set(many(300))
		b.mustSettle(t)
		store.fail(&kv.Error{Kind: kv.Unavailable, Cause: "refused"})
		time.Sleep(time.Minute)
		synctest.Wait()
		if status := b.Status(); status.Registered != 0 || !kv.Is(status.Err, kv.Unavailable) {
			t.Errorf("late in the outage: %+v", status)
		}
		if got := strings.Count(b.log.String(), "level=WARN"); got != 1 {
			t.Errorf("outage logged %d times:\n%s", got, b.log)
		}
		b.Set(many(301)[1:])
		store.fail(nil)
		time.Sleep(retryMax + spreadMax + time.Second)
		synctest.Wait()
		if status := b.Status(); status.Registered != 300 || status.Err != nil || store.nodes["/services/web/i0300"] == nil {
			t.Errorf("seconds after it: %+v", status)
		}
	})
}

func TestAStandingOwnerCarriesOnWithTheLeaseOfTheRunBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		cfg := PublisherConfig{Owner: "m1/agent/s1", Keep: true, Views: []View{
			{"/services", LayoutJSON}, {"/reg", LayoutRegistrator}, {"/skydns/local/kvd", LayoutSkyDNS}, {"/coreos", LayoutCoreOS},
		}}
		first := leased(t, store, cfg)
		first.Set(many(10))
		first.mustSettle(t)
		if err := first.stop(); err != nil || len(store.nodes) != 40 {
			t.Fatalf("%d keys are left, %v", len(store.nodes), err)
		}
		lease := first.Status().Lease
		time.Sleep(DefaultTTL / 2)
		synctest.Wait()
		writes, events := len(store.writes), len(store.events)
		second := leased(t, store, cfg)
		time.Sleep(time.Second) // it learns what there is before it is told what to want
		second.Set(many(10))
		second.Sweep(nil)
		second.mustSettle(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		if status := second.Status(); status.Lease != lease || status.Registered != 40 || status.Writes != 0 {
			t.Errorf("the next run has %+v", status)
		}
		if len(store.writes) != writes || len(store.events) != events {
			t.Errorf("%d writes, %d events", len(store.writes)-writes, len(store.events)-events)
		}
		if got := strings.Count(second.log.String(), "msg=registered "); got != 40 {
			t.Errorf("registered was logged %d times", got)
		}
	})
}

func TestWhatARunBeforeHasLeftLivesUntilItIsKnownWhatThereIs(t *testing.T) {
	for await, left := range map[bool]int{true: 10, false: 0} {
		synctest.Test(t, func(t *testing.T) {
			store := newMemStore()
			cfg := PublisherConfig{Owner: "m1/agent/s1", Keep: true, AwaitSweep: await}
			first := leased(t, store, cfg)
			first.Set(many(10))
			first.mustSettle(t)
			first.stop()
			second := leased(t, store, cfg)
			second.Set(nil) // one of its sources has nothing, the other does not answer
			time.Sleep(time.Hour)
			synctest.Wait()
			if store.size() != left {
				t.Errorf("AwaitSweep %v: %d keys are there after an hour, want %d", await, store.size(), left)
			}
			second.Set(many(3))
			second.Sweep(many(5))
			second.mustSettle(t)
			synctest.Wait()
			if want := min(left, 5); await && store.size() != want {
				t.Errorf("%d keys are there after the sweep, want %d", store.size(), want)
			}
			time.Sleep(2 * DefaultTTL) // what was spared has not come
			synctest.Wait()
			if store.size() != 3 {
				t.Errorf("AwaitSweep %v: %d keys are there at the end, want 3", await, store.size())
			}
		})
	}
}

func TestALayoutWithoutOwnersIsCarriedOnWithByItsValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		cfg := PublisherConfig{Owner: "m1/agent/s1", Keep: true, Views: []View{{"/reg", LayoutRegistrator}}}
		first := leased(t, store, cfg)
		first.Set(many(10))
		first.mustSettle(t)
		first.stop()
		lease, events := first.Status().Lease, len(store.events)
		second := leased(t, store, cfg)
		time.Sleep(time.Second)
		records := many(9) // the tenth has gone meanwhile
		records[3].Port++  // and this one is elsewhere
		second.Set(records)
		second.Sweep(nil)
		second.mustSettle(t)
		if status := second.Status(); status.Lease != lease || status.Registered != 9 || status.Writes != 2 {
			t.Errorf("the next run has %+v", status)
		}
		if got := len(store.events) - events; got != 2 {
			t.Errorf("%d events", got)
		}
		if got := store.nodes["/reg/web/i0003"].Value; got != "10.0.0.5:8081" {
			t.Errorf("the one that moved is at %s", got)
		}
	})
}

func TestARunWithOtherSettingsSwapsEachKeyInOneStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		first := leased(t, store, PublisherConfig{Owner: "m1/agent/s1", Keep: true})
		first.Set(many(10))
		first.mustSettle(t)
		first.stop()
		events := len(store.events)
		second := leased(t, store, PublisherConfig{Owner: "m1/agent/s2", Keep: true})
		second.Set(many(9))
		second.Sweep(nil)
		second.mustSettle(t)
		actions := map[string]int{}
		for _, write := range store.writes[10:] {
			actions[write.Op.String()]++
		}
		if got := len(store.events) - events; got != 10 || actions["compare-and-swap"] != 9 || actions["compare-and-delete"] != 1 {
			t.Errorf("%d events, %v", got, actions)
		}
	})
}

// Without this, adopting a lease would keep alive for ever what nobody wants any more.
func TestWhatARunFindsAndNobodyWantsGoesWhenItWouldHaveExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		first := leased(t, store, PublisherConfig{Owner: "m1/agent/s1", Keep: true})
		first.Set(many(2))
		first.mustSettle(t)
		first.stop()
		second := leased(t, store, PublisherConfig{Owner: "m1/agent/s1", Keep: true})
		second.Set(many(1))
		second.Sweep(many(2))
		second.mustSettle(t)
		if store.size() != 2 {
			t.Fatal("what was spared is gone at once")
		}
		time.Sleep(DefaultTTL + time.Second)
		synctest.Wait()
		if len(store.nodes) != 1 || second.Status().Registered != 1 {
			t.Errorf("%d keys, %+v", len(store.nodes), second.Status())
		}
	})
}

func TestAStoreWithoutLeasesIsRecognisedByItsAnswerAndAskedAgainLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		store.noLeases = true
		b := leased(t, store, PublisherConfig{})
		b.Set(many(10))
		b.mustSettle(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		store.mu.Lock()
		if status := b.Status(); status.Lease != 0 || status.Registered != 10 || store.nodes["/services/web/i0000"].TTL != 15 {
			t.Errorf("status is %+v", status)
		}
		store.noLeases = false
		store.mu.Unlock()
		time.Sleep(2 * verifyInterval)
		synctest.Wait()
		if status := b.Status(); status.Lease == 0 || len(store.attached(status.Lease)) != 10 || len(store.expires) != 0 {
			t.Errorf("after it was replaced: %+v", status)
		}
		b.stop()
		if len(store.nodes) != 0 {
			t.Error("keys are left")
		}
	})
}

func TestAServerThatIsNotWellIsNotTakenForOneWithoutLeases(t *testing.T) {
	for name, answer := range map[string]error{
		"a 5xx":             &kv.Error{Kind: kv.Unknown, Cause: "answered 502"},
		"no leader":         &kv.Error{Kind: kv.NoLeader},
		"an error of ours":  &kv.Error{Kind: kv.Internal, Err: fmt.Errorf("a defect")},
		"a refusal":         &kv.Error{Kind: kv.Denied},
		"a full store":      &kv.Error{Kind: kv.NoSpace},
		"a 404 by somebody": &kv.Error{Kind: kv.Internal, Cause: "proxy answered 404"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newMemStore()
				var well atomic.Bool
				store.fault = func(_ context.Context, what, key string) error {
					if !well.Load() && (what == "grant" || what == "read" && name == "a 404 by somebody") {
						return answer
					}
					return nil
				}
				b := leased(t, store, PublisherConfig{})
				b.Set(many(3))
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := store.size(); n != 0 || b.Status().Err == nil {
					t.Fatalf("%d keys without a lease, %+v", n, b.Status())
				}
				well.Store(true)
				b.mustSettle(t)
				if b.Status().Lease == 0 {
					t.Error("no lease")
				}
			})
		})
	}
}

// Without this, a renewal that was under way when a write had found out left nothing to be done next.
func TestALeaseThatIsFoundLostDuringARenewalIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		release := make(chan struct{})
		var renewing atomic.Bool
		store.fault = func(ctx context.Context, what, _ string) error {
			if what == "keep-alive" && renewing.CompareAndSwap(false, true) {
				<-release
			}
			return nil
		}
		b := leased(t, store, PublisherConfig{})
		b.Set(many(3))
		b.mustSettle(t)
		time.Sleep(DefaultTTL * 2 / 5)
		if !renewing.Load() {
			t.Fatal("it is not being renewed")
		}
		store.mu.Lock()
		store.endLease(b.Status().Lease, kv.ActionExpire)
		store.mu.Unlock()
		synctest.Wait() // a write finds out
		close(release)
		time.Sleep(time.Second)
		synctest.Wait()
		if status := b.Status(); status.Registered != 3 || status.LeasesLost != 1 || status.Err != nil || store.size() != 3 {
			t.Errorf("%d keys, %+v", store.size(), status)
		}
	})
}

// Without this, the lease of an earlier run would keep alive what that run wrote where this one does not look.
func TestALeaseWithKeysElsewhereIsNotCarriedOnWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		both := []View{{"/reg", LayoutRegistrator}, {"/services", LayoutJSON}}
		first := leased(t, store, PublisherConfig{Owner: "m1/agent/s1", Keep: true, Views: both})
		first.Set(many(3))
		first.mustSettle(t)
		first.stop()
		events := len(store.events)
		second := leased(t, store, PublisherConfig{Owner: "m1/agent/s2", Keep: true, Views: both[:1]})
		second.Set(many(3))
		second.mustSettle(t)
		time.Sleep(2 * DefaultTTL)
		synctest.Wait()
		if n := store.size(); n != 3 || second.Status().Registered != 3 {
			t.Errorf("%d keys, %+v", n, second.Status())
		}
		for _, event := range store.events[events:] {
			if event.Removes() && strings.HasPrefix(event.Node.Key, "/reg/") {
				t.Errorf("%s was gone for a while", event.Node.Key)
			}
		}
	})
}

func TestAStoreThatGrantsLeasesItDoesNotKnowIsNotAskedWithoutPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		store.fault = func(_ context.Context, what, key string) error {
			if what == "write" {
				return &kv.Error{Op: "create", Kind: kv.NoLease, Key: key}
			}
			time.Sleep(time.Millisecond)
			return nil
		}
		b := leased(t, store, PublisherConfig{})
		b.Set(many(3))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := store.granted; n > 60 {
			t.Errorf("%d leases in a minute", n)
		}
		if n := b.Status().LeasesLost; n < 10 {
			t.Errorf("%d attempts in a minute", n)
		}
		store.mu.Lock()
		store.fault = nil
		store.mu.Unlock()
		b.mustSettle(t)
	})
}
