package registry

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// instances are records of the service web.
func instances(names ...string) []Record {
	var records []Record
	for _, name := range names {
		record := web()
		record.Instance = name
		records = append(records, record)
	}
	return records
}

// put stores the record of an instance as owner would have.
func (s *memStore) put(instance, owner string) {
	record := instances(instance)[0]
	record.Owner = owner
	s.set(record.Key(DefaultPrefix), record.encode(), DefaultTTL)
}

func TestWhatIsKeptLivesOnAndTheNextRunCarriesOnInSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		first := start(t, store, PublisherConfig{Owner: "m1/agent/s1", Keep: true})
		first.Set(instances("a", "b"))
		first.mustSettle(t)
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(DefaultTTL / 2)
		if _, ok := store.value(webKey); !ok {
			t.Fatal("the record went with its run")
		}
		events := len(store.events)
		second := start(t, store, PublisherConfig{Owner: "m1/agent/s1", Keep: true})
		second.Set(instances("a", "b"))
		second.Sweep(nil)
		second.mustSettle(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		if _, ok := store.value(webKey); !ok || second.Status().Registered != 2 {
			t.Errorf("the next run holds %+v", second.Status())
		}
		if got := len(store.events) - events; got != 0 {
			t.Errorf("the restart woke watchers %d times", got)
		}
		if got := strings.Count(second.log.String(), "msg=registered "); got != 2 {
			t.Errorf("registered was logged %d times:\n%s", got, second.log)
		}
		if err := second.stop(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(DefaultTTL)
		if _, ok := store.value(webKey); ok {
			t.Error("the record outlived its TTL")
		}
	})
}

func TestWhetherAnythingIsKeptCanBeDecidedAtTheEnd(t *testing.T) {
	for _, keep := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := start(t, newMemStore(), PublisherConfig{Keep: !keep})
			b.Set(instances("a"))
			b.mustSettle(t)
			b.Keep(keep)
			if err := b.stop(); err != nil {
				t.Fatal(err)
			}
			if _, ok := b.store.value(webKey); ok != keep {
				t.Errorf("asked for %v at the end, the record is there: %v", keep, ok)
			}
		})
	}
}

func TestWhatIsNotWantedAnyMoreIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newMemStore(), PublisherConfig{Keep: true})
		b.Set(instances("a", "b"))
		b.mustSettle(t)
		b.store.fail(&kv.Error{Kind: kv.Unavailable})
		b.Set(instances("b"))
		synctest.Wait() // tried in vain
		b.store.fail(nil)
		if err := b.stop(); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.store.value(webKey); ok {
			t.Error("a record that nobody wanted was kept")
		}
		if _, ok := b.store.value("/services/web/b"); !ok {
			t.Error("the other one was not")
		}
	})
}

func TestASweepRemovesWhatEarlierRunsHaveLeftAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemStore()
		for instance, owner := range map[string]string{
			"a": "m1/agent/s1", "gone": "m1/agent/s1", "changed": "m1/agent/s0", "spared": "m1/agent/s1",
			"sidekick": "m1/0123456789abcdef", "engine": "m1/other/s1", "machine": "m2/agent/s1", "nobody": "",
		} {
			store.put(instance, owner)
		}
		store.set("/services/web/text", "m1/agent/s1", 0)
		store.fail(&kv.Error{Kind: kv.Unavailable})
		b := start(t, store, PublisherConfig{Owner: "m1/agent/s1", Keep: true})
		b.Set(instances("a"))
		b.Sweep(instances("spared"))
		time.Sleep(time.Second)
		store.fail(nil) // it waits for the store like everything else
		b.mustSettle(t)
		for instance, there := range map[string]bool{
			"a": true, "gone": false, "changed": false, "spared": true, "sidekick": true, "engine": true, "machine": true, "nobody": true, "text": true,
		} {
			if got := store.nodes["/services/web/"+instance] != nil; got != there {
				t.Errorf("%s is there: %v", instance, got)
			}
		}
		store.put("later", "m1/agent/s1")
		b.Set(instances("a", "b"))
		b.mustSettle(t)
		if _, ok := store.value("/services/web/later"); !ok {
			t.Error("it was swept twice")
		}
	})
}

func TestTheLogSaysWhatHasBecomeTrueAndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t, newMemStore(), PublisherConfig{})
		count := func(message string) int { return strings.Count(b.log.String(), "msg="+message+" key="+webKey) }
		b.store.fail(&kv.Error{Kind: kv.Unavailable})
		b.Set([]Record{web()})
		time.Sleep(time.Minute)
		synctest.Wait()
		if count("registered") != 0 {
			t.Fatalf("logged before it was true:\n%s", b.log)
		}
		b.store.fail(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if count("registered") != 1 {
			t.Errorf("registered was logged %d times:\n%s", count("registered"), b.log)
		}
		b.store.fail(&kv.Error{Kind: kv.Unavailable})
		time.Sleep(time.Minute) // and the key expires: the store comes back without it
		b.store.fail(nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := strings.Count(b.log.String(), `msg="registered again" key=`+webKey); got != 1 {
			t.Errorf("registered again was logged %d times:\n%s", got, b.log)
		}
		b.Set(nil)
		b.mustSettle(t)
		if count("removed") != 1 || b.Status().Removed != 1 {
			t.Errorf("removed was logged %d times, status %+v:\n%s", count("removed"), b.Status(), b.log)
		}
	})
}

func TestARecordThatWasNeverWrittenNeedsNoStoreToEnd(t *testing.T) {
	for name, prepare := range map[string]func(*memStore){
		"the store never answered": func(s *memStore) { s.fail(&kv.Error{Kind: kv.Unavailable}) },
		"the key is another's":     func(s *memStore) { s.put("a", "m2/r1") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newMemStore()
				prepare(store)
				b := start(t, store, PublisherConfig{Owner: "m1/r1"})
				b.Set([]Record{web()})
				time.Sleep(2 * time.Second)
				began := time.Now()
				if err := b.stop(); err != nil || time.Since(began) > 0 {
					t.Errorf("took %v: %v", time.Since(began), err)
				}
				if strings.Contains(b.log.String(), "removed") || b.Status().Removed != 0 {
					t.Errorf("status %+v, log:\n%s", b.Status(), b.log)
				}
			})
		})
	}
}
