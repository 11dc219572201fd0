package confd

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/kvd-io/kvd/confd/proxy"
	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
)

// dnsmasq is a real one that reads the names in one directory.
type dnsmasq struct {
	t       *testing.T
	address string
	log     logBuffer
	cmd     *exec.Cmd
}

// startDnsmasq returns when dnsmasq has read the file at path, with all that is beside it.
func startDnsmasq(t *testing.T, path string) *dnsmasq {
	t.Helper()
	d := &dnsmasq{t: t, address: freeAddress(t)}
	_, port, _ := net.SplitHostPort(d.address)
	d.cmd = exec.Command(parts.Path(t, "dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=", "--log-facility=-",
		"--port="+port, "--listen-address=127.0.0.1", "--bind-interfaces", "--no-resolv", "--no-hosts",
		"--hostsdir="+filepath.Dir(path), "--local=/service.kvd/")
	d.cmd.Stderr = &d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.stop)
	for deadline := time.Now().Add(patience); !strings.Contains(d.log.String(), "read "+path+" "); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("dnsmasq has not read %s:\n%s", path, d.log.String())
		}
	}
	return d
}

func (d *dnsmasq) stop() {
	d.cmd.Process.Kill()
	d.cmd.Wait()
}

// ask returns the addresses of name, as IPv4.
func (d *dnsmasq) ask(name string) (addresses []string) {
	d.t.Helper()
	query := new(dns.Msg)
	answer, _, err := new(dns.Client).Exchange(query.SetQuestion(name+".", dns.TypeA), d.address)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, record := range answer.Answer {
		if a, ok := record.(*dns.A); ok {
			addresses = append(addresses, a.A.String())
		}
	}
	return addresses
}

func TestDnsmasqAnswersWithWhatIsRegistered(t *testing.T) {
	parts.Need(t, "dnsmasq")
	r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
	r.setWorld(nil)
	r.install("dnsmasq", "")
	// dnsmasq reads every file in its directory.
	toml := r.read("dnsmasq/conf.d/dnsmasq.toml")
	if err := os.Mkdir(r.path("names"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.write("dnsmasq/conf.d/dnsmasq.toml", strings.ReplaceAll(toml, r.path("proxy.cfg"), r.path("names/kvd")))
	register := func(instance, address string) {
		r.set("/services/web/"+instance, fmt.Sprintf(`{"address":%q,"port":80,"protocol":"tcp","state":"up"}`, address))
	}
	register("first", "10.0.0.1")
	register("second", "10.0.0.2")
	r.start()
	r.until("the file is there", func() bool { return r.exists("names/kvd") })
	d := startDnsmasq(t, r.path("names/kvd"))
	for _, step := range []struct {
		change func()
		want   int
	}{
		{func() {}, 2},
		{func() { register("third", "10.0.0.3") }, 3},
		{func() { r.remove("/services/web/second") }, 2},
	} {
		step.change()
		r.until(fmt.Sprintf("%d addresses", step.want), func() bool { return len(d.ask("web.service.kvd")) == step.want })
	}
	if got := fmt.Sprint(d.ask("web.service.kvd")); !strings.Contains(got, "10.0.0.1") || !strings.Contains(got, "10.0.0.3") {
		t.Errorf("web has the addresses %s", got)
	}
}

// What happens every day must not take a reload of HAProxy: the shipped templates are written so that its
// applier can make these changes at run time.
func TestEverydayChangesOfTheShippedHAProxyFilesTakeNoReload(t *testing.T) {
	for _, program := range []string{"haproxy", "haproxy-tcp"} {
		t.Run(program, func(t *testing.T) {
			parts.Need(t, "haproxy")
			r := newRig(t, newClient(t, daemontest.Start(t, 1).URL()))
			settings := shipped(r.dir, freeAddress(t))[program]
			_, port, _ := net.SplitHostPort(freeAddress(t))
			settings["KVD_TCP_PORTS"], settings["KVD_TCP_ADDR"] = "web:"+port, "127.0.0.1"
			r.setWorld(settings)
			r.install(program, "")
			register := func(instance, address, more string) func() {
				return func() {
					r.set("/services/web/"+instance, fmt.Sprintf(`{"address":%q,"port":1,"protocol":"tcp"%s}`, address, more))
				}
			}
			render := func() []byte {
				if err := r.once(); err != nil {
					t.Fatal(err)
				}
				return []byte(r.read("proxy.cfg"))
			}
			r.cfg.SyncOnly = true
			register("first", "127.0.0.1", `,"state":"up"`)()
			register("second", "127.0.0.2", `,"state":"up","weight":10`)()
			live := render()
			startProxy(t, r, "haproxy", "-W", "-f", r.path("proxy.cfg"))
			applier := proxy.NewHAProxy(proxy.HAProxyConfig{Socket: r.path("socket"), Log: r.deps.Log})
			r.until("HAProxy runs the first file", func() bool { return applier.Confirm(t.Context(), live, proxy.Mark{}) == nil })
			for _, step := range []struct {
				what   string
				change func()
			}{
				{"comes", register("third", "127.0.0.3", `,"state":"up"`)},
				{"moves", register("first", "127.0.0.9", `,"state":"up"`)},
				{"gets another weight", register("second", "127.0.0.2", `,"state":"up","weight":20`)},
				{"gets its first weight", register("third", "127.0.0.3", `,"state":"up","weight":7`)},
				{"has an IPv6 address", register("third", "::1", `,"state":"up","weight":7`)},
				{"drains", register("second", "127.0.0.2", `,"state":"draining"`)},
				{"is back", register("second", "127.0.0.2", `,"state":"up"`)},
				{"goes", func() { r.remove("/services/web/first") }},
			} {
				step.change()
				next := render()
				plan, err := applier.Plan(t.Context(), live, next)
				if err != nil || plan.Kind != proxy.Runtime {
					t.Fatalf("an instance %s: %v (%v)", step.what, plan, err)
				}
				if err := applier.Apply(t.Context(), plan); err != nil {
					t.Fatalf("an instance %s: %v", step.what, err)
				}
				r.until("HAProxy runs what the file says after an instance "+step.what, func() bool {
					return applier.Confirm(t.Context(), next, proxy.Mark{}) == nil
				})
				live = next
			}
		})
	}
}
