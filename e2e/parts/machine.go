package parts

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	machineStartMax = 60 * time.Second
	machineCallMax  = 2 * time.Minute
)

// MachineHost is a host inside this one: its name, its processes, its network, /run, /etc/machine-id and the
// Docker engine at /var/run/docker.sock are its own; other files are this machine's. In it, everything can have
// the ports and paths that documents name.
type MachineHost struct {
	t      testing.TB
	folder string
	init   *exec.Cmd
	inside string // process ID of its first process, as this machine counts
}

// machineInit is what the first process of a machine does: $0 is its folder, $1 its name.
const machineInit = `set -e
mount --make-rprivate /
mount --bind "$0/machine-id" /etc/machine-id
mkdir -p /var/lib/docker
mount --bind "$0/docker" /var/lib/docker
mount -t tmpfs tmpfs /run
hostname "$1"
ip link set lo up
exec dockerd`

// Machine starts a host with a Docker engine that has no images. It ends with all it runs when t ends. It
// takes the rights of root.
func Machine(t testing.TB, hostname string) *MachineHost {
	t.Helper()
	for _, part := range []string{"root", "dockerd", "docker", "ip", "iptables", "unshare", "nsenter"} {
		Need(t, part)
	}
	folder, err := os.MkdirTemp("", "kvd-machine-")
	if err != nil {
		t.Fatal(err)
	}
	m := &MachineHost{t: t, folder: folder}
	t.Cleanup(m.end)
	if err := os.Mkdir(filepath.Join(folder, "docker"), 0o711); err != nil {
		t.Fatal(err)
	}
	var identity [16]byte
	rand.Read(identity[:])
	if err := os.WriteFile(filepath.Join(folder, "machine-id"), fmt.Appendf(nil, "%x\n", identity), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(folder, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	m.init = exec.Command(Path(t, "unshare"), "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-c", machineInit, folder, hostname)
	m.init.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin")
	m.init.Stdout, m.init.Stderr = log, log
	m.init.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.init.Start(); err != nil {
		m.init = nil
		t.Fatal(err)
	}
	m.awaitEngine()
	return m
}

func (m *MachineHost) awaitEngine() {
	m.t.Helper()
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", m.init.Process.Pid)
	for deadline := time.Now().Add(machineStartMax); ; time.Sleep(50 * time.Millisecond) {
		pids, _ := os.ReadFile(children)
		if m.inside = strings.TrimSpace(string(pids)); m.inside != "" {
			name, _ := os.ReadFile("/proc/" + m.inside + "/comm")
			if strings.TrimSpace(string(name)) == "dockerd" && m.Command("docker", "version").Run() == nil {
				return
			}
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(m.folder, "log"))
			m.t.Fatalf("the machine has no engine after %v:\n%s", machineStartMax, log)
		}
	}
}

// Command returns a command that runs in the machine when it is started. The built programs are in its PATH,
// and etcdctl speaks the v2 API. A signal to it does not reach the program, which ends with the machine.
func (m *MachineHost) Command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"--all", "--target", m.inside, "--", program}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+Build(m.t)+":"+os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin", "ETCDCTL_API=2", "DOCKER_HOST=")
	return cmd
}

// Shell runs a line of shell in the machine and returns what it has printed on stdout, or on both if it fails.
func (m *MachineHost) Shell(line string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), machineCallMax)
	defer cancel()
	command := m.Command("sh", "-c", line)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	command.WaitDelay = time.Second // what it leaves running may hold its streams
	if err := command.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { command.Process.Kill() })
	defer stop()
	if err := command.Wait(); err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

// Must is Shell that fails the test if the line fails.
func (m *MachineHost) Must(line string) string {
	m.t.Helper()
	output, err := m.Shell(line)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", line, err, output)
	}
	return output
}

// Image makes an image of static programs: each of the files is in its /bin. changes are lines of a Dockerfile,
// such as "EXPOSE 80".
func (m *MachineHost) Image(name string, files []string, changes ...string) {
	m.t.Helper()
	var layer bytes.Buffer
	archive := tar.NewWriter(&layer)
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			m.t.Fatal(err)
		}
		if err := archive.WriteHeader(&tar.Header{Name: "bin/" + filepath.Base(path), Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(data))}); err != nil {
			m.t.Fatal(err)
		}
		if _, err := archive.Write(data); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		m.t.Fatal(err)
	}
	args := []string{"import"}
	for _, change := range changes {
		args = append(args, "--change", change)
	}
	command := m.Command("docker", append(args, "-", name)...)
	command.Stdin = &layer
	if output, err := command.CombinedOutput(); err != nil {
		m.t.Fatalf("cannot make the image %s: %v\n%s", name, err, output)
	}
}

// end kills everything in the machine: its first process takes all others with it.
func (m *MachineHost) end() {
	if m.init != nil {
		m.init.Process.Kill()
		m.init.Wait()
	}
	// What the kernel unmounts for the last process of the machine may take a moment.
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := os.RemoveAll(m.folder)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			m.t.Error(err)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
