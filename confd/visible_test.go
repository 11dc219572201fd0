package confd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/agentstatus"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/unixsocket"
)

// running is kvconfd as it is called, on a host of its own name.
type running struct {
	*rig
	host string
	log  logBuffer
	stop func()
}

// runs starts the program until the test ends.
func (r *rig) runs(host, endpoint string, args ...string) *running {
	r.t.Helper()
	p := &running{rig: r, host: host}
	r.write("confd.toml", "")
	args = append([]string{"-watch", "-config-file", r.path("confd.toml"), "-confdir", r.path("conf"), "-node", endpoint, "-host", host, "-socket", r.path(host + ".sock")}, args...)
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		var out bytes.Buffer
		if code := program.Run(ctx, Program(), args, func(string) (string, bool) { return "", false }, &program.Env{Stdout: &out, Stderr: &p.log}); code != 0 {
			r.t.Errorf("kvconfd on %s ended with %d", host, code)
		}
	})
	p.stop = sync.OnceFunc(func() { cancel(); ended.Wait() })
	r.t.Cleanup(func() {
		p.stop()
		if r.t.Failed() {
			r.t.Logf("the log on %s:\n%s", host, p.log.String())
		}
	})
	return p
}

// ask asks the running program.
func (p *running) ask(path string, into any) error {
	return unixsocket.NewClient(p.path(p.host+".sock")).Call(context.Background(), http.MethodGet, path, nil, into)
}

// healthy reports whether the health check succeeds, and what it says.
func (p *running) healthy() (bool, string) {
	var text bytes.Buffer
	err := unixsocket.NewClient(p.path(p.host+".sock")).Get(context.Background(), "/health", &text)
	if err != nil {
		return false, err.Error()
	}
	return true, text.String()
}

// untilHealth waits for the health check to succeed, or to fail with a text.
func (p *running) untilHealth(want bool, says string) {
	p.t.Helper()
	p.until(fmt.Sprintf("health is %v, %s", want, says), func() bool {
		healthy, text := p.healthy()
		return healthy == want && strings.Contains(text, says)
	})
}

// command has commands of kvconfd ask the running program.
func (p *running) command(words ...string) (code int, stdout, stderr string) {
	p.t.Helper()
	return run(p.t, p.rig, "", nil, append(words, "-confdir", p.path("conf"), "-socket", p.path(p.host+".sock"))...)
}

// hostRecord returns what a host has published.
func hostRecord(t *testing.T, store kv.Reader, host string) (h agentstatus.Host, ok bool) {
	t.Helper()
	result, err := store.Read(t.Context(), kv.Read{Key: agentstatus.NamesOf("").Host(host), Quorum: true})
	if err != nil {
		return h, false
	}
	if h, err = agentstatus.Parse(result.Node.Value); err != nil {
		t.Fatal(err)
	}
	return h, true
}

// moment asks every agent how far it is, and returns the index that it has to have reached.
func (r *rig) moment() kv.Index {
	r.t.Helper()
	result, err := r.deps.Store.Write(r.t.Context(), kv.Write{Op: kv.OpSet, Key: agentstatus.NamesOf("").Moment("m"), TTL: agentstatus.MomentTTL})
	if err != nil {
		r.t.Fatal(err)
	}
	return result.Index
}

