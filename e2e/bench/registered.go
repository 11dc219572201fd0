package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kvd-io/kvd/e2e/engine"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/registry"
)

const (
	// settleFor is how long after the last registration the rest begins: the engine's list then
	// shows no container as young any more, as it does of those that have run for a while.
	settleFor = 100 * time.Second
	restFor   = time.Minute
)

// runRegistered looks at what it costs to keep many containers registered that nothing happens to.
// Each has a TCP check.
func runRegistered(ctx context.Context, b *bench) ([]table, error) {
	g, err := b.startGroup(ctx, "kvd", "registered")
	if err != nil {
		return nil, err
	}
	defer g.Close()
	leader, err := g.Leader(ctx)
	if err != nil {
		return nil, err
	}
	host, dockerd, told, stop, err := b.containersToKeep(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	store := g.at(leader)
	begun := time.Now()
	agent, err := b.startAgent(host, store.url)
	if err != nil {
		return nil, err
	}
	defer agent.kill()
	if err := awaitRegistered(ctx, store.url, b.containers); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, agent.said)
	}
	took := time.Since(begun)
	settle, rest := settleFor, restFor
	if b.duration < time.Second {
		settle, rest = time.Second, time.Second
	}
	wait(ctx, settle)
	names := []string{"kvagent", "the leader", "dockerd"}
	pids := []int{agent.cmd.Process.Pid, leader.PID(), dockerd}
	var before [3]time.Duration
	entries, err := raftIndex(ctx, store)
	if err != nil {
		return nil, err
	}
	for i, pid := range pids {
		if pid != 0 {
			if before[i], err = cpuOf(pid); err != nil {
				return nil, err
			}
		}
	}
	begun = time.Now()
	wait(ctx, rest)
	rested := time.Since(begun)
	var percent [3]float64
	for i, pid := range pids {
		if pid == 0 {
			continue
		}
		now, err := cpuOf(pid)
		if err != nil {
			return nil, err
		}
		percent[i] = 100 * (now - before[i]).Seconds() / rested.Seconds()
	}
	entriesNow, err := raftIndex(ctx, store)
	if err != nil {
		return nil, err
	}
	resident, most, err := agent.residentBytes()
	if err != nil {
		return nil, err
	}
	kind := "told of by an engine"
	if b.real {
		kind = "of a real engine"
	}
	t := table{
		Work: fmt.Sprintf("%d containers %s, each with a TCP check, for %v", b.containers, kind, rested.Round(time.Second)),
		Rows: []row{{Subject: "kvagent", Figures: []figure{
			{"RSS MB", float64(resident) / 1e6, 1},
			{"CPU, % of a core", percent[0], 2},
			{"most RSS MB", float64(most) / 1e6, 1},
			{"CPU of the leader", percent[1], 2},
			{"raft entries/s", float64(entriesNow-entries) / rested.Seconds(), 2},
			{"all registered after s", took.Seconds(), 2},
		}}},
		Claims: []claim{
			{What: "kvagent, CPU, % of a core", Value: percent[0], Target: 2},
			{What: "kvagent, RSS MB", Value: float64(resident) / 1e6, Target: 50},
			{What: "the leader, CPU, % of a core", Value: percent[1], Target: 5},
		},
		Commands: []string{"kvagent " + strings.Join(agent.args[1:], " ")},
	}
	if dockerd != 0 {
		t.Rows[0].Figures = append(t.Rows[0].Figures, figure{"CPU of " + names[2], percent[2], 2})
	}
	if told == nil {
		return []table{t}, nil
	}
	changes, err := b.changes(ctx, told, agent, store.url)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, agent.said)
	}
	return []table{t, changes}, nil
}

