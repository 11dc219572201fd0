package confd

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/keys"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// patience bounds every wait for something that must happen.
const patience = 40 * time.Second

// rig is a configuration directory, a directory for the files it makes, and an agent.
type rig struct {
	t    testing.TB
	dir  string // holds conf, and whatever the tests' files and commands make
	log  logBuffer
	cfg  Config
	deps Deps
}

func newRig(t testing.TB, store kv.Store) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	r.cfg = Config{
		ConfDir: r.path("conf"), Backend: keys.BackendEtcd, Watch: true, Interval: time.Hour, Filter: "*",
		Quiet: DefaultQuiet, QuietMax: DefaultQuietMax,
	}
	r.deps = Deps{Store: store, Log: slog.New(slog.NewTextHandler(&r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, dir := range []string{"conf/conf.d", "conf/templates"} {
		if err := os.MkdirAll(r.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log:\n%s", r.log.String())
		}
	})
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// write puts a file into the rig, as an editor does that writes a new one and renames it.
func (r *rig) write(name, content string) {
	r.t.Helper()
	staged := filepath.Join(r.dir, filepath.Dir(name), "edited")
	if err := os.WriteFile(staged, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(staged, r.path(name)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) read(name string) string {
	data, _ := os.ReadFile(r.path(name))
	return string(data)
}

func (r *rig) exists(name string) bool {
	_, err := os.Lstat(r.path(name))
	return err == nil
}

// resource makes NAME.toml and NAME.tmpl, which together make NAME.out. $DIR in settings is the
// rig's directory.
func (r *rig) resource(name, template, settings string) {
	r.t.Helper()
	r.write("conf/templates/"+name+".tmpl", template)
	settings = strings.ReplaceAll(settings, "$DIR", r.dir)
	r.write("conf/conf.d/"+name+".toml", fmt.Sprintf("[template]\nsrc = %q\ndest = %q\n%s\n", name+".tmpl", r.path(name+".out"), settings))
}

// start runs the agent until the test ends, or until the returned function is called.
func (r *rig) start() (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	cfg, deps := r.cfg, r.deps
	go func() { ended <- Run(ctx, cfg, deps) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				r.t.Errorf("the agent ended with %v", err)
			}
		case <-time.After(patience):
			r.t.Error("the agent does not stop")
		}
	})
	r.t.Cleanup(stop)
	return stop
}

// once makes one pass.
func (r *rig) once() error {
	cfg := r.cfg
	cfg.Onetime = true
	return Run(r.t.Context(), cfg, r.deps)
}

// eventually waits until a file of the rig has this content.
func (r *rig) eventually(name, content string) {
	r.t.Helper()
	r.until(fmt.Sprintf("%s is %q", name, content), func() bool { return r.read(name) == content })
	if r.t.Failed() {
		r.t.Logf("%s is %q", name, r.read(name))
	}
}

func (r *rig) until(what string, holds func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if holds() {
			return
		}
	}
	r.t.Fatalf("not within %v: %s", patience, what)
}

func (r *rig) set(key, value string) {
	r.t.Helper()
	if _, err := r.deps.Store.Write(r.t.Context(), kv.Write{Op: kv.OpSet, Key: key, Value: value}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) remove(key string) {
	r.t.Helper()
	if _, err := r.deps.Store.Write(r.t.Context(), kv.Write{Op: kv.OpDelete, Key: key, Recursive: true, Dir: true}); err != nil {
		r.t.Fatal(err)
	}
}

// logBuffer collects what the agent logs.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// server is a real etcd of the test's own.
type server struct {
	t       *testing.T
	address string
	args    []string
	cmd     *exec.Cmd
}

func startServer(t *testing.T) *server {
	t.Helper()
	path := parts.Path(t, "etcd")
	client, peer := freeAddress(t), freeAddress(t)
	s := &server{t: t, address: client, args: []string{
		path, "--enable-v2", "--data-dir", t.TempDir(), "--listen-client-urls", "http://" + client,
		"--advertise-client-urls", "http://" + client, "--listen-peer-urls", "http://" + peer,
		"--initial-advertise-peer-urls", "http://" + peer, "--initial-cluster", "default=http://" + peer,
		"--heartbeat-interval", "20", "--election-timeout", "100", "--unsafe-no-fsync",
	}}
	s.run()
	t.Cleanup(s.kill)
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func (s *server) run() {
	s.t.Helper()
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		response, err := http.Get("http://" + s.address + "/health")
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				http.DefaultClient.CloseIdleConnections()
				return
			}
		}
	}
	s.t.Fatal("etcd does not become healthy")
}

func (s *server) kill() {
	if s.cmd != nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.cmd = nil
	}
}

func newClient(t *testing.T, endpoint string) *kvclient.Client {
	t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// gate is an address in front of a server that can be shut.
type gate struct {
	listener net.Listener
	wait     sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	to    string
	shut  bool
	conns map[net.Conn]bool
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{listener: listener, to: to, conns: map[net.Conn]bool{}}
	g.wait.Go(g.accept)
	t.Cleanup(func() {
		listener.Close()
		g.set(true)
		g.wait.Wait()
	})
	return g
}

// set shuts the gate, which cuts everybody off, or opens it.
func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	if shut {
		for conn := range g.conns {
			conn.Close()
		}
	}
}

// lead makes the gate lead to another server, and cuts off everybody at the one before.
func (g *gate) lead(to string) {
	g.set(true)
	g.mu.Lock()
	g.to = to
	g.mu.Unlock()
	g.set(false)
}

func (g *gate) accept() {
	for {
		in, err := g.listener.Accept()
		if err != nil {
			return
		}
		g.mu.Lock()
		to := g.to
		g.mu.Unlock()
		out, err := net.Dial("tcp", to)
		g.mu.Lock()
		if err != nil || g.shut {
			in.Close()
			if out != nil {
				out.Close()
			}
		} else {
			g.conns[in], g.conns[out] = true, true
			g.wait.Go(func() { g.copy(in, out) })
			g.wait.Go(func() { g.copy(out, in) })
		}
		g.mu.Unlock()
	}
}

func (g *gate) copy(to, from net.Conn) {
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, conn := range []net.Conn{to, from} {
			conn.Close()
			delete(g.conns, conn)
		}
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
