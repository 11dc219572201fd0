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
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload/docker/dockertest"
)

// rig is a store, an engine that runs nothing and a directory of files.
type rig struct {
	*house
	engine *dockertest.Engine
	files  string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	cluster := daemontest.Start(t, 1)
	store, err := kvclient.New(kvclient.Config{Endpoints: []string{cluster.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return &rig{house: &house{t: t, cluster: cluster, store: store, service: "web"}, engine: dockertest.Start(t), files: t.TempDir()}
}

// arguments are those that every agent of these tests gets.
func (r *rig) arguments(more ...string) []string {
	return append([]string{"--docker-host", r.engine.Host(), "--services-dir", r.files, "--socket", "", "--source", "docker,file", "--status-listen", "127.0.0.1:0"}, more...)
}

func (r *rig) start(more ...string) *agentRun { return r.house.kvagent(r.arguments(more...)...) }

func (r *rig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.files, name), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// ready waits until the agent says that it is.
func (r *rig) ready(a *agentRun) {
	r.t.Helper()
	until(r.t, "the agent is ready", func() bool { return a.logged(`"msg":"ready"`) })
}

var statusURL = regexp.MustCompile(`"msg":"status page","url":"([^"]+)"`)

// get asks the agent's status page.
func (a *agentRun) get(path string) (int, string) {
	a.t.Helper()
	var url string
	until(a.t, "the status page is there", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		if found := statusURL.FindStringSubmatch(a.log.String()); found != nil {
			url = found[1]
		}
		return url != ""
	})
	client := http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(strings.TrimSuffix(url, "/") + path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func webContainer(labels ...string) dockertest.Container {
	return dockertest.Container{Name: "shop", Image: "shop/web:1", Labels: pairs(append(labels, "SERVICE_CHECK=none", "SERVICE_NAME=web")), Published: map[string]string{"80/tcp": "0.0.0.0:32768"}}
}

func TestAnEngineThatIsMissingOrBabblesIsWaitedForWhileOthersGoOn(t *testing.T) {
	r := newRig(t)
	r.engine.Stop()
	r.write("db.yaml", "db: {port: 5432, check: none}\n")
	a := r.start()
	r.ready(a)
	if records := r.records("db"); len(records) != 1 || records["h1_db_5432"].Address != "127.0.0.1" {
		t.Errorf("a service of a file: %+v", records)
	}
	code, body := a.get("/health")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "docker does not answer") {
		t.Errorf("health: %d %s", code, body)
	}
	r.engine.Babble(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>what?") })
	r.engine.Run("c0ffee", webContainer())
	r.engine.Babble(nil)
	r.untilOne("a container is registered when the engine makes sense", anyRecord)
	until(t, "all is well", func() bool { code, _ := a.get("/health"); return code == http.StatusOK })
	if code := a.end(); code != program.ExitOK {
		t.Errorf("exit code %d", code)
	}
}

func TestASourceThatFailsForTooLongIsForgottenAndTheOthersAreNot(t *testing.T) {
	r := newRig(t)
	r.write("db.yaml", "db: {port: 5432, check: none}\n")
	r.engine.Run("c0ffee", webContainer())
	a := r.start("--engine-timeout", "500ms")
	r.untilOne("it is registered", anyRecord)
	r.engine.Stop()
	r.untilNone("its engine has been away for too long")
	if len(r.records("db")) != 1 {
		t.Error("the service of a file went with the engine")
	}
	r.engine.Restart()
	r.untilOne("it is back", anyRecord)
	a.end()
}

func TestAnEngineThatIsAwayTakesNothingAwayUnlessItIsAsked(t *testing.T) {
	if held := command().Flags().Lookup("engine-timeout").DefValue; held != "0s" {
		t.Errorf("--engine-timeout is %s by default, and is to be for ever", held)
	}
	r := newRig(t)
	r.engine.Run("c0ffee", webContainer())
	a := r.start()
	r.untilOne("it is registered", anyRecord)
	r.engine.Stop()
	until(t, "the status tells", func() bool { _, body := a.get("/health"); return strings.Contains(body, "docker does not answer") })
	r.write("db.yaml", "db: {port: 5432, check: none}\n")
	until(t, "the other sources go on", func() bool { return len(r.records("db")) == 1 })
	r.untilOne("it is registered still", anyRecord)
	a.end()
}

func TestWhatAnEarlierRunHasLeftLivesOnWhileTheEngineIsAway(t *testing.T) {
	r := newRig(t)
	r.engine.Run("c0ffee", webContainer())
	first := r.start("--ttl", "1s")
	r.untilOne("it is registered", anyRecord)
	r.engine.Stop()
	first.end()
	second := r.start("--ttl", "1s")
	r.ready(second)
	// By the store's own clock: as long as three TTLs.
	if _, err := r.store.Write(context.Background(), kv.Write{Op: kv.OpSet, Key: "/clock", Value: "x", TTL: 3 * time.Second}); err != nil {
		t.Fatal(err)
	}
	until(t, "three TTLs have passed", func() bool {
		_, err := r.store.Read(context.Background(), kv.Read{Key: "/clock"})
		return kv.Is(err, kv.NotFound)
	})
	r.untilOne("it is registered still", anyRecord)
	r.engine.Restart()
	r.engine.Remove("c0ffee")
	r.untilNone("the engine says that it has gone")
	second.end()
}

func TestAnEngineThatThisMachineDoesNotHaveIsNotWaitedFor(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	f := &follow{started: time.Now(), Source: Source{Absent: func() bool { return hasNoSocket("unix://" + socket) }}}
	if f.known() {
		t.Error("it was not given the time to come")
	}
	f.started = time.Now().Add(-absentAfter - time.Second)
	if !f.known() {
		t.Error("it is waited for, and there is none")
	}
	f.Expected = true
	if f.known() {
		t.Error("it is not waited for, and somebody has named it")
	}
	f.Expected = false
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f.known() || hasNoSocket("tcp://127.0.0.1:2375") {
		t.Error("an engine that does not answer is not waited for")
	}
}

func TestAServiceOfAFileIsRegisteredWhileItAnswers(t *testing.T) {
	r := newRig(t)
	a := r.start()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	r.write("web.yaml", fmt.Sprintf("web:\n  port: %d\n  check-interval: 1s\n  check-fall: 1\n  tags: [a, b]\n", port))
	record := r.untilOne("it is registered", anyRecord)
	if record.Port != port || fmt.Sprint(record.Tags) != "[a b]" {
		t.Errorf("unexpected %+v", record)
	}
	r.write("web.yaml", "web: [")
	until(t, "the file's mistake is told", func() bool { return a.logged("web.yaml") && a.logged("still counts") })
	if len(r.records("web")) != 1 {
		t.Error("a bad file took the service away")
	}
	listener.Close()
	r.untilNone("it does not answer")
	if err := os.Remove(filepath.Join(r.files, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	until(t, "nobody knows it any more", func() bool {
		_, body := a.get("/v1/workload?what=web")
		return strings.Contains(body, `"found": false`)
	})
}

func TestTheStatusSaysWhereEverythingStands(t *testing.T) {
	r := newRig(t)
	r.engine.Run("c0ffee", webContainer("kvd.api.port=80", "kvd.api.weight=heavy", "kvd.api.check=none", "SERVICE_NAME="))
	a := r.start()
	r.ready(a)
	until(t, "the key is known", func() bool { _, body := a.get("/v1/agent"); return strings.Contains(body, `"state": "registered"`) })
	_, body := a.get("/v1/agent")
	var report Report
	if err := json.Unmarshal([]byte(body), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Instances) != 1 || len(report.Refused) != 1 || !report.Refused[0].Mistake || len(report.Problems) > 0 || !report.Ready || report.Store.Registered != 1 ||
		len(report.Follows) != 2 || report.Version == "" || len(report.Layouts) != 1 {
		t.Fatalf("unexpected %s", body)
	}
	i := report.Instances[0]
	if i.Service != "api" || i.Workload != "shop" || i.Phase != "up" || i.Rule == "" || len(i.Keys) != 1 || i.Keys[0].Key != "/services/api/h1_shop_80" {
		t.Errorf("unexpected %+v", i)
	}
	for _, what := range []string{"shop", "c0ff", "api", "h1_shop_80", "api/h1_shop_80"} {
		if code, body := a.get("/v1/workload?what=" + what); code != http.StatusOK || !strings.Contains(body, "/services/api/h1_shop_80") {
			t.Errorf("explain %s: %d %s", what, code, body)
		}
	}
	if code, body := a.get("/v1/workload?what=nobody"); code != http.StatusOK || !strings.Contains(body, `"found": false`) {
		t.Errorf("explain nobody: %d %s", code, body)
	}
	_, metrics := a.get("/metrics")
	for _, want := range []string{`kvd_registrar_instances{phase="up"} 1`, "kvd_registrar_registered 1", `kvagent_workloads{source="docker"} 1`, `kvagent_refusals{mistake="true"} 1`, "kvagent_ready 1"} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("metrics lack %s:\n%s", want, metrics)
		}
	}
	if _, page := a.get("/"); !strings.Contains(page, "h1_shop_80") || !strings.Contains(page, "The registry is true") {
		t.Errorf("page:\n%s", page)
	}
}

// outside is kvagent as a process of its own, which can be killed.
func (r *rig) outside(more ...string) (kill func(), logged func(string) bool) {
	r.t.Helper()
	args := append(r.arguments(more...), "--endpoints", r.cluster.URL(), "--host", "h1", "--ip", "127.0.0.1", "--log-format", "json")
	a := &agentRun{t: r.t}
	command := exec.Command(filepath.Join(parts.Build(r.t), "kvagent"), args...)
	command.Stderr = a
	if err := command.Start(); err != nil {
		r.t.Fatal(err)
	}
	kill = func() {
		command.Process.Kill()
		command.Wait()
	}
	r.t.Cleanup(kill)
	return kill, a.logged
}

// events are what a watcher of all services has seen until now: ACTION KEY.
func (r *rig) events(watch kv.Watch) (list []string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), limit)
	defer cancel()
	end := kv.Write{Op: kv.OpSet, Key: registry.DefaultPrefix + "/end", Value: fmt.Sprint(time.Now().UnixNano())}
	if _, err := r.store.Write(ctx, end); err != nil {
		r.t.Fatal(err)
	}
	for {
		event, err := watch.Next(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		if event.Node.Key == end.Key {
			return list
		}
		list = append(list, fmt.Sprintf("%v %s", event.Action, event.Node.Key))
	}
}

func TestWhoFollowsAnAgentThatWasKilledCarriesOnWithoutAGap(t *testing.T) {
	r := newRig(t)
	for i := range 5 {
		c := webContainer()
		c.Name = fmt.Sprintf("shop%d", i)
		r.engine.Run(fmt.Sprintf("c0ffee%d", i), c)
	}
	layouts := []string{"--layout", "json:/services", "--layout", "registrator:/services-old", "--ttl", "10s"}
	kill, logged := r.outside(layouts...)
	until(t, "the first agent is ready", func() bool { return logged(`"msg":"ready"`) })
	watch, err := r.store.Watch(t.Context(), kv.WatchFrom{Key: "/", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()

	kill()
	kill, logged = r.outside(layouts...)
	until(t, "the second agent is ready", func() bool { return logged(`"msg":"ready"`) })
	if seen := r.events(watch); len(seen) > 0 {
		t.Errorf("watchers were woken: %q", seen)
	}

	kill()
	_, logged = r.outside(append(layouts, "--tags", "new")...)
	until(t, "the third agent is ready", func() bool { return logged(`"msg":"ready"`) })
	seen := r.events(watch)
	for _, event := range seen {
		if !strings.HasPrefix(event, "compareAndSwap ") {
			t.Errorf("unexpected: %s", event)
		}
	}
	if len(seen) != 10 { // each of both layouts has another owner now
		t.Errorf("other settings changed %q", seen)
	}
	for _, record := range r.records("web") {
		if fmt.Sprint(record.Tags) != "[new]" {
			t.Errorf("unexpected %+v", record)
		}
	}
}

func TestOnceRegistersWhatRunsAndSaysWhatItCouldNot(t *testing.T) {
	r := newRig(t)
	r.engine.Run("c0ffee", webContainer())
	once := func() (int, string) {
		var stdout bytes.Buffer
		args := r.arguments("--once", "--endpoints", r.cluster.URL(), "--host", "h1", "--ip", "127.0.0.1")
		code := program.Run(t.Context(), Program(), args, func(string) (string, bool) { return "", false }, &program.Env{Stdout: &stdout, Stderr: t.Output()})
		return code, stdout.String()
	}
	if code, out := once(); code != program.ExitOK || out != "" {
		t.Errorf("exit code %d: %s", code, out)
	}
	if len(r.records("web")) != 1 {
		t.Error("it is not registered")
	}
}

func TestABadLabelIsToldWithTheContainersName(t *testing.T) {
	r := newRig(t)
	a := r.start()
	for i, name := range []string{"../../etc/passwd", "a\nb", strings.Repeat("x", 5000), "_hidden", ".."} {
		c := webContainer()
		c.Name, c.Labels = fmt.Sprintf("bad%d", i), map[string]string{"SERVICE_NAME": name, "SERVICE_CHECK": "none"}
		r.engine.Run(fmt.Sprintf("bad%d", i), c)
	}
	r.engine.Run("c0ffee", webContainer())
	r.untilOne("the good one is registered", anyRecord)
	for i := range 5 {
		until(t, "its mistake is told", func() bool {
			_, body := a.get(fmt.Sprintf("/v1/workload?what=bad%d", i))
			return strings.Contains(body, "SERVICE_NAME") && a.logged(fmt.Sprintf(`"workload":"bad%d"`, i))
		})
	}
	result, err := r.store.Read(t.Context(), kv.Read{Key: "/", Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Node.Nodes) != 1 || len(result.Node.Nodes[0].Nodes) != 1 {
		t.Errorf("there is more than one service: %+v", result.Node.Nodes)
	}
}
