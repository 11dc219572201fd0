package registrar

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// away is a store that does not answer. What is to be registered can be seen without it.
type away struct{}

var errAway = &kv.Error{Kind: kv.Unavailable}

func (away) Read(context.Context, kv.Read) (kv.Result, error)      { return kv.Result{}, errAway }
func (away) Write(context.Context, kv.Write) (kv.Result, error)    { return kv.Result{}, errAway }
func (away) Watch(context.Context, kv.WatchFrom) (kv.Watch, error) { return nil, errAway }

// scripted is a check that passes while it is told to, and counts how often it was asked.
type scripted struct {
	name  string
	well  atomic.Bool
	asked atomic.Int64
}

func (c *scripted) Run(context.Context) error {
	c.asked.Add(1)
	if c.well.Load() {
		return nil
	}
	return errors.New("not yet")
}

func (c *scripted) String() string { return c.name }

func (c *scripted) monitor() *health.Monitor { return &health.Monitor{Check: c} }

// wishes are overrides of a test.
type wishes struct {
	of      atomic.Pointer[override.Override]
	changed atomic.Pointer[chan struct{}] // closed and replaced when of changes
}

func newWishes() *wishes {
	w, changed := &wishes{}, make(chan struct{})
	w.changed.Store(&changed)
	return w
}

func (w *wishes) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (w *wishes) Changed() <-chan struct{}      { return *w.changed.Load() }
func (w *wishes) Get(string, string) override.Override {
	if o := w.of.Load(); o != nil {
		return *o
	}
	return override.Override{}
}

func (w *wishes) want(o override.Override) {
	w.of.Store(&o)
	next := make(chan struct{})
	close(*w.changed.Swap(&next))
}

func offer(instance, run string, check *scripted) Offer {
	o := Offer{
		Record: registry.Record{Service: "web", Instance: instance, Address: "10.0.0.1", Port: 80, Protocol: "tcp", Weight: 5},
		Source: "docker", Workload: "box-" + instance, Run: run, State: workload.Running,
	}
	if check != nil {
		o.Monitor = check.monitor()
	}
	return o
}

// in runs test with a registrar in a bubble where time passes as soon as nothing else happens.
func in(t *testing.T, test func(t *testing.T, r *Registrar, w *wishes)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWishes()
		r := New(Config{
			Publisher: registry.NewPublisher(registry.PublisherConfig{Store: away{}}),
			Overrides: w, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.Run(ctx) }()
		test(t, r, w)
		cancel()
		<-ended
	})
}

// only returns the one entry there is, when everybody waits.
func only(t *testing.T, r *Registrar) Entry {
	t.Helper()
	synctest.Wait()
	entries := r.Entries()
	if len(entries) != 1 {
		t.Fatalf("%d entries, want 1", len(entries))
	}
	return entries[0]
}

func expect(t *testing.T, r *Registrar, phase Phase, state string) Entry {
	t.Helper()
	e := only(t, r)
	if e.Phase == WaitingForStore {
		e.Phase = Up // as far as can be without a store
	}
	if e.Phase != phase || e.State != state {
		t.Fatalf("phase %s (%s), state %q; want %s, %q", e.Phase, e.Reason, e.State, phase, state)
	}
	return e
}

func TestAnOfferWithoutChecksIsUpAtOnce(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		r.Set([]Offer{offer("a", "1", nil)})
		expect(t, r, Up, registry.StateUp)
		if !r.AllTried() {
			t.Error("not all tried")
		}
	})
}

func TestAnOfferIsUpOnceItHasPassedAndDownAfterSeveralFailures(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		check := &scripted{name: "a"}
		r.Set([]Offer{offer("a", "1", check)})
		expect(t, r, Checking, "")
		if !r.AllTried() {
			t.Error("it was tried, and failed")
		}
		check.well.Store(true)
		time.Sleep(20 * time.Millisecond)
		expect(t, r, Up, registry.StateUp)
		check.well.Store(false)
		time.Sleep(2 * health.DefaultInterval)
		expect(t, r, Up, registry.StateUp)
		time.Sleep(2 * health.DefaultInterval)
		if e := expect(t, r, Unhealthy, ""); e.Reason != "not yet" || e.Verdict.Failed < 3 {
			t.Errorf("entry %+v", e)
		}
		check.well.Store(true)
		time.Sleep(2 * time.Second)
		expect(t, r, Up, registry.StateUp)
	})
}

func TestAnUnhealthyInstanceIsMarkedWhenAskedFor(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		o := offer("a", "1", nil)
		o.Health, o.Unhealthy = workload.HealthStarting, UnhealthyMark
		r.Set([]Offer{o})
		expect(t, r, Checking, "")
		o.Health = workload.HealthHealthy
		r.Set([]Offer{o})
		expect(t, r, Up, registry.StateUp)
		o.Health = workload.HealthUnhealthy
		r.Set([]Offer{o})
		expect(t, r, Unhealthy, registry.StateUnhealthy)
	})
}

