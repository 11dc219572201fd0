package parts

import (
	"strings"
	"testing"
)

func TestASystemdHostRunsUnits(t *testing.T) {
	host := Systemd(t)
	host.Write("/etc/systemd/system/hello.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo hello > /run/hello'\n")
	host.Must("systemctl", "start", "hello.service")
	if got := host.Must("cat", "/run/hello"); got != "hello\n" {
		t.Errorf("the unit wrote %q", got)
	}
	if output, err := host.Exec("systemctl", "is-active", "missing.service"); err == nil || !strings.Contains(output, "inactive") {
		t.Errorf("a missing unit is %q, %v", output, err)
	}
}
