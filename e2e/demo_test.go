package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// demo is one run of `kvctl demo` with a folder for temporary files of its own.
type demo struct {
	t      *testing.T
	cmd    *exec.Cmd
	folder string
	stdout bytes.Buffer
	stderr string // file
}

func startDemo(t *testing.T, flags ...string) *demo {
	t.Helper()
	d := &demo{t: t, folder: t.TempDir()}
	d.cmd = exec.Command(filepath.Join(parts.Build(t), "kvctl"), append([]string{"demo", "--json", "--docker", "off", "--slack", "10"}, flags...)...)
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.folder)
	d.cmd.Stdout = &d.stdout
	d.stderr = filepath.Join(t.TempDir(), "stderr")
	progress, err := os.Create(d.stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer progress.Close()
	d.cmd.Stderr = progress
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.cmd.Process.Kill() })
	return d
}

// wait returns the exit code.
func (d *demo) wait() int {
	d.t.Helper()
	limit := time.AfterFunc(time.Minute, func() { d.cmd.Process.Kill() })
	defer limit.Stop()
	err := d.cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	return d.cmd.ProcessState.ExitCode()
}

func (d *demo) progress() string {
	d.t.Helper()
	text, err := os.ReadFile(d.stderr)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(text)
}

// leftovers names the processes that were started by the demo and still run. They all have its
// folder for temporary files in their environment.
func (d *demo) leftovers() (commands []string) {
	d.t.Helper()
	environments, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, path := range environments {
		environment, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(environment, []byte("TMPDIR="+d.folder+"\x00")) {
			continue // it has ended, or is another user's
		}
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
		commands = append(commands, strings.ReplaceAll(string(command), "\x00", " "))
	}
	return commands
}

func (d *demo) files() []string {
	d.t.Helper()
	entries, err := os.ReadDir(d.folder)
	if err != nil {
		d.t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func eventually(t *testing.T, what string, level func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !level(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func TestTheDemoHoldsAndLeavesNothingBehind(t *testing.T) {
	for _, c := range []struct {
		name, proxy, docker string
		steps               int
	}{
		{"haproxy and containers", "haproxy", "auto", 12},
		{"nginx", "nginx", "off", 10},
		{"nothing but kvd", "builtin", "off", 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.proxy != "builtin" {
				parts.Need(t, c.proxy)
			}
			if c.docker != "off" {
				parts.Docker(t)
			}
			d := startDemo(t, "--proxy", c.proxy, "--docker", c.docker)
			code := d.wait()
			var report struct {
				Pass     bool
				Requests int
				Steps    []struct{ Step string }
				Answers  map[string]int
			}
			if err := json.Unmarshal(d.stdout.Bytes(), &report); err != nil {
				t.Fatalf("%v in %q\n%s", err, d.stdout.String(), d.progress())
			}
			if code != 0 || !report.Pass || len(report.Steps) != c.steps {
				t.Errorf("exit code %d, %+v\n%s", code, report, d.progress())
			}
			for _, backend := range []string{"web-1", "web-2", "web-3", "web-4"} {
				if report.Answers[backend] == 0 {
					t.Errorf("%s never answered: %v", backend, report.Answers)
				}
			}
			if left := d.leftovers(); len(left) > 0 {
				t.Errorf("still running: %q", left)
			}
			if left := d.files(); len(left) > 0 {
				t.Errorf("files left: %q", left)
			}
		})
	}
}

func TestAnInterruptedDemoCleansUp(t *testing.T) {
	d := startDemo(t, "--proxy", "builtin")
	eventually(t, "a backend is added", func() bool { return strings.Contains(d.progress(), "add a backend") })
	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(); code != 130 {
		t.Errorf("exit code %d\n%s", code, d.progress())
	}
	if left := d.leftovers(); len(left) > 0 {
		t.Errorf("still running: %q", left)
	}
	if left := d.files(); len(left) > 0 {
		t.Errorf("files left: %q", left)
	}
}

func TestNoProcessOutlivesAKilledDemo(t *testing.T) {
	d := startDemo(t, "--proxy", "builtin")
	eventually(t, "a backend is added", func() bool { return strings.Contains(d.progress(), "add a backend") })
	if len(d.leftovers()) < 7 {
		t.Fatalf("only %q are running", d.leftovers())
	}
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	d.wait()
	eventually(t, "all processes have ended", func() bool { return len(d.leftovers()) == 0 })
}

func TestADemoThatCannotGoOnSaysWhyAndKeepsItsLogs(t *testing.T) {
	bin := t.TempDir()
	built := parts.Build(t)
	for _, program := range []string{"kvd", "kvctl", "kvsidekick", "kvagent"} {
		if err := os.Symlink(filepath.Join(built, program), filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	broken := filepath.Join(bin, "kvconfd")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho out of paper\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := startDemo(t, "--proxy", "builtin", "--bin", bin)
	code := d.wait()
	var report struct {
		Pass bool
		Kept string
	}
	if err := json.Unmarshal(d.stdout.Bytes(), &report); err != nil {
		t.Fatalf("%v in %q", err, d.stdout.String())
	}
	if code != 7 || report.Pass {
		t.Errorf("exit code %d, pass %v", code, report.Pass)
	}
	for _, part := range []string{"kvconfd", "out of paper", "exit status 3", "FAIL", report.Kept} {
		if !strings.Contains(d.progress(), part) {
			t.Errorf("%q is not in:\n%s", part, d.progress())
		}
	}
	if _, err := os.Stat(filepath.Join(report.Kept, "kvd-1.log")); err != nil {
		t.Error(err)
	}
	if left := d.leftovers(); len(left) > 0 {
		t.Errorf("still running: %q", left)
	}
}

func TestADemoWithoutItsProgramsSaysWhichIsMissing(t *testing.T) {
	d := startDemo(t, "--bin", t.TempDir())
	if code := d.wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(d.progress(), "kvctl is missing") || !strings.Contains(d.progress(), "make build") {
		t.Errorf("got %s", d.progress())
	}
}
