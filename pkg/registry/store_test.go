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
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
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
	cfg := registry.PublisherConfig{Store: store, TTL: 2 * time.Second, Owner: owner}
	if client, ok := store.(*kvclient.Client); ok {
		cfg.Leaser = client.Leaser()
	}
	p = registry.NewPublisher(cfg)
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

// stores are a kvd, whose keys share a lease, and an etcd, whose keys have a TTL each.
var stores = map[string]struct {
	leases bool
	start  func(t *testing.T) string
}{
	"kvd":  {true, func(t *testing.T) string { return daemontest.Start(t, 1).URL() }},
	"etcd": {false, func(t *testing.T) string { return etcdtest.Start(t).URL }},
}

func TestARealStoreHoldsTheRecordAndSeesItRenewedInSilence(t *testing.T) {
	for name, real := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := connect(t, real.start(t))
			p, stop := publish(t, store, "m1/r1", record("a"))
			settle(t, p)
			watch, err := store.Watch(t.Context(), kv.WatchFrom{Key: "/services", Recursive: true})
			if err != nil {
				t.Fatal(err)
			}
			defer watch.Close()
			first := read(t, store, "a")
			await(t, "four heartbeats", func() bool { return p.Status().Renewals >= 4 })
			last := read(t, store, "a")
			if shared := last.Lease != 0; shared != real.leases || shared != (p.Status().Lease != 0) || shared && last.ModifiedIndex != first.ModifiedIndex {
				t.Errorf("first it was %+v, then %+v", first, last)
			}
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
		})
	}
}

func TestARealStoreKeepsEveryLayoutForTheNextRunWhichWritesNothing(t *testing.T) {
	for name, real := range stores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := connect(t, real.start(t))
			cfg := registry.PublisherConfig{Store: store, Leaser: store.Leaser(), TTL: 10 * time.Second, Owner: "m1/agent/s1", Keep: true}
			for _, text := range []string{"json:/services", "registrator:/reg", "skydns:kvd", "coreos:/old"} {
				view, err := registry.ParseView(text)
				if err != nil {
					t.Fatal(err)
				}
				cfg.Views = append(cfg.Views, view)
			}
			records := []registry.Record{record("a"), record("b"), record("c")}
			run := func() *registry.Publisher {
				p := registry.NewPublisher(cfg)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- p.Run(ctx) }()
				p.Set(records)
				p.Sweep(nil)
				settle(t, p)
				await(t, "all keys", func() bool { return p.Status().Registered == 12 })
				cancel()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				return p
			}
			first := run()
			if got := first.Status().Writes; got != 12 {
				t.Errorf("the first run has made %d writes", got)
			}
			watch, err := store.Watch(t.Context(), kv.WatchFrom{Recursive: true})
			if err != nil {
				t.Fatal(err)
			}
			defer watch.Close()
			second := run()
			if status := second.Status(); status.Writes != 0 || status.Lease != first.Status().Lease || (status.Lease != 0) != real.leases {
				t.Errorf("the second run has %+v", status)
			}
			records = nil
			third := registry.NewPublisher(cfg)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- third.Run(ctx) }()
			third.Sweep(nil)
			settle(t, third)
			cancel()
			<-done
			event, err := watch.Next(t.Context())
			if err != nil || !event.Removes() {
				t.Errorf("a watcher saw %+v, %v; want the first removal", event, err)
			}
			wantLeft := 0
			if !real.leases {
				wantLeft = 3 // what names nobody and is not desired expires by itself
			}
			if got := count(t, store, "/services") + count(t, store, "/reg") + count(t, store, "/skydns/kvd") + count(t, store, "/old"); got != wantLeft {
				t.Errorf("%d keys are left, want %d", got, wantLeft)
			}
		})
	}
}

// count returns how many keys there are two levels below dir.
func count(t *testing.T, store kv.Store, dir string) (n int) {
	t.Helper()
	result, err := store.Read(t.Context(), kv.Read{Key: dir, Recursive: true, Quorum: true})
	if kv.Is(err, kv.NotFound) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range result.Node.Nodes {
		n += len(service.Nodes)
	}
	return n
}

func TestALeaseThatSomebodyRevokesIsReplacedInARealStore(t *testing.T) {
	store := connect(t, daemontest.Start(t, 1).URL())
	p, _ := publish(t, store, "m1/r1", record("a"), record("b"))
	settle(t, p)
	lease := p.Status().Lease
	if _, err := store.Leaser().Revoke(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	await(t, "both to be back", func() bool {
		status := p.Status()
		return status.Lease != lease && status.Registered == 2 && read(t, store, "a") != nil && read(t, store, "b") != nil
	})
	if got := p.Status().LeasesLost; got != 1 {
		t.Errorf("%d leases lost", got)
	}
}

func TestAnEtcdThatRestartsOrHangsHasTheRecordsAgain(t *testing.T) {
	etcd := etcdtest.Start(t)
	store := connect(t, etcd.URL)
	p, _ := publish(t, store, "m1/r1", record("a"), record("b"))
	settle(t, p)
	etcd.Stop()
	await(t, "the publisher to notice", func() bool { return p.Status().Err != nil })
	etcd.Wipe()
	etcd.Restart()
	await(t, "both to be back", func() bool { return p.Status().Registered == 2 && count(t, store, "/services") == 2 })
	etcd.Pause()
	await(t, "the publisher to notice", func() bool { return p.Status().Err != nil })
	p.Set([]registry.Record{record("b"), record("c")})
	etcd.Continue()
	settle(t, p)
	if read(t, store, "a") != nil || read(t, store, "b") == nil || read(t, store, "c") == nil {
		t.Error("it does not hold the desired set")
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