func TestAnotherRunHasToPassAnewAndAnotherCheckCarriesOn(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		check, other := &scripted{name: "a"}, &scripted{name: "b"}
		check.well.Store(true)
		r.Set([]Offer{offer("a", "1", check)})
		expect(t, r, Up, registry.StateUp)
		r.Set([]Offer{offer("a", "1", other)})
		expect(t, r, Up, registry.StateUp)
		if other.asked.Load() == 0 {
			t.Error("the new check was not asked")
		}
		asked := check.asked.Load()
		time.Sleep(15 * time.Second)
		expect(t, r, Up, registry.StateUp)
		if check.asked.Load() != asked {
			t.Error("the old check is still asked")
		}
		r.Set([]Offer{offer("a", "2", other)})
		expect(t, r, Checking, "")
	})
}

func TestAnotherIntervalOfACheckCounts(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		check := &scripted{name: "a"}
		check.well.Store(true)
		slow, quick := offer("a", "1", check), offer("a", "1", check)
		slow.Monitor.Interval, quick.Monitor.Interval = time.Hour, time.Second
		r.Set([]Offer{slow})
		expect(t, r, Up, registry.StateUp)
		r.Set([]Offer{quick})
		expect(t, r, Up, registry.StateUp)
		time.Sleep(30 * time.Second)
		if asked := check.asked.Load(); asked < 20 {
			t.Errorf("asked %d times within 30 seconds", asked)
		}
		asked := check.asked.Load()
		again := offer("a", "1", check)
		again.Monitor.Interval = time.Second
		r.Set([]Offer{again})
		expect(t, r, Up, registry.StateUp)
		if check.asked.Load() != asked {
			t.Error("it began anew although nothing has changed")
		}
	})
}

func TestAStoppingWorkloadDrainsIfItWasUpOrMayHaveBeen(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		stopping := func(o Offer) Offer { o.State = workload.Stopping; return o }
		r.Set([]Offer{offer("a", "1", nil)})
		expect(t, r, Up, registry.StateUp)
		r.Set([]Offer{stopping(offer("a", "1", nil))})
		expect(t, r, Stopping, registry.StateDraining)

		never := &scripted{name: "never"}
		r.Set([]Offer{offer("b", "1", never)})
		expect(t, r, Checking, "")
		r.Set([]Offer{stopping(offer("b", "1", never))})
		expect(t, r, Stopping, "")
		asked := never.asked.Load()
		time.Sleep(time.Minute)
		if never.asked.Load() != asked {
			t.Error("it is still asked")
		}
		r.Set([]Offer{stopping(offer("c", "1", never))})
		expect(t, r, Stopping, registry.StateDraining)
		r.Set(nil)
		synctest.Wait()
		if entries := r.Entries(); len(entries) != 0 {
			t.Errorf("entries %+v", entries)
		}
	})
}

func TestWhatWasInUseWhenItsWorkloadFailedStaysUntilItIsTakenAway(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, w *wishes) {
		check := &scripted{name: "tcp"}
		running := offer("a", "1", check)
		failed := running
		failed.State = workload.Failed

		r.Set([]Offer{failed})
		expect(t, r, Failed, "")
		r.Set([]Offer{running})
		expect(t, r, Checking, "")
		r.Set([]Offer{failed})
		expect(t, r, Failed, "") // it was never up

		check.well.Store(true)
		r.Set([]Offer{running})
		time.Sleep(time.Minute)
		expect(t, r, Up, registry.StateUp)
		r.Set([]Offer{failed})
		check.well.Store(false)
		asked := check.asked.Load()
		time.Sleep(time.Minute)
		if e := expect(t, r, Failed, registry.StateUp); !e.Kept {
			t.Error("its record does not say that it is kept")
		}
		if check.asked.Load() != asked {
			t.Error("what has ended is still asked")
		}
		w.want(override.Override{Mode: override.Drain})
		expect(t, r, Draining, registry.StateDraining)
		w.want(override.Override{})
		expect(t, r, Failed, registry.StateUp)

		anew := offer("a", "2", check)
		r.Set([]Offer{anew})
		expect(t, r, Checking, "")
		r.Set(nil)
		synctest.Wait()
		if entries := r.Entries(); len(entries) > 0 {
			t.Errorf("what was taken away is still there: %+v", entries)
		}
	})
}

func TestWhatWasUnhealthyWhenItsWorkloadFailedGoes(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		o := offer("a", "1", nil)
		o.Unhealthy = UnhealthyMark
		r.Set([]Offer{o})
		expect(t, r, Up, registry.StateUp)
		o.Health = workload.HealthUnhealthy
		r.Set([]Offer{o})
		expect(t, r, Unhealthy, registry.StateUnhealthy)
		o.State = workload.Failed
		r.Set([]Offer{o})
		expect(t, r, Failed, "")
	})
}

