// Package units holds the systemd units, and tests that run them on a real systemd.
package units

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	h := host{parts.Systemd(t)}
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

const key = "/services/web/app-1"

func (h host) registered(t *testing.T, want bool) {
	t.Helper()
	h.await(t, fmt.Sprintf("%s there: %v", key, want), func() string {
		if output, err := h.Exec("kvctl", "get", key); (err == nil) != want {
			return output
		}
		return ""
	})
}

func (h host) property(unit, name string) string {
	output, _ := h.Exec("systemctl", "show", "--value", "-p", name, unit)
	return strings.TrimSpace(output)
}

func (h host) awaitProperty(t *testing.T, unit, name, want string) {
	t.Helper()
	h.await(t, unit+" "+name, func() string {
		if got := h.property(unit, name); !strings.Contains(got, want) {
			return fmt.Sprintf("it is %q, want %q", got, want)
		}
		return ""
	})
}

func TestUnitsRunOnARealSystemd(t *testing.T) {
	h := install(t)

	t.Run("systemd finds nothing wrong with them", func(t *testing.T) {
		h.Write("/etc/systemd/system/app.service", "[Service]\nExecStart=/bin/true\n")
		for _, file := range unitFiles(t) {
			if output := h.Must("systemd-analyze", "verify", "--man=no", "/etc/systemd/system/"+asInstalled(file)); output != "" {
				t.Errorf("%s: %s", file, output)
			}
		}
	})

	h.Must("systemctl", "start", "kvd.service") // returns once it is ready
	h.Must("kvctl", "set", "/hello", "world")

	// A web server that notes, when it is told to stop, whether it is still registered.
	h.Write("/var/www/index.html", "hello")
	h.Write("/etc/systemd/system/app.service", `[Service]
ExecStart=/usr/bin/busybox httpd -f -p 127.0.0.1:8080 -h /var/www
ExecStop=/bin/sh -c 'kvctl get `+key+` && echo registered >/run/at-stop || echo removed >/run/at-stop'
Restart=always
RestartSec=300ms
`)
	h.Write("/etc/kvd/sidekick/app.env", "KVSIDEKICK_SERVICE=web\nKVSIDEKICK_PORT=8080\nKVSIDEKICK_ADDRESS=127.0.0.1\n"+
		"KVSIDEKICK_INSTANCE=app-1\nKVSIDEKICK_CHECK=http:/\nKVSIDEKICK_TTL=5s\nKVSIDEKICK_DRAIN=300ms\n")
	h.Must("systemctl", "daemon-reload")
	h.Must("systemctl", "enable", "kvsidekick@app.service")
	const side = "kvsidekick@app.service"

	t.Run("starting the unit registers it", func(t *testing.T) {
		h.registered(t, false)
		h.Must("systemctl", "start", "app.service")
		h.registered(t, true)
		h.awaitProperty(t, side, "StatusText", "registered as "+key)
		h.awaitProperty(t, side, "ActiveState", "active")
	})

	t.Run("a crash removes it and the restart brings it back", func(t *testing.T) {
		before := h.property("app.service", "InvocationID")
		index := strings.TrimSpace(h.Must("kvctl", "-o", "extended", "get", key))
		h.Must("systemctl", "kill", "-s", "KILL", "app.service")
		h.await(t, "a new invocation", func() string {
			if now := h.property("app.service", "InvocationID"); now == before {
				return "still " + now
			}
			return ""
		})
		h.await(t, "a new registration", func() string {
			now, err := h.Exec("kvctl", "-o", "extended", "get", key)
			if err != nil || createdIndex(now) == createdIndex(index) {
				return now
			}
			return ""
		})
		h.awaitProperty(t, side, "StatusText", "registered as "+key)
	})

	t.Run("a killed sidekick comes back and carries on with its record", func(t *testing.T) {
		index, run := h.Must("kvctl", "-o", "extended", "get", key), h.property(side, "InvocationID")
		h.Must("systemctl", "kill", "-s", "KILL", side)
		h.await(t, "another run", func() string {
			if now := h.property(side, "InvocationID"); now == run {
				return now
			}
			return ""
		})
		h.awaitProperty(t, side, "StatusText", "registered as "+key)
		if now := h.Must("kvctl", "-o", "extended", "get", key); createdIndex(now) != createdIndex(index) {
			t.Errorf("the record was made anew: %s", now)
		}
	})

	t.Run("stopping the unit removes it first", func(t *testing.T) {
		h.Must("systemctl", "stop", "app.service")
		h.registered(t, false)
		if got := h.Must("cat", "/run/at-stop"); got != "removed\n" {
			t.Errorf("when the unit was told to stop its record was %s", got)
		}
		h.awaitProperty(t, side, "ActiveState", "inactive")
		if got := h.property(side, "Result"); got != "success" {
			t.Errorf("the sidekick ended with %s", got)
		}
	})

	t.Run("a restart of the unit registers it again", func(t *testing.T) {
		h.Must("systemctl", "start", "app.service")
		h.registered(t, true)
		h.Must("systemctl", "restart", "app.service")
		if got := h.Must("cat", "/run/at-stop"); got != "removed\n" {
			t.Errorf("when the unit was told to stop its record was %s", got)
		}
		h.registered(t, true)
	})

	t.Run("a sidekick beside no template drains the record when its unit begins to stop", func(t *testing.T) {
		h.Write("/etc/systemd/system/loose.service", `[Service]
ExecStart=/usr/bin/busybox httpd -f -p 127.0.0.1:8081 -h /var/www
ExecStop=/bin/sh -c 'i=0; while kvctl get /services/loose/one | grep -q .up && [ $i -lt 100 ]; do i=$((i+1)); sleep 0.1; done; echo $i >/run/tries'
`)
		h.Must("systemctl", "daemon-reload")
		h.Must("systemd-run", "--unit", "watcher", "-p", "User=kvsidekick", "kvsidekick", "--unit", "loose", "--service", "loose",
			"--instance", "one", "--address", "127.0.0.1", "--port", "8081", "--ttl", "600s")
		h.Must("systemctl", "start", "loose.service")
		h.await(t, "the registration", func() string {
			output, err := h.Exec("kvctl", "get", "/services/loose/one")
			if err != nil {
				return output
			}
			return ""
		})
		h.Must("systemctl", "stop", "loose.service")
		if tries := h.Must("cat", "/run/tries"); tries == "100\n" {
			t.Error("the record was up for as long as the unit was stopping")
		}
		h.Must("systemctl", "stop", "watcher.service")
	})

	t.Run("what nobody renews expires", func(t *testing.T) {
		h.Must("systemctl", "mask", "--runtime", side)
		h.Must("systemctl", "kill", "-s", "KILL", side, "app.service")
		h.registered(t, false)
		h.Must("systemctl", "unmask", "--runtime", side)
	})
}

