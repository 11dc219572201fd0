package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registry"
)

// limit bounds every wait in these tests; nothing is expected to take nearly as long.
const limit = 30 * time.Second

// until waits for a condition to hold.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for: %s", limit, what)
		}
	}
}

// house is a store, and the one service in it that a test is about.
type house struct {
	t       testing.TB
	cluster *daemontest.Cluster
	store   kv.Store
	service string // differs from test to test: they share one engine
}

func newHouse(t testing.TB) *house {
	t.Helper()
	parts.Docker(t)
	cluster := daemontest.Start(t, 1)
	store, err := kvclient.New(kvclient.Config{Endpoints: []string{cluster.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return &house{t: t, cluster: cluster, store: store, service: fmt.Sprintf("test-%d", time.Now().UnixNano())}
}

// named are docker run's options for a container of the service of this test.
func (h *house) named(options ...string) []string {
	return append([]string{"--label", "SERVICE_NAME=" + h.service}, options...)
}

// records returns what is registered of a service, by instance.
func (h *house) records(service string) map[string]registry.Record {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	records := map[string]registry.Record{}
	result, err := h.store.Read(ctx, kv.Read{Key: registry.DefaultPrefix + "/" + service, Quorum: true})
	if kv.Is(err, kv.NotFound) {
		return records
	}
	if err != nil {
		h.t.Fatal(err)
	}
	for _, node := range result.Node.Nodes {
		record, err := registry.Decode(node.Value)
		if err != nil {
			h.t.Fatalf("%s: %v", node.Key, err)
		}
		if node.TTL == 0 {
			h.t.Errorf("%s has no TTL", node.Key)
		}
		records[kv.Base(node.Key)] = record
	}
	return records
}

// untilOne waits until the service of this test has exactly one record that satisfies condition.
func (h *house) untilOne(what string, condition func(registry.Record) bool) registry.Record {
	h.t.Helper()
	var found registry.Record
	until(h.t, what, func() bool {
		records := h.records(h.service)
		for _, found = range records {
		}
		return len(records) == 1 && condition(found)
	})
	return found
}

func anyRecord(registry.Record) bool { return true }

func (h *house) untilNone(what string) {
	h.t.Helper()
	until(h.t, what, func() bool { return len(h.records(h.service)) == 0 })
}

// agentRun is kvagent within the test process.
type agentRun struct {
	t    testing.TB
	stop context.CancelFunc
	exit chan int

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

func (a *agentRun) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.t.Output().Write(p)
	return a.log.Write(p)
}

func (a *agentRun) logged(text string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Contains(a.log.String(), text)
}

// kvagent starts the program with arguments beside those of every test here.
func (h *house) kvagent(args ...string) *agentRun {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a := &agentRun{t: h.t, stop: cancel, exit: make(chan int, 1)}
	args = append([]string{"--endpoints", h.cluster.URL(), "--host", "h1", "--ip", "127.0.0.1", "--explicit", "--log-level", "debug"}, args...)
	noEnv := func(string) (string, bool) { return "", false }
	go func() {
		a.exit <- program.Run(ctx, Program(), args, noEnv, &program.Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: a})
	}()
	h.t.Cleanup(func() { a.end() })
	return a
}

// end stops the agent as SIGTERM does and returns its exit code.
func (a *agentRun) end() int {
	a.t.Helper()
	a.stop()
	select {
	case code := <-a.exit:
		a.exit <- code
		return code
	case <-time.After(limit):
		a.t.Fatalf("kvagent did not end within %v", limit)
		return -1
	}
}

// serves asks the registered address for its page: the container's host name.
func serves(t testing.TB, r registry.Record) string {
	t.Helper()
	client := http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + net.JoinHostPort(r.Address, strconv.Itoa(r.Port)) + "/")
	if err != nil {
		t.Fatalf("it is registered but does not answer: %v", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("it is registered but answers %s, %v", response.Status, err)
	}
	return strings.TrimSpace(string(body))
}

func TestAContainerIsRegisteredWhileItServes(t *testing.T) {
	h := newHouse(t)
	a := h.kvagent("--tags", "all")
	id := parts.RunContainer(t, h.named("-p", "80", "-e", "SERVICE_REGION=north", "--label", "SERVICE_80_TAGS=blue"))
	name := strings.TrimPrefix(parts.DockerCommand(t, "inspect", "-f", "{{.Name}}", id), "/")

	r := h.untilOne("it is registered", anyRecord)
	if host := serves(t, r); host != id[:12] {
		t.Errorf("%s answers in place of %s", host, id[:12])
	}
	if r.Instance != "h1_"+name+"_80" || r.Host != "h1" || r.Protocol != "tcp" || r.State != registry.StateUp || r.Meta["region"] != "north" ||
		fmt.Sprint(r.Tags) != "[blue all]" || r.Owner == "" {
		t.Errorf("unexpected record %+v", r)
	}

	parts.DockerCommand(t, "rename", id, "kvd-"+id[:12])
	h.untilOne("it has its new name", func(r registry.Record) bool { return r.Instance == "h1_kvd-"+id[:12]+"_80" })
	parts.DockerCommand(t, "pause", id)
	h.untilNone("a paused container is removed")
	parts.DockerCommand(t, "unpause", id)
	h.untilOne("it is back", anyRecord)
	parts.DockerCommand(t, "restart", id)
	port := parts.DockerCommand(t, "inspect", "-f", `{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}`, id)
	r = h.untilOne("it is registered with its new port", func(r registry.Record) bool { return strconv.Itoa(r.Port) == port })
	serves(t, r)
	parts.DockerCommand(t, "stop", id)
	h.untilNone("a stopped container is removed")
	parts.DockerCommand(t, "start", id)
	h.untilOne("a container that was started again is registered again", anyRecord)
	parts.DockerCommand(t, "kill", "-s", "KILL", id)
	h.untilNone("a killed container is removed")

	if code := a.end(); code != program.ExitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestAStoppingContainerDrainsWhileItServes(t *testing.T) {
	h := newHouse(t)
	h.kvagent()
	// It goes on serving after its stop signal until it is told otherwise.
	id := parts.RunContainer(t, h.named("-p", "80", "--stop-timeout", "60"),
		"sh", "-c", "httpd -p 80 -h /www; trap 'while ! test -e /tmp/end; do sleep 0.1; done; exit 0' TERM; while :; do sleep 0.1; done")
	r := h.untilOne("it is registered", anyRecord)
	stopped := make(chan error, 1)
	go func() { stopped <- exec.Command("docker", "stop", id).Run() }()
	h.untilOne("it drains", func(r registry.Record) bool { return r.State == registry.StateDraining })
	select {
	case err := <-stopped:
		t.Fatalf("docker stop had ended before the record was draining: %v", err)
	default:
	}
	client := http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + net.JoinHostPort(r.Address, strconv.Itoa(r.Port)) + "/")
	if err != nil {
		t.Fatalf("it did not serve any more when its record was draining: %v", err)
	}
	response.Body.Close()
	parts.DockerCommand(t, "exec", id, "sh", "-c", ": >/tmp/end")
	if err := <-stopped; err != nil {
		t.Errorf("docker stop: %v", err)
	}
	h.untilNone("it is removed when it has ended")
}

func TestAContainerIsRegisteredOnlyOnceItAnswers(t *testing.T) {
	h := newHouse(t)
	h.kvagent()
	late := parts.RunContainer(t, h.named("-p", "80"), "sh", "-c", "while ! test -e /tmp/go; do sleep 0.05; done; exec sh /serve")
	h.service += "-other"
	parts.RunContainer(t, h.named("-p", "80"))
	h.untilOne("a container that was started later and answers is registered", anyRecord)
	h.service = strings.TrimSuffix(h.service, "-other")
	if records := h.records(h.service); len(records) > 0 {
		t.Fatalf("a container that does not answer was registered: %v", records)
	}
	parts.DockerCommand(t, "exec", late, "sh", "-c", ": >/tmp/go")
	serves(t, h.untilOne("it answers and is registered", anyRecord))
}

func TestAContainerWithAHealthcheckIsRegisteredWhileItIsHealthy(t *testing.T) {
	h := newHouse(t)
	h.kvagent()
	id := parts.RunContainer(t, h.named("-p", "80", "--health-cmd", "test -e /tmp/well", "--health-interval", "200ms", "--health-retries", "1"))
	until(t, "it is unhealthy", func() bool {
		return parts.DockerCommand(t, "inspect", "-f", "{{.State.Health.Status}}", id) == "unhealthy"
	})
	if records := h.records(h.service); len(records) > 0 {
		t.Fatalf("an unhealthy container was registered: %v", records)
	}
	parts.DockerCommand(t, "exec", id, "sh", "-c", ": >/tmp/well")
	h.untilOne("it is healthy and registered", anyRecord)
	parts.DockerCommand(t, "exec", id, "busybox", "rm", "/tmp/well")
	h.untilNone("it is unhealthy and removed")
}

func TestEachPortIsAServiceOfItsOwn(t *testing.T) {
	h := newHouse(t)
	h.kvagent()
	parts.RunContainer(t, h.named("-p", "80", "-p", "81", "-p", "82", "-e", "PORTS=80 81 82",
		"-e", "SERVICE_81_NAME="+h.service+"-admin", "-e", "SERVICE_82_IGNORE=true"))
	until(t, "both are registered", func() bool { return len(h.records(h.service+"-80")) == 1 && len(h.records(h.service+"-admin")) == 1 })
	for _, service := range []string{h.service, h.service + "-81", h.service + "-82"} {
		if records := h.records(service); len(records) > 0 {
			t.Errorf("unexpected: %v", records)
		}
	}
}

func TestAContainerOnTheHostsNetworkIsRegisteredByItsExposedPort(t *testing.T) {
	h := newHouse(t)
	h.kvagent()
	port := freePort(t)
	parts.RunContainer(t, h.named("--network", "host", "--expose", port, "-e", "PORTS="+port))
	r := h.untilOne("it is registered", anyRecord)
	if strconv.Itoa(r.Port) != port || r.Address != "127.0.0.1" {
		t.Errorf("unexpected record %+v", r)
	}
	serves(t, r)
}

// freePort returns a port that was free a moment ago: a container cannot be given an open one.
func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

func TestInternalRegistersTheContainersOwnAddress(t *testing.T) {
	h := newHouse(t)
	h.kvagent("--internal")
	id := parts.RunContainer(t, h.named("--expose", "80"))
	r := h.untilOne("it is registered", anyRecord)
	if own := parts.DockerCommand(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", id); r.Address != own || r.Port != 80 {
		t.Errorf("got %+v, want %s:80", r, own)
	}
	serves(t, r)
}

func TestWhatRunsBeforeTheAgentIsRegisteredWhenItIsReady(t *testing.T) {
	h := newHouse(t)
	parts.RunContainer(t, h.named("-p", "80"))
	first := h.kvagent("--withdraw-on-stop")
	h.untilOne("it is registered", anyRecord)
	if code := first.end(); code != program.ExitOK {
		t.Errorf("exit code %d", code)
	}
	if records := h.records(h.service); len(records) > 0 {
		t.Errorf("an agent that was to withdraw on its stop left %v", records)
	}
	second := h.kvagent()
	until(t, "the second agent is ready", func() bool { return second.logged("ready") })
	if len(h.records(h.service)) != 1 {
		t.Error("the agent was ready before it had registered what ran")
	}
}

func TestARestartOfTheAgentIsSeenByNobody(t *testing.T) {
	h := newHouse(t)
	parts.RunContainer(t, h.named("-p", "80"))
	first := h.kvagent()
	h.untilOne("it is registered", anyRecord)
	until(t, "the log says so", func() bool { return first.logged(`"msg":"registered"`) })
	watch, err := h.store.Watch(t.Context(), kv.WatchFrom{Key: registry.DefaultPrefix, Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if code := first.end(); code != program.ExitOK {
		t.Errorf("exit code %d", code)
	}
	second := h.kvagent()
	until(t, "the second agent is ready", func() bool { return second.logged(`"msg":"ready"`) })
	if !second.logged(`"msg":"registered"`) {
		t.Error("ready before it had taken over what ran")
	}
	end := kv.Write{Op: kv.OpSet, Key: registry.DefaultPrefix + "/end", Value: "of the test"}
	if _, err := h.store.Write(t.Context(), end); err != nil {
		t.Fatal(err)
	}
	if event, err := watch.Next(t.Context()); err != nil || event.Node.Key != end.Key {
		t.Errorf("a watcher saw %+v, %v", event, err)
	}
}

func TestWhatHasGoneBetweenTwoRunsIsRemovedByTheSecond(t *testing.T) {
	h := newHouse(t)
	gone := parts.RunContainer(t, h.named("-p", "80", "--label", "SERVICE_ID=gone"))
	silent := parts.RunContainer(t, h.named("-p", "80", "--label", "SERVICE_ID=silent"), "sh", "-c", "httpd -p 80 -h /www; while :; do sleep 1; done")
	moved := parts.RunContainer(t, h.named("-p", "80", "--label", "SERVICE_ID=moved"))
	first := h.kvagent("--ttl", "600s") // nothing expires during the test
	until(t, "all are registered", func() bool { return len(h.records(h.service)) == 3 })
	first.end()

	beside := registry.Record{Service: h.service, Instance: "beside", Address: "127.0.0.1", Port: 80, Protocol: "tcp", State: registry.StateUp,
		Host: "h1", Owner: registry.NewOwner()} // as a sidekick on this machine
	value, err := json.Marshal(beside)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.store.Write(t.Context(), kv.Write{Op: kv.OpSet, Key: beside.Key(registry.DefaultPrefix), Value: string(value), TTL: limit * 10}); err != nil {
		t.Fatal(err)
	}
	parts.DockerCommand(t, "rm", "-f", gone, moved)
	parts.DockerCommand(t, "exec", silent, "busybox", "killall", "httpd") // it runs and does not answer
	parts.RunContainer(t, h.named("-p", "80", "--label", "SERVICE_ID=moved"), "sh", "-c", "while :; do sleep 1; done")

	second := h.kvagent("--ttl", "600s")
	until(t, "the second agent is ready", func() bool { return second.logged(`"msg":"ready"`) })
	var left []string
	for instance := range h.records(h.service) {
		left = append(left, instance)
	}
	slices.Sort(left)
	if got := fmt.Sprint(left); got != "[beside silent]" {
		t.Errorf("left are %s", got)
	}
	if !second.logged(`"msg":"removed"`) {
		t.Error("nobody was told of the removal")
	}
}

func TestRegistrationsComeBackWithTheStore(t *testing.T) {
	h := newHouse(t)
	h.kvagent("--ttl", "2s")
	gone := parts.RunContainer(t, h.named("-p", "80"))
	h.untilOne("it is registered", anyRecord)
	h.cluster.Stop()
	parts.DockerCommand(t, "rm", "-f", gone)
	parts.RunContainer(t, h.named("-p", "80", "--label", "SERVICE_ID=new"))
	h.cluster.Restart()
	h.untilOne("what has started meanwhile is there, what has ended is not", func(r registry.Record) bool { return r.Instance == "new" })
}

func TestADryRunSaysWhatWouldBeRegisteredAndWritesNothing(t *testing.T) {
	h := newHouse(t)
	id := parts.RunContainer(t, h.named("-p", "80", "-p", "81", "--label", "SERVICE_81_IGNORE=1", "--label", "SERVICE_WEIGHT=heavy"))
	name := strings.TrimPrefix(parts.DockerCommand(t, "inspect", "-f", "{{.Name}}", id), "/")
	var stdout bytes.Buffer
	code := program.Run(t.Context(), Program(), []string{"--dry-run", "--endpoints", "http://127.0.0.1:1", "--host", "h1"},
		func(string) (string, bool) { return "", false }, &program.Env{Stdout: &stdout, Stderr: t.Output()})
	if code != program.ExitOK {
		t.Errorf("exit code %d", code)
	}
	var registered, ignored, weightless bool
	for line := range strings.Lines(stdout.String()) {
		fields := strings.Fields(line)
		registered = registered || len(fields) > 4 && fields[1] == name && fields[2] == "80/tcp" && fields[3] == h.service && fields[4] == "h1_"+name+"_80"
		weightless = weightless || len(fields) > 3 && fields[1] == name && fields[2] == "80" && fields[3] == "but:" && strings.Contains(line, "SERVICE_WEIGHT")
		ignored = ignored || len(fields) > 3 && fields[1] == name && fields[2] == "81" && strings.Contains(line, "SERVICE_81_IGNORE is set")
	}
	if !registered || !ignored || !weightless {
		t.Errorf("port 80 named: %v, without its weight: %v, port 81 refused: %v, in\n%s", registered, weightless, ignored, &stdout)
	}
}

// privateEngine is a dockerd of its own. It lives in a network of its own as well, because an engine
// without a bridge takes away the one that the machine's other engine uses.
type privateEngine struct {
	t       testing.TB
	folder  string
	process *exec.Cmd
}

func newPrivateEngine(t testing.TB) *privateEngine {
	t.Helper()
	parts.Need(t, "root")
	parts.Need(t, "dockerd")
	folder, err := os.MkdirTemp("", "kvd-engine-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	e := &privateEngine{t: t, folder: folder}
	t.Cleanup(func() {
		if e.process == nil {
			e.start() // whatever an engine left running, only an engine can end
		}
		if ids := strings.Fields(e.docker("ps", "-aq")); len(ids) > 0 {
			e.docker(append([]string{"rm", "-f"}, ids...)...)
		}
		e.end(syscall.SIGTERM)
		unmountBelow(t, folder)
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	e.start()
	return e
}

// unmountBelow detaches what a killed engine leaves mounted, the deepest first.
func unmountBelow(t testing.TB, folder string) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Error(err)
	}
	lines := strings.Split(string(mounts), "\n")
	for _, line := range slices.Backward(lines) {
		if fields := strings.Fields(line); len(fields) > 1 && strings.HasPrefix(fields[1], folder+"/") {
			if err := unix.Unmount(fields[1], unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", fields[1], err)
			}
		}
	}
}

func (e *privateEngine) host() string { return "unix://" + filepath.Join(e.folder, "sock") }

func (e *privateEngine) start() {
	e.t.Helper()
	in := func(name string) string { return filepath.Join(e.folder, name) }
	log, err := os.OpenFile(in("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	// A killed engine leaves the number of its containerd behind. Where nobody reaps orphans, the
	// next engine takes that process for alive and waits for it in vain.
	os.Remove(in("exec/containerd/containerd.pid"))
	e.process = exec.Command(parts.Path(e.t, "dockerd"), "--host", e.host(), "--data-root", in("data"), "--exec-root", in("exec"),
		"--pidfile", in("pid"), "--bridge", "none", "--iptables=false", "--ip6tables=false")
	e.process.Stdout, e.process.Stderr = log, log
	e.process.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := e.process.Start(); err != nil {
		e.t.Fatal(err)
	}
	until(e.t, "the private engine answers", func() bool {
		return exec.Command("docker", "-H", e.host(), "version").Run() == nil
	})
}

func (e *privateEngine) end(signal syscall.Signal) {
	if e.process != nil {
		e.process.Process.Signal(signal)
		e.process.Wait()
		e.process = nil
	}
}

func (e *privateEngine) docker(args ...string) string {
	e.t.Helper()
	return parts.DockerCommand(e.t, append([]string{"-H", e.host()}, args...)...)
}

func TestTheEngineMayCrashStopAndReturn(t *testing.T) {
	h := newHouse(t)
	e := newPrivateEngine(t)
	image := parts.BusyboxImage(t)
	archive := filepath.Join(e.folder, "image.tar")
	parts.DockerCommand(t, "save", "-o", archive, image)
	e.docker("load", "-i", archive)
	a := h.kvagent("--docker-host", e.host())

	// Nothing in the other network can be reached from here.
	id := e.docker(append(append([]string{"run", "-d", "--restart", "always", "--network", "host"},
		h.named("--expose", "80", "--label", "SERVICE_CHECK=none")...), image)...)
	h.untilOne("it is registered", anyRecord)

	e.end(syscall.SIGKILL)
	until(t, "the agent misses the engine", func() bool { return a.logged("the engine cannot be followed") })
	if len(h.records(h.service)) != 1 {
		t.Error("the registration did not outlive the engine's crash")
	}
	e.start() // the engine ends what is left of the container's last run and starts it anew
	until(t, "the container runs", func() bool { return e.docker("inspect", "-f", "{{.State.Running}}", id) == "true" })
	h.untilOne("it is registered", anyRecord)

	e.end(syscall.SIGTERM) // it stops its containers before it ends
	h.untilNone("what an engine stops with itself is removed")
	e.start()
	h.untilOne("it is registered when the engine has started it again", anyRecord)
	e.docker("rm", "-f", id)
	h.untilNone("it is removed")
}
