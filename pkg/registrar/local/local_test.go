package local

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// A server waits half a second, beyond its own end, for a client whose request it has not read to its end.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// patience bounds every wait; nothing that works takes as long.
const patience = 20 * time.Second

// background runs something until the test ends or stop is called.
func background(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = run(ctx) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

func sources() iter.Seq2[string, workload.Status] {
	return func(yield func(string, workload.Status) bool) {
		yield("docker", workload.Status{Connected: true, Lag: 3 * time.Millisecond, Err: errors.New("it was away")})
	}
}

// start runs a registrar of one instance, web/a, that is up, and shows it at a socket.
func start(t *testing.T, path string) *Client { return startIn(t, path, t.TempDir()) }

// startIn is start with a directory for what the host remembers.
func startIn(t *testing.T, path, stateDir string) *Client {
	t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{daemontest.Start(t, 1).URL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	overrides, err := override.NewSource(override.SourceConfig{Store: client, StateDir: stateDir})
	if err != nil {
		t.Fatal(err)
	}
	publisher := registry.NewPublisher(registry.PublisherConfig{Store: client, Leaser: client.Leaser()})
	r := registrar.New(registrar.Config{Publisher: publisher, Overrides: overrides})
	server, err := Listen(path, Config{
		Program: "test", Registrar: r, Publisher: publisher, Overrides: overrides, Sources: sources,
		More: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "more") }),
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, r.Run)
	background(t, server.Run)
	r.Set([]registrar.Offer{{
		Record: registry.Record{Service: "web", Instance: "a", Address: "10.0.0.1", Port: 80, Protocol: "tcp"},
		Source: "docker", Workload: "box", State: workload.Running, Address: "by hand",
	}})
	local := NewClient(path)
	await(t, local, "up")
	return local
}

// await waits until the one instance is in a phase.
func await(t *testing.T, client *Client, phase string) Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		report, err := client.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if len(report.Instances) == 1 && report.Instances[0].Phase == phase {
			return report.Instances[0]
		}
		time.Sleep(5 * time.Millisecond) // there is nothing to wait for but the next answer
	}
}

func TestAWishThatOnlyTheStoreCanRememberIsTaken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stateDir := filepath.Join(t.TempDir(), "state")
	client := startIn(t, filepath.Join(t.TempDir(), "a.sock"), stateDir)
	await(t, client, "up")
	if err := errors.Join(os.RemoveAll(stateDir), os.Symlink(file, stateDir)); err != nil { // no directory any more
		t.Fatal(err)
	}
	if err := client.Override(t.Context(), "web", "a", override.Override{Mode: override.Drain}); err != nil {
		t.Errorf("the store has it, and yet: %v", err)
	}
	await(t, client, "draining")
}

