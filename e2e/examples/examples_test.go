package examples

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// serve is what the containers run: a server on each port that is in $PORTS.
const serve = `for port in $PORTS; do busybox httpd -f -p $port & done; wait`

// host is a machine with a store at the default address, and the images that the documents name.
func host(t *testing.T) *parts.MachineHost {
	t.Helper()
	parts.Need(t, "etcdctl")
	parts.Need(t, "busybox")
	m := parts.Machine(t, "hostname")
	m.Must("ip addr add 192.168.1.102/32 dev lo") // the address that the documents give the host
	busybox, programs := parts.Path(t, "busybox"), parts.Build(t)
	server := func(name, ports string, exposed ...string) {
		changes := []string{`ENTRYPOINT ["/bin/busybox", "sh", "-c"]`, `CMD ["` + serve + `"]`, `ENV PORTS="` + ports + `"`, "ENV PATH=/bin"}
		for _, port := range exposed {
			changes = append(changes, "EXPOSE "+port)
		}
		m.Image(name, []string{busybox}, changes...)
	}
	server("redis", "6379", "6379")
	server("progrium/redis", "6379", "6379")
	server("dockerfile/redis", "6379", "6379")
	server("progrium/nginx", "80 443", "80", "443")
	m.Image("gliderlabs/registrator", []string{filepath.Join(programs, "kvagent")}, `ENTRYPOINT ["/bin/kvagent"]`)
	folder := t.TempDir()
	m.Must("kvd --data-dir " + folder + "/data >" + folder + "/log 2>&1 &") // it ends with the machine
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := m.Shell("etcdctl ls /"); err == nil {
			return m
		}
		if time.Now().After(deadline) {
			t.Fatal("the store does not answer")
		}
	}
}

func TestRegistratorsDocumentedExamplesWorkAsPrinted(t *testing.T) {
	m := host(t)
	sessions, err := filepath.Glob("testdata/registrator*.session")
	if err != nil || len(sessions) < 4 {
		t.Fatalf("sessions: %q, %v", sessions, err)
	}
	for _, path := range sessions {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					logs, err := m.Shell("docker logs registrator 2>&1; etcdctl ls --recursive /; docker ps -a")
					t.Logf("%v\n%s", err, logs)
				}
				m.Must("docker rm -f $(docker ps -aq) >/dev/null; for key in $(etcdctl ls /); do etcdctl rm --recursive $key >/dev/null; done")
			})
			play(t, path, m.Shell)
		})
	}
}
