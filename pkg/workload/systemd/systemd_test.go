package systemd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
)

// manager is a service manager with some units and their files, and the connections to it.
type manager struct {
	mu          sync.Mutex                // guards the fields below
	loadedUnits map[string]map[string]any // properties by name
	files       map[string]string         // text by path
	down        error
	connections int
	latest      *connection
	reads       int // how often properties were asked for
	looks       int // how often a file was opened
}

func newManager() *manager {
	return &manager{loadedUnits: map[string]map[string]any{}, files: map[string]string{}}
}

// set gives a unit a state and tells nobody.
func (m *manager) set(unit, active, sub, invocation string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	properties := map[string]any{"LoadState": "loaded", "ActiveState": active, "SubState": sub, "InvocationID": []byte(invocation), "MainPID": uint32(7)}
	if before := m.loadedUnits[unit]; before != nil {
		properties["FragmentPath"], properties["DropInPaths"] = before["FragmentPath"], before["DropInPaths"]
	}
	m.loadedUnits[unit] = properties
}

// write gives a unit its file and drop-ins, and loads it.
func (m *manager) write(unit, text string, dropIns ...string) {
	m.set(unit, "inactive", "dead", "")
	m.mu.Lock()
	defer m.mu.Unlock()
	path := "/etc/systemd/system/" + unit
	m.files[path] = text
	var paths []string
	for i, text := range dropIns {
		paths = append(paths, path+".d/"+string(rune('a'+i))+".conf")
		m.files[paths[i]] = text
	}
	m.loadedUnits[unit]["FragmentPath"], m.loadedUnits[unit]["DropInPaths"] = path, paths
}

// unload forgets a unit.
func (m *manager) unload(unit string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.loadedUnits, unit)
}

func (m *manager) connect(context.Context, []string) (bus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	m.connections++
	m.latest = &connection{manager: m, tokens: make(chan struct{}, 1), ended: make(chan struct{})}
	return m.latest, nil
}

func (m *manager) open(path string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks++
	text, ok := m.files[path]
	if !ok {
		return nil, errors.New("permission denied")
	}
	return []byte(text), nil
}

func (m *manager) counts() (looks, reads int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.looks, m.reads
}

// tell has the latest connection say that something may have changed.
func (m *manager) tell(c changes) {
	m.mu.Lock()
	connection := m.latest
	m.mu.Unlock()
	connection.mu.Lock()
	defer connection.mu.Unlock()
	if connection.pending.units == nil {
		connection.pending.units = map[string]bool{}
	}
	for unit, anew := range c.units {
		connection.pending.units[unit] = connection.pending.units[unit] || anew
	}
	connection.pending.reloaded = connection.pending.reloaded || c.reloaded
	connection.pending.restarted = connection.pending.restarted || c.restarted
	select {
	case connection.tokens <- struct{}{}:
	default:
	}
}

func unitsOf(anew bool, units ...string) changes {
	c := changes{units: map[string]bool{}}
	for _, unit := range units {
		c.units[unit] = anew
	}
	return c
}

// cut ends the latest connection and refuses others with err until it is nil.
func (m *manager) cut(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.down = err
	close(m.latest.ended)
}

// connection is a bus to a manager.
type connection struct {
	*manager
	tokens chan struct{}
	ended  chan struct{}

	mu      sync.Mutex // guards pending
	pending changes
}

func (c *connection) units(context.Context) ([]string, error) {
	c.manager.mu.Lock()
	defer c.manager.mu.Unlock()
	return slices.Collect(maps.Keys(c.loadedUnits)), c.down
}

func (c *connection) properties(_ context.Context, unit string) (map[string]any, error) {
	c.manager.mu.Lock()
	defer c.manager.mu.Unlock()
	c.reads++
	return c.loadedUnits[unit], c.down
}

func (c *connection) exists(_ context.Context, unit string) (bool, error) {
	c.manager.mu.Lock()
	defer c.manager.mu.Unlock()
	return c.files["/etc/systemd/system/"+unit] != "", c.down
}

func (c *connection) changed() <-chan struct{} { return c.tokens }
func (c *connection) broken() <-chan struct{}  { return c.ended }
func (c *connection) close()                   {}

func (c *connection) take() changes {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.pending
	c.pending = changes{}
	return taken
}

// scene is a source that runs until the test ends.
type scene struct {
	*manager
	t         *testing.T
	source    *Source
	snapshots chan workload.Snapshot
	log       *bytes.Buffer
}

