package proxy

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// newCaddyRig starts a real Caddy that answers "one" at address.
func newCaddyRig(t testing.TB, admin, address string) *Caddy {
	t.Helper()
	parts.Need(t, "caddy")
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(file, []byte(caddyfile(admin, address, "one")), 0o644); err != nil {
		t.Fatal(err)
	}
	var output buffer
	cmd := exec.Command(parts.Path(t, "caddy"), "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &output, &output, 5*time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("output of Caddy:\n%s", output.String())
		}
	})
	c := NewCaddy(CaddyConfig{Admin: admin})
	until(t, "Caddy answers", func() bool { return c.Confirm(t.Context(), []byte(caddyfile(admin, address, "one")), Mark{}) == nil })
	return c
}

func caddyfile(admin, address, word string) string {
	host, port, _ := net.SplitHostPort(address)
	return fmt.Sprintf("{\n\tadmin %s\n}\nhttp://:%s {\n\tbind %s\n\trespond %q\n}\n", admin, port, host, word)
}

func TestCaddyTakesUpANewFileThroughItsAdminEndpoint(t *testing.T) {
	for name, admin := range map[string]string{"TCP": freeAddress(t), "Unix": "unix/" + shortDir(t) + "/admin"} {
		t.Run(name, func(t *testing.T) {
			address := freeAddress(t)
			c := newCaddyRig(t, admin, address)
			live := []byte(caddyfile(admin, address, "one"))
			next := []byte(caddyfile(admin, address, "two"))
			plan, err := c.Plan(t.Context(), live, next)
			if err != nil || plan.Kind != Runtime {
				t.Fatalf("%v, %v", plan, err)
			}
			if err := c.Confirm(t.Context(), next, Mark{}); err == nil || !strings.Contains(err.Error(), "is not that of the file") {
				t.Errorf("before the load: %v", err)
			}
			if err := c.Apply(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			if err := c.Confirm(t.Context(), next, Mark{}); err != nil {
				t.Error(err)
			}
			if got := get(address); got != "two" {
				t.Errorf("Caddy answers %q", got)
			}
			asJSON, err := c.adapt(t.Context(), []byte(caddyfile(admin, address, "three")))
			if err != nil {
				t.Fatal(err)
			}
			plan, _ = c.Plan(t.Context(), next, asJSON)
			if err := c.Apply(t.Context(), plan); err != nil {
				t.Fatal(err)
			}
			if err := c.Confirm(t.Context(), asJSON, Mark{taken: true}); err != nil {
				t.Error(err)
			}
			if got := get(address); got != "three" {
				t.Errorf("Caddy answers %q", got)
			}
		})
	}
}

func TestCaddyKeepsWhatItRunsWhenItRefusesAFile(t *testing.T) {
	admin, address := freeAddress(t), freeAddress(t)
	c := newCaddyRig(t, admin, address)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, next := range map[string]string{
		"not a Caddyfile": "nonsense {",
		"not its JSON":    fmt.Sprintf(`{"admin":{"listen":%q},"apps":{"http":{"servers":5}}}`, admin),
		"taken address":   caddyfile(admin, taken.Addr().String(), "two"),
	} {
		plan, err := c.Plan(t.Context(), nil, []byte(next))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Apply(t.Context(), plan); err == nil || !strings.Contains(err.Error(), "Caddy refused /load with status") {
			t.Errorf("%s: %v", name, err)
		}
		if got := get(address); got != "one" {
			t.Errorf("%s: Caddy answers %q", name, got)
		}
	}
	if err := c.Confirm(t.Context(), []byte(caddyfile(admin, address, "one")), Mark{}); err != nil {
		t.Error(err)
	}
}

func TestACaddyThatDoesNotAnswerIsToldSo(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for name, admin := range map[string]string{"hangs": listener.Addr().String(), "absent": freeAddress(t), "no socket": "unix/" + t.TempDir() + "/none"} {
		c := NewCaddy(CaddyConfig{Admin: admin, Timeout: 100 * time.Millisecond})
		if err := c.Apply(t.Context(), Plan{Kind: Runtime, work: []byte("{}")}); err == nil || !strings.Contains(err.Error(), "admin endpoint") {
			t.Errorf("%s: %v", name, err)
		}
		if err := c.Confirm(t.Context(), []byte("{}"), Mark{taken: true}); err == nil {
			t.Errorf("%s: confirmed", name)
		}
	}
}
