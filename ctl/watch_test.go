package ctl_test

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

func TestWatchForeverPrintsWhatEtcdctlPrints(t *testing.T) {
	original := etcdctl{parts.Path(t, "etcdctl")}
	url := etcdtest.Start(t).URL
	for _, line := range []string{"set|/w/a|0", "set|/w/a|1", "mkdir|/w/dir", "mk|/w/b|x", "rm|/w/a", "rm|--with-value|x|/w/b", "set|/w/last|end"} {
		if got := kvctl(t, url, strings.Split(line, "|")...); got.code != 0 {
			t.Fatalf("%s: %+v", line, got)
		}
	}
	for _, flags := range [][]string{
		{"watch", "-f", "-r", "--after-index", "4", "/w"},
		{"-o", "json", "watch", "--forever", "--recursive", "--after-index", "4", "/w"},
		{"-o", "extended", "watch", "-f", "-r", "--after-index", "4", "/w"},
	} {
		// etcdctl says nothing when it is done, so its last change is waited for.
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		theirs := original.command(ctx, url, flags...)
		pipe, err := theirs.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := theirs.Start(); err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		for scanner := bufio.NewScanner(pipe); scanner.Scan(); {
			want.WriteString(scanner.Text() + "\n")
			if text := scanner.Text(); text == "end" || strings.Contains(text, `"value":"end"`) {
				theirs.Process.Signal(os.Interrupt)
			}
		}
		if err := theirs.Wait(); err != nil {
			t.Errorf("etcdctl: %v", err)
		}

		ours, end := context.WithCancel(t.Context())
		defer end()
		var stdout, stderr output
		ended := make(chan int)
		go func() { ended <- call{endpoint: url, args: flags}.start(ours, &stdout, &stderr) }()
		stdout.waitFor(t, "end")
		end()
		if code := <-ended; code != 0 || stdout.String() != want.String() {
			t.Errorf("%q: code %d and\n%s\nwant\n%s\nstderr %s", flags, code, &stdout, want.String(), &stderr)
		}
	}
}

func TestAWatchOutlivesItsServer(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var stdout, stderr output
	ended := make(chan int)
	go func() {
		ended <- call{endpoint: cluster.URL(), args: []string{"watch", "-f", "/a"}}.start(ctx, &stdout, &stderr)
	}()
	for _, value := range []string{"first", "second", "third"} {
		for deadline := time.Now().Add(patience); !strings.Contains(stdout.String(), value); {
			kvctl(t, cluster.URL(), "set", "/a", value) // again, until the watch is there
			if time.Now().After(deadline) {
				t.Fatalf("no %q in %q, %q", value, stdout.String(), stderr.String())
			}
		}
		cluster.Restart()
	}
	end()
	if code := <-ended; code != 0 {
		t.Errorf("code %d: %s", code, &stderr)
	}
}

func TestASignalEndsTheRunningCommandFirst(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	kvctl(t, cluster.URL(), "set", "/a", "1")
	mark := filepath.Join(t.TempDir(), "mark")
	script := `trap 'echo ended >"` + mark + `"; exit' TERM; echo $$; while :; do sleep 0.05; done`
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var stdout, stderr output
	ended := make(chan int)
	go func() {
		ended <- call{endpoint: cluster.URL(), args: []string{"exec-watch", "--after-index", "1", "/a", "--", "sh", "-c", script}}.start(ctx, &stdout, &stderr)
	}()
	stdout.waitFor(t, "\n")
	end()
	if code := <-ended; code != 0 {
		t.Errorf("code %d: %s", code, &stderr)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the command was not asked to end: %v", err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(stdout.String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(child, 0); err == nil {
		t.Error("the command is still there")
	}
}

func TestOutputThatCannotBeWrittenIsAnError(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("part missing: /dev/full: %v", err)
	}
	defer full.Close()
	url := daemontest.Start(t, 1).URL()
	var stderr output
	if code := (call{endpoint: url, args: []string{"set", "/a", "1"}}).start(t.Context(), full, &stderr); code != 1 || !strings.Contains(stderr.String(), "cannot write the output") {
		t.Errorf("code %d: %s", code, &stderr)
	}
}
