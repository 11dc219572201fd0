package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write what the metrics say of themselves into docs/reference/metrics.md")

const metricsReference = "../docs/reference/metrics.md"

// openTestDaemon starts a member on free ports.
func openTestDaemon(t *testing.T, change func(*Config)) *Daemon {
	t.Helper()
	cfg := DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	if change != nil {
		change(&cfg)
	}
	d, err := Open(t.Context(), cfg, Deps{Fatal: func(err error) { panic(err) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// openTestCluster starts three members on free ports and returns the one that leads.
func openTestCluster(t *testing.T, change func(*Config)) *Daemon {
	t.Helper()
	held := map[string]net.Listener{}
	var configs []Config
	var list []string
	for i := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		held[address] = l
		cfg := DefaultConfig()
		cfg.Name, cfg.DataDir = fmt.Sprint("m", i), t.TempDir()
		cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}, []string{"http://" + address}
		if change != nil {
			change(&cfg)
		}
		configs, list = append(configs, cfg), append(list, cfg.Name+"=http://"+address)
	}
	listen := func(network, address string) (net.Listener, error) {
		if l := held[address]; l != nil {
			return l, nil
		}
		return net.Listen(network, address)
	}
	members, failures := make([]*Daemon, len(configs)), make([]error, len(configs))
	var starting sync.WaitGroup
	for i, cfg := range configs {
		cfg.InitialCluster = strings.Join(list, ",")
		starting.Go(func() {
			members[i], failures[i] = Open(t.Context(), cfg, Deps{Listen: listen, Fatal: func(err error) { panic(err) }})
		})
	}
	starting.Wait()
	t.Cleanup(func() {
		for _, d := range members {
			if d != nil && d.Close() != nil {
				t.Error("a member did not close")
			}
		}
	})
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		for _, d := range members {
			if d.Leads() && strings.Count(scrape(t, d), "\nkvd_peer_lag_entries{") == 2 {
				return d
			}
		}
	}
	t.Fatal("no member leads two others")
	return nil
}

// scrape returns what a member says at /metrics.
func scrape(t *testing.T, d *Daemon) string {
	t.Helper()
	return request(t, d, http.MethodGet, "/metrics", "")
}

func request(t *testing.T, d *Daemon, method, path, form string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, d.ClientURLs()[0]+path, strings.NewReader(form))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

var family = regexp.MustCompile(`(?m)^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)$`)

// metricNames returns the names in a page of metrics.
func metricNames(page string) []string {
	var names []string
	for _, m := range family.FindAllStringSubmatch(page, -1) {
		names = append(names, m[1])
	}
	return names
}

// table returns the rows of the reference that page calls for: those of kvd's metrics, and those of
// etcd's names.
func table(page string) (own, etcd []string) {
	for _, m := range family.FindAllStringSubmatch(page, -1) {
		if strings.HasPrefix(m[1], "kvd_") {
			own = append(own, fmt.Sprintf("| `%s` | %s | %s |", m[1], m[3], m[2]))
		}
	}
	for _, alias := range etcdNames {
		etcd = append(etcd, fmt.Sprintf("| `%s` | `%s` |", alias.etcd, alias.kvd))
	}
	return own, etcd
}

var tableRows = regexp.MustCompile("(?m)^\\| `.*\n")

// registrarsHead begins the part of the reference that is about other programs.
const registrarsHead = "## Metrics of kvsidekick and kvagent\n"

func TestTheReferenceHasEveryMetricAndNoOther(t *testing.T) {
	own, etcd := table(scrape(t, openTestCluster(t, nil)))
	page, err := os.ReadFile(metricsReference)
	if err != nil {
		t.Fatal(err)
	}
	text, registrars, _ := strings.Cut(string(page), registrarsHead)
	page = []byte(text)
	written := tableRows.ReplaceAllString(text, "")
	for _, part := range []struct {
		head string
		rows []string
	}{{"| metric | type | meaning |\n|---|---|---|\n", own}, {"| etcd's name | the same as |\n|---|---|\n", etcd}} {
		if !strings.Contains(written, part.head) {
			t.Fatalf("the reference has no table %q", part.head)
		}
		written = strings.Replace(written, part.head, part.head+strings.Join(part.rows, "\n")+"\n", 1)
	}
	switch {
	case written == string(page):
	case *update:
		if err := os.WriteFile(metricsReference, []byte(written+registrarsHead+registrars), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		for _, row := range append(own, etcd...) {
			if !strings.Contains(string(page), row+"\n") {
				t.Errorf("not there: %s", row)
			}
		}
		for _, row := range tableRows.FindAllString(string(page), -1) {
			if row = strings.TrimSuffix(row, "\n"); !slices.Contains(own, row) && !slices.Contains(etcd, row) {
				t.Errorf("no such metric: %s", row)
			}
		}
		t.Errorf("docs/reference/metrics.md does not say what /metrics says; try go test ./daemon -run Reference -update")
	}
}

func TestMetricsKeepTheRulesOfPrometheus(t *testing.T) {
	var own strings.Builder
	page := scrape(t, openTestCluster(t, func(c *Config) { c.MetricsCompat = metricsOff }))
	for line := range strings.Lines(page) {
		if name := strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "); strings.HasPrefix(name, "kvd_") {
			own.WriteString(line)
		}
	}
	problems, err := promlint.New(strings.NewReader(own.String())).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	if strings.Contains(page, "etcd_") {
		t.Error("etcd's names are there although they are off")
	}
}

func TestMetricsSayWhatHasHappened(t *testing.T) {
	d := openTestDaemon(t, nil)
	request(t, d, http.MethodPut, "/v2/keys/a", "value=1")
	request(t, d, http.MethodPut, "/v2/keys/a", "value=2&prevValue=3")
	request(t, d, http.MethodGet, "/v2/keys/a", "")
	request(t, d, http.MethodGet, "/v2/keys/b?recursive=true", "")
	request(t, d, http.MethodGet, "/v2/keys/a?wait=true&waitIndex=2", "")
	request(t, d, http.MethodOptions, "/v2/keys/a", "")
	page := scrape(t, d)
	for _, want := range []string{
		`kvd_store_writes_total{action="set"} 1`, `kvd_store_writes_total{action="compareAndSwap"} 1`, `kvd_store_writes_failed_total{action="compareAndSwap"} 1`,
		`kvd_store_reads_total{action="get"} 1`, `kvd_store_reads_failed_total{action="getRecursive"} 1`, `etcd_debugging_store_reads_total{action="getRecursive"} 1`,
		`kvd_watch_requests_total 1`, `kvd_watch_events_total 1`, `kvd_watchers 0`, `kvd_store_keys 1`, `kvd_store_bytes 259`, `etcd_mvcc_db_total_size_in_bytes 259`,
		`kvd_store_quota_bytes 2.147483648e+09`, `etcd_server_has_leader 1`, `kvd_is_leader 1`, `kvd_proposal_duration_seconds_count 3`,
		`kvd_http_requests_total{class="write",code="201"} 1`, `kvd_http_requests_total{class="write",code="412"} 1`, `kvd_http_requests_total{class="read",code="200"} 2`,
		`kvd_http_client_requests_total{client="127.0.0.1"} 7`, `kvd_http_client_requests_total{client="other"} 0`, `kvd_read_rounds_total 0`, `kvd_queue_commands 0`, `kvd_http_requests_total{class="read",code="404"} 1`, `kvd_http_requests_total{class="other",code="200"} 1`, `kvd_http_requests_in_flight 1`,
		`etcd_disk_wal_fsync_duration_seconds_bucket{le="0.001"}`, `etcd_disk_wal_fsync_duration_seconds_bucket{le="8.192"}`, `kvd_build_info{goversion="`, `go_goroutines `, `process_open_fds `,
	} {
		if !strings.Contains(page, "\n"+want) {
			t.Errorf("%s is not there", want)
		}
	}
	if t.Failed() {
		t.Log(page)
	}
}

func TestTheReadOfAKeyIsCountedWithoutAllocating(t *testing.T) {
	var counts traffic
	handler := counts.wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }))
	r, w := httptest.NewRequest(http.MethodGet, "/v2/keys/a", nil), httptest.NewRecorder()
	bare := testing.AllocsPerRun(100, func() { w.WriteHeader(http.StatusNotFound) })
	if got := testing.AllocsPerRun(100, func() { handler.ServeHTTP(w, r) }); got > bare {
		t.Errorf("%.0f allocations, %.0f without counting", got, bare)
	}
	if n := counts.answered[classRead][http.StatusNotFound].Load(); n != 101 {
		t.Errorf("counted %d", n)
	}
	if n := counts.inFlight.Load(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

func TestARequestThatIsBrokenOffIsCounted(t *testing.T) {
	var counts traffic
	handler := counts.wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	func() {
		defer func() { _ = recover() }()
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPut, "/", nil))
	}()
	if n := counts.answered[classWrite][http.StatusOK].Load(); n != 1 || counts.inFlight.Load() != 0 {
		t.Errorf("counted %d, %d in flight", n, counts.inFlight.Load())
	}
}