func TestStatusIsPublishedAnsweredAndTakenBack(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	r := newRig(t, newClient(t, url))
	r.set("/x", "1")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	p := r.runs("edge1", url)
	r.until("the host is converged", func() bool { h, ok := hostRecord(t, r.deps.Store, "edge1"); return ok && h.Converged == 1 })
	p.untilHealth(true, `"healthy": true`)

	r.set("/x", "2")
	at := r.moment()
	r.until("the moment is answered", func() bool { h, _ := hostRecord(t, r.deps.Store, "edge1"); return h.IsConverged(at) })
	if got := r.read("a.out"); got != "2" {
		t.Errorf("it says that it has index %d, and the file is %q", at, got)
	}
	h, _ := hostRecord(t, r.deps.Store, "edge1")
	if !h.Covers("/x") || h.Covers("/y") {
		t.Errorf("it follows %v", h.Keys)
	}

	code, stdout, stderr := p.command("status")
	if code != 0 || !strings.Contains(stdout, "converged") || !strings.Contains(stdout, r.path("a.out")) || !strings.Contains(stdout, ", 1 key\n") {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	var s report.Status
	if _, stdout, _ := p.command("status", "-o", "json"); json.Unmarshal([]byte(stdout), &s) != nil || len(s.Targets) != 1 || s.Targets[0].Name != "a" || s.Targets[0].Hash == "" {
		t.Errorf("%s", stdout)
	}
	if code, stdout, stderr := p.command("explain", r.path("a.out")+":1"); code != 0 || !strings.Contains(stdout, "state      converged") || !strings.Contains(stdout, "/x") {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	p.stop()
	if _, ok := hostRecord(t, r.deps.Store, "edge1"); ok {
		t.Error("a host that was stopped is still there")
	}
}

func TestHealthFollowsChecksGuardsFilesAndTheStore(t *testing.T) {
	store := daemontest.Start(t, 1)
	r := newRig(t, newClient(t, store.URL()))
	r.set("/x/a", "good")
	r.resource("a", `{{range getvs "/x/*"}}{{.}}{{end}}`, "keys = [\"/x\"]\nmin_keys = 1\ncheck_cmd = \"grep -q good {{.src}}\"")
	p := r.runs("edge1", store.URL())
	p.untilHealth(true, "")

	r.set("/x/a", "bad")
	p.untilHealth(false, "")
	var s report.Status
	if err := p.ask("/status", &s); err != nil || len(s.Problems) != 1 || s.Problems[0].Step != report.StepCheck || s.Problems[0].Next.IsZero() {
		t.Errorf("%v %+v", err, s.Problems)
	}
	if code, stdout, _ := p.command("status"); code != 1 || !strings.Contains(stdout, "at check: ") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
	r.set("/x/a", "good again")
	p.untilHealth(true, "")

	r.remove("/x/a")
	r.until("it is held", func() bool {
		s = report.Status{}
		return p.ask("/status", &s) == nil && len(s.Targets) == 1 && s.Targets[0].State == report.Held
	})
	p.untilHealth(true, "")
	if code, _, stderr := p.command("release", "nobody"); code != exitNotFound || !strings.Contains(stderr, "there is no target") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	at := r.moment()
	r.until("it is published that it is held", func() bool {
		h, _ := hostRecord(t, r.deps.Store, "edge1")
		return h.Index >= at && len(h.Behind) == 1 && h.Behind[0].State == string(report.Held)
	})
	if code, _, stderr := p.command("release", "b"); code != exitNotFound {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	r.set("/x/a", "good")
	r.eventually("a.out", "good")
	p.untilHealth(true, "")

	r.write("conf/conf.d/broken.toml", "[template\n")
	p.untilHealth(false, "")
	if err := os.Remove(r.path("conf/conf.d/broken.toml")); err != nil {
		t.Fatal(err)
	}
	p.untilHealth(true, "")

	store.Stop()
	p.untilHealth(false, "")
	store.Restart()
	p.untilHealth(true, "")
	r.until("it is published again", func() bool { _, ok := hostRecord(t, r.deps.Store, "edge1"); return ok })
}

func TestDiffNotesThatTheKvconfdThatRunsHasAnotherEnvironment(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	r := newRig(t, newClient(t, url))
	t.Setenv("KVCONFD_TEST_SETTING", "of the agent")
	r.resource("a", `{{getenv "KVCONFD_TEST_SETTING"}}`, `keys = ["/"]`)
	p := r.runs("edge1", url)
	r.eventually("a.out", "of the agent")
	r.until("it is converged", func() bool {
		var s report.Status
		return p.ask("/status", &s) == nil && len(s.Targets) == 1 && s.Targets[0].State == report.Converged
	})
	if code, stdout, stderr := p.command("diff", "-node", url); code != 0 || strings.Contains(stdout+stderr, "note:") {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	t.Setenv("KVCONFD_TEST_SETTING", "of the shell")
	if code, stdout, stderr := p.command("diff", "-node", url); code != 1 || !strings.Contains(stdout, "+of the shell") || !strings.Contains(stderr, "note: the kvconfd that runs has "+r.path("a.out")+" as it wants it") {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
}

func TestAHeldVersionIsReleasedByCommand(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	r := newRig(t, newClient(t, url))
	r.set("/x/a", "1")
	r.resource("a", `{{range getvs "/x/*"}}{{.}}{{end}}`, "keys = [\"/x\"]\nmin_keys = 1")
	p := r.runs("edge1", url)
	r.eventually("a.out", "1")
	r.remove("/x/a")
	r.until("it is held", func() bool {
		var s report.Status
		return p.ask("/status", &s) == nil && len(s.Targets) == 1 && s.Targets[0].State == report.Held
	})
	if code, _, stderr := p.command("explain", r.path("a.out")+":1"); code != exitTrouble || !strings.Contains(stderr, "has 0 lines; what is there is held as it is: ") {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
	if code, stdout, stderr := p.command("release", "a"); code != 0 || stdout != "a is released\n" {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	r.eventually("a.out", "")
	r.until("it is not held any more", func() bool {
		var s report.Status
		return p.ask("/status", &s) == nil && len(s.Targets) == 1 && s.Targets[0].State == report.Converged
	})
	if code, _, stderr := p.command("release", "a"); code != exitDiffers || !strings.Contains(stderr, "a is not held") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestTheRecordOfAnAgentThatDiedExpires(t *testing.T) {
	t.Parallel() // it waits for a TTL
	url := daemontest.Start(t, 1).URL()
	r := newRig(t, newClient(t, url))
	r.set("/x", "1")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	door := newGate(t, strings.TrimPrefix(url, "http://"))
	r.runs("edge1", "http://"+door.listener.Addr().String())
	r.until("the host is there", func() bool { _, ok := hostRecord(t, r.deps.Store, "edge1"); return ok })
	door.set(true)
	r.until("the record has expired", func() bool { _, ok := hostRecord(t, r.deps.Store, "edge1"); return !ok })
	door.set(false)
	r.until("the host is back", func() bool { _, ok := hostRecord(t, r.deps.Store, "edge1"); return ok })
}

func TestAnIndexIsToldOnlyWhenWhatRunsHasIt(t *testing.T) {
	for name, url := range map[string]string{"kvd": daemontest.Start(t, 1).URL(), "etcd": "http://" + startServer(t).address} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, newClient(t, url))
			r.set("/x", "0")
			r.set("/other/y", "0")
			r.resource("fast", `{{getv "/y"}}`, "prefix = \"/other\"\nkeys = [\"/y\"]")
			r.resource("slow", `{{getv "/x"}}`, "keys = [\"/x\"]\nreload_cmd = \"sleep 0.1; cp $DIR/slow.out $DIR/runs\"")
			r.runs("edge1", url)
			r.eventually("runs", "0")
			for i := range 4 {
				r.set("/x", fmt.Sprint(i+1))
				r.set("/other/y", fmt.Sprint(i+1))
				at := r.moment()
				r.until("the moment is answered", func() bool { h, _ := hostRecord(t, r.deps.Store, "edge1"); return h.IsConverged(at) })
				if slow, fast := r.read("runs"), r.read("fast.out"); slow != fmt.Sprint(i+1) || fast != slow {
					t.Fatalf("what runs is %q and %q when index %d of %d is told", slow, fast, at, i+1)
				}
			}
		})
	}
}

func TestAFailingTargetIsNamedAndTheOtherHostIsConverged(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	good := newRig(t, newClient(t, url))
	bad := newRig(t, newClient(t, url))
	good.set("/x", "1")
	good.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	bad.resource("a", `{{getv "/x"}}`, "keys = [\"/x\"]\ncheck_cmd = \"echo no such word >&2; false\"")
	good.runs("edge1", url)
	bad.runs("edge3", url)
	at := good.moment()
	good.until("both have answered", func() bool {
		one, _ := hostRecord(t, good.deps.Store, "edge1")
		three, _ := hostRecord(t, good.deps.Store, "edge3")
		return one.IsConverged(at) && three.Index >= at && len(three.Behind) == 1 && three.Behind[0].Step == report.StepCheck
	})
	three, _ := hostRecord(t, good.deps.Store, "edge3")
	if text := three.Behind[0].Text(); !strings.Contains(text, "a failed at check: ") || !strings.Contains(text, "no such word") {
		t.Error(text)
	}
	if three.Has("/x", at) || !three.Has("/y", at) {
		t.Errorf("%+v", three)
	}
}

func TestNothingOfASensitiveTargetIsPublishedOrAnswered(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	r := newRig(t, newClient(t, url))
	r.set("/password", "hunter2")
	r.resource("a", `{{getv "/password"}}`, "keys = [\"/password\"]\nsensitive = true\ncheck_cmd = \"cat {{.src}} >&2; false\"")
	r.resource("b", `{{atoi (getv "/password")}}`, "keys = [\"/password\"]\nsensitive = true")
	p := r.runs("edge1", url)
	r.until("both have failed", func() bool {
		h, _ := hostRecord(t, r.deps.Store, "edge1")
		return len(h.Behind) == 2 && h.Behind[0].State == "failed" && h.Behind[1].State == "failed"
	})
	result, err := r.deps.Store.Read(t.Context(), kv.Read{Key: agentstatus.DefaultPrefix, Recursive: true})
	if err != nil {
		t.Fatal(err)
	}
	told := fmt.Sprintf("%+v", flattened(result.Node))
	_, status, _ := p.command("status", "-o", "json")
	_, explained, _ := p.command("explain", r.path("a.out"), "-o", "json")
	_, line, _ := p.command("explain", r.path("a.out")+":1")
	_, health := p.healthy()
	for what, text := range map[string]string{"store": told, "status": status, "explain": explained, "line": line, "health": health, "log": p.log.String()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("%s has the value: %s", what, text)
		}
	}
}

func flattened(node *kv.Node) (values []string) {
	values = append(values, node.Value)
	for _, child := range node.Nodes {
		values = append(values, flattened(child)...)
	}
	return values
}

// annRig is a rig of root's at a store with /x, of which the user ann may read and write nothing but what is said.
func annRig(t *testing.T, read, write []string) (r *rig, root *kvclient.Client, url string) {
	t.Helper()
	url = daemontest.Start(t, 1).URL()
	// To hash a password takes seconds on a busy machine with the race detector.
	root, err := kvclient.New(kvclient.Config{Endpoints: []string{url}, Username: "root", Password: "secret", RequestTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	r = newRig(t, root)
	r.set("/x", "1")
	rights := kvclient.Permissions{}
	rights.KV.Read, rights.KV.Write = read, write
	for _, err := range []error{root.AddUser(t.Context(), "root", "secret"), root.AddUser(t.Context(), "ann", "ann"), root.AddRole(t.Context(), "role"),
		root.Grant(t.Context(), "role", rights), root.GrantRoles(t.Context(), "ann", "role"), root.SetAuth(t.Context(), true), root.RemoveRole(t.Context(), "guest")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return r, root, url
}

func TestAUserWhoMayNotPublishGetsFilesAllTheSame(t *testing.T) {
	r, _, url := annRig(t, []string{"/x", "/x/*"}, nil)
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	p := r.runs("edge1", url, "-username", "ann", "-password", "ann")
	r.eventually("a.out", "1")
	r.set("/x", "2")
	r.eventually("a.out", "2")
	r.until("it is told", func() bool { return strings.Contains(p.log.String(), "refuses to have status published") })
	p.untilHealth(true, "")
}

func TestAUserWithTheDocumentedRightsIsPublishedAndAnswersMoments(t *testing.T) {
	r, root, url := annRig(t, []string{"/x*", "/_agents-sync*", "/_agents/*"}, []string{"/_agents/*"})
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	p := r.runs("edge1", url, "-username", "ann", "-password", "ann")
	r.until("the host is there", func() bool { _, ok := hostRecord(t, root, "edge1"); return ok })
	at := r.moment()
	r.until("the moment is answered", func() bool { h, _ := hostRecord(t, root, "edge1"); return h.IsConverged(at) })
	if text := p.log.String(); strings.Contains(text, "WARN") {
		t.Error(text)
	}
}

func TestASnapshotIsRenderedWithoutAStore(t *testing.T) {
	r := newRig(t, nil)
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	m := keys.NewMirror(keys.Segments)
	m.Replace([]string{"/x"}, keys.Origin{Index: 7}, map[string]string{"/x": "kept"})
	var file bytes.Buffer
	if err := keys.WriteSnapshot(&file, m.View(), "etcd", time.Now()); err != nil {
		t.Fatal(err)
	}
	r.write("keys.json", file.String())
	if code, stdout, stderr := r.command("render", "a", "--from", r.path("keys.json")); code != 0 || stdout != "kept" {
		t.Errorf("exit code %d, %q: %s", code, stdout, stderr)
	}
	r.write("cut.json", file.String()[:file.Len()/2])
	if code, _, stderr := r.command("render", "a", "--from", r.path("cut.json")); code != exitTrouble {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if code, _, stderr := r.command("render", "a", "--from", "x", "--keys", "y"); code != program.ExitUsage {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestExplainFindsFilesOfAnotherConfigurationDirectoryThanThatOfTheAgentThatRuns(t *testing.T) {
	server := startServer(t)
	r := newRig(t, newClient(t, "http://"+server.address))
	r.set("/x", "1")
	r.resource("a", `{{getv "/x"}}`, `keys = ["/x"]`)
	p := r.runs("edge", "http://"+server.address)
	r.eventually("a.out", "1")
	other := r.path("other.out")
	for _, dir := range []string{"other/templates", "other/conf.d"} {
		if err := os.MkdirAll(r.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	explain := func(file string) (code int, stdout, stderr string) {
		return run(t, r, "", nil, "explain", file, "-confdir", r.path("other"), "-node", "http://"+server.address, "-socket", p.path("edge.sock"))
	}
	r.write("other/templates/b.tmpl", `{{getv "/x"}}`)
	r.write("other/conf.d/b.toml", fmt.Sprintf("[template]\nsrc = \"b.tmpl\"\ndest = %q\nkeys = [\"/x\"]\n", other))
	code, stdout, stderr := explain(other + ":1")
	if code != 0 || !strings.Contains(stdout, "/x: its value is in the line") || !strings.Contains(stdout, "makes no such file") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if code, _, stderr := explain(r.path("none.out")); code != exitNotFound || !strings.Contains(stderr, "no resource in") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
