package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// haRig is a real HAProxy, its file and an applier for it.
type haRig struct {
	*HAProxy
	t      testing.TB
	dir    string
	file   string
	cmd    *exec.Cmd
	output buffer
}

// buffer is written to by a process and read by a test.
type buffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

// haHead is the begin of each test's file. A field is %[1]s for the directory.
const haHead = `global
    stats socket %[1]s/socket mode 600 level admin expose-fd listeners
    stats timeout 30s
    hard-stop-after 5s
    log stderr format raw local0 warning
defaults
    mode http
    log global
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    retries 3
    option redispatch 1
    default-server check inter 2s fastinter 500ms downinter 1s fall 2 rise 1 init-addr last,libc,none
`

// newHARig starts HAProxy as master and worker with text after the head.
func newHARig(t testing.TB, text string) *haRig {
	t.Helper()
	parts.Need(t, "haproxy")
	r := &haRig{t: t, dir: shortDir(t)}
	r.file = filepath.Join(r.dir, "haproxy.cfg")
	r.write(r.config(text))
	r.HAProxy = NewHAProxy(HAProxyConfig{Socket: r.dir + "/socket", MasterSocket: r.dir + "/master", Log: slog.New(slog.NewTextHandler(&r.output, nil))})
	r.start()
	return r
}

// shortDir is a directory whose path leaves room for the names of sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ha")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (r *haRig) config(text string) string { return fmt.Sprintf(haHead, r.dir) + text }

func (r *haRig) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.file, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *haRig) start() {
	r.t.Helper()
	r.cmd = exec.Command(parts.Path(r.t, "haproxy"), "-W", "-f", r.file, "-S", r.dir+"/master")
	r.cmd.Stdout, r.cmd.Stderr = &r.output, &r.output
	r.cmd.WaitDelay = 5 * time.Second
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	cmd := r.cmd
	r.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Signal(syscall.SIGTERM)
			cmd.Wait()
		}
		if r.t.Failed() {
			r.t.Logf("output of HAProxy:\n%s", r.output.String())
		}
	})
	r.until("HAProxy answers", func() bool {
		_, err := r.ask(r.t.Context())
		return err == nil
	})
}

// until waits for a level, for half a minute.
func (r *haRig) until(what string, level func() bool) { r.t.Helper(); until(r.t, what, level) }

func until(t testing.TB, what string, level func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for poll := newPoll(); !level(); {
		if !poll.wait(ctx) {
			t.Fatalf("it did not come about that %s", what)
		}
	}
}

// reload has the master read the file again.
func (r *haRig) reload() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		r.t.Fatal(err)
	}
}

// rests waits until a server has no request under way: one that was answered may still count for a moment.
func (r *haRig) rests(server string) {
	r.t.Helper()
	r.until(server+" has no request under way", func() bool {
		used, _ := connections(r.send("show servers conn"), server)
		return len(used) == 1 && used[0] == "0"
	})
}

// send sends commands as an operator would.
func (r *haRig) send(commands ...string) string {
	r.t.Helper()
	answer, err := r.socket.ask(r.t.Context(), commands...)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer
}

// bring goes from one text to the next the way the agent does, and says by what kind of plan.
func (r *haRig) bring(live, next string) Kind {
	r.t.Helper()
	ctx := r.t.Context()
	plan, err := r.Plan(ctx, []byte(r.config(live)), []byte(r.config(next)))
	if err != nil {
		r.t.Fatal(err)
	}
	var mark Mark
	switch plan.Kind {
	case Runtime:
		err := r.Apply(ctx, plan)
		if err == nil {
			r.write(r.config(next))
			break
		}
		if !strings.Contains(err.Error(), "under way at its old address") && !strings.Contains(err.Error(), "cannot be added yet") {
			r.t.Fatalf("%s: %v", plan, err)
		}
		plan = Plan{Kind: Reload, Reason: err.Error()}
		fallthrough
	case Reload:
		r.t.Log(plan)
		if mark, err = r.Mark(ctx); err != nil {
			r.t.Fatal(err)
		}
		r.write(r.config(next))
		r.reload()
	}
	if err := r.Confirm(ctx, []byte(r.config(next)), mark); err != nil {
		r.t.Fatalf("after %s: %v", plan, err)
	}
	return plan.Kind
}

// backend is an HTTP server that answers with its name and closes each connection, or keeps it.
func newBackend(t testing.TB, name string, keep bool) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go serve(listener, name, keep)
	return listener.Addr().String()
}

func serve(listener net.Listener, name string, keep bool) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buffer := make([]byte, 4096)
			for {
				n, err := conn.Read(buffer)
				if err != nil || n == 0 {
					return
				}
				header := "Connection: close\r\n"
				if keep {
					header = ""
				}
				fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", len(name), header, name)
				if !keep {
					return
				}
			}
		}()
	}
}

// get asks for a page on a connection of its own, and returns its body or what went wrong.
func get(address string) string {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	if !strings.HasPrefix(head, "HTTP/1.1 200 ") {
		return "answered " + head
	}
	return body
}

// freeAddress returns a loopback address where nobody listens.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
