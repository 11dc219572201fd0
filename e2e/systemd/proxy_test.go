package systemd_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// configuration routes to the instances that are up and forgives nothing: a request that meets a backend
// that is gone has failed.
const configuration = `global
    stats socket %[1]s/admin.sock mode 600 level admin expose-fd listeners
defaults
    mode http
    retries 0
    timeout connect 1s
    timeout client 10s
    timeout server 10s
frontend web
    bind 127.0.0.1:%[2]s
    default_backend web
backend web
    balance roundrobin
{{range services "/services"}}{{range .TCP}}    server {{.ID}} {{.HostPort}}
{{end}}{{end}}`

// proxy is a HAProxy that kvconfd keeps up to date.
type proxy struct {
	t      *testing.T
	url    string
	config string
}

func startProxy(t *testing.T, s *store) *proxy {
	t.Helper()
	haproxy, folder, port := parts.Path(t, "haproxy"), t.TempDir(), freePort(t, "127.0.0.1")
	p := &proxy{t: t, url: "http://127.0.0.1:" + port, config: filepath.Join(folder, "haproxy.cfg")}
	pid := filepath.Join(folder, "pid")
	write := func(name, content string) {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("templates/haproxy.cfg.tmpl", fmt.Sprintf(configuration, folder, port))
	write("conf.d/haproxy.toml", fmt.Sprintf(`[template]
src = "haproxy.cfg.tmpl"
dest = %q
keys = ["/services"]
check_cmd = "%s -c -f {{.src}}"
reload_cmd = "test ! -e %[3]s || kill -USR2 $(cat %[3]s)"
`, p.config, haproxy, pid))
	run(t, filepath.Join(parts.Build(t), "kvconfd"), "--confdir", folder, "--endpoints", s.URL, "--watch")
	await(t, "the configuration", func() string {
		if _, err := os.Stat(p.config); err != nil {
			return err.Error()
		}
		return ""
	})
	run(t, haproxy, "-W", "-f", p.config, "-p", pid)
	return p
}

// run runs a program until the test ends.
func run(t *testing.T, program string, args ...string) {
	t.Helper()
	command := exec.Command(program, args...)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	log := filepath.Join(t.TempDir(), "log")
	file, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	command.Stdout, command.Stderr = file, file
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		command.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("%s:\n%s", filepath.Base(program), text[max(0, len(text)-4000):])
		}
	})
}

// awaitServers waits until that many instances answer through the proxy.
func (p *proxy) awaitServers(want int) {
	p.t.Helper()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	await(p.t, fmt.Sprintf("%d servers behind the proxy", want), func() string {
		answers := map[string]bool{}
		for range 4 * want {
			answers[ask(p.t.Context(), client, strings.TrimPrefix(p.url, "http://"))] = true
		}
		if answers[""] || len(answers) != want {
			return fmt.Sprintf("the answers are %v", answers)
		}
		return ""
	})
}

// hammer sends requests through the proxy, a connection each, until stop is called, which reports how many
// were answered and what became of the others.
func (p *proxy) hammer() (stop func() (answered int64, failures []string)) {
	const clients = 4
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	var answered atomic.Int64
	var mu sync.Mutex // guards failures
	var failures []string
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range clients {
		group.Go(func() {
			for ctx.Err() == nil {
				response, err := client.Get(p.url)
				if err == nil {
					response.Body.Close()
					if response.StatusCode == http.StatusOK {
						answered.Add(1)
						time.Sleep(time.Millisecond) // leaves room for those whom this is about
						continue
					}
					err = fmt.Errorf("%s", response.Status)
				}
				mu.Lock()
				failures = append(failures, time.Now().Format("15:04:05.000 ")+err.Error())
				mu.Unlock()
			}
		})
	}
	return func() (int64, []string) {
		cancel()
		group.Wait()
		return answered.Load(), failures
	}
}
