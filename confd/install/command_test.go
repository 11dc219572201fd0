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
	output, err := install.Run(t.Context(), install.Command{Shell: `echo "$((1+1))"; echo err >&2`, Timeout: time.Minute}, install.Vars{})
	if err != nil || output != "2\nerr" {
		t.Errorf("got %q, %v", output, err)
	}
}

func TestAFailingCommandSaysWhatItPrinted(t *testing.T) {
	_, err := install.Run(t.Context(), install.Command{Shell: `echo "bad line 7"; exit 3`, Timeout: time.Minute}, install.Vars{})
	if err == nil || !strings.Contains(err.Error(), "bad line 7") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyTheEndOfLongOutputIsKept(t *testing.T) {
	output, err := install.Run(t.Context(), install.Command{Shell: `head -c 1000000 /dev/zero | tr '\0' x; echo END`, Timeout: time.Minute}, install.Vars{})
	if err != nil || len(output) > 10_000 || !strings.HasSuffix(output, "END") {
		t.Errorf("kept %d bytes, %v", len(output), err)
	}
}

func TestACommandThatTakesTooLongIsKilledWithItsChildren(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	_, err := install.Run(t.Context(), install.Command{Shell: `sleep 600 & echo $! >` + pid + `; wait`, Timeout: 200 * time.Millisecond}, install.Vars{})
	if err == nil || !strings.Contains(err.Error(), "longer than 200ms") {
		t.Errorf("got %v", err)
	}
	waitGone(t, readPID(t, pid))
}

func TestADaemonThatHoldsTheOutputOpenIsNotWaitedFor(t *testing.T) {
	pid := filepath.Join(t.TempDir(), "pid")
	_, err := install.Run(t.Context(), install.Command{Shell: `sleep 600 & echo $! >` + pid, Timeout: time.Minute}, install.Vars{})
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
	_, err := install.Run(ctx, install.Command{Shell: `touch ` + dir + `/started; until test -e ` + dir + `/stopped; do sleep 0.01; done; touch ` + dir + `/finished`, Timeout: time.Minute}, install.Vars{})
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

func TestACheckIsATemplateUnlessItsBracesAreMeantForOthers(t *testing.T) {
	for line, want := range map[string]string{
		`nginx -t -c {{.src}}`:                         `nginx -t -c /s`,
		`cp {{printf "%q" .src}} {{ .dest }}`:          `cp "/s" /d`,
		`{{if .src}}test -f {{.src}}{{end}}`:           `test -f /s`,
		`{{$x := .src}}{{$x}} {{"{{"}}.ID}}`:           `/s {{.ID}}`,
		`{{.src}} {{ .dest }} {{.Names}} {{.source}}`:  `/s /d {{.Names}} {{.source}}`,
		`docker ps --format '{{json .}}' < {{ .src }}`: `docker ps --format '{{json .}}' < /s`,
		`echo {{`: `echo {{`,
	} {
		if got := (install.Command{Shell: line, Template: true}).With(install.Vars{Src: "/s", Dest: "/d"}); got.Shell != want {
			t.Errorf("%s\n got %s\nwant %s", line, got.Shell, want)
		}
	}
}

func TestAReloadKeepsAllBracesButThoseOfItsPlaceholders(t *testing.T) {
	c := install.Command{Shell: `docker kill {{.dest}} {{.src}} {{.ID}} {{"{{"}}`}
	if got, want := c.With(install.Vars{Dest: "/d"}).Shell, `docker kill /d {{.src}} {{.ID}} {{"{{"}}`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
