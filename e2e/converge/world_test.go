package converge

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/link"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// patience bounds every wait. It says nothing about how fast anything is.
const patience = 30 * time.Second

// world is a host with kvconfd, a store, and the way between the two.
type world struct {
	t     *testing.T
	dir   string // everything on disk
	store *store
	way   *link.Link
	log   *record // what kvconfd has printed
	agent *process
	env   []string // of kvconfd
	flags []string // of kvconfd, more than it is always given
}

// newWorld makes a host whose store is a kvd.
func newWorld(t *testing.T) *world { return newWorldWith(t, startKVD) }

func newWorldWith(t *testing.T, start func(*testing.T) *store) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "kvd-converge-") // short enough for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, store: start(t), log: &record{}}
	w.way = link.New(t, w.store.address)
	for _, name := range []string{"conf/conf.d", "conf/templates", "state"} {
		if err := os.MkdirAll(w.path(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.env = append(os.Environ(), "DIR="+dir, "KVCONFD_STATE_DIR="+w.path("state"), "KVCONFD_SOCKET="+w.path("kvconfd.sock"), "KVCONFD_HOST="+filepath.Base(dir))
	t.Cleanup(func() {
		if w.agent != nil {
			if t.Failed() {
				w.agent.tellWhereItIs()
			}
			w.agent.kill()
		}
		if t.Failed() {
			text := w.log.String()
			t.Logf("kvconfd:\n%s", text[max(0, len(text)-30000):])
		}
	})
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// write replaces a file as editors do.
func (w *world) write(name, content string) {
	w.t.Helper()
	staged := filepath.Join(filepath.Dir(w.path(name)), "edited")
	if err := os.WriteFile(staged, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(staged, w.path(name)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(name string) {
	w.t.Helper()
	if err := os.Remove(w.path(name)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(name string) string {
	data, _ := os.ReadFile(w.path(name))
	return string(data)
}

func (w *world) exists(name string) bool {
	_, err := os.Lstat(w.path(name))
	return err == nil
}

// resource makes NAME.toml and NAME.tmpl, which together make NAME.out. $DIR in settings is the
// world's directory.
func (w *world) resource(name, template, settings string) {
	w.t.Helper()
	w.write("conf/templates/"+name+".tmpl", template)
	w.toml(name, w.path(name+".out"), settings)
}

func (w *world) toml(name, dest, settings string) {
	w.t.Helper()
	settings = strings.ReplaceAll(settings, "$DIR", w.dir)
	w.write("conf/conf.d/"+name+".toml", fmt.Sprintf("[template]\nsrc = %q\ndest = %q\n%s\n", name+".tmpl", dest, settings))
}

func (w *world) set(key, value string) {
	w.t.Helper()
	w.store.must(kv.Write{Op: kv.OpSet, Key: key, Value: value})
}

func (w *world) delete(key string) {
	w.t.Helper()
	w.store.must(kv.Write{Op: kv.OpDelete, Key: key, Recursive: true, Dir: true})
}

// arguments are those that kvconfd is started with.
func (w *world) arguments() []string {
	return append([]string{"-watch", "-confdir", w.path("conf"), "-node", w.way.URL(), "-log-format", "text"}, w.flags...)
}

// start starts kvconfd.
func (w *world) start() {
	w.t.Helper()
	w.agent = launch(w.t, w.log, w.env, append([]string{filepath.Join(parts.Build(w.t), "kvconfd")}, w.arguments()...)...)
}

// isUp reports whether kvconfd has begun to serve.
func (w *world) isUp() bool {
	conn, err := net.Dial("unix", w.path("kvconfd.sock"))
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// once runs kvconfd to its end and returns its exit code.
func (w *world) once() int {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(parts.Build(w.t), "kvconfd"), append(w.arguments(), "-onetime")...)
	cmd.Env, cmd.Stdout, cmd.Stderr = w.env, w.log, w.log
	err := cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		w.t.Fatalf("kvconfd -onetime: %v, %v", err, ctx.Err())
	}
	return cmd.ProcessState.ExitCode()
}

// until waits for a level. why says what is in the way, "" that nothing is.
func (w *world) until(what string, why func() string) {
	w.t.Helper()
	await(w.t, what, why)
}

func await(t testing.TB, what string, why func() string) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if last = why(); last == "" {
			return
		}
	}
	t.Fatalf("not within %v: %s: %s", patience, what, last)
}

// eventually waits until a file has this content.
func (w *world) eventually(name, content string) {
	w.t.Helper()
	w.until(name+" has its content", func() string {
		if got := w.read(name); got != content {
			return fmt.Sprintf("it is %q and not %q", got, content)
		}
		return ""
	})
}

// untilSaid waits until kvconfd has printed text.
func (w *world) untilSaid(text string) {
	w.t.Helper()
	w.until("kvconfd says "+text, func() string {
		if !strings.Contains(w.log.String(), text) {
			return "it has not"
		}
		return ""
	})
}

// settled waits until no reload is owed and nothing staged is left in the directories.
func (w *world) settled(dirs ...string) {
	w.t.Helper()
	w.without("a reload is owed, or a staged file", dirs, func(name string) bool { return strings.HasPrefix(name, ".") && !strings.HasSuffix(name, ".last-good") })
}

// paid is settled after kvconfd was killed: a staged file is left until it is old, as it might be that
// of another kvconfd.
func (w *world) paid(dirs ...string) {
	w.t.Helper()
	w.without("a reload is owed", dirs, func(name string) bool { return strings.HasSuffix(name, ".reload-pending") })
}

func (w *world) without(what string, dirs []string, is func(name string) bool) {
	w.t.Helper()
	w.until("nowhere "+what, func() string {
		for _, dir := range append(dirs, ".") {
			entries, _ := os.ReadDir(w.path(dir))
			for _, entry := range entries {
				if is(entry.Name()) {
					return entry.Name() + " is there"
				}
			}
		}
		return ""
	})
}

// process is a program that runs until it is killed, or until its parent is.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

// launch starts a program in a process group of its own. What it prints goes to said.
func launch(t testing.TB, said io.Writer, env []string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = env, said, said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	p.cmd.WaitDelay = 100 * time.Millisecond // what it leaves running may hold its streams
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.ended); p.cmd.Wait() }()
	return p
}

// kill ends the process as kill -9 does; what it has started in groups of their own stays.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// tellWhereItIs has a program of Go print what its goroutines do, and end.
func (p *process) tellWhereItIs() {
	p.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
	}
}

// killAll kills everything that is in the process group of the process, too.
func (p *process) killAll() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

// awaitEnd waits until it has ended by itself.
func (p *process) awaitEnd(t testing.TB) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("%s does not end", p.cmd.Args[0])
	}
}

