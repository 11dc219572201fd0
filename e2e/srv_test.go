package e2e

import (
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kvd-io/kvd/e2e/cluster"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/discovery/dnstest"
)

// TestThreeMembersFormByTheirRecords: members and kvctl ask a real server of names, which /etc/resolv.conf
// names. Once the members have started, they go on without it, and start again when the records are gone
// and the hosts are still known.
func TestThreeMembersFormByTheirRecords(t *testing.T) {
	parts.Need(t, "mountns")
	t.Parallel()
	dir := parts.Build(t)
	data := t.TempDir()
	c, err := cluster.New(cluster.Config{Program: cluster.KVD(filepath.Join(dir, "kvd")), Members: 3, Dir: data, Loopback: true, Domain: "example.org",
		Args: []string{"--host-whitelist", "m1.example.org,m2.example.org,m3.example.org"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	var records, hosts []string
	for _, m := range c.Members() {
		u, err := url.Parse(m.PeerURL)
		if err != nil {
			t.Fatal(err)
		}
		records = append(records,
			fmt.Sprintf("_etcd-server._tcp.example.org. 60 IN SRV 0 0 %s %s.example.org.", u.Port(), m.Name),
			fmt.Sprintf("_etcd-client._tcp.example.org. 60 IN SRV 0 0 2379 %s.example.org.", m.Name))
		hosts = append(hosts, fmt.Sprintf("%s.example.org. 60 IN A %s", m.Name, u.Hostname()))
	}
	server := dnstest.StartAt(t, net.JoinHostPort(c.Nameserver(), "53"), append(records, hosts...)...)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}

	kvctl := func(args ...string) string {
		t.Helper()
		args = append(append(c.Naming(), filepath.Join(dir, "kvctl")), args...)
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("kvctl %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	byRecords := []string{"-D", "example.org", "--insecure-discovery"}
	kvctl(append(byRecords, "set", "/hello", "world")...)
	if got := kvctl(append(byRecords, "get", "--quorum", "/hello")...); got != "world\n" {
		t.Errorf("%q", got)
	}
	list := kvctl(append(byRecords, "member", "list")...)
	for _, m := range c.Members() {
		if !strings.Contains(list, "http://"+m.Name+".example.org:2380") || strings.Count(list, " voter ") != 3 {
			t.Errorf("%s is not in\n%s", m.Name, list)
		}
	}

	// A fourth one joins by its record.
	address := strings.TrimSuffix(c.Nameserver(), ".1") + ".20"
	fourth := func() *exec.Cmd {
		args := append(append(c.Naming(), filepath.Join(dir, "kvd")), "--name", "m4", "--data-dir", filepath.Join(data, "m4"), "--discovery-srv", "example.org",
			"--initial-cluster-state", "existing", "--initial-cluster-token", filepath.Base(data),
			"--listen-client-urls", "http://"+address+":2379", "--listen-peer-urls", "http://"+address+":2380")
		return exec.Command(args[0], args[1:]...)
	}
	refused := func(wants string) {
		t.Helper()
		cmd := fourth()
		if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), wants) {
			t.Fatalf("%v\n%s\nwant %q", err, out, wants)
		}
	}
	refused("and this member is at " + address + ":2380: publish a record for it")
	hosts = append(hosts, "m4.example.org. 60 IN A "+address)
	records = append(records, "_etcd-server._tcp.example.org. 60 IN SRV 0 0 2380 m4.example.org.")
	server.Set(t, append(records, hosts...)...)
	refused("add it first with kvctl member add m4 http://m4.example.org:2380")
	kvctl(append(byRecords, "member", "add", "m4", "http://m4.example.org:2380", "--learner")...)
	joined := fourth()
	joined.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := joined.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { joined.Process.Kill(); joined.Wait() })
	await(t, "the fourth has what the others have", func() bool {
		return run(filepath.Join(dir, "kvctl"), "--endpoints", "http://"+address+":2379", "get", "--quorum", "/hello") == "world\n"
	})

	server.Be(dnstest.Silent)
	if got := kvctl("--endpoints", c.Members()[1].ClientURL, "set", "/hello", "again"); got != "again\n" {
		t.Errorf("%q", got)
	}
	server.Set(t, hosts...)
	server.Be(dnstest.Well)
	asked := len(server.Asked())
	for _, m := range c.Members() {
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := kvctl("--endpoints", c.Members()[2].ClientURL, "get", "--quorum", "/hello"); got != "again\n" {
		t.Errorf("%q", got)
	}
	for _, question := range server.Asked()[asked:] {
		if strings.HasSuffix(question, " SRV") {
			t.Errorf("a member that has started before has asked for %s", question)
		}
	}
}
