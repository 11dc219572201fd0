package registry

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

const webKey = "/services/web/a"

func web() Record {
	return Record{Service: "web", Instance: "a", Address: "10.0.0.5", Port: 8080, Protocol: "tcp", State: StateUp}
}

// A bench is a publisher running against a memStore inside a synctest bubble.
type bench struct {
	*Publisher
	store *memStore
	log   *bytes.Buffer // read it only after synctest.Wait
	stop  func() error  // ends Run and returns its error
}

func start(t *testing.T, store *memStore, cfg PublisherConfig) *bench {
	t.Helper()
	log := &bytes.Buffer{}
	cfg.Store, cfg.Log = store, slog.New(slog.NewTextHandler(log, nil))
	b := &bench{Publisher: NewPublisher(cfg), store: store, log: log}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	b.stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { b.stop() })
	return b
}

func (s *memStore) value(key string) (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	if s.nodes[key] == nil {
		return Record{}, false
	}
	record, err := Decode(s.nodes[key].Value)
	if err != nil {
		panic(err)
	}
	return record, true
}

func (s *memStore) set(key, value string, ttl time.Duration) {
	if _, err := s.Write(context.Background(), kv.Write{Op: kv.OpSet, Key: key, Value: value, TTL: ttl}); err != nil {
		panic(err)
	}
}

func (b *bench) mustSettle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := b.Settle(ctx); err != nil {
		t.Fatalf("the store never agreed: %v", err)
	}
	synctest.Wait()
}

func TestRecordsAreRegisteredAndRemovedWhenRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newMemStore(), PublisherConfig{Owner: "m1/r1"})
		b.Set([]Record{web()})
		b.mustSettle(t)
		record, ok := b.store.value(webKey)
		if !ok || record.Owner != "m1/r1" || record.Port != 8080 {
			t.Fatalf("stored %+v, %v", record, ok)
		}
		if got := b.store.nodes[webKey].TTL; got != 15 {
			t.Errorf("TTL is %d seconds, want 15", got)
		}
		began := time.Now()
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.store.value(webKey); ok {
			t.Error("the record is still there after Run has ended")
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("the end took %v although the store answered at once", took)
		}
		if err := b.Settle(t.Context()); kv.KindOf(err) != kv.Closed {
			b.Set(nil)
			if err := b.Settle(t.Context()); kv.KindOf(err) != kv.Closed {
				t.Errorf("Settle after the end: %v", err)
			}
		}
	})
}

func TestHeartbeatsRenewTheKeyAndWakeNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newMemStore(), PublisherConfig{TTL: 9 * time.Second})
		b.Set([]Record{web()})
		b.mustSettle(t)
		events := len(b.store.events)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if _, ok := b.store.value(webKey); !ok {
			t.Fatal("the key expired although its publisher runs")
		}
		if got := len(b.store.events); got != events {
			t.Errorf("%d watch events at rest", got-events)
		}
		last := b.store.writes[0].at
		for _, write := range b.store.writes[1:] {
			if gap := write.at.Sub(last); gap < 2700*time.Millisecond || gap > 3300*time.Millisecond {
				t.Errorf("heartbeat after %v, want a third of the TTL ±10%%", gap)
			}
			last = write.at
		}
	})
}

func TestAVanishedKeyIsPutBackAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newMemStore(), PublisherConfig{})
		b.Set([]Record{web()})
		b.mustSettle(t)
		time.Sleep(time.Second) // the watch is open
		began := time.Now()
		if _, err := b.store.Write(t.Context(), kv.Write{Op: kv.OpDelete, Key: webKey}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := b.store.value(webKey); !ok || time.Since(began) > 0 {
			t.Errorf("there: %v, after %v", ok, time.Since(began))
		}
	})
}

func TestAnEditOfOurOwnRecordIsUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newMemStore(), PublisherConfig{Owner: "m1/r1"})
		b.Set([]Record{web()})
		b.mustSettle(t)
		edited := web()
		edited.Owner, edited.Port = "m1/r1", 9999
		b.store.set(webKey, edited.encode(), 0)
		time.Sleep(DefaultTTL)
		if record, _ := b.store.value(webKey); record.Port != 8080 {
			t.Errorf("port is %d", record.Port)
		}
		b.stop()
		if _, ok := b.store.value(webKey); ok {
			t.Error("not removed at the end")
		}
	})
}

