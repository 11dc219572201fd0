package sidekick_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
	"github.com/kvd-io/kvd/sidekick"
)

// unit is a workload.Source that a test moves from state to state.
type unit chan workload.Workload

func (u unit) Run(ctx context.Context, out chan<- workload.Snapshot) error {
	for {
		select {
		case w := <-u:
			select {
			case out <- workload.Snapshot{Workloads: []workload.Workload{w}}:
			case <-ctx.Done():
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (u unit) is(state workload.State, run string) {
	u <- workload.Workload{ID: "app.service", Name: "app.service", Run: run, State: state, Reason: string(state)}
}

// gatekeeper is a check that counts how often it was asked and answers as it is set.
type gatekeeper struct {
	asked  atomic.Int64
	passes atomic.Bool
}

func (g *gatekeeper) Run(context.Context) error {
	g.asked.Add(1)
	if g.passes.Load() {
		return nil
	}
	return io.ErrNoProgress
}

func (g *gatekeeper) String() string { return "gatekeeper" }

// follow runs a Sidekick for u until the test ends, or stop is called.
func follow(t *testing.T, s *scene, u unit, check health.Check) (stop func()) {
	t.Helper()
	return sidekickOf(t, s, u, check, func(*sidekick.Sidekick) {})
}

// sidekickOf is follow with other settings.
func sidekickOf(t *testing.T, s *scene, u unit, check health.Check, set func(*sidekick.Sidekick)) (stop func()) {
	t.Helper()
	side := &sidekick.Sidekick{
		Publisher: registry.PublisherConfig{Store: s.store, Leaser: s.store.Leaser(), TTL: 600 * time.Second},
		Offer: registrar.Offer{
			Record:  registry.Record{Service: "web", Instance: "one", Address: "127.0.0.1", Port: 80, Protocol: "tcp"},
			Monitor: &health.Monitor{Check: check, Interval: 10 * time.Millisecond},
		},
		Source: u, WithdrawTimeout: limit, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	set(side)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); side.Run(ctx) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return stop
}

func TestAUnitIsRegisteredOnlyWhileItRuns(t *testing.T) {
	s, u := newScene(t), make(unit)
	stop := follow(t, s, u, health.None{})
	for _, state := range []workload.State{workload.Stopped, workload.Starting} {
		u.is(workload.Running, "run 1")
		s.awaitState(registry.StateUp)
		u.is(workload.Stopping, "run 1")
		s.awaitState(registry.StateDraining)
		u.is(state, "")
		s.awaitRecord(false)
	}
	u.is(workload.Running, "run 2")
	s.awaitRecord(true)
	stop()
	if s.record() != nil {
		t.Error("the record outlived its sidekick")
	}
}

func TestANewInvocationGoesThroughTheGateAgain(t *testing.T) {
	s, u, check := newScene(t), make(unit), &gatekeeper{}
	check.passes.Store(true)
	follow(t, s, u, check)
	u.is(workload.Running, "run 1")
	s.awaitRecord(true)
	check.passes.Store(false)
	u.is(workload.Running, "run 2") // restarted so fast that nobody saw it stopped
	s.awaitRecord(false)
	asked := check.asked.Load()
	await(t, "more checks", func() bool { return check.asked.Load() > asked+3 })
	if s.record() != nil {
		t.Error("registered although its check never passed since the restart")
	}
	check.passes.Store(true)
	s.awaitRecord(true)
}

func TestAReloadKeepsTheRecord(t *testing.T) {
	s, u := newScene(t), make(unit)
	follow(t, s, u, health.None{})
	u.is(workload.Running, "run 1")
	s.awaitRecord(true)
	watch, err := s.store.Watch(t.Context(), kv.WatchFrom{Key: "/services", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	u <- workload.Workload{ID: "app.service", Name: "app.service", Run: "run 1", State: workload.Running, Reason: "reloading/reload"}
	u.is(workload.Running, "run 1") // received: the state before it has been acted upon
	if _, err := s.store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/services/end", Value: "of the test"}); err != nil {
		t.Fatal(err)
	}
	event, err := watch.Next(t.Context())
	if err != nil || event.Node.Key != "/services/end" {
		t.Errorf("the reload was seen as %+v, %v", event, err)
	}
}

func TestASidekickThatIsFollowedLeavesTheRecordToTheNextRunAndNobodySeesIt(t *testing.T) {
	s, u := newScene(t), make(unit)
	owner := registry.StandingOwner("node1", "kvsidekick-test", "")
	published := make(chan *registry.Publisher, 1)
	run := func(followed bool) (stop func()) {
		return sidekickOf(t, s, u, health.None{}, func(side *sidekick.Sidekick) {
			side.Publisher.Owner = owner
			side.Followed = func(context.Context) bool { return followed }
			side.Serve = func(_ context.Context, _ *registrar.Registrar, p *registry.Publisher) { published <- p }
		})
	}
	awaitRegistered := func() {
		p := <-published
		await(t, "it is registered", func() bool { return p.Status().Registered == 1 })
	}
	stop := run(true)
	u.is(workload.Running, "run 1")
	awaitRegistered()
	watch, err := s.store.Watch(t.Context(), kv.WatchFrom{Key: "/services", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	stop()
	if _, err := s.store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: "/services/end", Value: "of the first run"}); err != nil {
		t.Fatal(err)
	}
	run(false)
	u.is(workload.Running, "run 1")
	awaitRegistered()
	u.is(workload.Stopping, "run 1")
	for _, want := range []string{"/services/end", key} {
		event, err := watch.Next(t.Context())
		if err != nil || event.Node.Key != want || want == key && !strings.Contains(event.Node.Value, `"state":"draining"`) {
			t.Fatalf("seen was %+v, %v; want %s", event, err, want)
		}
	}
	u.is(workload.Stopped, "")
	s.awaitRecord(false)
}

// try runs kvsidekick inside the test and returns its exit code and what it wrote to stderr.
func try(t *testing.T, args ...string) (int, string) {
	t.Helper()
	var stderr bytes.Buffer
	unset := func(string) (string, bool) { return "", false }
	code := program.Run(t.Context(), sidekick.Program(), args, unset, &program.Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &stderr})
	return code, stderr.String()
}

func TestBadInputIsExplained(t *testing.T) {
	for args, want := range map[string]string{
		"":                                                                "--service is missing",
		"--port 80 -- app":                                                "--service is missing",
		"--service web -- app":                                            "--port is missing: the port",
		"--service web --port 65536 -- app":                               "--port 65536: must be 1 to 65535",
		"--service web --port http -- app":                                "invalid argument",
		"--service web --port 80":                                         "nothing to follow",
		"--service web --port 80 --unit a -- app":                         "exclude each other",
		"--service web --port 80 --unit a/b.socket":                       "letters, digits",
		"--service we/b --port 80 -- app":                                 "without a slash",
		"--service _web --port 80 -- app":                                 "hidden",
		"--service web --port 80 --instance a/b x":                        "without a slash",
		"--service web --port 80 --address a:1 x":                         "without a port",
		"--service web --port 80 --address ::  x":                         "nobody can connect",
		"--service web --port 80 --meta zone x":                           "must be key=value",
		"--service web --port 80 --weight -1 x":                           "weight -1",
		"--service web --port 80 --weight 257 x":                          "must be 1 to 256",
		"--service web --port 80 --protocol ip x":                         "tcp or udp",
		"--service web --port 80 --prefix a x":                            "must begin with a slash",
		"--service web --port 80 --ttl 1500ms x":                          "whole seconds",
		"--service web --port 80 --ttl 0s x":                              "whole seconds",
		"--service web --port 80 --drain -1s x":                           "--drain -1s: must not be negative",
		"--service web --port 80 --check ping x":                          "unknown form",
		"--service web --port 80 --check-fall -1 x":                       "must not be negative",
		"--service web --port 80 --layout xml:/a x":                       "is no layout",
		"--service web --port 80 --layout json:/a --layout coreos:/a/b x": "lies in the directory of the other",
		"--service web --port 80 --on-unhealthy kill x":                   "must be remove or mark",
		"--service web --port 80 --endpoints :// x":                       "://",
		"--servce web --port 80 -- app":                                   "did you mean --service?",
	} {
		code, stderr := try(t, strings.Fields(args)...)
		if code != program.ExitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit code %d, want %q in:\n%s", args, code, want, stderr)
		}
	}
}

func TestSettingsComeFromTheEnvironmentToo(t *testing.T) {
	s := newScene(t)
	start(t, []string{
		"KVSIDEKICK_SERVICE=web", "KVSIDEKICK_INSTANCE=one", "KVSIDEKICK_PORT=" + s.port, "KVSIDEKICK_CHECK=none",
		"KVSIDEKICK_META=a=1,b=2", "ETCDCTL_ENDPOINTS=" + s.cluster.URL(),
	}, "--", "/bin/sleep", "600")
	s.awaitRecord(true)
	if record := s.record(); strconv.Itoa(record.Port) != s.port || record.Meta["b"] != "2" {
		t.Errorf("registered %+v", record)
	}
}
