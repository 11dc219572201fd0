package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// invited are processes of members whose peer ports speak TLS, below one directory.
type invited struct {
	t    *testing.T
	dir  string
	logs int
}

// run runs a program of the suite in the directory and returns its exit code and what it prints.
func (in *invited) run(name string, args ...string) (int, string) {
	in.t.Helper()
	cmd := exec.Command(filepath.Join(parts.Build(in.t), name), args...)
	cmd.Dir = in.dir
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		in.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func (in *invited) must(name string, args ...string) string {
	in.t.Helper()
	code, out := in.run(name, args...)
	if code != 0 {
		in.t.Fatalf("%s %q: exit code %d\n%s", name, args, code, out)
	}
	return out
}

// start starts a member that trusts the authority in ca, and returns the process and the file of its log.
func (in *invited) start(name, ca, client, peer string, args ...string) (*exec.Cmd, string) {
	in.t.Helper()
	in.logs++
	path := filepath.Join(in.dir, fmt.Sprint("log", in.logs))
	log, err := os.Create(path)
	if err != nil {
		in.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(parts.Build(in.t), "kvd"), append([]string{"--name", name, "--data-dir", name,
		"--listen-client-urls", client, "--listen-peer-urls", peer, "--initial-cluster-token", "ours",
		"--peer-cert-file", ca + "/peer-n.crt", "--peer-key-file", ca + "/peer-n.key", "--peer-trusted-ca-file", ca + "/ca.crt"}, args...)...)
	cmd.Dir, cmd.Stderr = in.dir, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		in.t.Fatal(err)
	}
	in.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, path
}

// TestAMemberJoinsByAnInvitationOverTLS: the line names the authority by its fingerprint, is good once, and
// for its time; whoever has another authority, or another's invitation, is told.
func TestAMemberJoinsByAnInvitationOverTLS(t *testing.T) {
	t.Parallel()
	in := &invited{t: t, dir: t.TempDir()}
	for _, ca := range []string{"certs", "others"} {
		in.must("kvctl", "cert", "--out", ca, "init")
		in.must("kvctl", "cert", "--out", ca, "issue", "peer", "n", "--host", "localhost,127.0.0.1")
	}
	ports := freePorts(t, 6)
	client := func(i int) string { return "http://127.0.0.1:" + ports[i] }
	peer := func(i int) string { return "https://127.0.0.1:" + ports[3+i] }
	in.start("n1", "certs", client(0), peer(0))
	ready := func(i int) {
		t.Helper()
		await(t, "it is healthy", func() bool {
			code, _ := in.run("kvctl", "--endpoints", client(i), "endpoint", "health")
			return code == 0
		})
	}
	ready(0)
	invite := func(args ...string) string {
		t.Helper()
		line := strings.TrimSpace(in.must("kvctl", append([]string{"--endpoints", client(0), "member", "invite"}, args...)...))
		if !strings.Contains(line, peer(0)+",") || !strings.Contains(line, ",token=") || !strings.Contains(line, ",ca=") {
			t.Fatalf("the invitation is %s", line)
		}
		return line
	}
	refused := func(what, wants, name, ca string, args ...string) {
		t.Helper()
		cmd, path := in.start(name, ca, client(2), peer(2), args...)
		late := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		defer late.Stop()
		cmd.Wait()
		said, err := os.ReadFile(path)
		if code := cmd.ProcessState.ExitCode(); err != nil || code != 1 || !strings.Contains(string(said), wants) {
			t.Errorf("%s: exit code %d, %v\n%s\nwant %q", what, code, err, said, wants)
		}
	}
	line := invite("--name", "n2")
	refused("another authority's fingerprint", "the authority of the cluster has the fingerprint", "n2", "others", "--join", line)
	altered := flip(line[:strings.LastIndex(line, ",name=")]) + ",name=n2"
	refused("a fingerprint that was altered", "the authority of the cluster has the fingerprint", "n2", "certs", "--join", altered)
	refused("the name of another member", "for a member that is called n2", "n3", "certs", "--join", line)

	second, _ := in.start("n2", "certs", client(1), peer(1), "--join", line)
	ready(1)
	await(t, "n2 votes", func() bool {
		return strings.Count(in.must("kvctl", "--endpoints", client(1), "member", "list"), " voter ") == 2
	})
	in.must("kvctl", "--endpoints", client(1), "set", "/a", "1")
	refused("used before", "this invitation was used before: each is for one member; make a new invitation with kvctl member invite", "n2", "certs", "--join", line, "--data-dir", "n2-again")

	short := invite("--name", "n3", "--ttl", "1s")
	// With an address that another member has it is refused all the same, and stays as it is.
	args := []string{"--name", "n3", "--data-dir", "n3", "--listen-client-urls", client(2), "--listen-peer-urls", peer(2), "--initial-advertise-peer-urls", peer(0),
		"--peer-cert-file", "certs/peer-n.crt", "--peer-key-file", "certs/peer-n.key", "--peer-trusted-ca-file", "certs/ca.crt", "--join", short}
	await(t, "its time is over", func() bool {
		code, out := in.run("kvd", args...)
		over := strings.Contains(out, "it was not used in time")
		if code != 1 || !over && !strings.Contains(out, "another member has one of these peer URLs already; remove that member") {
			t.Fatalf("exit code %d\n%s", code, out)
		}
		return over
	})
	if list := in.must("kvctl", "--endpoints", client(0), "member", "list"); strings.Count(list, "https://") != 2 {
		t.Errorf("after all that the members are\n%s", list)
	}
	second.Process.Signal(syscall.SIGTERM)
	second.Wait()
	again, _ := in.start("n2", "certs", client(1), peer(1), "--join", line)
	ready(1)
	again.Process.Signal(syscall.SIGTERM)
	again.Wait()
}

// flip changes the last digit of a line.
func flip(line string) string {
	last := "0"
	if strings.HasSuffix(line, last) {
		last = "1"
	}
	return line[:len(line)-1] + last
}