// changes looks at what it costs when one more container starts and ends, one after the other.
func (b *bench) changes(ctx context.Context, told *told, agent *server, url string) (table, error) {
	store, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		return table{}, err
	}
	defer store.Close()
	watch, err := store.Watch(ctx, kv.WatchFrom{Key: registry.DefaultPrefix + "/kept", Recursive: true})
	if err != nil {
		return table{}, err
	}
	defer watch.Close()
	ctx, cancel := context.WithTimeout(ctx, awaitMax)
	defer cancel()
	var started, ended latencies
	before, err := cpuOf(agent.cmd.Process.Pid)
	if err != nil {
		return table{}, err
	}
	for range b.registrations {
		for _, l := range []*latencies{&started, &ended} {
			isStart := l == &started
			begun := time.Now()
			told.change(isStart)
			for seen := false; !seen; {
				e, err := watch.Next(ctx)
				if err != nil {
					return table{}, fmt.Errorf("a container starts: %v: %w", isStart, err)
				}
				seen = kv.Base(e.Node.Key) == told.name(told.count) && e.Removes() != isStart
			}
			*l = append(*l, time.Since(begun))
		}
	}
	now, err := cpuOf(agent.cmd.Process.Pid)
	if err != nil {
		return table{}, err
	}
	return table{
		Work: fmt.Sprintf("one more starts and ends, %d times, until a watcher of the store has seen it", b.registrations),
		Rows: []row{
			{Subject: "kvagent", Figures: []figure{{"changes", float64(2 * b.registrations), 0}, {"CPU ms of each", millis(now-before) / float64(2*b.registrations), 2}}},
			latencyRow("from the event of its start", started),
			latencyRow("from the event of its end", ended),
		},
	}, nil
}

// containersToKeep returns the address of an engine with the containers, and its process or, if it has none,
// itself.
func (b *bench) containersToKeep(ctx context.Context) (host string, pid int, told *told, stop func(), err error) {
	if !b.real {
		told, err := tellOf(filepath.Join(b.dir, "told.sock"), b.containers)
		if err != nil {
			return "", 0, nil, nil, err
		}
		return told.host, 0, told, told.close, nil
	}
	docker, err := engine.Start(ctx, engine.Config{Dir: filepath.Join(b.dir, "engine")})
	if err != nil {
		return "", 0, nil, nil, err
	}
	for i := range b.containers {
		name := fmt.Sprintf("kept%d", i)
		if _, err := docker.Run(ctx, engine.Container{Name: name, Command: []string{"httpd", "-f", "-p", "80"}, Expose: []string{"80/tcp"},
			Labels: map[string]string{"SERVICE_NAME": "kept", "SERVICE_ID": name}}); err != nil {
			docker.Close()
			return "", 0, nil, nil, err
		}
	}
	return docker.Host(), docker.PID(), nil, func() { docker.Close() }, nil
}

// awaitRegistered waits until count records are in the store.
func awaitRegistered(ctx context.Context, url string, count int) error {
	store, err := kvclient.New(kvclient.Config{Endpoints: []string{url}})
	if err != nil {
		return err
	}
	defer store.Close()
	found := 0
	for deadline := time.Now().Add(awaitMax); time.Now().Before(deadline) && ctx.Err() == nil; wait(ctx, 20*time.Millisecond) {
		result, err := store.Read(ctx, kv.Read{Key: registry.DefaultPrefix + "/kept"})
		if err == nil {
			if found = len(result.Node.Nodes); found == count {
				return nil
			}
		}
	}
	return fmt.Errorf("%d of %d containers are registered after %v", found, count, awaitMax)
}

// told is an engine that tells of containers and runs none. One listener stands for all of them: each
// has an address of loopback, and its port.
type told struct {
	host   string
	server *http.Server
	port   net.Listener
	count  int // those that always run; one more comes and goes
	events chan toldEvent

	mu       sync.Mutex // guards the fields below
	oneMore  bool       // it runs
	startsAt time.Time  // since when
}

// toldEvent is an event as engines tell it.
type toldEvent struct {
	Type, Action string
	Actor        struct{ ID string }
	TimeNano     int64 `json:"timeNano"`
}

func tellOf(socket string, count int) (*told, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	port, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		listener.Close()
		return nil, err
	}
	t := &told{host: "unix://" + socket, port: port, count: count, events: make(chan toldEvent)}
	t.server = &http.Server{Handler: t}
	go t.server.Serve(listener)
	go func() {
		for {
			connection, err := port.Accept()
			if err != nil {
				return
			}
			connection.Close()
		}
	}()
	return t, nil
}

func (t *told) close() {
	t.server.Close()
	t.port.Close()
}

// change starts or ends the one more container, and tells who follows.
func (t *told) change(start bool) {
	e := toldEvent{Type: "container", Action: "die", TimeNano: time.Now().UnixNano()}
	e.Actor.ID = toldID(t.count)
	t.mu.Lock()
	if t.oneMore = start; start {
		e.Action, t.startsAt = "start", time.Now()
	}
	t.mu.Unlock()
	t.events <- e
}

