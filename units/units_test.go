// Package units holds the systemd units, and tests that they are what systemd takes and installs. What
// the registrars do under it is tried in e2e/systemd.
package units

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// limit bounds every wait in these tests; nothing is expected to take nearly as long.
const limit = 30 * time.Second

// asInstalled maps the files of this folder to where they are tried: the template as an instance.
func asInstalled(file string) string { return strings.Replace(file, "@.", "@app.", 1) }

func unitFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.service")
	if err != nil || len(files) < 4 {
		t.Fatalf("units: %v, %v", files, err)
	}
	return files
}

func TestUnitsAreHardened(t *testing.T) {
	analyze := parts.Path(t, "systemd-analyze")
	folder := t.TempDir()
	for _, file := range unitFiles(t) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		installed := filepath.Join(folder, asInstalled(file))
		if err := os.WriteFile(installed, data, 0o644); err != nil {
			t.Fatal(err)
		}
		// The threshold is ten times the exposure: 2.0, where 10 is a unit without any protection.
		output, err := exec.Command(analyze, "security", "--offline=true", "--threshold=20", installed).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", file, err, output)
		}
	}
}

func TestInstalledUnitsNameInstalledProgramsAndPages(t *testing.T) {
	root := t.TempDir()
	make := exec.Command("make", "--no-print-directory", "-o", "build", "install", "DESTDIR="+root, "PREFIX=/opt/kvd", "BIN="+parts.Build(t))
	make.Dir = ".."
	if output, err := make.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	named := regexp.MustCompile(`(?m)^(?:ExecStart=|Documentation=file:)(/[^ \n]+)`)
	for _, file := range unitFiles(t) {
		unit, err := os.ReadFile(filepath.Join(root, "opt/kvd/lib/systemd/system", file))
		if err != nil {
			t.Fatal(err)
		}
		paths := named.FindAllStringSubmatch(string(unit), -1)
		if len(paths) < 2 {
			t.Errorf("%s names %q, want a program and a page", file, paths)
		}
		for _, path := range paths {
			if _, err := os.Stat(filepath.Join(root, path[1])); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// host is a systemd with the binaries and units installed, and a kvd that runs as kvd.service.
type host struct{ *parts.SystemdHost }

func install(t *testing.T) host {
	t.Helper()
	return installOn(t, parts.Systemd(t))
}

func installOn(t *testing.T, on *parts.SystemdHost) host {
	t.Helper()
	h := host{on}
	t.Cleanup(func() {
		if t.Failed() {
			journal, _ := h.Exec("journalctl", "--no-pager", "-n", "60", "-o", "short-monotonic")
			t.Log(journal)
		}
	})
	bin := parts.Build(t)
	for _, program := range []string{"kvd", "kvctl", "kvsidekick", "kvagent", "kvconfd"} {
		h.CopyIn("/usr/bin", filepath.Join(bin, program))
	}
	h.CopyIn("/usr/bin", parts.Path(t, "busybox"))
	h.Must("ln", "-s", "busybox", "/usr/bin/kill") // which a minimal Debian lacks
	h.CopyIn("/etc/systemd/system", unitFiles(t)...)
	h.Must("mkdir", "-p", "/usr/lib/sysusers.d")
	h.CopyIn("/usr/lib/sysusers.d", "kvd.sysusers.conf")
	h.Must("systemd-sysusers")
	h.Must("systemctl", "daemon-reload")
	return h
}

// await polls until held returns "", and fails the test with what it returned last.
func (h host) await(t *testing.T, what string, held func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		why := held()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %s", what, limit, why)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (h host) property(unit, name string) string {
	output, _ := h.Exec("systemctl", "show", "--value", "-p", name, unit)
	return strings.TrimSpace(output)
}

func TestSystemdFindsNothingWrongWithTheUnits(t *testing.T) {
	h := install(t)
	h.Write("/etc/systemd/system/app.service", "[Service]\nExecStart=/bin/true\n")
	for _, file := range unitFiles(t) {
		if output := h.Must("systemd-analyze", "verify", "--man=no", "/etc/systemd/system/"+asInstalled(file)); output != "" {
			t.Errorf("%s: %s", file, output)
		}
	}
}

func TestTheUnitOfKvconfdKeepsAFileUpToDate(t *testing.T) {
	h := install(t)
	h.Must("systemctl", "start", "kvd.service")
	h.Must("kvctl", "set", "/greeting", "hello")
	h.Write("/etc/confd/conf.d/greeting.toml", "[template]\nsrc = \"greeting.tmpl\"\ndest = \"/var/lib/kvconfd/greeting\"\nkeys = [\"/greeting\"]\n")
	h.Write("/etc/confd/templates/greeting.tmpl", `{{getv "/greeting"}}`)
	h.Must("systemctl", "start", "kvconfd.service")
	if got, err := h.Exec("cat", "/var/lib/kvconfd/greeting"); err != nil || got != "hello" {
		t.Errorf("when it has started, the file says %q: %v", got, err)
	}
	for _, greeting := range []string{"hello", "good evening"} {
		h.Must("kvctl", "set", "/greeting", greeting)
		h.await(t, "the file", func() string {
			if got, err := h.Exec("cat", "/var/lib/kvconfd/greeting"); err != nil || got != greeting {
				return got
			}
			return ""
		})
	}
	if got := h.Must("kvconfd", "status"); !strings.Contains(got, "/var/lib/kvconfd/greeting") || !strings.Contains(got, "converged") {
		t.Errorf("the status is %s", got)
	}
	h.await(t, "what systemctl status says", func() string {
		if got := h.property("kvconfd.service", "StatusText"); !strings.Contains(got, "1 of 1 converged") {
			return got
		}
		return ""
	})
	if got := h.Must("kvctl", "converged", "--wait"); !strings.Contains(got, "1 of 1 host runs index ") {
		t.Errorf("kvctl converged says %s", got)
	}
	if got := h.property("kvconfd.service", "WatchdogUSec"); got != "1min" {
		t.Errorf("the watchdog waits %s", got)
	}
	h.Must("systemctl", "reload", "kvconfd.service")
	h.Must("kvctl", "set", "/greeting", "good night", "--wait-live")
	if got := h.Must("cat", "/var/lib/kvconfd/greeting"); got != "good night" {
		t.Errorf("when it is said to be live, the file says %s", got)
	}
	h.Must("systemctl", "stop", "kvconfd.service")
	if got := h.property("kvconfd.service", "Result"); got != "success" {
		t.Errorf("kvconfd ended with %s", got)
	}
}

// TestHAProxyFollowsByItsUnitWhateverIsKilledOnTheWay types what the page says that it takes.
func TestHAProxyFollowsByItsUnitWhateverIsKilledOnTheWay(t *testing.T) {
	h := installOn(t, parts.SystemdWith(t, "haproxy,polkitd,libpam-systemd"))
	h.Must("systemctl", "start", "kvd.service")
	register := func(service string, port int) {
		t.Helper()
		h.Write("/srv/"+service+"/index.html", service)
		h.Must("systemd-run", "--quiet", "--unit="+service, "busybox", "httpd", "-f", "-p", strconv.Itoa(port), "-h", "/srv/"+service)
		h.Must("kvctl", "set", "/services/"+service+"/one", fmt.Sprintf(`{"service":%q,"instance":"one","address":"127.0.0.1","port":%d,"protocol":"tcp","state":"up"}`, service, port))
	}
	follows := func(service string) {
		t.Helper()
		h.await(t, service+" is served, and the file converged", func() string {
			got, _ := h.Exec("bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/80 && printf 'GET / HTTP/1.0\r\nHost: %s\r\n\r\n' "$0" >&3 && timeout 2 cat <&3`, service)
			if status, err := h.Exec("kvconfd", "status"); !strings.HasSuffix(got, "\r\n\r\n"+service) || err != nil {
				return got + status
			}
			return ""
		})
	}
	register("web", 8001)
	page, err := os.ReadFile("../docs/how-to/install.md")
	if err != nil {
		t.Fatal(err)
	}
	h.CopyIn("/usr/share", "49-kvconfd.rules")
	_, section, _ := strings.Cut(string(page), "\n## A proxy\n")
	for i, part := range strings.Split(section, "\n```\n") {
		if i%2 == 1 {
			h.Must("sh", "-c", strings.NewReplacer("sudo ", "", "/usr/local/share/doc/kvd/", "/usr/share/", "systemd-run", "! systemd-run").Replace(part))
		}
	}
	follows("web")
	for i, wait := range []string{"0", "0.04", "0.08"} {
		kill := h.property("kvconfd.service", "MainPID")
		service := fmt.Sprint("app", i)
		register(service, 8010+i)
		h.Must("sh", "-c", "sleep "+wait+"; kill -9 "+kill)
		follows(service)
	}
	h.Must("systemctl", "restart", "haproxy.service")
	register("last", 8002)
	follows("last")
	follows("web")
}

func TestTheUnitOfKvagentRegistersUnitsWithoutDockerAndRemembersWhatOperatorsWant(t *testing.T) {
	h := install(t)
	h.Must("systemctl", "start", "kvd.service")
	h.Must("mkdir", "-p", "/srv/www")
	h.Write("/etc/systemd/system/web.service", "[Service]\nExecStart=/usr/bin/busybox httpd -f -p 8080 -h /srv/www\n[X-Kvd]\nService=web\nPort=8080\nId=one\n")
	h.Must("systemctl", "daemon-reload")
	h.Must("systemctl", "start", "kvagent.service", "web.service")
	state := func(want string) func() string {
		return func() string {
			if got, err := h.Exec("kvctl", "get", "/services/web/one"); err != nil || !strings.Contains(got, `"state":"`+want+`"`) {
				return got
			}
			return ""
		}
	}
	h.await(t, "the unit is registered", state("up"))
	if got := h.Must("kvagent", "explain", "web.service"); !strings.Contains(got, "web/one is registered as up") {
		t.Errorf("explained is %s", got)
	}
	h.Must("kvagent", "drain", "web.service")
	h.await(t, "it drains", state("draining"))
	h.Must("systemctl", "kill", "-s", "KILL", "kvagent.service")
	h.await(t, "kvagent is back", func() string {
		if n := h.property("kvagent.service", "NRestarts"); n != "1" || h.property("kvagent.service", "ActiveState") != "active" {
			return n
		}
		return ""
	})
	if why := state("draining")(); why != "" {
		t.Errorf("after it was killed: %s", why)
	}
	h.Must("kvagent", "ready", "web.service")
	h.await(t, "it is up again", state("up"))
	h.Must("systemctl", "stop", "kvagent.service")
	if got := h.property("kvagent.service", "Result"); got != "success" {
		t.Errorf("kvagent ended with %s", got)
	}
}