func TestTheUnitOfKvconfdKeepsAFileUpToDate(t *testing.T) {
	h := install(t)
	h.Must("systemctl", "start", "kvd.service")
	h.Must("kvctl", "set", "/greeting", "hello")
	h.Write("/etc/confd/conf.d/greeting.toml", "[template]\nsrc = \"greeting.tmpl\"\ndest = \"/var/lib/kvconfd/greeting\"\nkeys = [\"/greeting\"]\n")
	h.Write("/etc/confd/templates/greeting.tmpl", `{{getv "/greeting"}}`)
	h.Must("systemctl", "start", "kvconfd.service")
	for _, greeting := range []string{"hello", "good evening"} {
		h.Must("kvctl", "set", "/greeting", greeting)
		h.await(t, "the file", func() string {
			if got, err := h.Exec("cat", "/var/lib/kvconfd/greeting"); err != nil || got != greeting {
				return got
			}
			return ""
		})
	}
	h.Must("systemctl", "reload", "kvconfd.service")
	h.Must("systemctl", "stop", "kvconfd.service")
	if got := h.property("kvconfd.service", "Result"); got != "success" {
		t.Errorf("kvconfd ended with %s", got)
	}
}

// createdIndex finds the index in the output of kvctl -o extended.
func createdIndex(extended string) string {
	for line := range strings.Lines(extended) {
		if value, ok := strings.CutPrefix(line, "Created-Index:"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
