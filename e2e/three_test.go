package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// three are the places of three members on this machine, and what runs there.
type three struct {
	t       *testing.T
	dir     string
	clients [3]string // URLs
	peers   [3]string
	running [3]*exec.Cmd
}

func newThree(t *testing.T) *three {
	th := &three{t: t, dir: t.TempDir()}
	ports := freePorts(t, 6)
	for i := range 3 {
		th.clients[i], th.peers[i] = "http://127.0.0.1:"+ports[i], "http://127.0.0.1:"+ports[3+i]
	}
	t.Cleanup(func() {
		for i := range 3 {
			th.stop(i, syscall.SIGKILL)
		}
	})
	return th
}

func (th *three) data(i int) string { return filepath.Join(th.dir, fmt.Sprint("n", i+1)) }

// cluster returns --initial-cluster of the members given.
func (th *three) cluster(members ...int) string {
	var list []string
	for _, i := range members {
		list = append(list, fmt.Sprintf("n%d=%s", i+1, th.peers[i]))
	}
	return strings.Join(list, ",")
}

func (th *three) start(i int, cluster, token string) {
	th.t.Helper()
	cmd := exec.Command(filepath.Join(parts.Build(th.t), "kvd"), "--name", fmt.Sprint("n", i+1), "--data-dir", th.data(i),
		"--listen-client-urls", th.clients[i], "--advertise-client-urls", th.clients[i], "--listen-peer-urls", th.peers[i],
		"--initial-advertise-peer-urls", th.peers[i], "--initial-cluster", cluster, "--initial-cluster-token", token)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(filepath.Join(th.dir, fmt.Sprint("log", i+1)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		th.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		th.t.Fatal(err)
	}
	th.running[i] = cmd
}

func (th *three) stop(i int, signal syscall.Signal) {
	if cmd := th.running[i]; cmd != nil {
		cmd.Process.Signal(signal)
		cmd.Wait()
		th.running[i] = nil
	}
}

// run runs a program of the suite and returns what it prints.
func (th *three) run(name string, args ...string) string {
	th.t.Helper()
	out, err := exec.Command(filepath.Join(parts.Build(th.t), name), args...).CombinedOutput()
	if err != nil {
		th.fail("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// said returns what the processes of member i have told so far.
func (th *three) said(i int) string {
	th.t.Helper()
	text, err := os.ReadFile(filepath.Join(th.dir, fmt.Sprint("log", i+1)))
	if err != nil {
		th.t.Fatal(err)
	}
	return string(text)
}

func (th *three) fail(format string, args ...any) {
	th.t.Helper()
	for i := range 3 {
		if log, err := os.ReadFile(filepath.Join(th.dir, fmt.Sprint("log", i+1))); err == nil {
			th.t.Logf("n%d:\n%s", i+1, log)
		}
	}
	th.t.Fatalf(format, args...)
}

// await asks member i for path until ok accepts the answer.
func (th *three) await(i int, path string, ok func(status int, body string) bool) {
	th.t.Helper()
	client := http.Client{Timeout: 5 * time.Second}
	last := ""
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		response, err := client.Get(th.clients[i] + path)
		if err != nil {
			last = err.Error()
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if last = string(body); err == nil && ok(response.StatusCode, last) {
			return
		}
	}
	th.fail("n%d: %s does not become what it should: %s", i+1, path, last)
}

func (th *three) healthy(i int) {
	th.t.Helper()
	th.await(i, "/health", func(status int, _ string) bool { return status == http.StatusOK })
}

// equal waits until all members that run show the same state at the same entry of the log.
func (th *three) equal() {
	th.t.Helper()
	client := http.Client{Timeout: 5 * time.Second}
	marks := map[string]bool{}
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		clear(marks)
		for i := range 3 {
			if th.running[i] == nil {
				continue
			}
			mark := fmt.Sprintf("nothing from n%d", i+1)
			if response, err := client.Get(th.clients[i] + "/debug/state"); err == nil {
				body, _ := io.ReadAll(response.Body)
				response.Body.Close()
				mark = string(body)
			}
			marks[mark] = true
		}
		if len(marks) == 1 {
			return
		}
	}
	th.fail("they do not become equal: %v", marks)
}

func TestThreeMembersAreRestoredAndOneOfThemSurvivesTheOthers(t *testing.T) {
	th := newThree(t)
	all := th.cluster(0, 1, 2)
	for i := range 3 {
		th.start(i, all, "first")
	}
	for i := range 3 {
		th.healthy(i)
	}
	th.run("kvctl", "--endpoints", th.clients[1], "set", "/before", "1")
	th.run("kvctl", "--endpoints", th.clients[1], "set", "--ttl", "1000", "/lease", "1")
	file := filepath.Join(th.dir, "store.snap")
	th.run("kvctl", "--endpoints", th.clients[2], "snapshot", "save", file)
	th.run("kvctl", "--endpoints", th.clients[0], "set", "/too-late", "1")
	for i := range 3 {
		th.stop(i, syscall.SIGTERM)
		if err := os.Rename(th.data(i), th.data(i)+".old"); err != nil {
			t.Fatal(err)
		}
	}

	for i := range 3 {
		th.run("kvctl", "snapshot", "restore", file, "--name", fmt.Sprint("n", i+1), "--data-dir", th.data(i), "--initial-cluster", all,
			"--initial-cluster-token", "second", "--initial-advertise-peer-urls", th.peers[i])
	}
	for i := range 3 {
		th.start(i, all, "second")
	}
	for i := range 3 {
		th.healthy(i)
	}
	th.equal()
	if got := th.run("kvctl", "--endpoints", th.clients[0], "ls", "--sort", "/"); got != "/before\n/lease\n" {
		th.fail("after the restore there is %q", got)
	}
	th.run("kvctl", "--endpoints", th.clients[2], "set", "/after", "1")
	th.equal()
	th.await(1, "/v2/members", func(_ int, body string) bool { return strings.Count(body, `"clientURLs":["http`) == 3 })

	// Two of three are gone: the third goes on alone, and those that come back find themselves shut out.
	th.stop(0, syscall.SIGKILL)
	th.stop(1, syscall.SIGKILL)
	rescue := filepath.Join(th.dir, "rescue.snap")
	save := exec.Command(filepath.Join(parts.Build(t), "kvctl"), "--endpoints", th.clients[2], "snapshot", "save", rescue)
	if out, err := save.CombinedOutput(); err == nil || save.ProcessState.ExitCode() != 5 || !strings.Contains(string(out), "serializable") {
		th.fail("without a quorum a save ends with %v\n%s", err, out)
	}
	th.run("kvctl", "--endpoints", th.clients[2], "snapshot", "save", "--serializable", rescue)
	if got := th.run("kvctl", "snapshot", "ls", rescue); got != "/after\n/before\n/lease\n" {
		th.fail("the rescued file holds %q", got)
	}
	th.stop(2, syscall.SIGTERM)
	if told := th.run("kvd", "recover", "--name", "n3", "--data-dir", th.data(2)); !strings.Contains(told, "with n1, n2") {
		th.fail("recover tells %s", told)
	}
	th.start(2, th.cluster(2), "second")
	th.healthy(2)
	if got := th.run("kvctl", "--endpoints", th.clients[2], "ls", "--sort", "/"); got != "/after\n/before\n/lease\n" {
		th.fail("after the recovery there is %q", got)
	}
	th.start(0, all, "second")
	th.await(0, "/health", func(status int, _ string) bool { return status != http.StatusOK })
	th.run("kvctl", "--endpoints", th.clients[2], "set", "/alone", "1")
	th.await(2, "/v2/members", func(_ int, body string) bool { return strings.Count(body, `"id":`) == 1 })
	th.await(0, "/v2/keys/alone", func(status int, _ string) bool { return status == http.StatusNotFound })
}
