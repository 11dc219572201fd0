package registry

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

func TestAWriteThatHangsHoldsUpNoOtherKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		var hang atomic.Bool
		store.fault = func(ctx context.Context, what, key string) error {
			if hang.Load() && what == "write" && strings.HasPrefix(key, "/services/web/i000") {
				<-ctx.Done()
				return &kv.Error{Kind: kv.Timeout, Key: key, Err: ctx.Err()}
			}
			return nil
		}
		b := leased(t, store, PublisherConfig{})
		b.Set(many(1000))
		b.mustSettle(t)
		hang.Store(true)
		changed := many(1001)
		for i := range 10 { // so many that hang are more than may be repeated at one time
			changed[i].Port++
		}
		b.Set(changed[:1000])
		time.Sleep(7 * time.Second) // they are being repeated
		began := time.Now()
		b.Set(changed)
		synctest.Wait()
		if store.node("/services/web/i1000") == nil || time.Since(began) > 0 {
			t.Errorf("the new one was held up by %v", time.Since(began))
		}
		if status := b.Status(); status.Wanted != 1001 || status.Registered != 991 || !kv.Is(status.Err, kv.Timeout) {
			t.Errorf("status is %+v", status)
		}
		hang.Store(false)
		b.mustSettle(t)
		if status := b.Status(); status.Registered != 1001 || status.Err != nil {
			t.Errorf("in the end: %+v", status)
		}
	})
}

func TestAnIdlePublisherNeedsOneRequestForARecord(t *testing.T) {
	for name, leases := range map[string]bool{"a lease": true, "a TTL": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const trip = time.Millisecond
				store := newMemStore()
				store.noLeases = !leases
				store.fault = func(context.Context, string, string) error { time.Sleep(trip); return nil }
				b := leased(t, store, PublisherConfig{Owner: "m1/agent/s1"})
				b.Set(many(100))
				b.mustSettle(t)
				time.Sleep(time.Minute)
				began := time.Now()
				b.Set(many(101))
				b.mustSettle(t)
				if took := time.Since(began); took != trip {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func TestAStoreThatRefusesKeepsWhatIsRegisteredAndIsTriedUntilItDoesNot(t *testing.T) {
	for _, kind := range []kv.Kind{kv.Denied, kv.NoSpace, kv.TooLarge, kv.Corrupt, kv.NotDir, kv.Internal} {
		t.Run(kind.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newMemStore()
				var refuse atomic.Bool
				var refusals atomic.Int64
				store.fault = func(_ context.Context, what, key string) error {
					if refuse.Load() && what == "write" {
						refusals.Add(1)
						return &kv.Error{Kind: kind, Key: key, Cause: "the test says so"}
					}
					return nil
				}
				b := leased(t, store, PublisherConfig{})
				b.Set(many(10))
				b.mustSettle(t)
				refuse.Store(true)
				b.Set(many(12)[1:])
				time.Sleep(time.Hour)
				synctest.Wait()
				status := b.Status()
				if status.Wanted != 11 || status.Registered != 9 || !kv.Is(status.Err, kind) || store.size() != 10 {
					t.Errorf("status is %+v, %d keys", status, store.size())
				}
				if n := refusals.Load(); n > 3*3600 {
					t.Errorf("%d attempts within an hour", n)
				}
				if n := strings.Count(b.log.String(), "level=WARN"); n != 3 {
					t.Errorf("%d warnings:\n%s", n, b.log)
				}
				refuse.Store(false)
				b.mustSettle(t)
				if status := b.Status(); status.Registered != 11 || status.Err != nil || store.size() != 11 {
					t.Errorf("in the end: %+v", status)
				}
			})
		})
	}
}

func TestALeaseThatMayNotBeRenewedIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		var first atomic.Uint64
		store.fault = func(_ context.Context, what, _ string) error {
			if what == "keep-alive" && first.Load() == 1 {
				return &kv.Error{Kind: kv.Denied}
			}
			return nil
		}
		b := leased(t, store, PublisherConfig{})
		b.Set(many(3))
		b.mustSettle(t)
		first.Store(1)
		time.Sleep(DefaultTTL / 2)
		first.Store(2)
		time.Sleep(time.Hour)
		synctest.Wait()
		if status := b.Status(); status.Registered != 3 || status.Lease == 1 || status.Err != nil || store.size() != 3 {
			t.Errorf("status is %+v", status)
		}
	})
}

func TestAKeyThatSomebodyElseHasIsTakenTheMomentItIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		views := []View{{"/services", LayoutJSON}, {"/reg", LayoutRegistrator}, {"/skydns/kvd", LayoutSkyDNS}, {"/old", LayoutCoreOS}}
		first := leased(t, store, PublisherConfig{Owner: "m1/r1", Views: views})
		first.Set(instances("a"))
		first.mustSettle(t)
		other := instances("a")
		other[0].Address = "10.0.0.9"
		second := leased(t, store, PublisherConfig{Owner: "m2/r1", Views: views})
		second.Set(other)
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, key := range second.Keys() {
			var held *HeldError
			named := key.View.Layout != LayoutRegistrator
			if key.State != KeyHeld || !errors.As(key.Err, &held) || key.Owner != map[bool]string{true: "m1/r1"}[named] || key.Service != "web" || key.Instance != "a" || time.Since(key.Since) < time.Minute {
				t.Errorf("the second says of it: %+v", key)
			}
		}
		for _, key := range first.Keys() {
			if key.State != KeyRegistered || key.Err != nil {
				t.Errorf("the first says of it: %+v", key)
			}
		}
		began := time.Now()
		first.Set(nil)
		first.mustSettle(t)
		second.mustSettle(t)
		if status := second.Status(); time.Since(began) > 0 || status.Registered != 4 || len(second.Keys()) != 4 || len(first.Keys()) != 0 {
			t.Errorf("after %v: %+v", time.Since(began), status)
		}
	})
}

