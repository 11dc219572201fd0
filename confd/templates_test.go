package confd

import (
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kvd-io/kvd/confd/keys"

	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/templates"
)

var update = flag.Bool("update", false, "write what the shipped templates make now as the golden files")

// shipped are the proxies with templates, and the settings that keep a check to loopback and dir.
func shipped(dir, address string) map[string]map[string]string {
	return map[string]map[string]string{
		"haproxy": {"KVD_HTTP_ADDR": address, "KVD_STATS_SOCKET": dir + "/socket", "KVD_HAPROXY_USER": "none", "KVD_LOG": "stderr format raw local0"},
		"nginx":   {"KVD_HTTP_ADDR": address, "KVD_NGINX_USER": "root", "KVD_NGINX_PID": dir + "/pid", "KVD_NGINX_LOG": "stderr", "KVD_NGINX_TEMP": dir},
	}
}

var (
	destLine   = regexp.MustCompile(`(?m)^dest *=.*$`)
	reloadLine = regexp.MustCompile(`(?m)^reload_cmd *=.*$`)
)

// install copies a shipped directory into the rig's configuration directory; the file it makes is
// proxy.cfg of the rig, and settings take the place of the reload command.
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
	if !strings.Contains(text, r.dir) || strings.Contains(text, "systemctl") {
		r.t.Fatalf("%s has no dest or another reload_cmd:\n%s", name, text)
	}
	r.write(name, text)
}

// cases are the key files of a shipped directory.
func (r *rig) cases(proxy string) []string {
	r.t.Helper()
	found, err := filepath.Glob(r.path(proxy + "/golden/*.yaml"))
	if err != nil || len(found) == 0 {
		r.t.Fatalf("no key files: %v", err)
	}
	return append(found, r.path(proxy+"/sample.yaml"))
}

func TestShippedTemplatesMakeTheirGoldenFiles(t *testing.T) {
	for proxy := range shipped("", "") {
		t.Run(proxy, func(t *testing.T) {
			r := newRig(t, nil)
			r.install(proxy, "")
			r.cfg.Backend, r.cfg.SyncOnly = keys.BackendFile, true
			r.deps.World = render.World{Getenv: func(string) string { return "" }}
			for _, keys := range r.cases(proxy) {
				r.cfg.Files = []string{keys}
				if err := r.once(); err != nil {
					t.Fatal(err)
				}
				name := strings.TrimSuffix(filepath.Base(keys), ".yaml") + ".golden"
				golden := filepath.Join("..", "templates", proxy, "golden", name)
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
					t.Errorf("%s: look at the difference and run the test with -update if it is meant\ngot:\n%s\nwant:\n%s", name, got, want)
				}
			}
		})
	}
}

func TestProxiesAcceptWhatTheShippedTemplatesMake(t *testing.T) {
	for proxy := range shipped("", "") {
		t.Run(proxy, func(t *testing.T) {
			parts.Need(t, proxy)
			r := newRig(t, nil)
			settings := shipped(r.dir, freeAddress(t))[proxy]
			r.install(proxy, "")
			r.cfg.Backend = keys.BackendFile
			r.deps.World = render.World{Getenv: func(name string) string { return settings[name] }}
			for _, keys := range r.cases(proxy) {
				r.cfg.Files = []string{keys}
				if err := r.once(); err != nil { // runs the shipped check_cmd
					t.Errorf("%s: %v", filepath.Base(keys), err)
				}
			}
		})
	}
}

// startProxy runs a proxy in the foreground until the test ends.
func startProxy(t *testing.T, r *rig, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(parts.Path(t, name), args...)
	cmd.Stdout, cmd.Stderr = &r.log, &r.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
}

func TestARealProxyFollowsTheStoreWithoutLosingARequest(t *testing.T) {
	for proxy, reload := range map[string]string{
		"haproxy": `kill -USR2 $(cat $DIR/master)`,
		"nginx":   `nginx -s reload -c {{.dest}}`,
	} {
		t.Run(proxy, func(t *testing.T) {
			parts.Need(t, proxy)
			r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
			address := freeAddress(t)
			settings := shipped(r.dir, address)[proxy]
			r.deps.World = render.World{Getenv: func(name string) string { return settings[name] }}
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
			register := func(service, instance string) *httptest.Server {
				backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, service+" "+instance) }))
				t.Cleanup(backend.Close)
				_, port, _ := strings.Cut(strings.TrimPrefix(backend.URL, "http://"), ":")
				r.set("/services/"+service+"/"+instance, `{"service":"`+service+`","instance":"`+instance+`","address":"127.0.0.1","port":`+port+`,"protocol":"tcp","state":"up"}`)
				return backend
			}

			register("web", "first")
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
					if got := ask("", "/"); !strings.HasPrefix(got, "web ") {
						failed.Add(1)
						t.Logf("a request was answered with %s", got)
					}
				}
			}()
			register("web", "second")
			r.until("the second instance answers", func() bool { return ask("", "/") == "web second" })
			r.remove("/services/web/first")
			register("api", "only")
			// Workers of before a reload may still answer for a moment, so each is waited for.
			for _, want := range []struct{ host, path, answer string }{
				{"", "/", "web second"},
				{"", "/api", "api only"},
				{"", "/api/x", "api only"},
				{"api", "/", "api only"},
				{"api.example.com", "/", "api only"},
				{"API.example.com:80", "/", "api only"},
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
