package registry_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// limit bounds every wait in these tests; nothing is expected to take nearly as long.
const limit = 30 * time.Second

func connect(t *testing.T, url string) *kvclient.Client {
	t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// publish runs a publisher until stop is called or the test ends.
func publish(t *testing.T, store kv.Store, owner string, records ...registry.Record) (p *registry.Publisher, stop func() error) {
	t.Helper()
	p = registry.NewPublisher(registry.PublisherConfig{Store: store, TTL: 2 * time.Second, Owner: owner})
	p.Set(records)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { stop() })
	return p, stop
}

func settle(t *testing.T, p *registry.Publisher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := p.Settle(ctx); err != nil {
		t.Fatal(err)
	}
}

func await(t *testing.T, what string, held func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !held(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func record(instance string) registry.Record {
	return registry.Record{Service: "web", Instance: instance, Address: "127.0.0.1", Port: 80, Protocol: "tcp", State: registry.StateUp}
}

// read returns the node at the key of record(instance), nil if there is none.
func read(t *testing.T, store kv.Store, instance string) *kv.Node {
	t.Helper()
	result, err := store.Read(t.Context(), kv.Read{Key: record(instance).Key(registry.DefaultPrefix)})
	if kv.Is(err, kv.NotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return result.Node
}

func TestARealStoreHoldsTheRecordAndSeesItRenewedInSilence(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	store := connect(t, cluster.URL())
	p, stop := publish(t, store, "m1/r1", record("a"))
	settle(t, p)
	watch, err := store.Watch(t.Context(), kv.WatchFrom{Key: "/services", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	first := read(t, store, "a")
	await(t, "three heartbeats", func() bool { return read(t, store, "a").ModifiedIndex >= first.ModifiedIndex+3 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	event, err := watch.Next(t.Context())
	if err != nil || !event.Removes() {
		t.Errorf("the first thing a watcher saw was %+v, %v; want the removal", event, err)
	}
	if read(t, store, "a") != nil {
		t.Error("still there")
	}
}

func TestRecordsComeBackAfterARestartOfTheStore(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	store := connect(t, cluster.URL())
	p, _ := publish(t, store, "m1/r1", record("a"), record("b"))
	settle(t, p)
	cluster.Stop()
	await(t, "the publisher to notice", func() bool { return p.Status().Err != nil })
	p.Set([]registry.Record{record("b"), record("c")}) // a goes and c comes while nobody can be told
	await(t, "the records to be given up for lost", func() bool { return p.Status().Registered == 0 })
	cluster.Restart()
	settle(t, p)
	if read(t, store, "a") != nil || read(t, store, "b") == nil || read(t, store, "c") == nil {
		t.Error("after the restart the store does not hold the desired set")
	}
	await(t, "the outage to be over", func() bool { status := p.Status(); return status.Registered == 2 && status.Err == nil })
}

func TestTheSecondOwnerOfANameWaitsForTheFirstToGo(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	store := connect(t, cluster.URL())
	first, stopFirst := publish(t, store, "m1/r1", record("a"))
	settle(t, first)
	before := read(t, store, "a")
	second, _ := publish(t, store, "m2/r1", record("a"))
	await(t, "the second to notice", func() bool { return second.Status().Err != nil })
	if now := read(t, store, "a"); now.Value != before.Value {
		t.Fatalf("the second overwrote the first: %s", now.Value)
	}
	if err := stopFirst(); err != nil {
		t.Fatal(err)
	}
	settle(t, second)
	if now := read(t, store, "a"); now == nil || now.Value == before.Value {
		t.Errorf("the second did not take its place: %+v", now)
	}
}

func TestARemovedServiceDirectoryIsPutBack(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	store := connect(t, cluster.URL())
	p, _ := publish(t, store, "m1/r1", record("a"))
	settle(t, p)
	if _, err := store.Write(t.Context(), kv.Write{Op: kv.OpDelete, Key: "/services", Dir: true, Recursive: true}); err != nil {
		t.Fatal(err)
	}
	await(t, "the record to come back", func() bool { return read(t, store, "a") != nil })
}
