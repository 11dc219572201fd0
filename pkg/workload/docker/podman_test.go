package docker_test

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/workload"
	"github.com/kvd-io/kvd/pkg/workload/docker"
)

// podmanSettings let Podman run as root on machines that neither systemd nor the right to raise
// limits is on.
const podmanSettings = `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
`

// podman is Podman with storage of its own, and its compatible API.
type podman struct {
	t    testing.TB
	dir  string
	args []string
}

func startPodman(t testing.TB) *podman {
	parts.Need(t, "root")
	program := parts.Path(t, "podman")
	busybox := parts.Path(t, "busybox")
	dir, err := os.MkdirTemp("", "kvd-podman-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(filepath.Join(dir, "containers.conf"), []byte(podmanSettings), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &podman{t: t, dir: dir, args: []string{program, "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"), "--storage-driver", "vfs"}}

	service := p.command("system", "service", "--time", "0", p.host())
	service.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := service.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.do("rm", "--all", "--force", "--time", "0")
		service.Process.Signal(syscall.SIGTERM)
		service.Wait()
	})
	binary, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	image := p.command("import", "-", "kvd-test:1")
	image.Stdin = bytes.NewReader(imageOf(t, binary))
	if output, err := image.CombinedOutput(); err != nil {
		t.Skipf("part missing: podman: it cannot import an image here: %v: %s", err, output)
	}
	probe := p.command("run", "--rm", "--network", "none", "kvd-test:1", "/bin/busybox", "true")
	if output, err := probe.CombinedOutput(); err != nil {
		t.Skipf("part missing: podman: it can run no container here: %v: %s", err, output)
	}
	return p
}

// imageOf is a layer with busybox under the names that the tests use.
func imageOf(t testing.TB, binary []byte) []byte {
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	add := func(header tar.Header, data []byte) {
		header.Size = int64(len(data))
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	add(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o777}, nil)
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, binary)
	for _, applet := range []string{"sh", "sleep", "test"} {
		add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return layer.Bytes()
}

func (p *podman) host() string { return "unix://" + filepath.Join(p.dir, "sock") }

func (p *podman) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.args[0], append(p.args[1:], args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+filepath.Join(p.dir, "containers.conf"))
	return cmd
}

// do runs podman and returns the last line that it printed.
func (p *podman) do(args ...string) string {
	p.t.Helper()
	cmd := p.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	output, err := cmd.Output()
	if err != nil {
		p.t.Fatalf("podman %s: %v\n%s%s", strings.Join(args, " "), err, output, stderr.Bytes())
	}
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return lines[len(lines)-1]
}

// run does podman run -d and returns the container's ID.
func (p *podman) run(options ...string) string {
	p.t.Helper()
	return p.do(append(append([]string{"run", "--detach"}, options...), "kvd-test:1", "sleep", "1000")...)
}

func TestPodmansContainersAreFollowed(t *testing.T) {
	p := startPodman(t)
	f := follow(t, docker.Config{Host: p.host(), Relist: time.Hour}) // what is seen below, events have told
	f.until("the first snapshot", holds())

	id := p.run("--name", "first", "--network", "none", "--label", "shape=round", "--env", "COLOUR=blue",
		"--health-cmd", "test -e /tmp/well", "--health-retries", "1", "--health-interval", "disable")
	w := f.untilOne(id, "it runs", is(workload.Running))
	if w.Name != "first" || w.Labels["shape"] != "round" || w.Env["COLOUR"] != "blue" || w.Run == "" || w.Health != workload.HealthStarting || len(w.Addresses) != 0 {
		t.Errorf("unexpected workload %+v", w)
	}

	p.do("exec", id, "sh", "-c", ": >/tmp/well")
	p.do("healthcheck", "run", id)
	f.untilOne(id, "it is healthy", func(w workload.Workload) bool { return w.Health == workload.HealthHealthy })
	p.do("exec", id, "busybox", "rm", "/tmp/well")
	p.command("healthcheck", "run", id).Run() // fails, as it should
	f.untilOne(id, "it is unhealthy", func(w workload.Workload) bool { return w.Health == workload.HealthUnhealthy })

	p.do("pause", id)
	f.untilOne(id, "it is paused", func(w workload.Workload) bool { return w.State == workload.Starting && w.Reason == "paused" })
	p.do("unpause", id)
	f.untilOne(id, "it runs again", is(workload.Running))
	p.do("rename", id, "second")
	f.untilOne(id, "it has its new name", func(w workload.Workload) bool { return w.Name == "second" })
	p.do("restart", "--time", "0", id)
	f.untilOne(id, "it is started anew", func(now workload.Workload) bool { return now.State == workload.Running && now.Run != w.Run })

	host := p.run("--network", "host", "--expose", "4711")
	joined := p.run("--network", "container:"+host, "--expose", "4712")
	w = f.untilOne(joined, "it runs in the host's network", func(w workload.Workload) bool { return w.NetworkOf == host })
	if !w.HostNetwork || len(w.Ports) > 0 && w.Ports[0].HostNumber != w.Ports[0].Number {
		t.Errorf("unexpected workload %+v", w)
	}

	p.do("stop", "--time", "0", id)
	f.untilOne(id, "it is stopped", is(workload.Stopped))
	p.do("rm", "--force", "--time", "0", joined)
	f.untilOne(joined, "it is removed", is(workload.Stopped))
}

func TestPodmansPublishedPortsAndAddressesAreRead(t *testing.T) {
	p := startPodman(t)
	probe := p.command("run", "--rm", "kvd-test:1", "/bin/busybox", "true")
	if output, err := probe.CombinedOutput(); err != nil {
		t.Skipf("part missing: podman: no network of its own here: %v: %s", err, output)
	}
	f := follow(t, docker.Config{Host: p.host()})
	id := p.run("--publish", "80", "--expose", "81")
	w := f.untilOne(id, "it runs", is(workload.Running))
	if len(w.Ports) != 2 || w.Ports[0].Number != 80 || w.Ports[0].HostNumber == 0 || w.Ports[0].HostIP != "0.0.0.0" || w.Ports[1].Number != 81 || w.Ports[1].HostNumber != 0 {
		t.Errorf("unexpected ports %+v", w.Ports)
	}
	if w.Addresses["podman"] == "" {
		t.Errorf("unexpected addresses %+v", w.Addresses)
	}
}
