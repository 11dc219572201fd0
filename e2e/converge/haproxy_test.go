package converge

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/templates"
)

// The commands of a HAProxy as a user without systemd has it. A signal that reaches its master while
// that one executes itself again is lost, and nobody is told; so the script that reloads waits for a
// new worker, and fails if none has come. Before HAProxy runs there is nothing to reload.
const (
	haproxyCheck  = `check_cmd = "haproxy -c -f {{.src}}"`
	haproxyReload = `reload_cmd = "sh $DIR/reload.sh"`

	reloadScript = `cd "$DIR"
test -e haproxy.pid || exit 0
workers() { grep -c 'Loading success' haproxy.log; }
before=$(workers)
kill -USR2 $(cat haproxy.pid) || exit 1
for i in $(seq 50); do
	test $(workers) -gt $before && exit 0
	sleep 0.02
done
echo 'HAProxy has no new worker'
exit 1
`
)

// haproxy is a real HAProxy, as master and workers, that serves what kvconfd writes.
type haproxy struct {
	w       *world
	address string
	run     *process
}

// newHAProxy gives a world the shipped template of HAProxy, with settings beside those of the file
// and keys, and starts nothing yet.
func newHAProxy(w *world, settings ...string) *haproxy {
	w.t.Helper()
	parts.Need(w.t, "haproxy")
	h := &haproxy{w: w, address: freeAddress(w.t)}
	w.write("reload.sh", reloadScript)
	w.env = append(w.env, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "KVD_HTTP_ADDR="+h.address, "KVD_STATS_SOCKET="+w.path("admin.sock"), "KVD_HAPROXY_USER=none", "KVD_LOG=127.0.0.1:9 local0")
	template, err := fs.ReadFile(templates.FS, "haproxy/templates/haproxy.cfg.tmpl")
	if err != nil {
		w.t.Fatal(err)
	}
	w.write("conf/templates/haproxy.tmpl", string(template))
	w.toml("haproxy", w.path("haproxy.cfg"), "keys = [\"/services\"]\n"+strings.Join(settings, "\n"))
	return h
}

// start starts HAProxy as soon as there is a file for it.
func (h *haproxy) start() {
	h.w.t.Helper()
	h.w.until("there is a file for HAProxy", func() string {
		if !h.w.exists("haproxy.cfg") {
			return "there is none"
		}
		return ""
	})
	h.run = launchHAProxy(h, "haproxy.cfg")
	h.w.until("HAProxy runs", func() string {
		if _, err := h.running(); err != nil {
			return err.Error()
		}
		return ""
	})
}

