package systemd_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// store is a kvd of one member on this machine, which the host reaches at the gateway of its network.
type store struct {
	t       *testing.T
	URL     string
	args    []string
	log     *os.File
	process *exec.Cmd
	ended   chan struct{}
}

func startStore(t *testing.T, address string) *store {
	t.Helper()
	folder := t.TempDir()
	log, err := os.Create(filepath.Join(folder, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	s := &store{t: t, log: log, URL: "http://" + net.JoinHostPort(address, freePort(t, address))}
	peer := "http://" + net.JoinHostPort("127.0.0.1", freePort(t, "127.0.0.1"))
	s.args = []string{"--name", "n1", "--data-dir", filepath.Join(folder, "data"),
		"--listen-client-urls", s.URL, "--advertise-client-urls", s.URL,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "n1=" + peer}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func freePort(t *testing.T, address string) string {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

// start runs the program and waits until it takes writes.
func (s *store) start() {
	s.t.Helper()
	s.process = exec.Command(filepath.Join(parts.Build(s.t), "kvd"), s.args...)
	s.process.Stdout, s.process.Stderr = s.log, s.log
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	process, ended := s.process, make(chan struct{})
	s.ended = ended
	go func() { defer close(ended); process.Wait() }()
	client := s.client()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		_, err := client.Write(ctx, kv.Write{Op: kv.OpSet, Key: "/hello", Value: "world"})
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			text, _ := os.ReadFile(s.log.Name())
			s.t.Fatalf("the store does not answer: %v\n%s", err, text)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kill ends the store as a crash does.
func (s *store) kill() {
	s.process.Process.Kill()
	<-s.ended
}

func (s *store) client() *kvclient.Client {
	s.t.Helper()
	client, err := kvclient.New(kvclient.Config{Endpoints: []string{s.URL}})
	if err != nil {
		s.t.Fatal(fmt.Errorf("client of %s: %w", s.URL, err))
	}
	s.t.Cleanup(func() { client.Close() })
	return client
}
