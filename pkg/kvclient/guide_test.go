package kvclient_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

func TestTheProgramOfTheGuideRuns(t *testing.T) {
	guide, err := os.ReadFile("../../docs/how-to/go-client.md")
	if err != nil {
		t.Fatal(err)
	}
	_, program, found := strings.Cut(string(guide), "\n```go\n")
	program, _, ended := strings.Cut(program, "\n```\n")
	if !found || !ended {
		t.Fatal("no program in the guide")
	}
	folder := t.TempDir()
	write(t, filepath.Join(folder, "main.go"), []byte(program))
	binary := filepath.Join(folder, "guide")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, filepath.Join(folder, "main.go")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	url := daemontest.Start(t, 1).URL()
	client := open(t, inOrder(url))
	set(t, client, "/services/web", "10.0.0.1:80")
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env = append(os.Environ(), "KVCTL_ENDPOINTS="+url)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	expect := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("got %q, want %q\n%s", lines.Text(), want, trouble.String())
		}
	}
	expect("map[/services/web:10.0.0.1:80]")
	set(t, client, "/services/db", "10.0.0.2:5432")
	expect("map[/services/db:10.0.0.2:5432 /services/web:10.0.0.1:80]")
	remove(t, client, "/services/web")
	expect("map[/services/db:10.0.0.2:5432]")
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	cmd.Wait() // killed
}
