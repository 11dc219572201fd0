package parts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	systemdPackages = "systemd,systemd-sysv,dbus"
	systemdSuite    = "bookworm"
	bootMax         = time.Minute
	bootstrapMax    = 10 * time.Minute
)

// SystemdHost is a container whose PID 1 is systemd, with a D-Bus.
type SystemdHost struct {
	t  testing.TB
	id string
}

// Systemd boots a container with a Debian of its own and no network but loopback, and returns once
// systemd says that it is up. It is removed when t ends. The first call on a machine makes the image
// with debootstrap, which takes about a minute; its tar is kept in the user's cache.
func Systemd(t testing.TB) *SystemdHost {
	t.Helper()
	return systemdOn(t, "none", "")
}

// SystemdWith is Systemd on a Debian with more packages, given with commas between them. Each such list
// has an image of its own.
func SystemdWith(t testing.TB, packages string) *SystemdHost {
	t.Helper()
	return systemdOn(t, "none", packages)
}

// SystemdOnNetwork is Systemd with an address on the engine's default network: see Address and Gateway.
func SystemdOnNetwork(t testing.TB) *SystemdHost {
	t.Helper()
	return systemdOn(t, "bridge", "")
}

func systemdOn(t testing.TB, network, packages string) *SystemdHost {
	t.Helper()
	Need(t, "systemd")
	Docker(t)
	image, err := systemdImage(t, packages)
	if err != nil {
		lack(t, "systemd", err.Error())
	}
	output, err := docker(nil, "run", "-d", "--label", containerLabel, "--network", network, "--stop-signal", "SIGRTMIN+3",
		"--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE", // the latter for PrivateUsers= with ProtectProc=
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp",
		"-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--cgroupns=host", image)
	if err != nil {
		t.Fatalf("cannot start a container with systemd: %v\n%s", err, output)
	}
	h := &SystemdHost{t: t, id: strings.TrimSpace(output)}
	t.Cleanup(h.Close)
	h.AwaitBoot()
	return h
}

// AwaitBoot returns when systemd says that the host is up.
func (h *SystemdHost) AwaitBoot() {
	h.t.Helper()
	deadline := time.Now().Add(bootMax)
	for {
		// "degraded" is up as well: some unit, perhaps of the test, has failed.
		state, _ := h.Exec("systemctl", "is-system-running")
		switch strings.TrimSpace(state) {
		case "running", "degraded":
			return
		}
		if time.Now().After(deadline) {
			logs, _ := docker(nil, "logs", "--tail", "20", h.id)
			h.t.Fatalf("systemd is not up after %v: %s\n%s", bootMax, state, logs)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Exec runs a command in the host and returns what it printed, stdout and then stderr if it failed.
func (h *SystemdHost) Exec(command ...string) (string, error) {
	return docker(nil, append([]string{"exec", h.id}, command...)...)
}

// Must is Exec that fails the test if the command fails.
func (h *SystemdHost) Must(command ...string) string {
	h.t.Helper()
	output, err := h.Exec(command...)
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, output)
	}
	return output
}

// CopyIn copies files of this machine into a folder of the host.
func (h *SystemdHost) CopyIn(folder string, paths ...string) {
	h.t.Helper()
	for _, path := range paths {
		if output, err := docker(nil, "cp", "-L", path, h.id+":"+folder+"/"+filepath.Base(path)); err != nil {
			h.t.Fatalf("cannot copy %s: %v\n%s", path, err, output)
		}
	}
}

// Write makes a file of the host with the folders above it.
func (h *SystemdHost) Write(path, content string) {
	h.t.Helper()
	script := `mkdir -p "$(dirname "$1")" && cat > "$1"`
	if output, err := docker([]byte(content), "exec", "-i", h.id, "sh", "-c", script, "sh", path); err != nil {
		h.t.Fatalf("cannot write %s: %v\n%s", path, err, output)
	}
}

// Address is that of the host on the engine's network. Another boot may have another one.
func (h *SystemdHost) Address() string {
	h.t.Helper()
	return h.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
}

// Gateway is the address of this machine on the engine's network.
func (h *SystemdHost) Gateway() string {
	h.t.Helper()
	return h.inspect("{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}")
}

func (h *SystemdHost) inspect(format string) string {
	h.t.Helper()
	output, err := docker(nil, "inspect", "--format", format, h.id)
	if err != nil {
		h.t.Fatalf("docker inspect %s: %v\n%s", h.id, err, output)
	}
	return strings.TrimSpace(output)
}

// ShutDown has systemd stop everything and ends the host; Boot starts it again.
func (h *SystemdHost) ShutDown() { h.control("stop", "-t", "60") }

// PowerOff ends the host without a word to anybody in it; Boot starts it again.
func (h *SystemdHost) PowerOff() { h.control("kill") }

// Boot starts a host that was ended, with the files that it had outside of /run and /tmp, and does not
// wait until it is up: see AwaitBoot.
func (h *SystemdHost) Boot() { h.control("start") }

func (h *SystemdHost) control(command ...string) {
	h.t.Helper()
	if output, err := docker(nil, append(command, h.id)...); err != nil {
		h.t.Fatalf("docker %s: %v\n%s", command[0], err, output)
	}
}

// Close removes the host. Systemd calls it when the test ends.
func (h *SystemdHost) Close() {
	if output, err := docker(nil, "rm", "-f", "-v", h.id); err != nil && !strings.Contains(output, "No such container") {
		h.t.Errorf("docker rm -f %s: %v\n%s", h.id, err, output)
	}
}

// systemdImage returns the name of the image with more packages, made if it is missing.
func systemdImage(t testing.TB, more string) (string, error) {
	packages := systemdPackages
	if more != "" {
		packages += "," + more
	}
	sum := sha256.Sum256([]byte(systemdSuite + " " + packages))
	tag := hex.EncodeToString(sum[:6])
	name := "kvd-test/systemd:" + tag
	if _, err := docker(nil, "image", "inspect", name); err == nil {
		return name, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "kvd")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(cache, "systemd.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	archive := filepath.Join(cache, "systemd-"+tag+".tar")
	if _, err := os.Stat(archive); err != nil {
		t.Logf("making a Debian with systemd in %s; this happens once", archive)
		if err := bootstrap(archive, packages); err != nil {
			return "", err
		}
	}
	if output, err := docker(nil, "import", "-c", `CMD ["/sbin/init"]`, "-c", "ENV container=docker", archive, name); err != nil {
		return "", fmt.Errorf("docker import %s: %w: %s", archive, err, output)
	}
	return name, nil
}

// bootstrap makes a tar of a minimal Debian. A folder of its own holds the tree meanwhile, because a
// tree with device nodes and foreign owners does not belong into a cache.
func bootstrap(archive, packages string) error {
	folder, err := os.MkdirTemp("", "kvd-systemd-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	root, fresh := filepath.Join(folder, "root"), archive+".new"
	program, err := lookPath("debootstrap")
	if err != nil {
		return err
	}
	if err := runBounded(program, "--variant=minbase", "--include="+packages, systemdSuite, root); err != nil {
		return err
	}
	if err := runBounded("tar", "-C", root, "--numeric-owner", "--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*",
		"--exclude=./usr/share/doc/*", "--exclude=./usr/share/locale/*", "-cf", fresh, "."); err != nil {
		return err
	}
	return os.Rename(fresh, archive)
}

func runBounded(program string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), bootstrapMax)
	defer cancel()
	output, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(program), err, tail(output))
	}
	return nil
}

// tail returns the last lines of a program's output.
func tail(output []byte) string {
	lines := strings.Split(string(bytes.TrimSpace(output)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "; ")
}
