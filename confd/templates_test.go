package confd

import (
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/templates"
)

var update = flag.Bool("update", false, "write what the shipped templates make now as the golden files")

// shipped are the programs with templates, and the settings that keep a check to loopback and dir.
func shipped(dir, address string) map[string]map[string]string {
	haproxy := map[string]string{"KVD_HTTP_ADDR": address, "KVD_STATS_SOCKET": dir + "/socket", "KVD_HAPROXY_USER": "none", "KVD_LOG": "stderr format raw local0"}
	return map[string]map[string]string{
		"haproxy":     haproxy,
		"haproxy-tcp": haproxy,
		"nginx":       {"KVD_HTTP_ADDR": address, "KVD_NGINX_USER": "root", "KVD_NGINX_PID": dir + "/pid", "KVD_NGINX_LOG": "stderr", "KVD_NGINX_TEMP": dir},
		"caddy":       {"KVD_HTTP_ADDR": address, "KVD_HTTPS": "off", "KVD_CADDY_ADMIN": "unix/" + dir + "/admin"},
		"traefik":     {},
		"envoy":       {},
		"varnish":     {},
		"dnsmasq":     {},
		"prometheus":  {},
		"keepalived":  {"KVD_VIP": "192.0.2.100", "KVD_VRRP_INTERFACE": someInterface()},
		"hosts":       {},
	}
}

// someInterface is one on which keepalived can announce an address, "" if there is none.
func someInterface() string {
	all, _ := net.Interfaces()
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagMulticast != 0 {
			return i.Name
		}
	}
	return ""
}

var (
	programTable = regexp.MustCompile(`(?ms)^\[(haproxy|nginx|caddy)\]$.*\z`)

	destLine   = regexp.MustCompile(`(?m)^dest *=.*$`)
	reloadLine = regexp.MustCompile(`(?m)^reload_cmd *=.*$`)
	socketLine = regexp.MustCompile(`(?m)^socket *=.*$`)
	adminLine  = regexp.MustCompile(`(?m)^admin *=.*$`)
	pidLine    = regexp.MustCompile(`(?m)^pid_file *=.*$`)
)

// install copies a shipped directory into the rig's configuration directory; the file it makes is
// proxy.cfg of the rig, and settings take the place of the reload command. Without them no running program
// is told of anything.
func (r *rig) install(proxy, settings string) {
	r.t.Helper()
	tree, err := fs.Sub(templates.FS, proxy)
	if err != nil {
		r.t.Fatal(err)
	}
	r.cfg.ConfDir = r.path(proxy)
	if err := os.CopyFS(r.cfg.ConfDir, tree); err != nil {
		r.t.Fatal(err)
	}
	name := proxy + "/conf.d/" + proxy + ".toml"
	text := destLine.ReplaceAllLiteralString(r.read(name), "dest = "+strconv.Quote(r.path("proxy.cfg")))
	text = reloadLine.ReplaceAllLiteralString(text, settings)
	if settings == "" {
		text = programTable.ReplaceAllLiteralString(text, "")
	}
	text = socketLine.ReplaceAllLiteralString(text, "socket = "+strconv.Quote(r.path("socket")))
	text = adminLine.ReplaceAllLiteralString(text, "admin = "+strconv.Quote("unix/"+r.path("admin")))
	text = pidLine.ReplaceAllLiteralString(text, "pid_file = "+strconv.Quote(r.path("pid")))
	if !strings.Contains(text, r.dir) || strings.Contains(text, "\nreload_cmd = \"systemctl") {
		r.t.Fatalf("%s has no dest or another reload_cmd:\n%s", name, text)
	}
	r.write(name, text)
}

// setWorld lets templates see these environment variables, and nothing else of the machine.
func (r *rig) setWorld(settings map[string]string) {
	r.deps.World = render.World{
		Getenv:   func(name string) string { return settings[name] },
		Hostname: func() (string, error) { return "node1", nil },
	}
}

