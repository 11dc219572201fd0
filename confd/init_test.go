package confd

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/program"
)

// runInit runs kvconfd init with a configuration directory and a destination of the test's own.
func runInit(t *testing.T, store string, args ...string) (code int, output string) {
	t.Helper()
	var out bytes.Buffer
	settings := filepath.Join(t.TempDir(), "confd.toml") // not those of this machine
	if err := os.WriteFile(settings, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"init", "-endpoints", store, "-config-file", settings}, args...)
	code = program.Run(t.Context(), Program(), args, func(string) (string, bool) { return "", false }, &program.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out})
	return code, out.String()
}

// nobody is an address where no store answers.
const nobody = "http://127.0.0.1:1"

func TestInitListsWhatThereIs(t *testing.T) {
	code, output := runInit(t, nobody)
	for _, want := range []string{"PROGRAM", "haproxy-tcp", "/etc/nginx/nginx.conf", "Traefik's file provider"} {
		if code != 0 || !strings.Contains(output, want) {
			t.Errorf("code %d, and no %q:\n%s", code, want, output)
		}
	}
}

func TestInitWritesASetThatWorks(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	store := newClient(t, url)
	r := newRig(t, store)
	r.set("/services/web/a", `{"address":"10.0.0.9","port":8009,"protocol":"tcp","state":"up"}`)
	r.write("site.json", "[]\n")

	code, output := runInit(t, url, "prometheus", "-confdir", r.path("new"), "--dest", r.path("site.json"))
	if code != 0 {
		t.Fatalf("code %d\n%s", code, output)
	}
	for _, want := range []string{
		r.path("new/conf.d/prometheus.toml") + " is new", r.path("new/templates/kvd.json.tmpl") + " is new", // what it writes
		"+++ " + r.path("site.json"), "-[]", `+    "targets": ["10.0.0.9:8009"],`, "keep a copy", // what the first run changes
		"kvconfd check -confdir " + r.path("new"), "kvconfd -watch -confdir",
	} {
		if !strings.Contains(output, want) {
			t.Errorf("nothing says %s:\n%s", want, output)
		}
	}
	if got := r.read("site.json"); got != "[]\n" {
		t.Errorf("init has changed the destination: %s", got)
	}
	r.cfg.ConfDir = r.path("new")
	if err := r.once(); err != nil {
		t.Fatal(err)
	}
	if got := r.read("site.json"); !strings.Contains(got, "10.0.0.9:8009") {
		t.Errorf("kvconfd has made %s", got)
	}

	if code, output := runInit(t, url, "prometheus", "-confdir", r.path("new"), "--dest", r.path("site.json")); code != 0 ||
		strings.Count(output, "as it should be") != 3 || strings.Contains(output, "+++") {
		t.Errorf("a second time: code %d\n%s", code, output)
	}
}

func TestInitReplacesNothingUnlessForced(t *testing.T) {
	r := newRig(t, nil)
	args := []string{"haproxy", "-confdir", r.path("new"), "--dest", r.path("haproxy.cfg")}
	if code, output := runInit(t, nobody, args...); code != 0 || !strings.Contains(output, "cannot be told") {
		t.Fatalf("without a store: code %d\n%s", code, output)
	}
	made := r.read("new/conf.d/haproxy.toml")
	r.write("new/conf.d/haproxy.toml", "# mine\n")
	if err := os.Remove(r.path("new/templates/haproxy.cfg.tmpl")); err != nil {
		t.Fatal(err)
	}

	code, output := runInit(t, nobody, args...)
	if code != 1 || !strings.Contains(output, "-# mine") || !strings.Contains(output, "--force") || r.read("new/conf.d/haproxy.toml") != "# mine\n" || r.exists("new/templates/haproxy.cfg.tmpl") {
		t.Errorf("code %d, and the file says %q\n%s", code, r.read("new/conf.d/haproxy.toml"), output)
	}
	code, output = runInit(t, nobody, append(args, "--force", "--dry-run")...)
	if code != 0 || !strings.Contains(output, "nothing was written") || !strings.Contains(output, "+++ "+r.path("new/templates/haproxy.cfg.tmpl")) || r.read("new/conf.d/haproxy.toml") != "# mine\n" {
		t.Errorf("--dry-run: code %d, and the file says %q\n%s", code, r.read("new/conf.d/haproxy.toml"), output)
	}
	code, output = runInit(t, nobody, append(args, "--force")...)
	if code != 0 || r.read("new/conf.d/haproxy.toml") != made || !r.exists("new/templates/haproxy.cfg.tmpl") {
		t.Errorf("--force: code %d, and the file says %q\n%s", code, r.read("new/conf.d/haproxy.toml"), output)
	}
	if left, _ := filepath.Glob(r.path("new/*/.*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestInitSaysWhatItCannotDo(t *testing.T) {
	for _, c := range [][]string{{"apache"}, {"haproxy", "nginx"}, {"haproxy", "--dest", "/nowhere/at/all/haproxy.cfg", "--dry-run"}} {
		code, output := runInit(t, nobody, append(c, "-confdir", t.TempDir())...)
		want := map[int]string{1: "", 2: "one program"}[len(c)]
		if len(c) == 4 {
			if code != 0 || !strings.Contains(output, "does not exist") {
				t.Errorf("%q: code %d\n%s", c, code, output)
			}
			continue
		}
		if code != 1 || !strings.Contains(output, want) {
			t.Errorf("%q: code %d\n%s", c, code, output)
		}
	}
	if code, output := runInit(t, nobody, "haproxy", "-confdir", "/proc/none"); code != 1 {
		t.Errorf("a directory that cannot be made: code %d\n%s", code, output)
	}
}
