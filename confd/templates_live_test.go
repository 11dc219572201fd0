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
