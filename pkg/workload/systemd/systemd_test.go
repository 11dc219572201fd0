package systemd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
)

// manager is a service manager with one unit, and the connection to it.
type manager struct {
	mu         sync.Mutex // guards the fields below
	unit       map[string]any
	down       error
	cut        bool
	hint       chan string
	connection int
}

func (m *manager) set(active, sub, invocation string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unit = map[string]any{"LoadState": "loaded", "ActiveState": active, "SubState": sub, "InvocationID": []byte(invocation), "MainPID": uint32(7)}
}

func (m *manager) connect(context.Context) (bus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	m.connection++
	m.cut = false
	return m, nil
}

func (m *manager) properties(context.Context, string) (map[string]any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unit, m.down
}

func (m *manager) connected() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.cut
}

func (m *manager) hints() <-chan string { return m.hint }
func (m *manager) close()               {}

// follow runs a source for app.service until the test ends.
func follow(t *testing.T, m *manager) (snapshots <-chan workload.Snapshot, log *bytes.Buffer) {
	t.Helper()
	m.hint = make(chan string)
	log = &bytes.Buffer{}
	source, err := New(Config{Units: []string{"app.service"}, connect: m.connect, Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan workload.Snapshot)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- source.Run(ctx, out) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return out, log
}

func TestStatesOfUnitsAreMapped(t *testing.T) {
	for reason, want := range map[string]workload.State{
		"activating/start":        workload.Starting,
		"activating/auto-restart": workload.Starting,
		"active/running":          workload.Running,
		"active/exited":           workload.Stopped,
		"reloading/reload":        workload.Running,
		"deactivating/stop":       workload.Stopping,
		"inactive/dead":           workload.Stopped,
		"failed/failed":           workload.Stopped,
		"invented/later":          workload.Starting,
		"/":                       workload.Stopped,
	} {
		active, sub, _ := strings.Cut(reason, "/")
		if got := stateOf(active, sub); got != want {
			t.Errorf("%s is %s, want %s", reason, got, want)
		}
	}
}

func TestAUnitWithoutAFileIsStopped(t *testing.T) {
	got := describe("app.service", map[string]any{"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead"})
	if got.State != workload.Stopped || got.Reason != "not-found" || got.Run != "" {
		t.Errorf("described as %+v", got)
	}
}

func TestASignalLeadsToANewSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &manager{}
		m.set("inactive", "dead", "")
		snapshots, _ := follow(t, m)
		if got := <-snapshots; got.Workloads[0].State != workload.Stopped {
			t.Fatalf("first snapshot: %+v", got)
		}
		began := time.Now()
		m.set("active", "running", "\x01\x02")
		m.hint <- "other.service"
		m.hint <- "app.service"
		got := (<-snapshots).Workloads[0]
		if got.State != workload.Running || got.Run != "0102" || got.PID != 7 || got.Reason != "active/running" {
			t.Errorf("second snapshot: %+v", got)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}

func TestAChangeWithoutASignalIsFoundByThePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &manager{}
		m.set("active", "running", "a")
		snapshots, _ := follow(t, m)
		<-snapshots
		m.set("active", "running", "b") // restarted, and nobody said so
		began := time.Now()
		<-snapshots
		if took := time.Since(began); took > DefaultPeriod {
			t.Errorf("took %v", took)
		}
	})
}

func TestABrokenConnectionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &manager{}
		m.set("active", "running", "a")
		snapshots, log := follow(t, m)
		<-snapshots
		m.mu.Lock()
		m.down, m.cut = errors.New("no bus"), true
		m.mu.Unlock()
		time.Sleep(time.Hour)
		select {
		case got := <-snapshots:
			t.Fatalf("a snapshot without a bus: %+v", got)
		default:
		}
		m.set("failed", "failed", "")
		m.mu.Lock()
		m.down = nil
		m.mu.Unlock()
		if got := (<-snapshots).Workloads[0]; got.State != workload.Stopped {
			t.Errorf("after the return: %+v", got)
		}
		synctest.Wait()
		if m.connection != 2 {
			t.Errorf("%d connections", m.connection)
		}
		if warnings := strings.Count(log.String(), "level=WARN"); warnings > 2 || !strings.Contains(log.String(), "followed again") {
			t.Errorf("%d warnings: %s", warnings, log)
		}
	})
}

func TestUnitNamesAreChecked(t *testing.T) {
	for name, valid := range map[string]bool{
		"app.service": true, "app@1.service": true, `a\x2db.socket`: true,
		"": false, "app": false, "app.": false, ".service": false, "a/b.service": false, "a b.service": false, "app@.service": false,
		strings.Repeat("x", 250) + ".service": false,
	} {
		if err := ValidateName(name); (err == nil) != valid {
			t.Errorf("%q: %v", name, err)
		}
	}
}
