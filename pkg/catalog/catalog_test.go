package catalog_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/catalog"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait; nothing that works takes as long.
const patience = 20 * time.Second

func open(t testing.TB, url string) *kvclient.Client {
	t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func set(t testing.TB, client *kvclient.Client, key, value string) kv.Index {
	t.Helper()
	result, err := client.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: key, Value: value})
	if err != nil {
		t.Fatal(err)
	}
	return result.Index
}

func remove(t testing.TB, client *kvclient.Client, key string) kv.Index {
	t.Helper()
	result, err := client.Write(t.Context(), kv.Write{Op: kv.OpDelete, Key: key, Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	return result.Index
}

func record(service, instance string) registry.Record {
	return registry.Record{Service: service, Instance: instance, Address: "10.0.0.7", Port: 80, Protocol: "tcp", State: registry.StateUp}
}

// put writes a record to its key below /services.
func put(t testing.TB, client *kvclient.Client, r registry.Record) kv.Index {
	t.Helper()
	return set(t, client, r.Key("/services"), text(t, r))
}

func text(t testing.TB, r registry.Record) string {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// run runs a catalog until the test ends.
func run(t testing.TB, cfg catalog.Config) *catalog.Catalog {
	t.Helper()
	c := catalog.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return c
}

func until(t testing.TB, c *catalog.Catalog, index kv.Index) catalog.State {
	t.Helper()
	end := time.After(patience)
	for {
		changed := c.Changed()
		if state := c.State(); state.Complete && state.Index >= index {
			return state
		}
		select {
		case <-changed:
		case <-end:
			t.Fatalf("it stays at %+v", c.State())
		}
	}
}

func names(records []registry.Record) []string {
	var all []string
	for _, r := range records {
		all = append(all, r.Instance)
	}
	return all
}

func TestACatalogHoldsRecordsByService(t *testing.T) {
	client := open(t, daemontest.Start(t, 1).URL())
	put(t, client, record("web", "b"))
	put(t, client, record("web", "a"))
	put(t, client, record("Web", "c"))
	start := put(t, client, record("db", "a"))
	c := run(t, catalog.Config{Source: client})
	if state := until(t, c, start); state.Services != 3 || state.Instances != 4 || state.Unreadable != 0 {
		t.Errorf("state %+v", state)
	}
	if got := c.Services(); !slices.Equal(got, []string{"Web", "db", "web"}) {
		t.Errorf("services %q", got)
	}
	if got := c.Fold("WEB"); !slices.Equal(got, []string{"Web", "web"}) {
		t.Errorf("WEB is %q", got)
	}
	lent := c.Instances("web")
	if got := names(lent); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("instances %q", got)
	}

	draining := record("web", "b")
	draining.State = registry.StateDraining
	put(t, client, draining)
	remove(t, client, "/services/web/a")
	until(t, c, remove(t, client, "/services/Web"))
	if got := c.Instances("web"); len(got) != 1 || got[0].State != registry.StateDraining {
		t.Errorf("instances %+v", got)
	}
	if got := c.Fold("web"); !slices.Equal(got, []string{"web"}) || c.Instances("Web") != nil {
		t.Errorf("web is %q", got)
	}
	if names(lent)[1] != "b" || lent[1].State != registry.StateUp {
		t.Errorf("what was lent has changed: %+v", lent)
	}
	until(t, c, remove(t, client, "/services"))
	if got := c.Services(); len(got) != 0 || c.Fold("web") != nil {
		t.Errorf("services %q", got)
	}
}

func TestWhatIsNoRecordIsCountedAndHidesNoOther(t *testing.T) {
	client := open(t, daemontest.Start(t, 1).URL())
	put(t, client, record("web", "a"))
	bad := map[string]string{
		"/services/text":        "hello",
		"/services/web/json":    "{",
		"/services/web/list":    "[]",
		"/services/web/a-lie":   text(t, record("web", "another")),
		"/services/web/foreign": text(t, record("db", "foreign")),
		"/services/web/x/deep":  text(t, record("web", "deep")),
		"/services/web/port":    strings.Replace(text(t, record("web", "port")), "80", "80000", 1),
		"/services/web/address": strings.Replace(text(t, record("web", "address")), "10.0.0.7", `a\nb`, 1),
		"/services/web/types":   `{"service":5}`,
		"/services/web/empty":   "",
		"/services/a-long-one":  text(t, registry.Record{Tags: slices.Repeat([]string{"\x01"}, 5000)}),
	}
	var last kv.Index
	for key, value := range bad {
		last = set(t, client, key, value)
	}
	var log strings.Builder
	c := run(t, catalog.Config{Source: client, Log: slog.New(slog.NewTextHandler(&log, nil))})
	state := until(t, c, last)
	if state.Unreadable != len(bad) || len(state.Examples) != 5 || state.Examples[0].Key != "/services/a-long-one" || len(state.Examples[0].Err.Error()) > 300 {
		t.Errorf("state %+v", state)
	}
	if got := names(c.Instances("web")); !slices.Equal(got, []string{"a"}) || c.Instances("db") != nil {
		t.Errorf("instances %q", got)
	}
	if got := strings.Count(log.String(), "left out"); got != 1 {
		t.Errorf("told %d times:\n%s", got, &log)
	}

	good := record("web", "port") // what is mended is there, what gets broken goes
	put(t, client, good)
	remove(t, client, "/services/text")
	if state = until(t, c, set(t, client, "/services/web/a", "broken")); state.Unreadable != len(bad)-1 {
		t.Errorf("state %+v", state)
	}
	if got := names(c.Instances("web")); !slices.Equal(got, []string{"port"}) {
		t.Errorf("instances %q", got)
	}
}

func TestACatalogIsReadWhileItChanges(t *testing.T) {
	client := open(t, daemontest.Start(t, 1).URL())
	c := run(t, catalog.Config{Source: client, Prefix: "/services/"})
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-c.Changed():
				}
				for _, service := range c.Services() {
					if got := names(c.Instances(service)); !slices.IsSorted(got) {
						t.Errorf("%s: %q", service, got)
					}
				}
				c.State()
			}
		})
	}
	var last kv.Index
	for i := range 300 {
		r := record(fmt.Sprintf("s%d", i%3), fmt.Sprintf("i%d", i%11))
		last = put(t, client, r)
		if i%4 == 3 {
			last = remove(t, client, r.Key("/services"))
		}
	}
	until(t, c, last)
	close(stop)
	readers.Wait()
}

