package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startShell runs a shell script as a child that the test ends in any case.
func startShell(t *testing.T, script string) *process {
	t.Helper()
	p, err := start(t.TempDir(), "child", nil, "/bin/sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// eventually waits until level is true.
func eventually(t *testing.T, what string, level func() bool) {
	t.Helper()
	if err := new(crew).await(t.Context(), 10*time.Second, level); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func contains(path, text string) func() bool {
	return func() bool {
		data, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(data), text)
	}
}

func exists(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestAStoppedProcessGetsToCleanUp(t *testing.T) {
	p := startShell(t, `trap 'echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.01; done`)
	eventually(t, "ready", contains(p.log, "ready"))
	if err := p.stop(5 * time.Second); err != nil {
		t.Error(err)
	}
	if !contains(p.log, "cleaned")() {
		t.Error("it was killed instead")
	}
}

func TestAProcessThatWillNotStopIsKilledWithItsChildren(t *testing.T) {
	p := startShell(t, `trap '' TERM; sleep 1000 & echo child $!; wait; while :; do sleep 1000; done`)
	eventually(t, "child", contains(p.log, "child "))
	err := p.stop(50 * time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "did not end within 50ms") {
		t.Errorf("stop: %v", err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(lastLines(p.log, 1), "    child ")))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the grandchild is gone", func() bool { return !exists(child) || isZombie(child) })
}

// isZombie tells a process that has ended and that nobody has asked about yet: where the tests
// run as the first process of a container, orphans stay like that.
func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestWhatAProcessLeavesBehindEndsWithIt(t *testing.T) {
	p := startShell(t, `sleep 1000 & echo child $!`)
	<-p.ended
	child, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(lastLines(p.log, 1), "    child ")))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the grandchild is gone", func() bool { return !exists(child) || isZombie(child) })
}

func TestStoppingAnEndedProcessIsNoError(t *testing.T) {
	p := startShell(t, "exit 3")
	<-p.ended
	if err := p.stop(time.Second); err != nil {
		t.Error(err)
	}
}

func TestADeadEssentialChildIsReportedWithItsLastWords(t *testing.T) {
	var c crew
	p := startShell(t, "echo the reason; exit 3")
	c.joinEssential(p)
	err := c.await(t.Context(), 10*time.Second, func() bool { return false })
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
	c.release(p)
	if err := c.check(); err != nil {
		t.Errorf("after release: %v", err)
	}
}

func TestWaitingHasABound(t *testing.T) {
	if err := new(crew).await(t.Context(), 20*time.Millisecond, func() bool { return false }); err == nil || !strings.Contains(err.Error(), "not within 20ms") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := new(crew).await(ctx, time.Hour, func() bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestACrewIsDismissedInReverseOrderWhateverFails(t *testing.T) {
	var c crew
	var order []int
	for i := range 3 {
		c.later(func() error {
			order = append(order, i)
			if i == 1 {
				return errors.New("one")
			}
			return nil
		})
	}
	if err := c.dismiss(); err == nil || err.Error() != "one" {
		t.Errorf("got %v", err)
	}
	if fmt.Sprint(order) != "[2 1 0]" {
		t.Errorf("order %v", order)
	}
	if err := c.dismiss(); err != nil || len(order) != 3 {
		t.Errorf("a second time: %v, %v", err, order)
	}
}

func TestChildrenGetAPlainEnvironment(t *testing.T) {
	t.Setenv("KVD_DATA_DIR", "/elsewhere")
	t.Setenv("ETCDCTL_ENDPOINTS", "http://elsewhere")
	p, err := start(t.TempDir(), "child", []string{"KVD_HTTP_ADDR=here"}, "/bin/sh", "-c", "set")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.wait(t.Context(), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if contains(p.log, "elsewhere")() || !contains(p.log, "KVD_HTTP_ADDR='here'")() && !contains(p.log, "KVD_HTTP_ADDR=here")() {
		t.Errorf("environment:\n%s", lastLines(p.log, 50))
	}
}

func TestLastLinesOfALongLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(strings.Repeat("earlier\n", 10_000)+"one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lastLines(path, 2); got != "    one\n    two" {
		t.Errorf("got %q", got)
	}
}
