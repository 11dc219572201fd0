package starter_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/confd/starter"
	"github.com/kvd-io/kvd/templates"
)

// machine makes one of these files; those that end with "/" are directories.
func machine(t *testing.T, files map[string]string) starter.Machine {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return starter.Machine{Root: root, LookPath: func(string) (string, error) { return "", errors.New("not found") }}
}

func filesOf(t *testing.T, m starter.Machine, name, dest string) (found starter.Found, template, toml string) {
	t.Helper()
	p, err := starter.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	found = m.Look(p, dest)
	files, err := starter.Files(p, found, "/etc/kvconfd")
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	return found, string(files[0].Content), string(files[1].Content)
}

func TestEveryShippedDirectoryIsAProgramThatCanBeStarted(t *testing.T) {
	entries, err := templates.FS.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	all := starter.Programs()
	if len(all) != len(entries) {
		t.Errorf("%d programs, %d directories", len(all), len(entries))
	}
	for i, entry := range entries {
		if all[i].Name != entry.Name() || all[i].About == "" {
			t.Errorf("program %d is %+v, the directory %s", i, all[i], entry.Name())
		}
		for where, m := range map[string]starter.Machine{
			"nothing": machine(t, nil),
			"systemd": machine(t, map[string]string{"/run/systemd/system/": ""}),
		} {
			_, template, toml := filesOf(t, m, entry.Name(), "")
			if template == "" {
				t.Errorf("%s: no template", entry.Name())
			}
			r, warnings, err := resource.Parse("/etc/kvconfd/conf.d/x.toml", []byte(toml), "/etc/kvconfd/templates", "")
			if err != nil || len(warnings) > 0 {
				t.Errorf("%s with %s: %v %q\n%s", entry.Name(), where, err, warnings, toml)
			}
			if !filepath.IsAbs(r.Dest) {
				t.Errorf("%s: dest is %q", entry.Name(), r.Dest)
			}
		}
	}
}

func TestAProgramWithAUnitIsReloadedByIt(t *testing.T) {
	m := machine(t, map[string]string{"/run/systemd/system/": "", "/lib/systemd/system/haproxy.service": "", "/usr/sbin/haproxy": "", "/etc/haproxy/": ""})
	found, _, toml := filesOf(t, m, "haproxy", "")
	if found.Unit != "haproxy" || found.Binary != "/usr/sbin/haproxy" || found.Missing != "" || found.NoDir || found.Present {
		t.Errorf("found %+v", found)
	}
	if !strings.Contains(toml, "\nreload_cmd = \"systemctl reload haproxy\"\n") {
		t.Errorf("not reloaded by its unit:\n%s", toml)
	}
}

func TestAProgramWithoutAUnitIsReloadedInTheOtherWay(t *testing.T) {
	for name, command := range map[string]string{
		"haproxy": `reload_cmd = "kill -USR2 $(cat /run/haproxy.pid)"`,
		"nginx":   `reload_cmd = "nginx -s reload -c {{.dest}}"`,
		"caddy":   `reload_cmd = "caddy reload --adapter caddyfile --config {{.dest}}"`,
	} {
		found, _, toml := filesOf(t, machine(t, map[string]string{"/lib/systemd/system/" + name + ".service": ""}), name, "")
		if found.Unit != "" || found.Missing == "" || !found.NoDir {
			t.Errorf("%s: found %+v", name, found)
		}
		if !strings.Contains(toml, "\n"+command+"\n") || strings.Contains(toml, "\nreload_cmd = \"systemctl") || strings.Count(toml, "\nreload_cmd = ") != 1 {
			t.Errorf("%s is not reloaded by %s:\n%s", name, command, toml)
		}
	}
}

func TestWhatThePresentFileSaysIsTakenOver(t *testing.T) {
	m := machine(t, map[string]string{"/srv/haproxy.cfg": "global\n  stats socket /var/lib/haproxy/stats mode 600 level admin\n  user proxy\n"})
	found, template, toml := filesOf(t, m, "haproxy", "/srv/haproxy.cfg")
	if !found.Present || strings.Join(found.Known, " ") != "KVD_STATS_SOCKET=/var/lib/haproxy/stats KVD_HAPROXY_USER=proxy" {
		t.Errorf("found %+v", found)
	}
	for _, want := range []string{`getenv "KVD_STATS_SOCKET" "/var/lib/haproxy/stats"`, `getenv "KVD_HAPROXY_USER" "proxy"`, `getenv "KVD_HTTP_ADDR" ":80"`} {
		if !strings.Contains(template, want) {
			t.Errorf("the template has no %s", want)
		}
	}
	for _, want := range []string{"\ndest = \"/srv/haproxy.cfg\"\n", "\nsocket = \"/var/lib/haproxy/stats\"\n"} {
		if !strings.Contains(toml, want) {
			t.Errorf("the resource file has no %s", want)
		}
	}
}

func TestAPresentFileCannotBringAnythingElseIn(t *testing.T) {
	m := machine(t, map[string]string{"/etc/nginx/nginx.conf": "user \"x\" {{end}};\npid /run/a\"b.pid;\nerror_log /var/log/$x{{.}};\n"})
	if found, _, _ := filesOf(t, m, "nginx", ""); len(found.Known) > 0 {
		t.Errorf("taken over: %q", found.Known)
	}
}

func TestAnUnknownProgramIsAnswered(t *testing.T) {
	_, err := starter.Find("haprox")
	if err == nil || !strings.Contains(err.Error(), "did you mean haproxy?") || !strings.Contains(err.Error(), "traefik") {
		t.Errorf("got %v", err)
	}
}