// running is the number of containers that run, and when the last one started if that comes and goes.
func (t *told) running() (count int, startsAt time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.oneMore {
		return t.count + 1, t.startsAt
	}
	return t.count, time.Time{}
}

func toldID(i int) string { return fmt.Sprintf("%064x", i+1) }

func toldAddress(i int) string { return fmt.Sprintf("127.1.%d.%d", i/250, i%250+1) }

// ServeHTTP answers as an engine whose containers have run for hours.
func (t *told) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if strings.HasPrefix(path, "/v") {
		path = path[strings.Index(path[1:], "/")+1:]
	}
	count, startsAt := t.running()
	switch id, isContainer := strings.CutPrefix(path, "/containers/"); {
	case path == "/_ping":
		w.Header().Set("Api-Version", "1.41")
	case path == "/events":
		for {
			w.(http.Flusher).Flush()
			select {
			case e := <-t.events:
				json.NewEncoder(w).Encode(e)
			case <-r.Context().Done():
				return
			}
		}
	case path == "/containers/json":
		lines := make([]map[string]any, count)
		for i := range lines {
			lines[i] = t.line(i)
		}
		json.NewEncoder(w).Encode(lines)
	case isContainer:
		id, _, _ = strings.Cut(id, "/")
		i, err := strconv.ParseInt(id, 16, 64)
		if err != nil || i < 1 || int(i) > count {
			http.Error(w, `{"message":"No such container"}`, http.StatusNotFound)
			return
		}
		json.NewEncoder(w).Encode(t.details(int(i)-1, startsAt))
	default:
		http.NotFound(w, r)
	}
}

func (t *told) networks(i int) map[string]any {
	return map[string]any{"bridge": map[string]any{
		"IPAMConfig": nil, "Links": nil, "Aliases": nil, "NetworkID": toldID(0), "EndpointID": toldID(i), "Gateway": "127.1.0.1",
		"IPAddress": toldAddress(i), "IPPrefixLen": 16, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "MacAddress": "02:42:0a:00:00:01",
	}}
}

func (t *told) labels(i int) map[string]string {
	labels := map[string]string{"SERVICE_NAME": "kept", "SERVICE_ID": t.name(i)}
	if i == t.count {
		labels["SERVICE_CHECK"] = "none"
	}
	return labels
}

func (t *told) name(i int) string { return fmt.Sprintf("kept%d", i) }

func (t *told) portName() string {
	return fmt.Sprintf("%d/tcp", t.port.Addr().(*net.TCPAddr).Port)
}

func (t *told) line(i int) map[string]any {
	return map[string]any{
		"Id": toldID(i), "Names": []string{fmt.Sprintf("/kept%d", i)}, "Image": "web:1", "ImageID": "sha256:" + toldID(0), "Command": "httpd -f",
		"Created": 1700000000, "Ports": []any{}, "Labels": t.labels(i), "State": "running", "Status": "Up 3 hours",
		"HostConfig": map[string]any{"NetworkMode": "default"}, "NetworkSettings": map[string]any{"Networks": t.networks(i)}, "Mounts": []any{},
	}
}

func (t *told) details(i int, startsAt time.Time) map[string]any {
	if i < t.count {
		startsAt = time.Date(2026, 1, 1, 0, 0, 0, 1e8, time.UTC)
	}
	return map[string]any{
		"Id": toldID(i), "Name": fmt.Sprintf("/kept%d", i), "Created": "2026-01-01T00:00:00.0Z", "Path": "httpd", "Args": []string{"-f"},
		"State": map[string]any{"Status": "running", "Running": true, "Paused": false, "Restarting": false, "Dead": false, "Pid": 1000 + i,
			"ExitCode": 0, "StartedAt": startsAt.Format(time.RFC3339Nano), "FinishedAt": "0001-01-01T00:00:00Z"},
		"Config": map[string]any{"Hostname": toldID(i)[:12], "Image": "web:1", "Labels": t.labels(i), "ExposedPorts": map[string]any{t.portName(): struct{}{}},
			"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "VERSION=1.2.3"}},
		"HostConfig":      map[string]any{"NetworkMode": "default", "PortBindings": map[string]any{}},
		"NetworkSettings": map[string]any{"Ports": map[string]any{t.portName(): nil}, "Networks": t.networks(i)},
	}
}
