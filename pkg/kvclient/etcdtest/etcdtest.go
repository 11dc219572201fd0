// Package etcdtest runs a real etcd that serves the v2 API, the reference that tests compare with.
// It knows how to start, stop and wipe one member on loopback; it asserts nothing.
package etcdtest

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

const startMax = 20 * time.Second

// Server is one etcd. It is stopped and its data removed when the test ends.
type Server struct {
	URL string // of its client API

	t       testing.TB
	program string
	dir     string
	peer    string
	flags   []string // of TLS
	http    *http.Client
	cmd     *exec.Cmd
	output  *buffer
}

// Start starts an etcd and waits until it is healthy and its own first writes are over: its index is
// 3 then. Without an etcd it skips t: see parts.Need.
func Start(t testing.TB) *Server {
	t.Helper()
	client, peer := freePorts(t)
	return start(&Server{URL: "http://" + client, t: t, peer: "http://" + peer, http: http.DefaultClient})
}

// StartTLS is Start with TLS: the etcd shows the certificate of files, which has to be one for clients as well, and lets
// in only clients with a certificate of the authority of files.
func StartTLS(t testing.TB, files tlsconfig.Files) *Server {
	t.Helper()
	mine, err := tlsconfig.NewClient(tlsconfig.Config{Files: files})
	if err != nil {
		t.Fatal(err)
	}
	client, peer := freePorts(t)
	transport := &http.Transport{TLSClientConfig: mine.Config("127.0.0.1"), DisableKeepAlives: true}
	return start(&Server{URL: "https://" + client, t: t, peer: "http://" + peer, http: &http.Client{Transport: transport}, flags: []string{
		"--cert-file", files.Cert, "--key-file", files.Key, "--trusted-ca-file", files.CA, "--client-cert-auth",
	}})
}

func start(s *Server) *Server {
	s.t.Helper()
	s.program, s.dir = parts.Path(s.t, "etcd"), s.t.TempDir()
	s.run()
	s.t.Cleanup(s.Stop)
	return s
}

// Stop kills the server and waits for its end.
func (s *Server) Stop() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.cmd = nil
}

// Restart starts a stopped server with its data, and waits until it is healthy.
func (s *Server) Restart() {
	s.t.Helper()
	s.run()
}

// Wipe removes the data of a stopped server.
func (s *Server) Wipe() {
	s.t.Helper()
	if err := os.RemoveAll(s.data()); err != nil {
		s.t.Fatal(err)
	}
}

// Pause stops the server's threads: connections stay and nothing answers. Continue ends it.
func (s *Server) Pause() { s.cmd.Process.Signal(syscall.SIGSTOP) }

// Continue lets a paused server go on.
func (s *Server) Continue() { s.cmd.Process.Signal(syscall.SIGCONT) }

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) run() {
	s.t.Helper()
	s.output = &buffer{}
	s.cmd = exec.Command(s.program, append(slices.Clone(s.flags), "--enable-v2", "--data-dir", s.data(), "--unsafe-no-fsync",
		"--heartbeat-interval", "10", "--election-timeout", "100", // it elects itself: the sooner, the better
		"--listen-client-urls", s.URL, "--advertise-client-urls", s.URL, "--listen-peer-urls", s.peer,
		"--initial-advertise-peer-urls", s.peer, "--initial-cluster", "default="+s.peer)...)
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(startMax); !s.ready(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Stop()
			s.t.Fatalf("etcd is not healthy after %v:\n%s", startMax, s.output)
		}
	}
}

// ready tells whether the server is healthy and the version of its cluster, its last own write, set;
// and whether it is this one, should another process have been given the same port.
func (s *Server) ready() bool {
	for path, want := range map[string]string{"/health": `"true"`, "/version": `"etcdcluster":"3`, "/v2/members": s.peer} {
		response, err := s.http.Get(s.URL + path)
		if err != nil {
			return false
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			return false
		}
	}
	return true
}

// freePorts returns two addresses on loopback that nobody listens on.
func freePorts(t testing.TB) (string, string) {
	t.Helper()
	a, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	return a.Addr().String(), b.Addr().String()
}

// buffer keeps what a process says.
type buffer struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
