package sidekick_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/sidekick"
)

// limit bounds every wait in these tests; nothing is expected to take nearly as long.
const limit = 30 * time.Second

// roleVariable makes the test binary play one of the programs of a test.
const roleVariable = "SIDEKICK_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "kvsidekick":
		os.Setenv(roleVariable, "app") // for the child
		os.Exit(program.Main(sidekick.Program()))
	case "app":
		os.Exit(app(os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// app is the service of these tests: it serves on the address in its first argument while the file in the
// second exists, tells what reaches it, and looks for the key at the URL in the third when it is told
// to stop.
func app(args []string) int {
	address, switchFile, key := args[0], args[1], args[2]
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGHUP)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println("cannot listen:", err)
		return 1
	}
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat(switchFile); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	fmt.Printf("app: started as %d, socket %q, password %q\n", os.Getpid(), os.Getenv("NOTIFY_SOCKET"), os.Getenv("KVSIDEKICK_USERNAME"))
	for received := range signals {
		fmt.Println("app: got", received)
		if received == syscall.SIGTERM || received == syscall.SIGINT {
			break
		}
	}
	response, err := http.Get(key)
	if err != nil {
		fmt.Println("app: no store")
		return 7
	}
	fmt.Println("app: record is", response.StatusCode)
	return 7
}

// process is a running kvsidekick with its app.
type process struct {
	t       *testing.T
	command *exec.Cmd
	ended   chan struct{}
	mu      sync.Mutex // guards output
	output  bytes.Buffer
}

// Write collects the output of kvsidekick and its app.
func (p *process) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(data)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// command returns kvsidekick, not started.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, args...)
	c.Env = append(os.Environ(), roleVariable+"=kvsidekick")
	return c
}

// start runs kvsidekick with args; the variables are added to its environment.
func start(t *testing.T, variables []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, command: command(t, args...), ended: make(chan struct{})}
	p.command.Env = append(p.command.Env, variables...)
	p.command.Stdout, p.command.Stderr = p, p
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.command.Wait()
	}()
	t.Cleanup(func() {
		p.command.Process.Kill() // the app then gets its death signal
		<-p.ended
		if t.Failed() {
			t.Logf("output of kvsidekick:\n%s", p.text())
		}
	})
	return p
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.command.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits for the end and returns the exit code.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(limit):
		p.t.Fatal("kvsidekick does not end")
	}
	return p.command.ProcessState.ExitCode()
}

func (p *process) awaitText(want string) {
	p.t.Helper()
	await(p.t, fmt.Sprintf("output %q", want), func() bool { return strings.Contains(p.text(), want) })
}

// appPID returns the process number that the app has printed.
func (p *process) appPID() int {
	p.t.Helper()
	p.awaitText("app: started as")
	var pid int
	lines := bufio.NewScanner(strings.NewReader(p.text()))
	for lines.Scan() {
		if n, _ := fmt.Sscanf(lines.Text(), "app: started as %d,", &pid); n == 1 {
			return pid
		}
	}
	p.t.Fatal("the app printed no process number")
	return 0
}

func await(t *testing.T, what string, held func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !held(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// scene is a store and an app that can be wrapped.
type scene struct {
	t          *testing.T
	cluster    *daemontest.Cluster
	store      *kvclient.Client
	port       string
	switchFile string // the app is healthy while it exists
}

const key = "/services/web/one"

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, cluster: daemontest.Start(t, 1), switchFile: filepath.Join(t.TempDir(), "healthy")}
	store, err := kvclient.New(kvclient.Config{Endpoints: []string{s.cluster.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	s.store = store
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, s.port, _ = net.SplitHostPort(listener.Addr().String())
	listener.Close()
	s.healthy(true)
	return s
}

func (s *scene) healthy(yes bool) {
	s.t.Helper()
	err := os.WriteFile(s.switchFile, nil, 0o600)
	if !yes {
		err = os.Remove(s.switchFile)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// flags are those of every kvsidekick here; the TTL is so long that no test passes by an expiry.
func (s *scene) flags() []string {
	return []string{"--endpoints", s.cluster.URL(), "--service", "web", "--instance", "one", "--address", "127.0.0.1",
		"--port", s.port, "--ttl", "600s", "--drain", "0s", "--check-start-interval", "20ms", "--check-interval", "50ms"}
}

// wrap starts kvsidekick around the app.
func (s *scene) wrap(variables []string, flags ...string) *process {
	s.t.Helper()
	args := append(append(s.flags(), flags...), "--", os.Args[0], "127.0.0.1:"+s.port, s.switchFile, s.cluster.URL()+"/v2/keys"+key)
	return start(s.t, variables, args...)
}

// record returns the record in the store, nil if there is none.
func (s *scene) record() *registry.Record {
	s.t.Helper()
	result, err := s.store.Read(context.Background(), kv.Read{Key: key})
	if kv.Is(err, kv.NotFound) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	record, err := registry.Decode(result.Node.Value)
	if err != nil {
		s.t.Fatal(err)
	}
	return &record
}

func (s *scene) awaitRecord(there bool) {
	s.t.Helper()
	await(s.t, fmt.Sprintf("record there: %v", there), func() bool { return (s.record() != nil) == there })
}

func (s *scene) awaitState(want string) {
	s.t.Helper()
	await(s.t, "a record that is "+want, func() bool {
		record := s.record()
		return record != nil && record.State == want
	})
}

// manager is the socket of a service manager.
type manager struct{ *net.UnixConn }

func newManager(t *testing.T) (m manager, variables []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	connection, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return manager{connection}, []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=200000"}
}

// next returns the next message, or false if none comes within the time.
func (m manager) next(t *testing.T, within time.Duration) (string, bool) {
	t.Helper()
	buffer := make([]byte, 64<<10)
	m.SetReadDeadline(time.Now().Add(within))
	n, err := m.Read(buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", false
	}
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return string(buffer[:n]), true
}

// await reads messages until one contains want, and returns those before it.
func (m manager) await(t *testing.T, want string) (before []string) {
	t.Helper()
	for range 1000 {
		message, ok := m.next(t, limit)
		if !ok {
			break
		}
		if strings.Contains(message, want) {
			return before
		}
		before = append(before, message)
	}
	t.Fatalf("the service manager never heard %q, only %q", want, before)
	return nil
}
