package converge

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/agentstatus"
	"github.com/kvd-io/kvd/pkg/kv"
)

// call runs a program of the suite and returns its exit code and what it has printed.
func (w *world) call(program string, args ...string) (code int, stdout, stderr string) {
	w.t.Helper()
	var out, log bytes.Buffer
	cmd := exec.CommandContext(w.t.Context(), filepath.Join(parts.Build(w.t), program), args...)
	cmd.Env = append(w.env, "KVCTL_ENDPOINTS=http://"+w.store.address)
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Run(); cmd.ProcessState == nil {
		w.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), log.String()
}

// beside is another host with the same store.
func (w *world) beside() *world {
	w.t.Helper()
	return newWorldWith(w.t, func(*testing.T) *store { return w.store })
}

func TestAWriteIsSaidToBeLiveWhenHAProxyHasIt(t *testing.T) {
	for name, settings := range map[string][]string{
		"by a reload":         {haproxyCheck, haproxyReload},
		"by the admin socket": {haproxyCheck, haproxyReload, "[haproxy]\nsocket = \"$DIR/admin.sock\""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := newHAProxy(w, settings...)
			first := startBackend(t, "first")
			w.register("web", first)
			w.start()
			h.start()
			h.until("web", first)
			want := []string{first.address}
			for i := range 4 {
				b := startBackend(t, fmt.Sprint("b", i))
				code, _, stderr := w.call("kvctl", "set", "/services/web/"+b.name, recordOf("web", b), "--wait-live")
				if code != 0 || !strings.Contains(stderr, "live on 1 host after ") {
					t.Fatalf("exit code %d: %s", code, stderr)
				}
				want = append(want, b.address)
				running, err := h.running()
				if err != nil {
					t.Fatal(err)
				}
				slices.Sort(want)
				if !slices.Equal(running["web"], want) {
					t.Errorf("it is said to be live, and HAProxy has %v and not %v", running["web"], want)
				}
			}
			if code, _, stderr := w.call("kvctl", "rm", "/services/web/first", "--wait-live"); code != 0 {
				t.Fatalf("exit code %d: %s", code, stderr)
			}
			if running, err := h.running(); err != nil || slices.Contains(running["web"], first.address) {
				t.Errorf("it is said to be gone, and HAProxy has %v: %v", running["web"], err)
			}
			w.until("explain says that the file is converged", func() string { // what is live at run time is written later
				code, stdout, _ := w.call("kvconfd", "explain", w.path("haproxy.cfg"), "-confdir", w.path("conf"))
				if code == 0 && strings.Contains(stdout, "converged") {
					return ""
				}
				return stdout
			})
		})
	}
}

func TestTheHostThatIsBehindIsNamedAndTheOthersAreConverged(t *testing.T) {
	w := newWorld(t)
	other := w.beside()
	w.resource("motd", `{{getv "/motd"}}`, `keys = ["/motd"]`)
	other.resource("motd", `{{getv "/motd"}}`, "keys = [\"/motd\"]\ncheck_cmd = \"echo unknown keyword >&2; test ! -e $DIR/refuse\"")
	w.set("/motd", "one")
	w.start()
	other.start()
	w.eventually("motd.out", "one")
	other.eventually("motd.out", "one")
	hosts := []string{filepath.Base(w.dir), filepath.Base(other.dir)}
	for _, host := range hosts {
		w.until("the host is there", func() string {
			if _, err := w.store.client.Read(t.Context(), kv.Read{Key: agentstatus.NamesOf("").Host(host)}); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	if code, stdout, stderr := w.call("kvctl", "converged", "--wait"); code != 0 || !strings.Contains(stdout, "2 of 2 hosts run index ") {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	other.write("refuse", "")
	code, _, stderr := w.call("kvctl", "set", "/motd", "two", "--wait-live=3s")
	if code != 7 || !strings.Contains(stderr, hosts[1]+": motd failed at check: ") || !strings.Contains(stderr, "unknown keyword") || strings.Contains(stderr, hosts[0]+":") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	if got := w.read("motd.out"); got != "two" {
		t.Errorf("the other host has %q", got)
	}
	code, stdout, _ := w.call("kvctl", "converged")
	if code != 7 || !strings.Contains(stdout, "1 of 2 hosts run index ") || !strings.Contains(stdout, hosts[1]+": motd failed at check") {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}
	if code, stdout, _ := other.call("kvconfd", "diff", "-confdir", other.path("conf"), "-node", other.way.URL()); code != 1 || !strings.Contains(stdout, "+two") {
		t.Errorf("exit code %d:\n%s", code, stdout)
	}
	other.remove("refuse")
	if code, stdout, stderr := w.call("kvctl", "converged", "--wait", "--timeout", "60s"); code != 0 {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
}

func TestHealthIsServedOverHTTPAndReleasesAreNot(t *testing.T) {
	w := newWorld(t)
	address := freeAddress(t)
	w.flags = []string{"-http-listen", address}
	w.resource("motd", `{{getv "/motd"}}`, `keys = ["/motd"]`)
	w.set("/motd", "one")
	w.start()
	w.until("it is healthy", func() string {
		response, err := http.Get("http://" + address + "/health")
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return response.Status
		}
		return ""
	})
	response, err := http.Post("http://"+address+"/release?name=motd", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		t.Errorf("a release is answered with %s", response.Status)
	}
	if info, err := os.Stat(w.path("kvconfd.sock")); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v %v", info, err)
	}
}