func TestAForeignKeyIsLeftAloneUntilItIsGone(t *testing.T) {
	foreign := web()
	foreign.Owner = "m2/r1"
	for name, value := range map[string]string{"another owner": foreign.encode(), "no owner": "10.0.0.9:80"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newMemStore()
				store.set(webKey, value, 0)
				b := start(t, store, PublisherConfig{Owner: "m1/r1"})
				b.Set([]Record{web()})
				time.Sleep(time.Hour)
				synctest.Wait()
				if store.nodes[webKey].Value != value {
					t.Fatalf("overwritten with %s", store.nodes[webKey].Value)
				}
				if got := strings.Count(b.log.String(), "level=WARN"); got != 1 {
					t.Errorf("conflict logged %d times:\n%s", got, b.log)
				}
				var held *HeldError
				if status := b.Status(); status.Wanted != 1 || status.Registered != 0 || !errors.As(status.Err, &held) {
					t.Errorf("status is %+v", status)
				}
				if _, err := store.Write(t.Context(), kv.Write{Op: kv.OpDelete, Key: webKey}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if record, _ := store.value(webKey); record.Owner != "m1/r1" {
					t.Errorf("not registered after the other had gone: %+v", record)
				}
			})
		})
	}
}

func TestANodeThatComesBackDoesNotTouchItsSuccessorsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		old := start(t, store, PublisherConfig{Owner: "m1/r1"})
		old.Set([]Record{web()})
		old.mustSettle(t)
		store.fail(&kv.Error{Kind: kv.Unavailable}) // as the old node sees it
		time.Sleep(time.Minute)
		store.fail(nil)
		successor := web()
		successor.Owner = "m2/r1"
		store.set(webKey, successor.encode(), 0)
		time.Sleep(time.Minute)
		if err := old.stop(); err != nil {
			t.Error(err)
		}
		if record, ok := store.value(webKey); !ok || record.Owner != "m2/r1" {
			t.Errorf("the successor's record became %+v, %v", record, ok)
		}
	})
}

func TestARestartTakesOverWhatTheRunBeforeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		first := start(t, store, PublisherConfig{Owner: "m1/r1"})
		first.Set([]Record{web()})
		first.mustSettle(t)
		second := start(t, store, PublisherConfig{Owner: "m1/r2"})
		second.Set([]Record{web()})
		second.mustSettle(t)
		time.Sleep(time.Hour)
		if record, _ := store.value(webKey); record.Owner != "m1/r2" {
			t.Fatalf("the key belongs to %q", record.Owner)
		}
		if swaps := len(store.events); swaps > 3 {
			t.Errorf("%d events: the two runs fight", swaps)
		}
		if err := first.stop(); err != nil {
			t.Error(err)
		}
		if record, _ := store.value(webKey); record.Owner != "m1/r2" {
			t.Errorf("the end of the first run left %+v", record)
		}
	})
}

func TestAnOutageIsSurvivedAndEndsWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newMemStore(), PublisherConfig{})
		other := web()
		other.Instance = "b"
		b.Set([]Record{web(), other})
		b.mustSettle(t)
		b.store.fail(&kv.Error{Kind: kv.Unavailable, Cause: "refused"})
		time.Sleep(10 * time.Second)
		if got := b.Status(); got.Registered != 2 || !kv.Is(got.Err, kv.Unavailable) {
			t.Errorf("early in the outage readers may still find both: %+v", got)
		}
		third := web()
		third.Instance = "c"
		b.Set([]Record{web(), third}) // b goes, c comes, while nobody can be told
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := b.Status(); got.Registered != 0 {
			t.Errorf("status late in the outage: %+v", got)
		}
		if got := strings.Count(b.log.String(), "level=WARN"); got != 1 {
			t.Errorf("outage logged %d times:\n%s", got, b.log)
		}
		b.store.fail(nil)
		time.Sleep(retryMax)
		b.mustSettle(t)
		for instance, want := range map[string]bool{"a": true, "b": false, "c": true} {
			if _, ok := b.store.value("/services/web/" + instance); ok != want {
				t.Errorf("instance %s is there: %v", instance, ok)
			}
		}
	})
}

