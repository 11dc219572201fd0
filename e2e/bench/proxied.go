package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	proxiedServices = 100
	// proxiedPause stands before each change, so that none belongs to a burst: longer than the
	// half second that kvconfd takes a burst to last.
	proxiedPause = 600 * time.Millisecond
	// proxiedMax is how long a change may take; one that takes longer has been lost, and is made again.
	proxiedMax = 3 * time.Second
)

// proxiedTemplate is a configuration that confd 0.16 can render as well. The value of a server is its
// address and port.
const proxiedTemplate = `global
    stats socket %[2]s mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 1s
    timeout client 10s
    timeout server 10s
frontend web
    bind %[1]s
    use_backend %%[path,field(2,/)]
{{range $service := lsdir "/services"}}
backend {{$service}}{{range gets (printf "/services/%%s/*" $service)}}
    server {{base .Key}} {{.Value}}{{end}}
{{end}}`

// proxied is a HAProxy whose file somebody keeps equal to a store.
type proxied struct {
	name    string
	dir     string
	address string
	config  string
	haproxy *exec.Cmd
	keeper  *server // kvconfd or confd; nil: the bench itself
	store   *server
	change  func(ctx context.Context, service int, server string) error
	file    latencies // from a change to the file
	serving latencies // and to the first answer of the new server
	lost    int
}

// runProxied measures how long a change of one of 100 services takes until HAProxy serves it.
func runProxied(ctx context.Context, b *bench) ([]table, error) {
	if err := b.needKvconfd(ctx); err != nil {
		return nil, err
	}
	servers := [2]string{}
	for i := range servers {
		name := strconv.Itoa(i)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) }))
		defer s.Close()
		servers[i] = s.Listener.Addr().String()
	}
	keyOf := func(i int) string { return fmt.Sprintf("/services/s%d/server", i) }
	var all []*proxied
	defer func() {
		for _, p := range all {
			p.stop()
		}
	}()
	add := func(name string, start func(p *proxied) error) error {
		p, err := b.newProxied(name)
		if err != nil {
			return err
		}
		all = append(all, p)
		if err := start(p); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := p.startHAProxy(ctx, servers[0]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	onStore := func(p *proxied, s *server, err error) error {
		if p.store = s; err != nil {
			return err
		}
		p.change = func(ctx context.Context, service int, server string) error {
			return put(ctx, http.DefaultClient, s.url+"/v2/keys"+keyOf(service), url.Values{"value": {server}}.Encode())
		}
		return fill(ctx, s, proxiedServices, 8, keyOf, servers[0])
	}
	err := add("kvconfd, runtime socket", func(p *proxied) error {
		store, err := b.startKVD(ctx, "proxied-runtime")
		if err := onStore(p, store, err); err != nil {
			return err
		}
		return p.startKeeper(b.kvconfd, fmt.Sprintf("\n[haproxy]\nsocket = %q\n", p.path("admin.sock")), "-watch", "-node", store.url, "-log-level", "warn")
	})
	if err != nil {
		return nil, err
	}
	err = add("kvconfd, check and reload", func(p *proxied) error {
		store, err := b.startKVD(ctx, "proxied-reload")
		if err := onStore(p, store, err); err != nil {
			return err
		}
		return p.startKeeper(b.kvconfd, "", "-watch", "-node", store.url, "-log-level", "warn")
	})
	if err != nil {
		return nil, err
	}
	if err := add("haproxy -c and a reload alone", func(p *proxied) error { return p.alone(servers) }); err != nil {
		return nil, err
	}
	if confd := os.Getenv("CONFD"); confd != "" {
		err = add("confd 0.16 watching etcd", func(p *proxied) error {
			etcd, err := b.startEtcd(ctx, "proxied-etcd")
			if err := onStore(p, etcd, err); err != nil {
				return err
			}
			return p.startKeeper(confd, "", "-watch", "-backend", "etcd", "-node", etcd.url, "-log-level", "error")
		})
		if err != nil {
			return nil, err
		}
	}
	for i := range b.edits {
		for _, p := range all {
			wait(ctx, proxiedPause)
			if err := p.measure(ctx, i%proxiedServices, servers[(i/proxiedServices+1)%2], strconv.Itoa((i/proxiedServices+1)%2)); err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", p.name, err, p.keeper.saidOf())
			}
		}
	}
	t := table{Work: fmt.Sprintf("%d services, a change of one, %d times", proxiedServices, b.edits)}
	for _, p := range all {
		file, serving := p.file.figures(), p.serving.figures()
		t.Rows = append(t.Rows, row{Subject: p.name, Figures: []figure{
			{"served, p50 ms", serving[0].Value, 1}, {"p99 ms", serving[2].Value, 1}, {"most ms", serving[3].Value, 1},
			{"file, p50 ms", file[0].Value, 1}, {"file, p99 ms", file[2].Value, 1}, {"lost and made again", float64(p.lost), 0},
		}})
		if p.keeper != nil {
			t.Commands = append(t.Commands, strings.Join(append([]string{filepath.Base(p.keeper.args[0])}, p.keeper.args[1:]...), " "))
		}
	}
	median := func(i int) float64 { return t.Rows[i].Figures[0].Value }
	t.Claims = []claim{
		{What: "kvconfd, runtime socket, served, p50 ms", Value: median(0), Target: 20},
		{What: "kvconfd, check and reload, above these two alone, p50 ms", Value: median(1) - median(2), Target: 15},
	}
	if len(all) > 3 {
		t.Claims = append(t.Claims, claim{What: "kvconfd, runtime socket / confd, served, p50", Value: median(0) / median(3)},
			claim{What: "kvconfd, check and reload / confd, served, p50", Value: median(1) / median(3)})
	}
	return []table{t}, nil
}