// follow runs a source for the units, or for those with a section if none is named.
func follow(t *testing.T, m *manager, units ...string) *scene {
	t.Helper()
	s := &scene{manager: m, t: t, snapshots: make(chan workload.Snapshot), log: &bytes.Buffer{}}
	var err error
	s.source, err = New(Config{Units: units, Host: "node1.example.org", connect: m.connect, open: m.open, Log: slog.New(slog.NewTextHandler(s.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.source.Run(ctx, s.snapshots) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

// next returns the next snapshot by the names of its units.
func (s *scene) next() map[string]workload.Workload {
	s.t.Helper()
	units := map[string]workload.Workload{}
	for _, w := range (<-s.snapshots).Workloads {
		units[w.ID] = w
	}
	return units
}

// nothing fails the test if a snapshot is sent although nothing moves any more.
func (s *scene) nothing(when string) {
	s.t.Helper()
	synctest.Wait()
	select {
	case got := <-s.snapshots:
		s.t.Errorf("%s: %+v", when, got)
	default:
	}
}

const app = "app.service"

func TestStatesOfUnitsAreMapped(t *testing.T) {
	for reason, want := range map[string]workload.State{
		"activating/start":        workload.Starting,
		"activating/auto-restart": workload.Starting,
		"active/running":          workload.Running,
		"active/listening":        workload.Running,
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

func TestAUnitThatIsNotLoadedIsStoppedAndOneWithoutAFileIsToldFromIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager()
		m.files["/etc/systemd/system/idle.service"] = "[Service]\n"
		s := follow(t, m, "idle.service", "no.service")
		got := s.next()
		if w := got["idle.service"]; w.State != workload.Stopped || w.Reason != "inactive/dead" || w.Run != "" {
			t.Errorf("not loaded: %+v", w)
		}
		if w := got["no.service"]; w.State != workload.Stopped || w.Reason != "not-found" {
			t.Errorf("without a file: %+v", w)
		}
		time.Sleep(time.Hour)
		if n := strings.Count(s.log.String(), "no such unit; waiting for it"); n != 1 || strings.Contains(s.log.String(), "idle") {
			t.Errorf("log: %s", s.log)
		}
	})
}

func TestASignalLeadsToANewSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager()
		m.set(app, "inactive", "dead", "")
		s := follow(t, m, app)
		if got := s.next()[app]; got.State != workload.Stopped {
			t.Fatalf("first snapshot: %+v", got)
		}
		began := time.Now()
		m.set(app, "active", "running", "\x01\x02")
		m.tell(unitsOf(false, "other.service"))
		m.tell(unitsOf(false, app))
		got := s.next()[app]
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
		m := newManager()
		m.set(app, "active", "running", "a")
		s := follow(t, m, app)
		s.next()
		m.set(app, "active", "running", "b") // restarted, and nobody said so
		began := time.Now()
		s.next()
		if took := time.Since(began); took > DefaultPeriod {
			t.Errorf("took %v", took)
		}
		if status := s.source.Status(); status.Missed != 1 {
			t.Errorf("status: %+v", status)
		}
	})
}

func TestABrokenConnectionIsReplacedAtOnceAndNothingIsSentMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager()
		m.set(app, "active", "running", "a")
		s := follow(t, m, app)
		s.next()
		synctest.Wait()
		if status := s.source.Status(); !status.Connected || status.Relists != 1 || status.Err != nil {
			t.Errorf("status: %+v", status)
		}
		m.cut(errors.New("no bus"))
		time.Sleep(time.Hour)
		s.nothing("a snapshot without a bus")
		if status := s.source.Status(); status.Connected || status.Err == nil || time.Since(status.Since) < time.Hour-time.Second {
			t.Errorf("status: %+v", status)
		}
		m.set(app, "failed", "failed", "")
		m.mu.Lock()
		m.down = nil
		m.mu.Unlock()
		began := time.Now()
		if got := s.next()[app]; got.State != workload.Stopped {
			t.Errorf("after the return: %+v", got)
		}
		if took := time.Since(began); took > reconnectMax {
			t.Errorf("found %v after the return", took)
		}
		synctest.Wait()
		if warnings := strings.Count(s.log.String(), "level=WARN"); m.connections != 2 || warnings != 1 || !strings.Contains(s.log.String(), "followed again") {
			t.Errorf("%d connections, %d warnings: %s", m.connections, warnings, s.log)
		}
	})
}