func TestALostAnswerIsNotMistakenForAForeignKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		store.lose = 3
		b := start(t, store, PublisherConfig{Owner: "m1/r1"})
		b.Set([]Record{web()})
		b.mustSettle(t)
		if record, _ := store.value(webKey); record.Owner != "m1/r1" {
			t.Errorf("stored %+v", record)
		}
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestACreateWithoutAnswerIsCleanedUpWhenNoLongerWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		store.lose = 1
		b := start(t, store, PublisherConfig{})
		b.Set([]Record{web()})
		synctest.Wait() // written, answer lost
		b.Set(nil)
		b.mustSettle(t)
		if _, ok := store.value(webKey); ok {
			t.Error("the record stayed behind")
		}
	})
}

func TestTheEndIsBoundedWhenTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newMemStore(), PublisherConfig{WithdrawTimeout: 3 * time.Second})
		b.Set([]Record{web()})
		b.mustSettle(t)
		b.store.fail(&kv.Error{Kind: kv.Unavailable})
		began := time.Now()
		err := b.stop()
		if err == nil || !strings.Contains(err.Error(), webKey) || !kv.Is(err, kv.Unavailable) {
			t.Errorf("error is %v", err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
		b.store.fail(nil)
		time.Sleep(DefaultTTL)
		if _, ok := b.store.value(webKey); ok {
			t.Error("the key outlived its TTL")
		}
	})
}

func TestInvalidAndDoubledRecordsAreLeftOutAndReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newMemStore(), PublisherConfig{Prefix: "/other/place"})
		invalid := web()
		invalid.Instance = "../escape"
		b.Set([]Record{web(), invalid, web()})
		synctest.Wait()
		if _, ok := b.store.value("/other/place/web/a"); !ok || len(b.store.nodes) != 1 {
			t.Errorf("stored %v", b.store.nodes)
		}
		err := b.Status().Err
		if err == nil || !strings.Contains(err.Error(), "escape") || !strings.Contains(err.Error(), "two instances") {
			t.Errorf("status says %v", err)
		}
	})
}

func TestStatusIsToldWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []Status
		b := start(t, newMemStore(), PublisherConfig{OnStatus: func(s Status) { seen = append(seen, s) }})
		b.Set([]Record{web()})
		time.Sleep(time.Hour)
		synctest.Wait()
		if last := seen[len(seen)-1]; len(seen) != 2 || last.Wanted != 1 || last.Registered != 1 || last.Err != nil {
			t.Errorf("told %+v", seen)
		}
	})
}

func TestAnUnreachableStoreIsReportedBeforeThereIsAnythingToRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		store.fail(&kv.Error{Kind: kv.Unavailable, Cause: "connection refused"})
		b := start(t, store, PublisherConfig{})
		time.Sleep(time.Second)
		synctest.Wait()
		if !strings.Contains(b.log.String(), "connection refused") || !kv.Is(b.Status().Err, kv.Unavailable) {
			t.Errorf("after a second: status %v, log %s", b.Status().Err, b.log)
		}
		store.fail(nil)
		time.Sleep(2 * retryMax)
		synctest.Wait()
		if !strings.Contains(b.log.String(), "store answers again") || b.Status().Err != nil {
			t.Errorf("after its return: status %v, log %s", b.Status().Err, b.log)
		}
		if since := time.Since(b.LastPass()); since > DefaultTTL {
			t.Errorf("last pass %v ago", since)
		}
	})
}

// overtakenStore removes a key between the moment at which it reads it and the answer.
type overtakenStore struct {
	*memStore
	once sync.Once
}

func (s *overtakenStore) Read(ctx context.Context, r kv.Read) (kv.Result, error) {
	result, err := s.memStore.Read(ctx, r)
	if err == nil && r.Key == webKey {
		s.once.Do(func() {
			s.memStore.Write(ctx, kv.Write{Op: kv.OpDelete, Key: webKey})
			time.Sleep(time.Second) // the watch is faster
		})
	}
	return result, err
}

func TestAForeignKeyThatGoesWhileItIsReadIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		other := web()
		other.Owner = "m2/r1"
		store.set(webKey, other.encode(), 0)
		p := NewPublisher(PublisherConfig{Store: &overtakenStore{memStore: store}, Leaser: store, Owner: "m1/r1"})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		defer func() { cancel(); <-done }()
		p.Set([]Record{web()})
		settling, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		if err := p.Settle(settling); err != nil {
			t.Errorf("a key that nobody holds was not taken: %v", err)
		}
	})
}