// needKvconfd builds kvconfd unless it is given.
func (b *bench) needKvconfd(ctx context.Context) error {
	if b.kvconfd != "" {
		return nil
	}
	b.kvconfd = filepath.Join(b.dir, "kvconfd")
	return build(ctx, "kvconfd", b.kvconfd)
}

func (s *server) saidOf() string {
	if s == nil {
		return ""
	}
	return s.said.String()
}

func (b *bench) newProxied(name string) (*proxied, error) {
	dir, err := os.MkdirTemp("", "kvd-proxied-") // a socket has a short path
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	return &proxied{name: name, dir: dir, address: listener.Addr().String(), config: filepath.Join(dir, "haproxy.cfg")}, nil
}

func (p *proxied) path(name string) string { return filepath.Join(p.dir, name) }

func (p *proxied) reloadCommand() string {
	return fmt.Sprintf("test ! -e %[1]s || kill -USR2 $(cat %[1]s)", p.path("pid"))
}

// startKeeper starts kvconfd or confd.
func (p *proxied) startKeeper(program, tables string, args ...string) error {
	resource := fmt.Sprintf("[template]\nsrc = \"haproxy.tmpl\"\ndest = %q\nkeys = [\"/services\"]\ncheck_cmd = \"haproxy -c -f {{.src}}\"\nreload_cmd = %q\n%s", p.config, p.reloadCommand(), tables)
	template := fmt.Sprintf(proxiedTemplate, p.address, p.path("admin.sock"))
	k, err := startKeeper(p.dir, program, map[string][2]string{"haproxy": {resource, template}}, args...)
	p.keeper = k
	return err
}