func TestWhatAWatchHasMissedIsFoundWhenItBeginsAgainAndWithinAMinuteAnyway(t *testing.T) {
	for name, leases := range map[string]bool{"a lease": true, "a TTL": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newMemStore()
				store.noLeases = !leases
				var blind atomic.Bool
				store.fault = func(_ context.Context, what, _ string) error {
					if blind.Load() && what == "watch" {
						return &kv.Error{Kind: kv.Denied}
					}
					return nil
				}
				b := leased(t, store, PublisherConfig{TTL: 10 * time.Minute})
				b.Set(many(3))
				b.mustSettle(t)
				time.Sleep(time.Second)
				vanish := func() {
					store.mu.Lock()
					defer store.mu.Unlock()
					delete(store.nodes, "/services/web/i0001")
					store.index++
				}
				vanish() // without an event
				time.Sleep(2 * verifyInterval)
				synctest.Wait()
				if store.node("/services/web/i0001") == nil {
					t.Error("not found within two minutes")
				}
				vanish()
				store.mu.Lock()
				store.cutWatches()
				store.mu.Unlock()
				time.Sleep(time.Second)
				synctest.Wait()
				if store.node("/services/web/i0001") == nil {
					t.Error("not found when the watch began again")
				}
				if got := b.Status().Corrections; got != 2 {
					t.Errorf("%d corrections", got)
				}
				blind.Store(true)
				store.mu.Lock()
				store.cutWatches()
				store.mu.Unlock()
				time.Sleep(time.Second)
				vanish()
				time.Sleep(4 * time.Minute)
				synctest.Wait()
				if store.node("/services/web/i0001") == nil {
					t.Error("not found without a watch")
				}
				if got := strings.Count(b.log.String(), "cannot watch"); got != 1 {
					t.Errorf("told %d times:\n%s", got, b.log)
				}
			})
		})
	}
}

func TestADirectoryThatIsRemovedComesBackWithAllKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := leased(t, store, PublisherConfig{})
		b.Set(many(50))
		b.mustSettle(t)
		time.Sleep(time.Second)
		store.mu.Lock()
		for key := range store.nodes {
			delete(store.nodes, key)
		}
		store.index++
		store.emit(kv.ActionDelete, &kv.Node{Key: "/services/web", Dir: true, ModifiedIndex: store.index})
		store.mu.Unlock()
		synctest.Wait()
		if status := b.Status(); store.size() != 50 || status.Corrections != 50 || status.Registered != 50 {
			t.Errorf("%d keys, %+v", store.size(), status)
		}
	})
}

func TestEventsOfOthersCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := leased(t, store, PublisherConfig{})
		b.Set(many(10))
		b.mustSettle(t)
		time.Sleep(time.Second)
		store.mu.Lock()
		reads, writes := store.reads, len(store.writes)
		store.mu.Unlock()
		for range 100 {
			store.set("/services/other/x", "y", time.Minute)
			store.Write(t.Context(), kv.Write{Op: kv.OpDelete, Key: "/services/other/x"})
		}
		synctest.Wait()
		if store.reads != reads || len(store.writes) != writes+200 {
			t.Errorf("%d reads, %d writes", store.reads-reads, len(store.writes)-writes-200)
		}
		if b.Status().Registered != 10 {
			t.Error("not registered any more")
		}
	})
}

func TestViewsThatCollideAreLeftOutAndToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := leased(t, store, PublisherConfig{Views: []View{{"/services", LayoutJSON}, {"/services", LayoutCoreOS}}})
		b.Set(many(1))
		synctest.Wait()
		if status := b.Status(); status.Registered != 1 || status.Err == nil || !strings.Contains(status.Err.Error(), "share the directory") {
			t.Errorf("status is %+v", status)
		}
	})
}

func TestARecordThatIsNotUpHasAKeyInTheCanonicalLayoutAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		b := leased(t, store, PublisherConfig{Views: []View{{"/services", LayoutJSON}, {"/reg", LayoutRegistrator}, {"/skydns/kvd", LayoutSkyDNS}}})
		for _, c := range []struct {
			state string
			keys  int
		}{{StateUp, 3}, {StateDraining, 1}, {StateMaintenance, 1}, {StateUp, 3}, {StateUnhealthy, 1}} {
			records := many(1)
			records[0].State = c.state
			b.Set(records)
			b.mustSettle(t)
			record, ok := store.value("/services/web/i0000")
			if n := store.size(); !ok || record.State != c.state || n != c.keys || b.Status().Wanted != n {
				t.Errorf("%s: %d keys, %+v", c.state, n, record)
			}
		}
	})
}
