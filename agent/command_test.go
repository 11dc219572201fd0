package agent

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/program"
)

// kvagent runs the program to its end and returns its exit code and what it wrote to stderr.
func kvagent(t testing.TB, env map[string]string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	lookup := func(name string) (string, bool) { value, found := env[name]; return value, found }
	var stderr bytes.Buffer
	code := program.Run(ctx, Program(), args, lookup, &program.Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &stderr})
	if ctx.Err() != nil {
		t.Fatalf("kvagent %q did not end within %v\n%s", args, limit, &stderr)
	}
	return code, stderr.String()
}

func TestBadSettingsAreNamedAndNothingStarts(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--prefix", "services"}, "--prefix"},
		{[]string{"--prefix", "/a//b"}, "--prefix"},
		{[]string{"--prefix", "/"}, "a directory below the root"},
		{[]string{"--ttl", "10ms"}, "--ttl"},
		{[]string{"--ttl", "soon"}, "ttl"},
		{[]string{"--ip", "0.0.0.0"}, "--ip"},
		{[]string{"--ip", "10.0.0.1:80"}, "--ip"},
		{[]string{"--ip", "store.example"}, "--ip"},
		{[]string{"--host", "a/b"}, "--host"},
		{[]string{"--host", "a_b"}, "--host"},
		{[]string{"--network", "x"}, "--internal"},
		{[]string{"--engine-timeout", "-1s"}, "--engine-timeout"},
		{[]string{"--shutdown-drain", "-1s"}, "--shutdown-drain"},
		{[]string{"--tags", "a\nb"}, "--tags"},
		{[]string{"--docker-host", "ssh://there"}, "--docker-host"},
		{[]string{"--endpoints", "ftp://there"}, "ftp"},
		{[]string{"--tags", "{{.Nope}}"}, "can't evaluate field Nope"},
		{[]string{"--tags", "{{sIndex}"}, "--tags"},
		{[]string{"--ip", "10.0.0.1,10.0.0.2"}, "one address of each family"},
		{[]string{"--layout", "json:services"}, "--layout"},
		{[]string{"--layout", "yaml:/services"}, "is no layout"},
		{[]string{"--layout", "json:/a", "--layout", "registrator:/a"}, "share the directory"},
		{[]string{"--source", "nomad"}, "docker, systemd, file"},
		{[]string{"--once", "--dry-run"}, "choose one"},
		{[]string{"web"}, "unexpected argument"},
		{[]string{"explian", "web"}, "did you mean explain?"},
		{[]string{"explain"}, "this takes CONTAINER"},
		{[]string{"etcd://127.0.0.1:2379/a", "etcd://127.0.0.1:2379/b"}, "is the only one"},
		{[]string{"etcd://127.0.0.1:2379"}, "name a directory"},
		{[]string{"etcd://127.0.0.1:2379/../x"}, "is a path, not a name"},
		{[]string{"etcd://a b/services"}, "no HOST:PORT"},
		{[]string{"--endpoints", "http://10.0.0.1:2379", "etcd://10.0.0.2:2379/services"}, "leave one out"},
		{[]string{"skydns2://127.0.0.1:2379"}, "no domain name"},
		{[]string{"consul://127.0.0.1:8500"}, "does not write to Consul"},
		{[]string{"consulkv-unix:///run/consul.sock:/services"}, "has the same keys"},
		{[]string{"zookeeper://127.0.0.1/services"}, "ZooKeeper"},
		{[]string{"etcd3://127.0.0.1/services"}, "v2 API"},
		{[]string{"-forceTags", "x", "etcd://127.0.0.1/services"}, "use --tags"},
		{[]string{"-deregister", "never", "etcd://127.0.0.1/services"}, "always and on-success"},
		{[]string{"--interna"}, "--interna"},
	} {
		code, stderr := kvagent(t, nil, c.args...)
		if code != program.ExitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: exit code %d, %s; want %d and %q", c.args, code, stderr, program.ExitUsage, c.want)
		}
	}
}

func TestAnEngineThatIsNotThereIsNamed(t *testing.T) {
	const socket = "unix:///nonexistent/docker.sock"
	for name, run := range map[string]func() (int, string){
		"by flag":        func() (int, string) { return kvagent(t, nil, "--docker-host", socket, "--once") },
		"by environment": func() (int, string) { return kvagent(t, map[string]string{"DOCKER_HOST": socket}, "--once") },
		"in a dry run":   func() (int, string) { return kvagent(t, nil, "--docker-host", socket, "--dry-run") },
		"in a dry run, by source": func() (int, string) {
			return kvagent(t, map[string]string{"DOCKER_HOST": socket}, "--source", "docker", "--dry-run")
		},
	} {
		if code, stderr := run(); code != exitNoEngine || !strings.Contains(stderr, socket) || !strings.Contains(stderr, "--docker-host") {
			t.Errorf("%s: exit code %d, %s", name, code, stderr)
		}
	}
}

func TestAnEngineThatThisUserMayNotAskIsNamed(t *testing.T) {
	parts.Need(t, "root")
	folder, err := os.MkdirTemp("", "kvd-socket-") // the folders of t.TempDir are closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(filepath.Join(parts.Build(t), "kvagent"))
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(folder, "kvagent")
	if err := os.WriteFile(program, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(folder, "sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := os.Chmod(socket, 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "--dry-run", "--docker-host", "unix://"+socket)
	command.Dir = "/"
	command.Env = []string{}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	output, err := command.CombinedOutput()
	if command.ProcessState.ExitCode() != exitDenied || !strings.Contains(string(output), socket) || !strings.Contains(string(output), "usermod -aG docker") {
		t.Errorf("%v: %s", err, output)
	}
}

func TestAStoreThatIsNotThereIsNamedAndWaitedFor(t *testing.T) {
	h := newHouse(t)
	h.cluster.Stop()
	a := h.kvagent()
	until(t, "the log names the store", func() bool {
		return a.logged("store does not answer") && a.logged(strings.TrimPrefix(h.cluster.URL(), "http://"))
	})
	parts.RunContainer(t, h.named("-p", "80"))
	h.cluster.Restart()
	h.untilOne("it is registered when the store answers", anyRecord)
}

func TestAnAgentThatCannotWithdrawSaysSo(t *testing.T) {
	h := newHouse(t)
	a := h.kvagent("--withdraw-on-stop")
	parts.RunContainer(t, h.named("-p", "80"))
	h.untilOne("it is registered", anyRecord)
	h.cluster.Stop()
	if code := a.end(); code != exitLeftover {
		t.Errorf("exit code %d, want %d", code, exitLeftover)
	}
	if !a.logged("expires by itself") {
		t.Error("nobody was told what was left")
	}
}