func TestOperatorsAreObeyed(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, w *wishes) {
		check := &scripted{name: "a"}
		check.well.Store(true)
		r.Set([]Offer{offer("a", "1", check)})
		if e := expect(t, r, Up, registry.StateUp); e.Weight != 5 {
			t.Errorf("weight %d", e.Weight)
		}
		w.want(override.Override{Mode: override.Drain, Weight: 7, By: "ann", Reason: "kernel"})
		if e := expect(t, r, Draining, registry.StateDraining); e.Weight != 7 || e.Reason != "wanted by ann: kernel" {
			t.Errorf("entry %+v", e)
		}
		w.want(override.Override{Mode: override.Maintenance})
		check.well.Store(false)
		time.Sleep(time.Minute)
		expect(t, r, Maintenance, registry.StateMaintenance)
		w.want(override.Override{})
		expect(t, r, Unhealthy, "")
		check.well.Store(true)
		time.Sleep(2 * time.Second)
		expect(t, r, Up, registry.StateUp)
	})
}

func TestDrainDrainsWhatIsUp(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		r.Set([]Offer{offer("a", "1", nil)})
		expect(t, r, Up, registry.StateUp)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the store is away, and Drain returned %v", err)
		}
		expect(t, r, Draining, registry.StateDraining)
	})
}

func TestOfManyOffersThoseThatAreOthersAreFollowed(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		a, b := offer("a", "1", nil), offer("b", "1", nil)
		r.SetEach([]*Offer{&a, &b})
		synctest.Wait()
		stopping := b
		stopping.State = workload.Stopping
		r.SetEach([]*Offer{&a, &stopping})
		synctest.Wait()
		if e := r.Entries(); len(e) != 2 || e[0].State != registry.StateUp || e[1].State != registry.StateDraining {
			t.Errorf("one is stopping: %+v", e)
		}
		r.SetEach([]*Offer{&a})
		synctest.Wait()
		if e := r.Entries(); len(e) != 1 || e[0].State != registry.StateUp || !r.AllTried() {
			t.Errorf("one is gone: %+v", e)
		}
		r.SetEach([]*Offer{&b, &a})
		synctest.Wait()
		if e := r.Entries(); len(e) != 2 || e[0].State != registry.StateUp || e[0].Offer.Record.Instance != "b" {
			t.Errorf("it is back: %+v", e)
		}
	})
}

func TestOneOfTwoOffersOfAnInstanceCounts(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		first, second := offer("a", "1", nil), offer("a", "1", nil)
		second.Workload = "other"
		r.Set([]Offer{first, second})
		synctest.Wait()
		entries := r.Entries()
		if len(entries) != 2 || entries[0].Phase != WaitingForStore || entries[1].Phase != Held || entries[1].State != "" {
			t.Fatalf("entries %+v", entries)
		}
		r.Set([]Offer{second})
		if e := expect(t, r, Up, registry.StateUp); e.Offer.Workload != "other" {
			t.Errorf("entry %+v", e)
		}
	})
}

func TestWhoNeverPassesIsToldOfOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines atomic.Int64
		log := slog.New(slog.NewTextHandler(writer(func(line []byte) {
			if strings.Contains(string(line), "not registered yet") {
				lines.Add(1)
			}
		}), nil))
		r := New(Config{Publisher: registry.NewPublisher(registry.PublisherConfig{Store: away{}}), Log: log})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); r.Run(ctx) }()
		check := &scripted{name: "a"}
		r.Set([]Offer{offer("a", "1", check)})
		for at, want := range []int64{0, 1, 1, 2} { // after 9 s, 11 s, 10 min and 10.5 min
			time.Sleep([]time.Duration{9 * time.Second, 2 * time.Second, 9*time.Minute + 49*time.Second, 30 * time.Second}[at])
			synctest.Wait()
			if n := lines.Load(); n != want {
				t.Errorf("step %d: told %d times, want %d", at, n, want)
			}
		}
		if stats := r.Stats(); stats.Checks != uint64(check.asked.Load()) || stats.Failures != stats.Checks {
			t.Errorf("%+v; asked %d times", stats, check.asked.Load())
		}
		cancel()
		<-ended
	})
}

type writer func(line []byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestWhatTheEngineAloneTellsIsNotAsked(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		o := offer("a", "1", nil)
		o.Monitor, o.Health = &health.Monitor{Check: health.Engine{Name: "docker"}}, workload.HealthHealthy
		r.Set([]Offer{o})
		expect(t, r, Up, registry.StateUp)
		time.Sleep(time.Hour)
		if stats := r.Stats(); stats.Checks != 0 {
			t.Errorf("%d checks", stats.Checks)
		}
		o.Health = workload.HealthUnhealthy
		r.Set([]Offer{o})
		expect(t, r, Unhealthy, "")
	})
}

func TestAnotherAddressHasToPassAnew(t *testing.T) {
	in(t, func(t *testing.T, r *Registrar, _ *wishes) {
		check := &scripted{name: "a"}
		check.well.Store(true)
		o := offer("a", "1", check)
		r.Set([]Offer{o})
		expect(t, r, Up, registry.StateUp)
		check.well.Store(false)
		o.Record.Tags = []string{"blue"}
		r.Set([]Offer{o})
		expect(t, r, Up, registry.StateUp)
		o.Record.Address = "10.0.0.2"
		r.Set([]Offer{o})
		expect(t, r, Checking, "")
	})
}
