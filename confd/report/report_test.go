package report

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/unixsocket"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// loop stands for the agent.
type loop struct {
	mu       sync.Mutex
	live     kv.Index
	stores   []Store
	problems []string
	stuck    string
	released []string
}

func (l *loop) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *loop) Live() kv.Index { l.mu.Lock(); defer l.mu.Unlock(); return l.live }
func (l *loop) Stores() []Store {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Store{}, l.stores...)
}
func (l *loop) Problems() []string     { l.mu.Lock(); defer l.mu.Unlock(); return l.problems }
func (l *loop) Stuck(time.Time) string { l.mu.Lock(); defer l.mu.Unlock(); return l.stuck }
func (l *loop) Release(name string) error {
	if name != "web" {
		return &kv.Error{Kind: kv.NotFound, Cause: "nothing of this name is held"}
	}
	l.change(func() { l.released = append(l.released, name) })
	return nil
}
func (l *loop) Explain(_ context.Context, file string, line int) (Explanation, error) {
	if file != "/etc/web.conf" {
		return Explanation{}, &kv.Error{Kind: kv.NotFound, Cause: "no resource makes it"}
	}
	return Explanation{File: file, Line: line, Causes: []Cause{{"/web", "its value is in the line"}}}, nil
}

func heard(index kv.Index) []Store {
	return []Store{{Name: "etcd http://127.0.0.1:2379", Index: index, Keys: 2, Heard: time.Now(), Published: true}}
}

// newReport returns a report with one target that is converged, and the loop behind it.
func newReport(t *testing.T) (*Report, *loop) {
	t.Helper()
	r, l := New(Config{Host: "edge1", Version: "1.2.3"}), &loop{live: 7, stores: heard(7)}
	r.Attach(l)
	r.Target(TargetStatus{Name: "web", Dest: "/etc/web.conf", State: Converged, Index: 7, Hash: "abc", Keys: []string{"/web"}, LiveAfter: 3 * time.Millisecond})
	return r, l
}

// health asks for the health.
func health(t *testing.T, r *Report) (code int, h Health, body string) {
	t.Helper()
	answer := httptest.NewRecorder()
	r.Page().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/health", nil))
	if err := json.Unmarshal(answer.Body.Bytes(), &h); err != nil {
		t.Fatalf("%v: %s", err, answer.Body)
	}
	return answer.Code, h, answer.Body.String()
}

func TestHealthIsGoodOnlyWhileTheStoreIsHeardAndEveryTargetIsConvergedOrHeld(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Report, *loop)
		want   int
		says   string
	}{
		{"converged", func(*Report, *loop) {}, 200, ""},
		{"held", func(r *Report, _ *loop) { r.Target(TargetStatus{Name: "web", State: Held, Err: "0 keys, min_keys 1"}) }, 200, ""},
		{"failed", func(r *Report, _ *loop) {
			r.Target(TargetStatus{Name: "web", State: Failed, Step: StepCheck, Err: "unknown keyword", Next: time.Now().Add(time.Minute)})
		}, 503, "web failed at check: unknown keyword"},
		{"waiting", func(r *Report, _ *loop) { r.Target(TargetStatus{Name: "db", State: Waiting}) }, 503, "db waiting"},
		{"on its way", func(r *Report, _ *loop) { r.Target(TargetStatus{Name: "web", State: Written}) }, 200, ""},
		{"on its way for the first time", func(r *Report, _ *loop) { r.Target(TargetStatus{Name: "db", State: Rendered}) }, 503, "db rendered"},
		{"stale", func(r *Report, _ *loop) { r.Target(TargetStatus{Name: "web", State: Stale}) }, 503, "web stale"},
		{"store gone", func(_ *Report, l *loop) { l.change(func() { l.stores[0].Err = "connection refused" }) }, 503, "connection refused"},
		{"store never heard", func(_ *Report, l *loop) { l.change(func() { l.stores[0].Heard = time.Time{} }) }, 503, "not been heard"},
		{"resource file broken", func(_ *Report, l *loop) { l.change(func() { l.problems = []string{"a.toml: not TOML"} }) }, 503, "a.toml: not TOML"},
		{"stuck", func(_ *Report, l *loop) { l.change(func() { l.stuck = "the loop" }) }, 503, "the loop makes no progress"},
		{"gone", func(r *Report, _ *loop) {
			r.Target(TargetStatus{Name: "db", State: Failed, Step: StepRender})
			r.Gone("db")
		}, 200, ""},
	} {
		r, l := newReport(t)
		c.change(r, l)
		code, h, body := health(t, r)
		said := ""
		for _, p := range h.Problems {
			said += p.String() + "\n"
		}
		if code != c.want || h.Healthy != (c.want == 200) || !strings.Contains(said, c.says) {
			t.Errorf("%s: %d %s", c.name, code, body)
		}
	}
}