func TestASystemdThatIsStartedAnewIsAskedAgainWithoutAWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager()
		m.set(app, "active", "running", "a")
		s := follow(t, m, app)
		s.next()
		m.set(app, "failed", "failed", "")
		m.tell(changes{restarted: true})
		began := time.Now()
		if got := s.next()[app]; got.State != workload.Stopped || time.Since(began) != 0 {
			t.Errorf("after %v: %+v", time.Since(began), got)
		}
		if m.connections != 2 || s.log.Len() > 0 {
			t.Errorf("%d connections; log: %s", m.connections, s.log)
		}
	})
}

func TestOnlyUnitsWithASectionAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager()
		for i := range 300 {
			m.write("plain"+string(rune('a'+i%26))+strings.Repeat("x", i/26)+".service", "[Service]\nExecStart=/bin/true\n")
		}
		m.write("data.mount", "[X-Kvd]\nPort=1\n")
		m.write(app, "[Service]\nExecStart=/bin/app\n", "[X-Kvd]\nPort=8080\n")
		s := follow(t, m)
		got := s.next()
		if len(got) != 1 || got[app].Labels["kvd.app.port"] != "8080" || !got[app].Trusted {
			t.Fatalf("followed: %+v", got)
		}
		synctest.Wait()
		looks, reads := m.counts()
		time.Sleep(time.Minute)
		synctest.Wait()
		if looked, read := m.counts(); looked != looks || read-reads > int(time.Minute/DefaultPeriod) {
			t.Errorf("within a minute %d files were read and %d units", looked-looks, read-reads)
		}
		m.tell(unitsOf(false, "plaina.service", "data.mount"))
		synctest.Wait()
		if looked, _ := m.counts(); looked != looks {
			t.Error("a change of a unit without a section had files read")
		}
	})
}

func TestASectionCountsWhenSystemdReadsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager()
		m.write(app, "[X-Kvd]\nPort=1\n")
		s := follow(t, m)
		s.next()
		m.write(app, "[X-Kvd]\nPort=2\n")
		m.tell(unitsOf(false, app))
		s.nothing("nobody reloaded")
		m.tell(changes{reloaded: true})
		if got := s.next()[app]; got.Labels["kvd.app.port"] != "2" {
			t.Errorf("after a reload: %+v", got)
		}
		m.write(app, "[Service]\n")
		m.tell(changes{reloaded: true})
		if got := s.next(); len(got) != 0 {
			t.Errorf("without the section: %+v", got)
		}
		m.write("app@1.service", "[X-Kvd]\nPort=808%i\nService=%p-%i\nMeta=host=%H\n")
		m.tell(unitsOf(true, "app@1.service"))
		if got := s.next()["app@1.service"].Labels; got["kvd.app-1.port"] != "8081" || got["kvd.app-1.meta.host"] != "node1.example.org" {
			t.Errorf("an instance of a template: %+v", got)
		}
		m.unload("app@1.service")
		m.tell(unitsOf(true, "app@1.service"))
		if got := s.next(); len(got) != 0 {
			t.Errorf("after it was unloaded: %+v", got)
		}
	})
}

func TestUnitsThatCameAndWentWithoutASignalAreFoundByThePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager()
		s := follow(t, m)
		s.next()
		m.write(app, "[X-Kvd]\nPort=1\n")
		if got := s.next(); len(got) != 1 {
			t.Errorf("found %+v", got)
		}
		m.unload(app)
		if got := s.next(); len(got) != 0 {
			t.Errorf("still there: %+v", got)
		}
	})
}

func TestMistakesOfOneUnitAreItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager()
		m.write("bad.service", "[X-Kvd]\nPrt=1\n")
		m.write("good.service", "[X-Kvd]\nPort=2\n")
		m.write("secret.service", "[X-Kvd]\nPort=3\n")
		delete(m.files, "/etc/systemd/system/secret.service")
		s := follow(t, m)
		got := s.next()
		if len(got) != 2 || got["good.service"].Problems != nil || got["good.service"].Labels["kvd.good.port"] != "2" {
			t.Errorf("followed: %+v", got)
		}
		if problems := got["bad.service"].Problems; len(problems) != 2 || problems[0] != "/etc/systemd/system/bad.service:2: unknown setting Prt=; did you mean Port=?" {
			t.Errorf("problems: %q", problems)
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
		if got := unitOf(objectPath(name)); got != name {
			t.Errorf("%q is %q on D-Bus, which is %q", name, objectPath(name), got)
		}
	}
}
