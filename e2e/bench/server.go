package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
)

// startMax bounds the wait for a server to answer.
const startMax = 2 * time.Minute

// server is one process under measurement, or a cluster of them that is asked through one member.
type server struct {
	name string // "kvd", "etcd", "nothing" or "canned"
	url  string
	cmd  *exec.Cmd // nil for a cluster
	said *tail
	args []string
	ask  string            // what to GET to see whether it answers
	of   []*cluster.Member // nil for a single process
}

// pids returns the ids of its processes.
func (s *server) pids() []int {
	if s.of == nil {
		return []int{s.cmd.Process.Pid}
	}
	var all []int
	for _, m := range s.of {
		all = append(all, m.PID())
	}
	return all
}

// startKVD starts kvd on fresh or existing data below the bench's folder.
func (b *bench) startKVD(ctx context.Context, data string, env ...string) (*server, error) {
	client, peer, err := freeURLs()
	if err != nil {
		return nil, err
	}
	s := &server{name: "kvd", url: client, ask: "/health", args: []string{b.kvd, "--data-dir", filepath.Join(b.dir, data),
		"--listen-client-urls", client, "--listen-peer-urls", peer, "--log-level", "warn"}}
	return s, s.start(ctx, env)
}

// startEtcd starts etcd with the v2 API on fresh data.
func (b *bench) startEtcd(ctx context.Context, data string) (*server, error) {
	client, peer, err := freeURLs()
	if err != nil {
		return nil, err
	}
	s := &server{name: "etcd", url: client, ask: "/health", args: []string{b.etcd, "--enable-v2", "--data-dir", filepath.Join(b.dir, data),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer, "--logger", "zap", "--log-level", "error"}}
	return s, s.start(ctx, nil)
}

// startNothing starts the do-nothing handler, a process of its own like the others.
func (b *bench) startNothing(ctx context.Context) (*server, error) {
	client, _, err := freeURLs()
	if err != nil {
		return nil, err
	}
	s := &server{name: "nothing", url: client, ask: "/", args: []string{b.self, nothingCommand, strings.TrimPrefix(client, "http://")}}
	return s, s.start(ctx, nil)
}

// startCanned starts a handler that gives the answer of url without looking anything up.
func (b *bench) startCanned(ctx context.Context, url string) (*server, error) {
	client, _, err := freeURLs()
	if err != nil {
		return nil, err
	}
	s := &server{name: "canned", url: client, ask: "/", args: []string{b.self, cannedCommand, strings.TrimPrefix(client, "http://"), url}}
	return s, s.start(ctx, nil)
}

const (
	nothingCommand = "serve-nothing"
	cannedCommand  = "serve-canned"
)

// serveFloor is the do-nothing handler, what net/http itself costs, or the canned one, what it costs
// with headers and a body. It returns false if args ask for neither.
func serveFloor(args []string) bool {
	handler := func(http.ResponseWriter, *http.Request) {}
	switch {
	case len(args) == 2 && args[0] == nothingCommand:
	case len(args) == 3 && args[0] == cannedCommand:
		answer, err := http.Get(args[2])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return true
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return true
		}
		answer.Header.Del("Date")
		answer.Header.Del("Content-Length") // net/http writes both
		handler = func(w http.ResponseWriter, _ *http.Request) {
			maps.Copy(w.Header(), answer.Header)
			w.Write(body)
		}
	default:
		return false
	}
	fmt.Fprintln(os.Stderr, http.ListenAndServe(args[1], http.HandlerFunc(handler)))
	return true
}

// start runs the program and returns when it answers.
func (s *server) start(ctx context.Context, env []string) error {
	s.said = &tail{}
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for {
		if _, err := get(ctx, s.url+s.ask); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			s.kill()
			return fmt.Errorf("%s does not answer: %w\n%s", s.name, ctx.Err(), s.said)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// kill ends the process as a power cut would. It may be called for a server that has ended.
func (s *server) kill() {
	if s == nil || s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// stop ends the process as a service manager would and waits for its end.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.cmd.Wait()
}

// cpu returns the processor time that its processes have used so far, in user and kernel. Its
// resolution is a clock tick, 10 ms.
func (s *server) cpu() (total time.Duration, err error) {
	for _, pid := range s.pids() {
		used, err := cpuOf(pid)
		if err != nil {
			return 0, err
		}
		total += used
	}
	return total, nil
}

func cpuOf(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything; utime and stime are the 12th and 13th field after it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("cannot read %q", stat)
	}
	var ticks uint64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	const ticksPerSecond = 100 // of every Linux that Go runs on
	return time.Duration(ticks) * (time.Second / ticksPerSecond), nil
}

// residentBytes returns the memory that the process holds, and the most that it has held.
func (s *server) residentBytes() (now, most int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		switch n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); {
		case n == 1:
			now = kib << 10
		default:
			if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
				most = kib << 10
			}
		}
	}
	return now, most, nil
}

// freeURLs returns two addresses on loopback that nobody listens on.
func freeURLs() (string, string, error) {
	var urls [2]string
	for i := range urls {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", err
		}
		defer l.Close()
		urls[i] = "http://" + l.Addr().String()
	}
	return urls[0], urls[1], nil
}

// get returns the body of an answer 200.
func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return body, err
}

// tail keeps the end of what a process says, in whole lines.
type tail struct {
	mu   sync.Mutex // guards text
	text []byte
}

const tailBytes = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > 2*tailBytes {
		cut := t.text[len(t.text)-tailBytes:]
		t.text = append([]byte(nil), cut[bytes.IndexByte(cut, '\n')+1:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