// startKeeper starts kvconfd or confd with resource files and templates, by name, below dir.
func startKeeper(dir, program string, resources map[string][2]string, args ...string) (*server, error) {
	for _, name := range []string{"conf.d", "templates"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	for name, texts := range resources {
		err := errors.Join(os.WriteFile(filepath.Join(dir, "conf.d", name+".toml"), []byte(texts[0]), 0o644),
			os.WriteFile(filepath.Join(dir, "templates", name+".tmpl"), []byte(texts[1]), 0o644))
		if err != nil {
			return nil, err
		}
	}
	s := &server{name: filepath.Base(program), said: &tail{}, args: append([]string{program, "-confdir", dir}, args...)}
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin", "KVCONFD_STATE_DIR="+filepath.Join(dir, "state"), "KVCONFD_SOCKET="+filepath.Join(dir, "socket"))
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return s, s.cmd.Start()
}

// alone has no keeper: a change writes the file, checks it and reloads, and nothing else.
func (p *proxied) alone(servers [2]string) error {
	current := make([]string, proxiedServices)
	for i := range current {
		current[i] = servers[0]
	}
	content := func() []byte {
		text, _, _ := strings.Cut(fmt.Sprintf(proxiedTemplate, p.address, p.path("admin.sock")), "{{")
		for i, server := range current {
			text += fmt.Sprintf("\nbackend s%d\n    server server %s\n", i, server)
		}
		return []byte(text)
	}
	p.change = func(ctx context.Context, service int, server string) error {
		current[service] = server
		if err := os.WriteFile(p.path("staged"), content(), 0o644); err != nil {
			return err
		}
		check := exec.CommandContext(ctx, "sh", "-c", "haproxy -c -f "+p.path("staged"))
		check.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin")
		if output, err := check.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, output)
		}
		if err := os.Rename(p.path("staged"), p.config); err != nil {
			return err
		}
		return exec.CommandContext(ctx, "sh", "-c", p.reloadCommand()).Run()
	}
	return os.WriteFile(p.config, content(), 0o644)
}

// startHAProxy waits for the file, and then for HAProxy to serve it.
func (p *proxied) startHAProxy(ctx context.Context, server string) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for {
		text, err := os.ReadFile(p.config)
		if err == nil && strings.Contains(string(text), fmt.Sprintf("backend s%d\n    server server %s", proxiedServices-1, server)) {
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("there is no file for HAProxy: %w\n%s", ctx.Err(), p.keeper.saidOf())
		}
		wait(ctx, 5*time.Millisecond)
	}
	program, err := exec.LookPath("haproxy")
	if err != nil {
		program = "/usr/sbin/haproxy"
	}
	p.haproxy = exec.Command(program, "-W", "-f", p.config, "-p", p.path("pid"))
	p.haproxy.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.haproxy.Start(); err != nil {
		return err
	}
	_, err = p.until(ctx, 0, "0", startMax)
	return err
}

func (p *proxied) stop() {
	p.keeper.kill()
	p.store.kill()
	if p.haproxy != nil && p.haproxy.Process != nil {
		syscall.Kill(-p.haproxy.Process.Pid, syscall.SIGKILL)
		p.haproxy.Wait()
	}
	os.RemoveAll(p.dir)
}

// measure changes a service and notes when the file was there and when the new server answered.
func (p *proxied) measure(ctx context.Context, service int, server, answer string) error {
	for range 5 {
		before, err := os.Stat(p.config)
		if err != nil {
			return err
		}
		filed := make(chan time.Time, 1)
		looking, stop := context.WithTimeout(ctx, proxiedMax)
		go func() {
			filed <- untilReplaced(looking, p.config, before)
		}()
		begun := time.Now()
		if err := p.change(ctx, service, server); err != nil {
			stop()
			return err
		}
		served, err := p.until(ctx, service, answer, proxiedMax)
		if err != nil {
			stop()
			<-filed
			p.lost++
			continue
		}
		written := <-filed // of a change at the runtime socket the file comes later
		stop()
		p.serving = append(p.serving, served.Sub(begun))
		if !written.IsZero() {
			p.file = append(p.file, written.Sub(begun))
		}
		return nil
	}
	return errors.New("a change was lost five times")
}

// untilReplaced returns when another file was first at path, the zero time if none has come.
func untilReplaced(ctx context.Context, path string, before os.FileInfo) time.Time {
	for ctx.Err() == nil {
		if now, err := os.Stat(path); err == nil && !os.SameFile(now, before) {
			return time.Now()
		}
		time.Sleep(500 * time.Microsecond)
	}
	return time.Time{}
}

// until asks for a service, on connections of its own, until the answer is that of a server.
func (p *proxied) until(ctx context.Context, service int, answer string, most time.Duration) (time.Time, error) {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	target := fmt.Sprintf("http://%s/s%d/", p.address, service)
	for deadline := time.Now().Add(most); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(500 * time.Microsecond) {
		response, err := client.Get(target)
		if err != nil {
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil && string(body) == answer {
			return time.Now(), nil
		}
	}
	return time.Time{}, fmt.Errorf("not served within %v", most)
}