// keyFiles are the keys that each shipped directory is tried with: its own sample, and those that are
// the same for all.
func keyFiles(t *testing.T, program string) []string {
	t.Helper()
	found, err := filepath.Glob("../templates/testdata/*.yaml")
	if err != nil || len(found) == 0 {
		t.Fatalf("no key files: %v", err)
	}
	return append(found, filepath.Join("..", "templates", program, "sample.yaml"))
}

func goldenOf(program, file string) string {
	name := strings.TrimSuffix(filepath.Base(file), ".yaml") + ".golden"
	return filepath.Join("..", "templates", program, "golden", name)
}

func TestShippedTemplatesMakeTheirGoldenFiles(t *testing.T) {
	settings := map[string]map[string]string{
		"envoy":      {"KVD_ENVOY_CLUSTERS": "mail,web"},
		"keepalived": {"KVD_VIP": "192.0.2.100", "KVD_VRRP_INTERFACE": "eth0"},
	}
	for program := range shipped("", "") {
		t.Run(program, func(t *testing.T) {
			r := newRig(t, nil)
			r.install(program, "")
			r.cfg.Backend, r.cfg.SyncOnly = keys.BackendFile, true
			r.setWorld(settings[program])
			for _, file := range keyFiles(t, program) {
				r.cfg.Files = []string{file}
				if err := r.once(); err != nil {
					t.Fatal(err)
				}
				golden := goldenOf(program, file)
				if *update {
					if err := os.WriteFile(golden, []byte(r.read("proxy.cfg")), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if got := r.read("proxy.cfg"); got != string(want) {
					t.Errorf("%s: look at the difference and run the test with -update if it is meant\ngot:\n%s\nwant:\n%s", golden, got, want)
				}
			}
		})
	}
}

func TestEveryShippedDirectoryIsComplete(t *testing.T) {
	page, err := os.ReadFile("../docs/how-to/proxies.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := templates.FS.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(shipped("", "")) {
		t.Errorf("%d directories, and %d programs in these tests", len(entries), len(shipped("", "")))
	}
	for _, entry := range entries {
		program := entry.Name()
		if _, known := shipped("", "")[program]; !known { // and so by accepting
			t.Errorf("%s: nobody says whether its program accepts the file", program)
		}
		r := newRig(t, nil)
		r.install(program, "")
		var golden []string
		for _, file := range keyFiles(t, program) {
			golden = append(golden, filepath.Base(goldenOf(program, file)))
		}
		slices.Sort(golden)
		for dir, want := range map[string][]string{"conf.d": {program + ".toml"}, "golden": golden} {
			var got []string
			found, err := os.ReadDir(filepath.Join("..", "templates", program, dir))
			if err != nil {
				t.Error(err)
			}
			for _, file := range found {
				got = append(got, file.Name())
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s/%s holds %q, want %q", program, dir, got, want)
			}
		}
		// What kvconfd check finds wrong, but for what this machine lacks.
		b, err := newBench(Config{ConfDir: r.cfg.ConfDir}, r.deps.Log)
		if err != nil || len(b.resources) != 1 || len(b.broken) > 0 {
			t.Fatalf("%s: %d resources, %v (%v)", program, len(b.resources), b.broken, err)
		}
		resource := b.resources[0]
		if resource.Name != program || resource.MaxShrinkPercent == 0 || resource.MaxExpiredPercent == 0 {
			t.Errorf("%s: %+v", program, resource)
		}
		toml, readme := r.read(program+"/conf.d/"+program+".toml"), string(page)
		reason := regexp.MustCompile(`(?m)^# .* has no command that checks|^# .* nothing is to be checked`)
		if resource.Check.IsZero() && !reason.MatchString(toml) && resource.OutputFormat == "" {
			t.Errorf("%s: nothing checks the file, and nothing says why", program)
		}
		name, tcp := strings.CutSuffix(program, "-tcp")
		if heading := "\n## " + name + map[bool]string{true: " for TCP"}[tcp] + "\n"; !strings.Contains(readme, heading) || !strings.Contains(readme, "\n| ["+program+"](") {
			t.Errorf("%s: no section %q and no row of the table in proxies.md", program, heading)
		}
	}
}

// What hostile.yaml tries to smuggle in has the address 10.6.6.6, or a line of its own with "evil".
func TestNothingHostileReachesAFile(t *testing.T) {
	for program := range shipped("", "") {
		text, err := os.ReadFile(goldenOf(program, "hostile.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "10.6.6.6") || strings.HasPrefix(strings.TrimSpace(line), "evil") ||
				strings.ContainsFunc(strings.Trim(line, "\t\n"), unicode.IsControl) {
				t.Errorf("%s: %q", program, line)
			}
		}
		if !strings.Contains(string(text), "10.0.2.1") {
			t.Errorf("%s: what is well-formed is missing too", program)
		}
	}
}

// startProxy runs a proxy in the foreground until the test ends.
func startProxy(t *testing.T, r *rig, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(parts.Path(t, name), args...)
	cmd.Stdout, cmd.Stderr = &r.log, &r.log
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+r.dir, "XDG_DATA_HOME="+r.dir) // Caddy keeps its last configuration
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
}

func TestProgramsAcceptWhatTheShippedTemplatesMake(t *testing.T) {
	for program := range shipped("", "") {
		t.Run(program, func(t *testing.T) {
			r := newRig(t, nil)
			settings := shipped(r.dir, freeAddress(t))[program]
			r.install(program, "")
			r.cfg.Backend = keys.BackendFile
			r.setWorld(settings)
			accepts := accepting(t, program)
			for _, file := range keyFiles(t, program) {
				r.cfg.Files = []string{file}
				if err := r.once(); err != nil { // runs the shipped check_cmd
					t.Errorf("%s: %v", filepath.Base(file), err)
				}
				if err := accepts(r.path("proxy.cfg")); err != nil {
					t.Errorf("%s: %v\n%s", filepath.Base(file), err, r.read("proxy.cfg"))
				}
			}
		})
	}
}

func TestARefusalByAShippedCheckNamesTheLineAndLeavesNothingBehind(t *testing.T) {
	for program, template := range map[string]string{"haproxy": "haproxy.cfg", "haproxy-tcp": "haproxy-tcp.cfg", "nginx": "nginx.conf"} {
		t.Run(program, func(t *testing.T) {
			parts.Need(t, strings.TrimSuffix(program, "-tcp"))
			r := newRig(t, nil)
			settings := shipped(r.dir, freeAddress(t))[program]
			r.install(program, "")
			r.cfg.Backend, r.cfg.Files = keys.BackendFile, []string{keyFiles(t, program)[0]}
			r.setWorld(settings)
			template := program + "/templates/" + template + ".tmpl"
			r.write(template, "nonsense;\n"+r.read(template))
			if err := r.once(); err == nil {
				t.Error("it is accepted")
			}
			if log := r.log.String(); !strings.Contains(log, r.path("proxy.cfg")+":1") || !strings.Contains(log, "nonsense") {
				t.Errorf("the log does not name the line:\n%s", log)
			}
			entries, err := os.ReadDir(r.dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				if strings.Contains(entry.Name(), "proxy.cfg") {
					t.Errorf("%s is left behind", entry.Name())
				}
			}
		})
	}
}

func TestARealProxyFollowsTheStoreWithoutLosingARequest(t *testing.T) {
	for proxy, reload := range map[string]string{
		"haproxy": `kill -USR2 $(cat $DIR/master)`,
		"nginx":   `nginx -s reload -c {{.dest}}`,
		"caddy":   `caddy reload --adapter caddyfile --config {{.dest}}`,
		"varnish": `/usr/share/varnish/varnishreload -n $DIR/varnish`,
	} {
		t.Run(proxy, func(t *testing.T) {
			if proxy == "varnish" {
				parts.Need(t, "varnishd")
				parts.Need(t, "varnishadm")
			} else {
				parts.Need(t, proxy)
			}
			r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
			register := func(service, instance string) *httptest.Server {
				backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, service+" "+instance) }))
				t.Cleanup(backend.Close)
				_, port, _ := strings.Cut(strings.TrimPrefix(backend.URL, "http://"), ":")
				r.set("/services/"+service+"/"+instance, `{"service":"`+service+`","instance":"`+instance+`","address":"127.0.0.1","port":`+port+`,"protocol":"tcp","state":"up"}`)
				return backend
			}
			register("web", "first") // before an address is chosen that is free
			address := freeAddress(t)
			settings := shipped(r.dir, address)[proxy]
			r.setWorld(settings)
			r.install(proxy, "reload_cmd = "+strconv.Quote(strings.ReplaceAll(reload, "$DIR", r.dir)))
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			ask := func(host, path string) string {
				request, err := http.NewRequest("GET", "http://"+address+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				if host != "" {
					request.Host = host
				}
				response, err := client.Do(request)
				if err != nil {
					return err.Error()
				}
				defer response.Body.Close()
				body, err := io.ReadAll(response.Body)
				if err != nil {
					return err.Error()
				}
				if response.StatusCode != http.StatusOK {
					return response.Status
				}
				return string(body)
			}
			r.cfg.SyncOnly = true
			if err := r.once(); err != nil {
				t.Fatal(err)
			}
			r.cfg.SyncOnly = false
			switch proxy {
			case "haproxy":
				startProxy(t, r, proxy, "-W", "-f", r.path("proxy.cfg"), "-p", r.path("master"))
			case "nginx":
				startProxy(t, r, proxy, "-g", "daemon off;", "-c", r.path("proxy.cfg"))
			case "caddy":
				startProxy(t, r, proxy, "run", "--adapter", "caddyfile", "--config", r.path("proxy.cfg"))
			case "varnish": // which caches nothing, so that each answer comes from an instance
				startProxy(t, r, "varnishd", "-F", "-j", "none", "-n", r.path("varnish"), "-a", address, "-f", r.path("proxy.cfg"), "-t", "0", "-p", "default_grace=0")
			}
			r.until("the first instance answers", func() bool { return ask("", "/") == "web first" })
			r.start()

			var asked, failed atomic.Int32
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				for {
					select {
					case <-stop:
						return
					default:
					}
					asked.Add(1)
					got := ask("", "/")
					// Caddy 2.6 closes its socket at a reload, with the connections that it has not taken yet.
					if !strings.HasPrefix(got, "web ") && !(proxy == "caddy" && strings.HasSuffix(got, "connection reset by peer")) {
						failed.Add(1)
						t.Logf("a request was answered with %s", got)
					}
				}
			}()
			register("web", "second")
			r.until("the second instance answers", func() bool { return ask("", "/") == "web second" })
			r.remove("/services/web/first")
			register("api", "only")
			r.set("/services/api/draining", `{"address":"127.0.0.1","port":9,"protocol":"tcp","state":"draining","meta":{"domain":"shop.example.org"}}`)
			// Workers of before a reload may still answer for a moment, so each is waited for.
			for _, want := range []struct{ host, path, answer string }{
				{"", "/", "web second"},
				{"", "/api", "api only"},
				{"", "/api/x", "api only"},
				{"api", "/", "api only"},
				{"api.example.com", "/", "api only"},
				{"API.example.com:80", "/", "api only"},
				{"shop.example.org", "/", "api only"},
				{"Shop.Example.org:8080", "/", "api only"},
				{"shop.example.com", "/", "web second"},
				{"apis", "/", "web second"},
				{"", "/apis", "web second"},
				{"", "/web/x", "web second"},
			} {
				r.until(fmt.Sprintf("%s%s is answered by %s", want.host, want.path, want.answer), func() bool {
					return ask(want.host, want.path) == want.answer
				})
			}
			close(stop)
			<-stopped
			if failed.Load() > 0 {
				t.Errorf("%d of %d requests failed", failed.Load(), asked.Load())
			}
			r.remove("/services/web/second")
			r.until("the service is gone", func() bool { return strings.HasPrefix(ask("", "/"), "503 ") })
		})
	}
}
