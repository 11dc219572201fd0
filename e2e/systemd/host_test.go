package systemd_test

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// limit bounds every wait in these tests; nothing is expected to take nearly as long.
const limit = time.Minute

// ttl is that of every record: more than a sidekick that was killed needs to be back on a busy machine. drain
// is how long readers are given.
const (
	ttl   = 8 * time.Second
	drain = 2 * time.Second
)

// host is a machine with the programs and units installed and an app that serves as app@1, app@2 ... on the
// ports 8081, 8082 ... and answers with the name of its run.
type host struct {
	*parts.SystemdHost
	t *testing.T
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{parts.SystemdOnNetwork(t), t}
	t.Cleanup(func() {
		if t.Failed() {
			journal, _ := h.Exec("journalctl", "--no-pager", "-n", "150", "-o", "short-precise")
			t.Log(journal)
		}
	})
	bin := parts.Build(t)
	h.CopyIn("/usr/bin", filepath.Join(bin, "kvsidekick"), filepath.Join(bin, "kvagent"), parts.Path(t, "busybox"))
	h.CopyIn("/etc/systemd/system", "../../units/kvsidekick@.service", "../../units/kvagent.service")
	h.Must("mkdir", "-p", "/usr/lib/sysusers.d")
	h.CopyIn("/usr/lib/sysusers.d", "../../units/kvd.sysusers.conf")
	h.Must("systemd-sysusers")
	// The app ends at once when it is told to: who still comes then is refused.
	h.Write("/etc/systemd/system/app@.service", `[Service]
ExecStartPre=/bin/sh -c 'mkdir -p /run/www/%i && echo $INVOCATION_ID >/run/www/%i/index.html'
ExecStart=/usr/bin/busybox httpd -f -p 808%i -h /run/www/%i
Restart=always
RestartSec=300ms

[Install]
WantedBy=multi-user.target
`)
	return h
}

// address is where an instance of the app answers.
func (h *host) address(app int) string {
	return net.JoinHostPort(h.Address(), fmt.Sprintf("808%d", app))
}

func unit(app int) string     { return fmt.Sprintf("app@%d.service", app) }
func sidekick(app int) string { return fmt.Sprintf("kvsidekick@app@%d.service", app) }

func (h *host) property(unit, name string) string {
	output, _ := h.Exec("systemctl", "show", "--value", "-p", name, unit)
	return strings.TrimSpace(output)
}

// await polls until held returns "", and fails the test with what it returned last.
func await(t *testing.T, what string, held func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		why := held()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %s", what, limit, why)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
