// Package parts supplies tests with the real things they need: programs such as HAProxy or etcd,
// a Docker engine, a systemd, and the five binaries of this repository.
//
// It knows where parts are found and what a missing one means: the test is skipped with a line
// that names the part, or fails where KVD_REQUIRE_PARTS=1 promises that every part is there. It
// installs nothing; `make parts` does that.
package parts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// requireVariable turns every missing part into a failure when it is "1".
const requireVariable = "KVD_REQUIRE_PARTS"

// Need skips t when part is missing, or fails it when KVD_REQUIRE_PARTS=1. Either way the line is
// "part missing: PART: why". A part is the name of a program, or one of:
//
//	docker    an engine that answers at its socket, or dockerd and the right to start it
//	systemd   what it takes to run systemd as PID 1 in a container: docker and debootstrap
//	root      the rights of user 0
//	netns     the right to make network namespaces, and ip, iptables and nsenter to furnish them
//	mountns   the right to make mount namespaces, and unshare
//	python3-etcd  the Debian package of that name, for SystemPython
//	node-etcd     that npm package in NodeModules, and node
func Need(t testing.TB, part string) {
	t.Helper()
	if why := missing(part); why != "" {
		lack(t, part, why)
	}
}

// Path is Need for a program, and returns where it is.
func Path(t testing.TB, program string) string {
	t.Helper()
	path, err := lookPath(program)
	if err != nil {
		lack(t, program, err.Error())
	}
	return path
}

// SystemPython is the interpreter that Debian's packages of Python modules are for.
const SystemPython = "/usr/bin/python3"

// NodeModules returns the folder into which install-parts.sh has npm install what
// e2e/clients/node/package.json names.
func NodeModules() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	return filepath.Join(cache, "kvd-test-node", "node_modules")
}

func lack(t testing.TB, part, why string) {
	t.Helper()
	if os.Getenv(requireVariable) == "1" {
		t.Fatalf("part missing: %s: %s (%s=1 asks for all parts; try: make parts)", part, why, requireVariable)
		return
	}
	t.Skipf("part missing: %s: %s", part, why)
}

// missing says why part cannot be used, or "" when it can.
func missing(part string) string {
	switch part {
	case "root":
		if os.Geteuid() != 0 {
			return "this test changes what only root may change"
		}
		return ""
	case "netns":
		return firstOf(missing("ip"), missing("iptables"), missing("nsenter"), missingNamespaces())
	case "mountns":
		return firstOf(missing("root"), missing("unshare"))
	case "python3-etcd":
		if err := exec.Command(SystemPython, "-c", "import etcd").Run(); err != nil {
			return fmt.Sprintf("%s cannot import etcd: %v", SystemPython, err)
		}
		return ""
	case "node-etcd":
		if _, err := os.Stat(filepath.Join(NodeModules(), part)); err != nil {
			return err.Error()
		}
		return missing("node")
	case "docker":
		return missingDocker()
	case "systemd":
		if why := missing("docker"); why != "" {
			return "its container needs docker: " + why
		}
		return firstOf(missing("root"), missing("debootstrap"))
	}
	if _, err := lookPath(part); err != nil {
		return err.Error()
	}
	return ""
}

func missingNamespaces() string {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Run(); err != nil {
		return fmt.Sprintf("a network namespace cannot be made: %v", err)
	}
	return ""
}

func missingDocker() string {
	if host := os.Getenv("DOCKER_HOST"); host != "" {
		return ""
	}
	if _, err := os.Stat("/var/run/docker.sock"); err == nil {
		return ""
	}
	return firstOf(missing("dockerd"), missing("root"))
}

func firstOf(reasons ...string) string {
	for _, reason := range reasons {
		if reason != "" {
			return reason
		}
	}
	return ""
}

// lookPath is exec.LookPath that also knows the folders of system daemons, which the PATH of an
// ordinary Debian user lacks.
func lookPath(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, folder := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		path := filepath.Join(folder, program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("no program %q in PATH", program)
}