func TestATargetThatIsOnItsWayForLongIsAProblem(t *testing.T) {
	now := time.Now()
	r := New(Config{Now: func() time.Time { return now }})
	l := &loop{stores: heard(1)}
	r.Attach(l)
	r.Target(TargetStatus{Name: "web", State: Converged})
	r.Target(TargetStatus{Name: "web", State: Written})
	if code, _, body := health(t, r); code != 200 {
		t.Errorf("%d %s", code, body)
	}
	now = now.Add(underWayMax + time.Second)
	if code, _, _ := health(t, r); code != 503 {
		t.Errorf("after %v: %d", underWayMax, code)
	}
	r.Target(TargetStatus{Name: "web", State: Written, Since: now, Next: now.Add(time.Hour)}) // its reload has to wait
	now = now.Add(59 * time.Minute)
	if code, _, body := health(t, r); code != 200 {
		t.Errorf("before its reload may begin: %d %s", code, body)
	}
	now = now.Add(time.Minute + underWayMax + time.Second)
	if code, _, _ := health(t, r); code != 503 {
		t.Errorf("%v after its reload could begin: %d", underWayMax, code)
	}
}

func TestATargetThatIsTriedAgainHasFailedUntilItSucceeds(t *testing.T) {
	now := time.Now()
	r := New(Config{Now: func() time.Time { return now }})
	r.Attach(&loop{stores: heard(1)})
	began := now
	for range 3 {
		r.Target(TargetStatus{Name: "web", State: Rendered})
		r.Target(TargetStatus{Name: "web", State: Failed, Step: StepCheck, Err: "no such word"})
		now = now.Add(time.Minute)
		r.Target(TargetStatus{Name: "web", State: Rendered})
		if s := r.Status(); len(s.Problems) != 1 || s.Problems[0].String() != "web failed at check: no such word" || !s.Problems[0].Since.Equal(began) {
			t.Errorf("%+v", s.Problems)
		}
	}
	r.Target(TargetStatus{Name: "web", State: Converged})
	if s := r.Status(); len(s.Problems) != 0 {
		t.Errorf("%+v", s.Problems)
	}
}

func TestBeforeTheLoopRunsNothingIsWell(t *testing.T) {
	if code, _, body := health(t, New(Config{})); code != 503 || !strings.Contains(body, "not begun") {
		t.Errorf("%d %s", code, body)
	}
}

func TestMetricsCountStepsFailuresAndTimeToLive(t *testing.T) {
	r, _ := newReport(t)
	r.Target(TargetStatus{Name: "web", State: Failed, Step: StepReload, Err: "x"})
	r.Target(TargetStatus{Name: "web", State: Rendered})
	r.Target(TargetStatus{Name: "web", State: Failed, Step: StepReload, Err: "x"}) // a retry is no new failure
	r.Target(TargetStatus{Name: "vhosts/a", Resource: "vhosts", State: Converged})
	r.Target(TargetStatus{Name: "vhosts/b", Resource: "vhosts", State: Held})
	r.Step("web", StepReload, 20*time.Millisecond, errors.New("x"))
	r.Step("web", StepCheck, 20*time.Millisecond, nil)
	answer := httptest.NewRecorder()
	r.Page().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	page := answer.Body.String()
	for _, want := range []string{
		`kvconfd_targets{state="failed"} 1`, `kvconfd_targets{state="converged"} 1`, `kvconfd_targets{state="held"} 1`,
		`kvconfd_failures_total{step="reload"} 1`, `kvconfd_steps_total{result="failed",step="reload"} 1`, `kvconfd_steps_total{result="ok",step="check"} 1`,
		`kvconfd_change_to_live_duration_seconds_count 1`, `kvconfd_reloads_pending 1`, `kvconfd_holds_total 1`, `kvconfd_healthy 0`,
		`kvconfd_resource_converged{resource="web"} 0`, `kvconfd_resource_converged{resource="vhosts"} 0`,
		`kvconfd_store_up{store="etcd http://127.0.0.1:2379"} 1`, `kvconfd_live_index 7`, `kvconfd_build_info{go_version=`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("not there: %s", want)
		}
	}
	if strings.Contains(page, "vhosts/a") {
		t.Error("a label holds what comes from a key")
	}
	if t.Failed() {
		t.Log(page)
	}
}

func TestTheReferenceNamesEveryMetricAndNoOther(t *testing.T) {
	data, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	r, _ := newReport(t)
	r.Target(TargetStatus{Name: "web", State: Failed, Step: StepCheck})
	families, err := r.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, family := range families {
		name := family.GetName()
		if known[name] = true; strings.HasPrefix(name, "kvconfd_") && !strings.Contains(string(data), "| `"+name+"` | "+strings.ToLower(family.GetType().String())+" | "+family.GetHelp()+" |") {
			t.Errorf("docs/reference/metrics.md lacks: | `%s` | %s | %s |", name, strings.ToLower(family.GetType().String()), family.GetHelp())
		}
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "| `kvconfd_"); ok && !known["kvconfd_"+rest[:strings.IndexByte(rest, '`')]] {
			t.Errorf("there is no such metric: %s", line)
		}
	}
}

