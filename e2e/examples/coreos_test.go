package examples

import (
	"path/filepath"
	"testing"

	"github.com/kvd-io/kvd/e2e/parts"
)

// TestCoreOSDocumentedSidekicksWorkAndHaveASuccessor plays what CoreOS and fleet document on a host with
// systemd, without fleet: the main units serve HTTP in place of a container that does.
func TestCoreOSDocumentedSidekicksWorkAndHaveASuccessor(t *testing.T) {
	parts.Need(t, "etcdctl")
	parts.Need(t, "busybox")
	programs := parts.Build(t)
	h := parts.Systemd(t)
	h.CopyIn("/usr/bin", filepath.Join(programs, "kvd"), filepath.Join(programs, "kvsidekick"), parts.Path(t, "etcdctl"), parts.Path(t, "busybox"))
	h.CopyIn("/etc/systemd/system", "../../units/kvsidekick@.service")
	units, err := filepath.Glob("testdata/coreos/*")
	if err != nil || len(units) < 5 {
		t.Fatalf("units: %q, %v", units, err)
	}
	h.CopyIn("/etc/systemd/system", units...)
	h.Must("useradd", "--system", "kvsidekick")
	h.Must("systemctl", "set-environment", "ETCDCTL_API=2")
	h.Must("sh", "-c", `echo "127.0.0.1 $(hostname)" >>/etc/hosts`) // a name is of use to those alone who can resolve it
	h.Must("systemctl", "daemon-reload")
	h.Must("systemctl", "start", "store")
	shell := func(line string) (string, error) { return h.Exec("sh", "-c", "export ETCDCTL_API=2; "+line) }
	for _, name := range []string{"coreos-apache.session", "fleet-nginx.session", "coreos-kvsidekick.session"} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					log, _ := h.Exec("journalctl", "--no-pager", "-n", "60")
					t.Log(log)
				}
			})
			play(t, filepath.Join("testdata", name), shell)
		})
	}
}
