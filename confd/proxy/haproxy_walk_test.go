package proxy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/e2e/parts"
)

// walk is a configuration that changes at random.
type walk struct {
	rng      *rand.Rand
	backends []walkBackend
}

type walkBackend struct {
	name, lines string
	servers     []walkServer
}

type walkServer struct {
	name, addr, other string
	weight            int // -1: not said
	disabled          bool
}

func newWalk(seed uint64) *walk {
	w := &walk{rng: rand.New(rand.NewPCG(seed, 0))}
	for i := range 3 {
		w.backends = append(w.backends, walkBackend{name: fmt.Sprintf("web.%d", i)})
	}
	return w
}

// pick returns one of words; the first is likelier than all others together.
func (w *walk) pick(words ...string) string {
	if w.rng.IntN(2) == 0 {
		return words[0]
	}
	return words[w.rng.IntN(len(words))]
}

func (w *walk) address() string {
	port := 1 + w.rng.IntN(20)
	return w.pick(fmt.Sprintf("127.0.0.%d:%d", 1+w.rng.IntN(5), port), fmt.Sprintf("[::%d]:%d", 1+w.rng.IntN(5), port))
}

func (w *walk) server() walkServer {
	return walkServer{
		name: w.pick("a", "b", "c:80", "d_1", "e.x", "f-9"), addr: w.address(), weight: -1,
		other: w.pick("", " check", " no-check", " maxconn 10", " backup", " slowstart 10s", " check observe layer4 error-limit 1 on-error mark-down", " on-marked-down shutdown-sessions", " send-proxy check-send-proxy"),
	}
}

// step changes one to three things.
func (w *walk) step() {
	for range 1 + w.rng.IntN(3) {
		b := &w.backends[w.rng.IntN(len(w.backends))]
		if len(b.servers) == 0 || w.rng.IntN(4) == 0 {
			b.servers = append(b.servers, w.server())
			b.drop(len(b.servers) - 1)
			continue
		}
		at := w.rng.IntN(len(b.servers))
		s := &b.servers[at]
		switch w.rng.IntN(12) {
		case 0, 1:
			b.servers = append(b.servers[:at], b.servers[at+1:]...)
		case 2, 3:
			s.addr = w.address()
		case 4, 5:
			s.weight = w.rng.IntN(258) - 1
			s.weight = min(s.weight, 256)
		case 6, 7:
			s.disabled = !s.disabled
		case 8:
			s.other = w.server().other
		case 9:
			other := w.rng.IntN(len(b.servers))
			b.servers[at], b.servers[other] = b.servers[other], b.servers[at]
		case 10:
			b.servers[at] = w.server()
			b.drop(at)
		case 11:
			if w.rng.IntN(3) == 0 {
				b.lines = w.pick("", "    balance leastconn\n", "    balance source\n    hash-type consistent\n", "    balance first\n", "    balance static-rr\n", "    default-server maxconn 7 weight 5\n", "    cookie x insert dynamic\n    dynamic-cookie-key k\n", "    option httpchk\n")
			}
		}
	}
}

// drop removes a server that has the name of the one at at.
func (b *walkBackend) drop(at int) {
	for i := range b.servers {
		if i != at && b.servers[i].name == b.servers[at].name {
			b.servers = append(b.servers[:i], b.servers[i+1:]...)
			return
		}
	}
}

func (w *walk) String() string {
	var text strings.Builder
	for _, b := range w.backends {
		fmt.Fprintf(&text, "backend %s\n%s", b.name, b.lines)
		for _, s := range b.servers {
			fmt.Fprintf(&text, "    server %s %s%s", s.name, s.addr, s.other)
			if s.weight >= 0 {
				fmt.Fprintf(&text, " weight %d", s.weight)
			}
			if s.disabled {
				text.WriteString(" disabled")
			}
			text.WriteString("\n")
		}
	}
	return text.String()
}