// record collects what programs print.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// store is a kvd or an etcd of one member, whose address stays over restarts.
type store struct {
	t       testing.TB
	address string
	data    string
	args    []string
	log     *record
	run     *process
	client  *kvclient.Client // past any link
}

func startKVD(t *testing.T) *store {
	t.Helper()
	s := newStore(t)
	peer := "http://" + freeAddress(t)
	s.args = []string{filepath.Join(parts.Build(t), "kvd"), "--data-dir", s.data, "--listen-client-urls", "http://" + s.address, "--advertise-client-urls", "http://" + s.address,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--log-level", "warn"}
	s.start()
	return s
}

func startEtcd(t *testing.T) *store {
	t.Helper()
	s := newStore(t)
	client, peer := "http://"+s.address, "http://"+freeAddress(t)
	s.args = []string{parts.Path(t, "etcd"), "--enable-v2", "--data-dir", s.data, "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer,
		"--heartbeat-interval", "20", "--election-timeout", "100", "--unsafe-no-fsync"}
	s.start()
	return s
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{t: t, address: freeAddress(t), data: filepath.Join(t.TempDir(), "data"), log: &record{}}
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{"http://" + s.address}})
	if err != nil {
		t.Fatal(err)
	}
	s.client = client
	t.Cleanup(func() {
		client.Close()
		if s.run != nil {
			s.run.kill()
		}
		if t.Failed() {
			text := s.log.String()
			t.Logf("store:\n%s", text[max(0, len(text)-1000):])
		}
	})
	return s
}

// given holds the addresses that freeAddress has given to the tests of this process.
var given sync.Map

// freeAddress returns an address on loopback that nobody listens at. Its port is none of those that
// the kernel gives to who asks for any, so that it stays free until it is used.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(10_000+rand.IntN(20_000)))
		if listener, err := net.Listen("tcp", address); err == nil {
			listener.Close()
			if _, taken := given.LoadOrStore(address, true); !taken {
				return address
			}
		}
	}
	t.Fatal("no port between 10000 and 30000 is free")
	return ""
}

// start starts the store and waits until it takes writes.
func (s *store) start() {
	s.t.Helper()
	s.run = launch(s.t, s.log, os.Environ(), s.args...)
	await(s.t, "the store is healthy", func() string {
		response, err := http.Get("http://" + s.address + "/health")
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return response.Status
		}
		return ""
	})
}

func (s *store) must(write kv.Write) kv.Index {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	result, err := s.client.Write(ctx, write)
	if err != nil {
		s.t.Fatalf("%s %s: %v", write.Op, write.Key, err)
	}
	return result.Index
}