func TestAHostShowsWhatItOffersAndTakesWishes(t *testing.T) {
	client := start(t, filepath.Join(t.TempDir(), "run", "kvd", "a.sock"))
	i := await(t, client, "up")
	if i.Address != "10.0.0.1:80" || i.Rule != "by hand" || len(i.Keys) != 1 || i.Keys[0].Key != "/services/web/a" || i.Keys[0].State != "registered" || i.Check != nil {
		t.Errorf("instance %+v", i)
	}
	report, err := client.Status(t.Context())
	if err != nil || !report.Store.Up || report.Store.Registered != 1 || report.Store.Lease == "" || len(report.Sources) != 1 || report.Program != "test" {
		t.Errorf("report %+v, %v", report, err)
	}
	for _, what := range []string{"web", "a", "web/a", "box", ""} {
		if found, err := client.Explain(t.Context(), what); err != nil || len(found) != 1 {
			t.Errorf("%q: %+v, %v", what, found, err)
		}
	}
	if _, err := client.Explain(t.Context(), "other"); !kv.Is(err, kv.NotFound) {
		t.Errorf("what is not there: %v", err)
	}

	if err := client.Override(t.Context(), "web", "a", override.Override{Mode: override.Drain, Weight: 7, By: "ann"}); err != nil {
		t.Fatal(err)
	}
	if i := await(t, client, "draining"); i.State != registry.StateDraining || i.Weight != 7 || i.Override == nil || i.Override.By != "ann" {
		t.Errorf("instance %+v", i)
	}
	if err := client.Override(t.Context(), "web", "a", override.Override{}); err != nil {
		t.Fatal(err)
	}
	if i := await(t, client, "up"); i.Override != nil {
		t.Errorf("instance %+v", i)
	}
	if err := client.Override(t.Context(), "web", "b", override.Override{Mode: override.Drain}); !kv.Is(err, kv.NotFound) {
		t.Errorf("somebody else's instance: %v", err)
	}
	for name, o := range map[string]override.Override{"mode": {Mode: "sleep"}, "text": {Mode: override.Drain, Reason: strings.Repeat("x", bodyBytesMax)}} {
		if err := client.Override(t.Context(), "web", "a", o); !kv.Is(err, kv.Invalid) {
			t.Errorf("a bad %s: %v", name, err)
		}
	}
	var page bytes.Buffer
	if err := client.Get(t.Context(), "/else/where", &page); err != nil || page.String() != "more" {
		t.Errorf("%q, %v", page.String(), err)
	}
}

func TestTheMetricsAreWhatPrometheusReads(t *testing.T) {
	client := start(t, filepath.Join(t.TempDir(), "a.sock"))
	var page bytes.Buffer
	if err := client.Get(t.Context(), "/metrics", &page); err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(&page)
	if err != nil {
		t.Fatal(err)
	}
	documented, err := os.ReadFile("../../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range families {
		if !strings.Contains(string(documented), "| `"+name+"` |") {
			t.Errorf("%s is not in docs/reference/metrics.md", name)
		}
	}
	for name, want := range map[string]float64{"kvd_registrar_registered": 1, "kvd_registrar_wanted": 1, "kvd_registrar_store_up": 1, "kvd_registrar_event_lag_seconds": 0.003} {
		family := families[name]
		if family == nil || len(family.Metric) != 1 || family.Metric[0].Gauge.GetValue() != want {
			t.Errorf("%s: %v", name, family)
		}
	}
	if phases := families["kvd_registrar_instances"]; phases == nil || len(phases.Metric) != 10 {
		t.Errorf("phases %v", phases)
	}
}

func TestTheSocketIsForItsGroupAndGoesWithItsServer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "a.sock")
	server, err := Listen(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o660 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := Listen(path, Config{}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second server: %v", err)
	}
	background(t, server.Run)()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if _, err := NewClient(path).Status(t.Context()); !kv.Is(err, kv.Unavailable) || !strings.Contains(err.Error(), "nobody serves it") {
		t.Errorf("without a server: %v", err)
	}
}

func TestOnlyAStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, Config{}); err == nil || !strings.Contains(err.Error(), "another program listens") {
		t.Errorf("a socket that is served: %v", err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	server, err := Listen(path, Config{})
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	background(t, server.Run)()

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, Config{}); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file: %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "precious" {
		t.Error("the file was changed")
	}
	if _, err := Listen("/"+strings.Repeat("x", 120), Config{}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("a long path: %v", err)
	}
}

func TestAServerThatAnswersNonsenseIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusTeapot)
		}
		io.WriteString(w, "nonsense\x1b")
	})}
	stop := background(t, func(context.Context) error { return server.Serve(listener) })
	t.Cleanup(func() { server.Close(); stop() })
	client := NewClient(path)
	if _, err := client.Status(t.Context()); !kv.Is(err, kv.Internal) {
		t.Errorf("status: %v", err)
	}
	if err := client.Override(t.Context(), "a", "b", override.Override{}); !kv.Is(err, kv.Internal) || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("override: %v", err)
	}
	server.Close()
}