func TestTextsOfErrorsAreOneLineOfBoundedLengthWithoutControlCharacters(t *testing.T) {
	got := clean("a\nb\x1b[31mc\x00" + strings.Repeat("é", 400))
	if strings.ContainsAny(got, "\n\x1b\x00") || len(got) > errorBytesMax+3 || !strings.HasPrefix(got, "a b[31mc") || !strings.HasSuffix(got, "é...") {
		t.Errorf("%q", got)
	}
}

func TestTheConsoleReleasesAndExplainsAndThePageDoesNot(t *testing.T) {
	r, l := newReport(t)
	path := filepath.Join(t.TempDir(), "s")
	server, err := r.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { server.Run(ctx) })
	defer running.Wait()
	defer cancel()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v %v", info, err)
	}
	client := unixsocket.NewClient(path)
	if err := client.Call(ctx, http.MethodPost, "/release?name=web", nil, nil); err != nil || len(l.released) != 1 {
		t.Errorf("%v %v", err, l.released)
	}
	if err := client.Call(ctx, http.MethodPost, "/release?name=db", nil, nil); !kv.Is(err, kv.NotFound) || !strings.Contains(err.Error(), "nothing of this name") {
		t.Error(err)
	}
	var e Explanation
	if err := client.Call(ctx, http.MethodGet, "/explain?file=/etc/web.conf&line=3", nil, &e); err != nil || e.Line != 3 || len(e.Causes) != 1 {
		t.Errorf("%v %+v", err, e)
	}
	for target, kind := range map[string]kv.Kind{"/explain?file=/etc/web.conf&line=x": kv.Invalid, "/explain?file=/no": kv.NotFound} {
		if err := client.Call(ctx, http.MethodGet, target, nil, &e); !kv.Is(err, kind) {
			t.Errorf("%s: %v", target, err)
		}
	}
	for _, target := range []string{"/release?name=web", "/explain?file=/etc/web.conf"} {
		answer := httptest.NewRecorder()
		r.Page().ServeHTTP(answer, httptest.NewRequest(http.MethodPost, target, nil))
		if answer.Code != http.StatusNotFound {
			t.Errorf("%s on the page: %d", target, answer.Code)
		}
	}
}

// manager listens as a service manager does.
func listenAsManager(t *testing.T) (states chan string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	connection, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	states = make(chan string, 1000)
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := connection.Read(buffer)
			if err != nil {
				return
			}
			states <- string(buffer[:n])
		}
	}()
	return states
}

// await reads states until one begins with text, and returns those before it.
func await(t *testing.T, states chan string, text string) (before []string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case state := <-states:
			if strings.HasPrefix(state, text) {
				return before
			}
			before = append(before, state)
		case <-deadline:
			t.Fatalf("no %s after %q", text, before)
		}
	}
}

func TestTheServiceManagerHearsReadyAfterTheFirstPassAndTheWatchdogWhileThereIsProgress(t *testing.T) {
	states := listenAsManager(t)
	t.Setenv("WATCHDOG_USEC", "150000")
	r := New(Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	l := &loop{stores: heard(3), live: 3}
	ctx, cancel := context.WithCancel(t.Context())
	reloading := make(chan struct{}, 1)
	var running sync.WaitGroup
	running.Go(func() { r.Notify(ctx, reloading) })
	defer running.Wait()
	defer cancel()
	await(t, states, "STATUS=0 of 0 converged; it has not begun yet")
	r.Attach(l)
	r.Target(TargetStatus{Name: "web", State: Waiting})
	for _, state := range await(t, states, "STATUS=index 3, 0 of 1 converged; web waiting") {
		if strings.HasPrefix(state, "READY") {
			t.Error("ready before the first pass")
		}
	}
	r.Target(TargetStatus{Name: "web", State: Converged})
	await(t, states, "READY=1")
	await(t, states, "WATCHDOG=1")
	reloading <- struct{}{}
	await(t, states, "RELOADING=1\nMONOTONIC_USEC=")
	await(t, states, "READY=1")
	l.change(func() { l.stuck = "the loop" })
	await(t, states, "STATUS=index 3, 1 of 1 converged; the loop makes no progress")
	cancel()
	for _, state := range await(t, states, "STOPPING=1") {
		if state == "WATCHDOG=1" {
			t.Error("the watchdog is fed without progress")
		}
	}
}

// racing stands for an agent in which a target fails while it is asked how far everything is.
type racing struct {
	*loop
	report *Report
}

func (r *racing) Live() kv.Index {
	r.report.Target(TargetStatus{Name: "web", State: Failed, Step: StepCheck, Index: 8})
	return 8
}

func TestAnIndexIsNeverTakenForLiveWithStatesOfBeforeIt(t *testing.T) {
	r, l := newReport(t)
	r.Attach(&racing{l, r})
	if s := r.Status(); s.Index != 8 || s.Targets[0].State != Failed {
		t.Errorf("index %d is said with the target %s", s.Index, s.Targets[0].State)
	}
}