// watcher is a log that calls itself with each line.
type watcher func()

func (w watcher) Enabled(context.Context, slog.Level) bool  { return true }
func (w watcher) Handle(context.Context, slog.Record) error { w(); return nil }
func (w watcher) WithAttrs([]slog.Attr) slog.Handler        { return w }
func (w watcher) WithGroup(string) slog.Handler             { return w }

// Without this, whoever asked in between learned that there is no service.
func TestACatalogIsNotCompleteBeforeItHasTakenEverythingOver(t *testing.T) {
	client := open(t, daemontest.Start(t, 1).URL())
	set(t, client, "/services/odd/one", "no record") // of which the log is told meanwhile
	put(t, client, record("web", "a"))
	var c *catalog.Catalog
	told, early := false, false
	c = catalog.New(catalog.Config{Source: client, Log: slog.New(watcher(func() { told, early = true, early || c.Mirror().Complete }))})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	changed := c.Changed()
	go func() { defer close(ended); c.Run(ctx) }()
	select {
	case <-changed:
	case <-time.After(patience):
		t.Error("never read")
	}
	cancel()
	<-ended
	if !told || early || !c.Mirror().Complete || len(c.Services()) != 1 {
		t.Errorf("told %v, complete before %v, afterwards %+v with %v", told, early, c.Mirror(), c.Services())
	}
}