// metricsUsed returns the names of metrics in an expression of Prometheus; a histogram is named once.
func metricsUsed(text string) []string {
	var names []string
	for _, name := range regexp.MustCompile(`\b(kvd|etcd|go|process)_[a-z0-9_]+`).FindAllString(text, -1) {
		for _, part := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, part)
		}
		names = append(names, name)
	}
	return names
}

func TestDashboardAndAlertsNameMetricsThatAreThere(t *testing.T) {
	there := metricNames(scrape(t, openTestCluster(t, nil)))
	dashboard, err := os.ReadFile("../docs/contrib/grafana/kvd.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(dashboard) {
		t.Error("the dashboard is not JSON")
	}
	rules, err := os.ReadFile("../docs/contrib/prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(rules, &parsed); err != nil || len(parsed.Groups) == 0 {
		t.Fatalf("%v: %+v", err, parsed)
	}
	for _, rule := range parsed.Groups[0].Rules {
		if rule.Expr == "" || rule.Alert != "KVDDown" && len(metricsUsed(rule.Expr)) == 0 {
			t.Errorf("the alert %q measures nothing: %q", rule.Alert, rule.Expr)
		}
	}
	used := metricsUsed(string(dashboard) + string(rules))
	if len(used) < 20 {
		t.Errorf("only %q are used: are they still found?", used)
	}
	for _, name := range used {
		if !slices.Contains(there, name) {
			t.Errorf("%s is used and not there", name)
		}
	}
}
