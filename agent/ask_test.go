package agent

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registry"
)

// inquire runs a command that asks the agent at socket.
func inquire(t testing.TB, socket string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = program.Run(t.Context(), Program(), append(args, "--socket", socket), func(string) (string, bool) { return "", false }, &program.Env{Stdout: &out, Stderr: &err})
	return code, out.String(), err.String()
}

func TestPeopleAskARunningAgentAndTellItWhatTheyWant(t *testing.T) {
	r := newRig(t)
	r.engine.Run("c0ffee", webContainer("SERVICE_TAGS=a", "kvd.api.port=80", "kvd.api.check=none", "kvd.api.colour=red"))
	r.write("db.yaml", "db: {port: 1, check-timeout: 100ms}\n")
	socket := filepath.Join(t.TempDir(), "a.sock")
	a := r.start("--socket", socket, "--state-dir", t.TempDir())
	r.ready(a)
	until(t, "its key is known", func() bool {
		_, out, _ := inquire(t, socket, "explain", "shop")
		return strings.Contains(out, "registered, since")
	})

	code, out, _ := inquire(t, socket, "explain", "shop")
	for _, want := range []string{"container shop: running", "api/h1_shop_80 is registered as up", "why        it runs and is healthy, since", "published on every address of this host", "/services/api/h1_shop_80 (json)", "colour", "heartbeat"} {
		if code != program.ExitOK || !strings.Contains(out, want) {
			t.Errorf("explain: %d, want %q in\n%s", code, want, out)
		}
	}
	if code, out, _ := inquire(t, socket, "explain", "db"); code != program.ExitOK || !strings.Contains(out, "db/h1_db_1 is not registered") || !strings.Contains(out, "connection refused") || !strings.Contains(out, "tcp:127.0.0.1:1") {
		t.Errorf("explain db: %d\n%s", code, out)
	}
	code, out, _ = inquire(t, socket, "explain", "shop", "-o", "json")
	var e Explanation
	if err := json.Unmarshal([]byte(out), &e); code != program.ExitOK || err != nil || !e.Found || len(e.Instances) != 1 || len(e.Refused) != 1 {
		t.Errorf("explain -o json: %d, %v\n%s", code, err, out)
	}
	if code, _, stderr := inquire(t, socket, "explain", "nobody"); code != exitNotFound || !strings.Contains(stderr, `called "nobody"`) {
		t.Errorf("explain nobody: %d, %s", code, stderr)
	}
	if code, out, _ := inquire(t, socket, "status"); code != program.ExitOK || !strings.Contains(out, "the registry is true") || !strings.Contains(out, "h1_shop_80") || !strings.Contains(out, "MISTAKE") {
		t.Errorf("status: %d\n%s", code, out)
	}

	r.service = "api"
	if code, out, stderr := inquire(t, socket, "drain", "shop", "--reason", "disk"); code != program.ExitOK || out != "api/h1_shop_80: drain: disk\n" {
		t.Errorf("drain: %d %s %s", code, out, stderr)
	}
	r.untilOne("it drains", func(r registry.Record) bool { return r.State == registry.StateDraining })
	if _, out, _ := inquire(t, socket, "explain", "shop"); !strings.Contains(out, "override   drain, wanted by") || !strings.Contains(out, ": disk") {
		t.Errorf("explain while it drains:\n%s", out)
	}
	if code, out, stderr := inquire(t, socket, "weight", "shop", "7"); code != program.ExitOK || out != "api/h1_shop_80: drain, weight 7: disk\n" {
		t.Errorf("weight: %d %s %s", code, out, stderr)
	}
	r.untilOne("it has another weight", func(r registry.Record) bool { return r.Weight == 7 })
	inquire(t, socket, "maintenance", "api/h1_shop_80")
	r.untilOne("it is out of use", func(r registry.Record) bool { return r.State == registry.StateMaintenance && r.Weight == 7 })
	inquire(t, socket, "ready", "shop")
	r.untilOne("it is as it was", func(r registry.Record) bool { return r.State == registry.StateUp && r.Weight == 0 })
	if code, _, stderr := inquire(t, socket, "drain", "nobody"); code != exitNotFound || !strings.Contains(stderr, "nobody") {
		t.Errorf("drain nobody: %d, %s", code, stderr)
	}
	if code, _, stderr := inquire(t, socket, "weight", "shop", "1000"); code != program.ExitUsage || !strings.Contains(stderr, "1 to 256") {
		t.Errorf("weight 1000: %d, %s", code, stderr)
	}
	if code, _, stderr := inquire(t, socket+"x", "status"); code != exitNoAgent || !strings.Contains(stderr, "does the program run") {
		t.Errorf("no socket: %d, %s", code, stderr)
	}
	if code, body := a.get("/v1/status"); code != 200 || !strings.Contains(body, `"program": "kvagent"`) {
		t.Errorf("the page has no status: %d", code)
	}
}

func TestAServiceThatIsDescribedWronglyIsExplained(t *testing.T) {
	r := newRig(t)
	r.write("shop.yaml", "web:\n  port: 8080\n  port: 8081\nadmin: {port: 1}\n")
	r.write("db.yaml", "db: {port: many}\ncache: {prot: 1}\n")
	r.write("mixed.yaml", "good: {port: 1, check: none}\nbad: {port: x}\n")
	socket := filepath.Join(t.TempDir(), "a.sock")
	a := r.start("--socket", socket, "--state-dir", t.TempDir())
	r.ready(a)
	for what, want := range map[string]string{
		"web": "line 3", "admin": "line 3", "db": "many", "cache": "there is no option", "bad": `bad: port="x"`,
	} {
		code, out, _ := inquire(t, socket, "explain", what)
		if code != program.ExitOK || !strings.Contains(out, "mistake: ") || !strings.Contains(out, want) {
			t.Errorf("explain %s: %d, want %q in\n%s", what, code, want, out)
		}
	}
	if code, out, _ := inquire(t, socket, "explain", "good"); code != program.ExitOK || strings.Contains(out, "mistake") || !strings.Contains(out, "good/") {
		t.Errorf("explain good: %d\n%s", code, out)
	}
	if code, _, _ := inquire(t, socket, "explain", "port"); code != exitNotFound {
		t.Errorf("explain port: %d", code)
	}
}
