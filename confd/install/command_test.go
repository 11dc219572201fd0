package install_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/install"
)

func TestACommandRunsInAShellAndItsOutputIsKept(t *testing.T) {
	output, err := install.Run(t.Context(), `echo "$((1+1))"; echo err >&2`, time.Minute)
	if err != nil || output != "2\nerr" {
		t.Errorf("got %q, %v", output, err)
	}
}

func TestAFailingCommandSaysWhatItPrinted(t *testing.T) {
	_, err := install.Run(t.Context(), `echo "bad line 7"; exit 3`, time.Minute)
	if err == nil || !strings.Contains(err.Error(), "bad line 7") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyTheEndOfLongOutputIsKept(t *testing.T) {
	output, err := install.Run(t.Context(), `head -c 1000000 /dev/zero | tr '\0' x; echo END`, time.Minute)
	if err != nil || len(output) > 10_000 || !strings.HasSuffix(output, "END") {
		t.Errorf("kept %d bytes, %v", len(output), err)
	}
}

func TestACommandThatTakesTooLongIsKilledWithItsChildren(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	_, err := install.Run(t.Context(), `sleep 600 & echo $! >`+pid+`; wait`, 200*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "longer than 200ms") {
		t.Errorf("got %v", err)
	}
	waitGone(t, readPID(t, pid))
}

func TestADaemonThatHoldsTheOutputOpenIsNotWaitedFor(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	_, err := install.Run(t.Context(), `sleep 600 & echo $! >`+pid, time.Minute)
	if err != nil {
		t.Errorf("got %v", err)
	}
	daemon := readPID(t, pid)
	if err := syscall.Kill(daemon, 0); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
	syscall.Kill(daemon, syscall.SIGKILL)
}

func TestACommandMayFinishAfterTheAgentWasToldToStop(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		for range 1000 { // 10 s
			if _, err := os.Stat(filepath.Join(dir, "started")); err == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		stop()
		os.WriteFile(filepath.Join(dir, "stopped"), nil, 0o600)
	}()
	_, err := install.Run(ctx, `touch `+dir+`/started; until test -e `+dir+`/stopped; do sleep 0.01; done; touch `+dir+`/finished`, time.Minute)
	if _, missing := os.Stat(filepath.Join(dir, "finished")); err != nil || missing != nil {
		t.Errorf("got %v, %v", err, missing)
	}
}

func readPID(t *testing.T, path string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func waitGone(t *testing.T, pid int) {
	t.Helper()
	for range 1000 { // 10 s
		if state, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}
