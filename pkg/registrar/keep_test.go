package registrar

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// patience bounds every wait; nothing that works takes as long.
const patience = 20 * time.Second

func open(t *testing.T, url string) *kvclient.Client {
	t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// host is a registrar with a store, and one instance that keeps the last one.
type host struct {
	*Registrar
	check *scripted
}

func startHost(t *testing.T, url, instance string, unhealthy string) *host {
	t.Helper()
	client := open(t, url)
	h := &host{check: &scripted{name: instance}}
	h.Registrar = New(Config{
		Publisher: registry.NewPublisher(registry.PublisherConfig{Store: client, Leaser: client.Leaser(), Owner: instance + "/x"}),
		Peers:     client,
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); h.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	h.Set([]Offer{{
		Record: registry.Record{Service: "web", Instance: instance, Address: "10.0.0.1", Port: 80, Protocol: "tcp"},
		State:  workload.Running, KeepLast: true, Unhealthy: unhealthy,
		Monitor: &health.Monitor{Check: h.check, Interval: time.Millisecond, StartInterval: time.Millisecond, Fall: 1},
	}})
	return h
}

// await waits until the host's one entry is as wanted.
func (h *host) await(t *testing.T, what string, holds func(Entry) bool) Entry {
	t.Helper()
	deadline := time.After(patience)
	for {
		changed := h.Changed()
		var e Entry
		if entries := h.Entries(); len(entries) == 1 {
			if e = entries[0]; holds(e) {
				return e
			}
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("%s: %s is never %s: %+v", what, h.check.name, what, e)
		}
	}
}

func isUp(e Entry) bool   { return e.Phase == Up }
func isKept(e Entry) bool { return e.Phase == Unhealthy && e.Kept }
func isGone(e Entry) bool { return e.Phase == Unhealthy && !e.Kept && len(e.Keys) == 0 }

func TestTheLastHealthyInstanceIsKeptAndGoesWhenAnotherOneIsUp(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	a := startHost(t, cluster.URL(), "a", UnhealthyRemove)
	a.check.well.Store(true)
	a.await(t, "up", isUp)
	a.check.well.Store(false)
	e := a.await(t, "kept", isKept)
	if e.State != registry.StateUp {
		t.Errorf("entry %+v", e)
	}
	b := startHost(t, cluster.URL(), "b", UnhealthyMark)
	b.check.well.Store(true)
	b.await(t, "up", isUp)
	a.await(t, "gone", isGone)
	b.check.well.Store(false)
	b.await(t, "kept", isKept)
	a.check.well.Store(true)
	a.await(t, "up", isUp)
	b.await(t, "marked", func(e Entry) bool { return !e.Kept && e.State == registry.StateUnhealthy })
	b.check.well.Store(true)
	b.await(t, "up", isUp)
}

func TestWithoutASightOfTheOthersEveryInstanceIsKept(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		o := offer("a", "1", nil)
		o.KeepLast, o.Health = true, workload.HealthHealthy
		r.Set([]Offer{o})
		expect(t, r, Up, registry.StateUp)
		o.Health = workload.HealthUnhealthy
		r.Set([]Offer{o})
		if e := expect(t, r, Unhealthy, registry.StateUp); !e.Kept {
			t.Errorf("entry %+v", e)
		}
	})
}

// census follows the records of a service and notes when none of them is up any more.
type census struct {
	events  atomic.Int64
	mu      sync.Mutex
	records map[string]registry.Record
	wasUp   bool
	broken  string
}

func (c *census) take(changes kvclient.Changes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, event := range changes.Events {
		c.events.Add(1)
		delete(c.records, event.Node.Key)
		if !event.Removes() {
			record, _ := registry.Decode(event.Node.Value)
			c.records[event.Node.Key] = record
		}
		up := 0
		for _, record := range c.records {
			if record.State == registry.StateUp {
				up++
			}
		}
		if c.wasUp = c.wasUp || up > 0; c.wasUp && up == 0 && c.broken == "" {
			c.broken = fmt.Sprintf("nobody is up at index %d: %v", event.Node.ModifiedIndex, c.records)
		}
	}
}

// TestOfAnyNumberThatFailTogetherOneStaysUp fails and mends the checks of several hosts at random, as
// many as possible at one time, and looks at every single state of the store.
func TestOfAnyNumberThatFailTogetherOneStaysUp(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := &census{records: map[string]registry.Record{}}
	ctx, cancel := context.WithCancel(context.Background())
	followed := make(chan struct{})
	follower := kvclient.Follow(open(t, cluster.URL()), "/services/web")
	go func() {
		defer close(followed)
		defer follower.Close()
		for ctx.Err() == nil {
			if changes, err := follower.Next(ctx); err == nil {
				c.take(changes)
			}
		}
	}()
	defer func() { cancel(); <-followed }()

	var hosts []*host
	for _, name := range []string{"a", "b", "c"}[:2+random.IntN(2)] {
		h := startHost(t, cluster.URL(), name, UnhealthyRemove)
		h.check.well.Store(true)
		h.await(t, "up", isUp)
		hosts = append(hosts, h)
	}
	flips := 0
	for range 150 {
		for _, h := range hosts {
			if well := random.IntN(3) == 0; well != h.check.well.Load() {
				h.check.well.Store(well)
				flips++
			}
		}
		settle(t, hosts, random.IntN(3) == 0)
	}
	for _, h := range hosts { // all fail together, for good
		h.check.well.Store(false)
	}
	kept := settle(t, hosts, true)
	events := c.events.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != "" {
		t.Error(c.broken)
	}
	if kept == 0 {
		t.Error("nobody is kept")
	}
	// A failure takes two events and a recovery one; more of them would be somebody who flaps.
	if most := int64(3*flips + 10); events > most {
		t.Errorf("%d events for %d changes of health", events, flips)
	}
}

// settle waits until no host has anything left to do, if all is asked for, or until somebody has. It
// returns how many are kept.
func settle(t *testing.T, hosts []*host, all bool) (kept int) {
	t.Helper()
	for _, h := range hosts {
		well := h.check.well.Load()
		e := h.await(t, "settled", func(e Entry) bool {
			if !all {
				return well == e.Verdict.Healthy
			}
			return well && isUp(e) || !well && (isGone(e) || isKept(e)) && e.Verdict.Failed > 0
		})
		if e.Kept {
			kept++
		}
	}
	return kept
}

func TestARecordIsInTheStoreAsItsEntrySays(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	h := startHost(t, cluster.URL(), "a", UnhealthyRemove)
	client := open(t, cluster.URL())
	h.check.well.Store(true)
	e := h.await(t, "up", isUp)
	if len(e.Keys) != 1 || e.Keys[0].State != registry.KeyRegistered || e.Keys[0].Key != "/services/web/a" {
		t.Errorf("keys %+v", e.Keys)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := h.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	result, err := client.Read(ctx, kv.Read{Key: "/services/web/a", Quorum: true})
	if err != nil {
		t.Fatal(err)
	}
	if record, err := registry.Decode(result.Node.Value); err != nil || record.State != registry.StateDraining {
		t.Errorf("record %+v, %v", record, err)
	}
	if stats := h.Stats(); stats.Checks == 0 {
		t.Error("no check was counted")
	}
}
