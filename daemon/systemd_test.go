package daemon_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheServiceManagerHearsReadyAliveAndStopping(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "100000")
	p := startProcess(t)
	hear := func(want string) {
		t.Helper()
		socket.SetReadDeadline(time.Now().Add(20 * time.Second))
		for buffer := make([]byte, 4096); ; {
			n, err := socket.Read(buffer)
			if err != nil {
				t.Fatalf("did not hear %s: %v", want, err)
			}
			if strings.Contains(string(buffer[:n]), want) {
				return
			}
		}
	}
	hear("READY=1")
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	p.cmd.Process.Signal(os.Interrupt)
	hear("STOPPING=1")
	if code := p.end(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, p.log)
	}
}
