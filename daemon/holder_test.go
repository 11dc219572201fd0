package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const socketTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0
   1: 0100007F:094B 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0
   3: 0100007F:D431 0100007F:094B 01 00000000:00000000 00:00000000 00000000     0        0 4714 1 0
   4: 0100007F:D432 0100007F:094B 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0
`

// fakeProc lays out a process table in which process 41 holds the sockets with the inodes 4711 and 4714.
func fakeProc(t *testing.T) string {
	t.Helper()
	proc := t.TempDir()
	err := errors.Join(
		os.MkdirAll(filepath.Join(proc, "net"), 0o700),
		os.MkdirAll(filepath.Join(proc, "41", "fd"), 0o700),
		os.WriteFile(filepath.Join(proc, "net", "tcp"), []byte(socketTable), 0o600),
		os.WriteFile(filepath.Join(proc, "41", "cmdline"), []byte("/usr/bin/etcd\x00--password\x00secret\x00"), 0o600),
		os.Symlink("socket:[4711]", filepath.Join(proc, "41", "fd", "7")),
		os.Symlink("socket:[4714]", filepath.Join(proc, "41", "fd", "8")),
		os.Symlink("/dev/null", filepath.Join(proc, "41", "fd", "0")),
	)
	if err != nil {
		t.Fatal(err)
	}
	return proc
}

func TestTheHolderOfAPortIsNamedWithoutItsArguments(t *testing.T) {
	for port, want := range map[int]portUse{2379: listening, 0xD431: calling} {
		if use, holder := lookAtPort(fakeProc(t), port); use != want || holder != "etcd (pid 41)" {
			t.Errorf("port %d: use %d by %q, want %d", port, use, holder, want)
		}
	}
}

func TestAHolderThatMayNotBeSeenIsNotInvented(t *testing.T) {
	proc := fakeProc(t)
	for port, want := range map[int]portUse{80: listening, 81: unseen, 0xD432: lingering} {
		if use, holder := lookAtPort(proc, port); use != want || strings.Contains(holder, "pid") {
			t.Errorf("port %d: use %d by %q, want %d by nobody known", port, use, holder, want)
		}
	}
}

func TestAPortThatAnEndedConnectionHoldsIsFreeAgainSoon(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	near, err := net.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + near.LocalAddr().String()
	_, err = listenAll(net.Listen, "listen-client-urls", []string{url}, map[int]bool{})
	if want := fmt.Sprintf("(pid %d) begins at that port", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("while it lasts: error %v, want %q in it", err, want)
	}
	near.Close() // the end that closes first keeps its port
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	far.Close()
	_, err = listenAll(net.Listen, "listen-client-urls", []string{url}, map[int]bool{})
	if err == nil {
		t.Skip("part missing: a system that keeps the ports of ended connections")
	}
	for _, want := range []string{"has ended, and the system keeps the port for up to a minute; try again then", "or use a free port: --listen-client-urls http://127.0.0.1:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want %q in it", err, want)
		}
	}
}