// KVD_PROXY_STEPS and KVD_PROXY_SEED make the walk longer, or another.
func TestWhatRunsAfterARandomWalkIsWhatAFreshHAProxyReadsFromTheFile(t *testing.T) {
	steps, seed := 60, uint64(1)
	if text := os.Getenv("KVD_PROXY_STEPS"); text != "" {
		steps, _ = strconv.Atoi(text)
	}
	if text := os.Getenv("KVD_PROXY_SEED"); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	w := newWalk(seed)
	live := w.String()
	r := newHARig(t, live)
	kinds := map[Kind]int{}
	for step := range steps {
		w.step()
		next := w.String()
		kinds[r.bring(live, next)]++
		want, wantLimits := freshStates(t, r, next)
		got, err := r.ask(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		gotLimits := limits(t, r.HAProxy)
		for name, fresh := range wantLimits {
			if gotLimits[name] != fresh {
				t.Fatalf("seed %d, step %d: %s has %s, fresh it has %s\nbefore:\n%s\nafter:\n%s", seed, step, name, gotLimits[name], fresh, live, next)
			}
		}
		if difference := diffStates(want, got); difference != "" {
			t.Fatalf("seed %d, step %d: %s\nbefore:\n%s\nafter:\n%s", seed, step, difference, live, next)
		}
		live = next
	}
	t.Logf("seed %d: %v", seed, kinds)
	if kinds[Runtime] == 0 || kinds[Reload] == 0 {
		t.Errorf("the walk did not show what it is for: %v", kinds)
	}
}

// limits returns what HAProxy tells of each server's settings beside its state.
func limits(t *testing.T, h *HAProxy) map[string]string {
	t.Helper()
	stat, err := h.socket.ask(t.Context(), "show stat -1 4 -1")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := h.socket.ask(t.Context(), "show servers conn")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	header := strings.Split(strings.TrimPrefix(strings.SplitN(stat, "\n", 2)[0], "# "), ",")
	for line := range strings.Lines(stat) {
		fields := strings.Split(line, ",")
		if len(fields) != len(header) || strings.HasPrefix(line, "#") {
			continue
		}
		for i, name := range header {
			switch name {
			case "slim", "qlimit", "src_ilim", "bck", "check_rise", "check_fall", "addr":
				found[fields[0]+"/"+fields[1]] += " " + name + " " + fields[i]
			}
		}
	}
	for line := range strings.Lines(conn) {
		if fields := strings.Fields(line); len(fields) > 11 && fields[0] != "#" {
			found[fields[0]] += " purge " + fields[5] + " idle " + fields[11]
		}
	}
	return found
}

// freshStates starts another HAProxy from the same text and returns its servers, and their limits.
func freshStates(t *testing.T, r *haRig, text string) (haStates, map[string]string) {
	t.Helper()
	dir := shortDir(t)
	file := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, haHead+"%s", dir, text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(parts.Path(t, "haproxy"), "-db", "-f", file)
	cmd.Stderr = &r.output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.RemoveAll(dir)
	}()
	fresh := NewHAProxy(HAProxyConfig{Socket: dir + "/socket"})
	var states haStates
	until(t, "a fresh HAProxy answers", func() (up bool) {
		var err error
		states, err = fresh.ask(t.Context())
		return err == nil
	})
	return states, limits(t, fresh)
}

// diffStates says how got differs from want. Servers in maintenance that want does not have are on
// their way out.
func diffStates(want, got haStates) string {
	for backend, servers := range want {
		for name, fresh := range servers {
			state, ok := got[backend][name]
			const checks = checkIsConfigured | checkIsEnabled
			switch {
			case !ok:
				return fmt.Sprintf("%s/%s is missing", backend, name)
			case state.addr != fresh.addr, state.weight != fresh.weight,
				state.admin&(adminMaint|adminForcedDrain) != fresh.admin&(adminMaint|adminForcedDrain),
				state.checkState&checks != fresh.checkState&checks:
				return fmt.Sprintf("%s/%s is %+v, fresh it is %+v", backend, name, state, fresh)
			}
		}
	}
	for backend, servers := range got {
		for name, state := range servers {
			if _, ok := want[backend][name]; !ok && state.admin&adminMaint == 0 {
				return fmt.Sprintf("%s/%s runs beyond the file: %+v", backend, name, state)
			}
		}
	}
	return ""
}