// launchHAProxy starts HAProxy with a file of the world.
func launchHAProxy(h *haproxy, config string) *process {
	h.w.t.Helper()
	log, err := os.OpenFile(h.w.path("haproxy.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		h.w.t.Fatal(err)
	}
	h.w.t.Cleanup(func() { log.Close() })
	run := launch(h.w.t, dated{log}, h.w.env, parts.Path(h.w.t, "haproxy"), "-W", "-f", h.w.path(config), "-p", h.w.path("haproxy.pid"))
	h.w.t.Cleanup(func() {
		run.killAll()
		if h.w.t.Failed() {
			text := h.w.read("haproxy.log")
			h.w.t.Logf("haproxy:\n%s", text[max(0, len(text)-3000):])
		}
	})
	return run
}

// dated puts the time before what is written.
type dated struct{ to io.Writer }

func (d dated) Write(p []byte) (int, error) {
	if _, err := fmt.Fprintf(d.to, "%s %s", time.Now().Format("15:04:05.000"), p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// running returns the servers that HAProxy has, as it tells itself: the service, and the address of
// each that is not in maintenance.
func (h *haproxy) running() (map[string][]string, error) {
	return h.of(func(s server) string { return s.address })
}

// weights is running, with the weight behind each address.
func (h *haproxy) weights() (map[string][]string, error) {
	return h.of(func(s server) string { return s.address + " weight " + s.weight })
}

// of returns what text says of each server of a service, in order.
func (h *haproxy) of(text func(server) string) (map[string][]string, error) {
	found := map[string][]string{}
	err := h.servers(func(s server) { found[s.service] = append(found[s.service], text(s)) })
	for _, servers := range found {
		slices.Sort(servers)
	}
	return found, err
}

// healthy returns the addresses of the servers that HAProxy would send a request to now: one that has
// died and come back is not among them until HAProxy has looked.
func (h *haproxy) healthy() (map[string]bool, error) {
	found := map[string]bool{}
	err := h.servers(func(s server) { found[s.address] = s.up })
	return found, err
}

// server is one that HAProxy has, and that is not in maintenance.
type server struct {
	service, address, weight string
	up                       bool
}

func (h *haproxy) servers(each func(server)) error {
	answer, err := h.ask("show servers state")
	if err != nil {
		return err
	}
	lines := strings.Split(answer, "\n")
	if len(lines) < 2 {
		return fmt.Errorf("HAProxy answers %q", answer)
	}
	columns := strings.Fields(strings.TrimPrefix(lines[1], "# "))
	for _, line := range lines[2:] {
		fields := strings.Fields(line)
		if len(fields) != len(columns) {
			continue
		}
		of := func(name string) string { return fields[slices.Index(columns, name)] }
		admin, err := strconv.Atoi(of("srv_admin_state"))
		if err != nil {
			return err
		}
		const maintenance = 1 | 2 | 4 | 32 // forced, inherited, of the configuration, without an address
		if service, ok := strings.CutPrefix(of("be_name"), "service."); ok && admin&maintenance == 0 {
			each(server{service, net.JoinHostPort(of("srv_addr"), of("srv_port")), of("srv_uweight"), of("srv_op_state") == "2"})
		}
	}
	return nil
}

// ask sends a command to the socket of HAProxy's worker.
func (h *haproxy) ask(command string) (string, error) {
	conn, err := net.DialTimeout("unix", h.w.path("admin.sock"), time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(conn, command); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(bufio.NewReader(conn))
	return string(answer), err
}

// until waits until HAProxy would send requests for a service to exactly these backends.
func (h *haproxy) until(service string, want ...*backend) {
	h.w.t.Helper()
	var addresses []string
	for _, b := range want {
		addresses = append(addresses, b.address)
	}
	slices.Sort(addresses)
	h.w.until(fmt.Sprintf("HAProxy has %d servers of %s", len(want), service), func() string {
		running, err := h.running()
		if err != nil {
			return err.Error()
		}
		if !slices.Equal(running[service], addresses) {
			return fmt.Sprintf("it has %v and not %v", running[service], addresses)
		}
		return ""
	})
}

// serves asks for a service through HAProxy, on connections of their own, and returns who answered.
func (h *haproxy) serves(service string, times int) (answers map[string]int) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answers = map[string]int{}
	for range times {
		answer, err := get(&client, "http://"+h.address+"/"+service+"/")
		if err != nil {
			answer = err.Error()
		}
		answers[answer]++
	}
	return answers
}

// get returns the body of an answer of 200, and an error for every other one.
func get(client *http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %q", response.Status, body)
	}
	return string(body), err
}

// backend is an HTTP server that answers with its name.
type backend struct {
	name, address string
}

func startBackend(t *testing.T, name string) *backend {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, name) }))
	t.Cleanup(server.Close)
	return &backend{name: name, address: server.Listener.Addr().String()}
}

// recordOf is what a registrar would write of a backend.
func recordOf(service string, b *backend) string {
	host, port, _ := net.SplitHostPort(b.address)
	number, _ := strconv.Atoi(port)
	text, _ := json.Marshal(registry.Record{Service: service, Instance: b.name, Address: host, Port: number, Protocol: "tcp", State: registry.StateUp})
	return string(text)
}

// register writes the record of a backend, as a registrar does.
func (w *world) register(service string, backends ...*backend) {
	w.t.Helper()
	for _, b := range backends {
		w.set("/services/"+service+"/"+b.name, recordOf(service, b))
	}
}

// deregister removes the record of a backend.
func (w *world) deregister(service string, b *backend) {
	w.t.Helper()
	w.store.must(kv.Write{Op: kv.OpDelete, Key: "/services/" + service + "/" + b.name})
}
