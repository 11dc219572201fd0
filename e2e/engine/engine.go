// Package engine runs Docker engines of its own for tests and benchmarks that break them: dockerd
// with its own socket, data, runtime state and bridge, beside any other engine of this machine.
//
// It knows how dockerd is started, killed and cleaned up after, and the few requests by which
// containers are made. It judges nothing. It needs root, dockerd and ip, and a static busybox.
//
//	e, err := engine.Start(ctx, engine.Config{Dir: dir})
//	defer e.Close()
//	id, err := e.Run(ctx, engine.Container{Name: "a", Command: []string{"httpd", "-f"}})
//	err = e.Kill()
//	err = e.Begin(ctx)
//
// Nothing of it is published on the host: there are no packet filter rules, and containers are
// reached at their own addresses.
package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// dirBytesMax leaves room for the longest of dockerd's sockets below the folder.
const dirBytesMax = 60

const (
	startMax = 5 * time.Minute // until dockerd answers; it looks at every container first, and may end them all
	stopMax  = time.Minute     // until it has ended
)

// Config says where an engine lives.
type Config struct {
	Dir  string   // for all its files, with a short path, as sockets must have; made, and removed by Close
	Args []string // of dockerd, beside those that set it apart
}

// Engine is one dockerd, which may be dead at times. Its methods are safe for concurrent use, but
// Kill, Begin and Close are called by one goroutine.
type Engine struct {
	cfg    Config
	bridge string
	client *http.Client
	ended  chan error // receives once the running dockerd has ended; nil: none runs
	pid    int
}

// Start makes an engine with no containers and one image, Image.
func Start(ctx context.Context, cfg Config) (*Engine, error) {
	if len(cfg.Dir) > dirBytesMax {
		return nil, fmt.Errorf("%s: longer than %d bytes, so that its sockets would have no valid address", cfg.Dir, dirBytesMax)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	e := &Engine{cfg: cfg}
	socket := e.socket()
	e.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 16,
	}}
	if err := e.makeBridge(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if err := e.Begin(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if err := e.importImage(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Engine) socket() string { return filepath.Join(e.cfg.Dir, "docker.sock") }

// Host is its address in the form of DOCKER_HOST.
func (e *Engine) Host() string { return "unix://" + e.socket() }

// Log is the file with what dockerd has said.
func (e *Engine) Log() string { return filepath.Join(e.cfg.Dir, "log") }

// PID is dockerd's.
func (e *Engine) PID() int { return e.pid }

// makeBridge makes the bridge of the containers, on a subnet that no other engine has claimed: the
// interface's name belongs to the subnet.
func (e *Engine) makeBridge() error {
	var problem error
	for i := range 64 {
		name, address := fmt.Sprintf("kvdeng%d", i), fmt.Sprintf("100.%d.0.1/20", 64+i)
		if problem = run("ip", "link", "add", name, "type", "bridge"); problem != nil {
			continue
		}
		e.bridge = name
		return errors.Join(run("ip", "address", "add", address, "dev", name), run("ip", "link", "set", name, "up"))
	}
	return fmt.Errorf("no bridge can be made for the engine: %w", problem)
}

func run(name string, args ...string) error {
	if output, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, bytes.TrimSpace(output))
	}
	return nil
}

// Begin starts dockerd, with args beside those of Config, and returns when it answers.
func (e *Engine) Begin(ctx context.Context, args ...string) error {
	dir := e.cfg.Dir
	// Where nobody reaps orphans, what was killed looks alive to dockerd for as long as it is a zombie.
	for _, stale := range []string{"pid", "exec/containerd/containerd.pid"} {
		os.Remove(filepath.Join(dir, stale))
	}
	log, err := os.OpenFile(e.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("dockerd", append(append([]string{"--host", e.Host(), "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--bridge", e.bridge, "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--userland-proxy=false"},
		e.cfg.Args...), args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		// The kernel sends the signal when this thread ends, which therefore stays as long as dockerd.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	e.ended, e.pid = ended, cmd.Process.Pid
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for {
		err := e.Call(ctx, http.MethodGet, "/_ping", nil, nil)
		if err == nil {
			return nil
		}
		select {
		case end := <-ended:
			e.ended = nil
			return fmt.Errorf("dockerd has ended (%v); its log is %s", end, e.Log())
		case <-ctx.Done():
			return fmt.Errorf("dockerd does not answer (%w); its log is %s", err, e.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends dockerd, and the containerd that hangs on it, by SIGKILL. Containers go on.
func (e *Engine) Kill() error { return e.end(syscall.SIGKILL) }

func (e *Engine) end(signal syscall.Signal) error {
	if e.ended == nil {
		return nil
	}
	if err := syscall.Kill(e.pid, signal); err != nil {
		return err
	}
	select {
	case <-e.ended:
		e.ended = nil
		e.client.CloseIdleConnections()
		return nil
	case <-time.After(stopMax):
		return fmt.Errorf("dockerd does not end within %v of %v; its log is %s", stopMax, signal, e.Log())
	}
}

// Close removes the containers, ends dockerd, and ends and removes what it leaves: also shims that a killed
// dockerd has forgotten, so that nothing runs behind it, whatever went wrong before.
func (e *Engine) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var problems []error
	if e.ended == nil && e.pid != 0 {
		problems = append(problems, e.Begin(ctx))
	}
	if e.ended != nil {
		problems = append(problems, e.removeAll(ctx), e.end(syscall.SIGTERM))
	}
	// An argument below this folder is had by dockerd, containerd and the shims of this engine alone.
	problems = append(problems, endLeftovers(filepath.Join(e.cfg.Dir, "exec")))
	if e.bridge != "" {
		problems = append(problems, run("ip", "link", "delete", e.bridge))
	}
	e.client.CloseIdleConnections()
	for _, left := range []string{"exec/netns/default", "data"} { // by a dockerd that was killed
		exec.Command("umount", filepath.Join(e.cfg.Dir, left)).Run()
	}
	return errors.Join(append(problems, os.RemoveAll(e.cfg.Dir))...)
}

// A StatusError is an answer of the engine that says no.
type StatusError struct {
	Status  int
	Message string
}

func (e *StatusError) Error() string { return fmt.Sprintf("%d: %s", e.Status, e.Message) }

// Call makes one request of the engine's API, in its own version, with give as JSON unless it is
// nil, and decodes the answer into take unless that is nil.
func (e *Engine) Call(ctx context.Context, method, path string, give, take any) error {
	var body io.Reader
	if give != nil {
		encoded, err := json.Marshal(give)
		if err != nil {
			return err
		}
		body = bytes.NewReader(encoded)
	}
	return e.call(ctx, method, path, "application/json", body, take)
}

func (e *Engine) call(ctx context.Context, method, path, kind string, body io.Reader, take any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://engine"+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", kind)
	response, err := e.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s %s: %w", method, path, &StatusError{response.StatusCode, string(bytes.TrimSpace(answer))})
	}
	if take == nil {
		return nil
	}
	return json.Unmarshal(answer, take)
}
