package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/discovery/dnstest"
)

// names is a kvd and a kvagent that answers the DNS from it, both as processes.
type names struct {
	t       *testing.T
	bin     string
	store   *cluster.Cluster
	log     string // of kvagent, a file
	agent   *exec.Cmd
	address string
}

func answerNames(t *testing.T, flags ...string) *names {
	t.Helper()
	parts.Need(t, "dig")
	n := &names{t: t, bin: parts.Build(t), log: filepath.Join(t.TempDir(), "kvagent.log")}
	var err error
	n.store, err = cluster.New(cluster.Config{Program: cluster.KVD(filepath.Join(n.bin, "kvd")), Members: 1, Dir: t.TempDir(), Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.store.Close() })
	if err := n.store.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(n.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	n.agent = exec.Command(filepath.Join(n.bin, "kvagent"), append([]string{
		"--endpoints", n.url(), "--source", "file", "--services-dir", t.TempDir(), "--socket", "", "--dns-listen", "127.0.0.1:0"}, flags...)...)
	n.agent.Stderr = log
	if err := n.agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n.agent.ProcessState == nil {
			n.agent.Process.Kill()
			n.agent.Wait()
		}
		if t.Failed() {
			t.Logf("kvagent said\n%s", n.said())
		}
	})
	where := regexp.MustCompile(`answering names.*(127\.0\.0\.1:[0-9]+)`)
	eventually(t, "kvagent answers names", func() bool {
		found := where.FindStringSubmatch(n.said())
		if found == nil {
			return false
		}
		n.address = found[1]
		return true
	})
	return n
}

func (n *names) url() string { return n.store.Members()[0].ClientURL }

func (n *names) said() string {
	n.t.Helper()
	text, err := os.ReadFile(n.log)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(text)
}

func (n *names) kvctl(args ...string) {
	n.t.Helper()
	if out, err := exec.Command(filepath.Join(n.bin, "kvctl"), append([]string{"--endpoints", n.url()}, args...)...).CombinedOutput(); err != nil {
		n.t.Fatalf("kvctl %q: %v\n%s", args, err, out)
	}
}

func (n *names) register(service, instance, address string, port int, more string) {
	n.t.Helper()
	n.kvctl("set", "/services/"+service+"/"+instance,
		fmt.Sprintf(`{"service":%q,"instance":%q,"address":%q,"port":%d,"protocol":"tcp","state":"up"%s}`, service, instance, address, port, more))
}

// dig returns the lines of dig +short, sorted, and the code of the answer if there are none.
func (n *names) dig(args ...string) string {
	n.t.Helper()
	host, port, err := net.SplitHostPort(n.address)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "dig", append([]string{"@" + host, "-p", port, "+noall", "+comments", "+answer"}, args...)...).CombinedOutput()
	if err != nil {
		return err.Error()
	}
	var answers []string
	status := ""
	for line := range strings.Lines(string(out)) {
		if _, rest, ok := strings.Cut(line, "status: "); ok {
			status, _, _ = strings.Cut(rest, ",")
		}
		if fields := strings.Fields(line); len(fields) > 4 && !strings.HasPrefix(line, ";") {
			answers = append(answers, strings.Join(fields[4:], " "))
		}
	}
	slices.Sort(answers)
	if len(answers) == 0 {
		return status
	}
	return strings.Join(answers, ", ")
}

func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, n.address)
	}}
}

// TestServicesAreFoundByTheirNames asks a real kvagent, with dig and with Go's resolver, over UDP and TCP, while
// records come and go and while the store is away.
func TestServicesAreFoundByTheirNames(t *testing.T) {
	t.Parallel()
	n := answerNames(t, "--dns-domain", "cluster.test")
	n.register("web", "h1_web_80", "10.0.0.1", 8080, `,"tags":["blue"],"weight":10`)
	n.register("web", "h2_web_80", "2001:db8::2", 8081, ``)
	n.register("db", "primary", "db1.example.com", 5432, ``)
	is := func(want string, args ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("dig %q says %q", args, want), func() bool { return n.dig(args...) == want })
	}
	is("db1.example.com.", "db.service.cluster.test", "A")
	ask := func() {
		t.Helper()
		for _, protocol := range []string{"+notcp", "+tcp"} {
			for name, want := range map[string]string{
				"web.service.cluster.test A":                      "10.0.0.1",
				"WEB.service.cluster.test AAAA":                   "2001:db8::2",
				"blue.web.service.cluster.test A":                 "10.0.0.1",
				"blue.web.service.cluster.test AAAA":              "NOERROR",
				"_web._tcp.service.cluster.test SRV":              "0 1 8081 h2_web_80.web.service.cluster.test., 0 10 8080 h1_web_80.web.service.cluster.test.",
				"h2_web_80.web.service.cluster.test AAAA":         "2001:db8::2",
				"h1_web_80.web.service.cluster.test TXT":          `"instance=h1_web_80" "tags=blue"`,
				"_services._dns-sd._udp.service.cluster.test PTR": "_db._tcp.service.cluster.test., _web._tcp.service.cluster.test.",
				"cluster.test NS":                                 "ns.cluster.test.",
				"nobody.service.cluster.test":                     "NXDOMAIN",
				"web.service.kvd":                                 "REFUSED",
			} {
				if got := n.dig(append(strings.Fields(name), protocol)...); got != want {
					t.Errorf("dig %s %s: %q, want %q", name, protocol, got, want)
				}
			}
		}
		addresses, err := n.resolver().LookupHost(t.Context(), "web.service.cluster.test.")
		slices.Sort(addresses)
		if err != nil || !slices.Equal(addresses, []string{"10.0.0.1", "2001:db8::2"}) {
			t.Errorf("Go finds %q, %v", addresses, err)
		}
		_, services, err := n.resolver().LookupSRV(t.Context(), "web", "tcp", "service.cluster.test.")
		if err != nil || len(services) != 2 {
			t.Errorf("Go finds %v, %v", services, err)
		}
	}
	ask()

	store := n.store.Members()[0]
	if err := store.Stop(); err != nil {
		t.Fatal(err)
	}
	ask()
	if err := store.Launch(); err != nil {
		t.Fatal(err)
	}
	if err := store.AwaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask()

	n.kvctl("rm", "/services/web/h1_web_80")
	is("NXDOMAIN", "blue.web.service.cluster.test", "A")
	n.register("web", "h2_web_80", "10.0.0.3", 8081, ``)
	is("10.0.0.3", "web.service.cluster.test", "A")
	n.kvctl("rm", "--recursive", "/services/web")
	is("NXDOMAIN", "web.service.cluster.test", "A")

	if err := n.agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := n.agent.Wait(); err != nil {
		t.Errorf("kvagent ended with %v", err)
	}
}

// TestManyInstancesFitIntoAnAnswerOverTCP: dig and Go ask again by themselves.
func TestManyInstancesFitIntoAnAnswerOverTCP(t *testing.T) {
	t.Parallel()
	n := answerNames(t)
	const many = 150
	for i := range many {
		n.register("web", fmt.Sprintf("h%d", i), fmt.Sprintf("10.0.0.%d", i), 80, ``)
	}
	eventually(t, "dig finds all", func() bool { return strings.Count(n.dig("web.service.kvd"), "10.0.0.") == many })
	if got := strings.Count(n.dig("web.service.kvd", "+ignore"), "10.0.0."); got < 50 || got >= many {
		t.Errorf("over UDP alone dig finds %d", got)
	}
	addresses, err := n.resolver().LookupHost(t.Context(), "web.service.kvd.")
	if err != nil || len(addresses) != many {
		t.Errorf("Go finds %d: %v", len(addresses), err)
	}
}

// newNetwork makes a network of containers with a bridge of this name, and returns the address of its host.
func newNetwork(t *testing.T, bridge string) (name, gateway string) {
	t.Helper()
	name = fmt.Sprintf("%s-%d", bridge, os.Getpid())
	parts.DockerCommand(t, "network", "create", "--label", "kvd-test", "-o", "com.docker.network.bridge.name="+bridge, name)
	t.Cleanup(func() { parts.DockerCommand(t, "network", "rm", name) })
	return name, parts.DockerCommand(t, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", name)
}

// TestContainersFindServicesByTheirNames: kvagent answers at the address of a network of containers, which comes
// later than kvagent. The engine passes their questions on, and those that kvagent refuses to the next server.
func TestContainersFindServicesByTheirNames(t *testing.T) {
	parts.Docker(t)
	parts.Need(t, "root") // port 53
	const bridge = "kvdtestdns0"
	n := answerNames(t, "--dns-listen", bridge+":53")
	n.register("web", "a", "10.0.0.1", 80, ``)
	network, gateway := newNetwork(t, bridge)
	eventually(t, "kvagent answers at the new network", func() bool { return strings.Contains(n.said(), gateway+":53") })
	_, elsewhere := newNetwork(t, bridge+"b")
	dnstest.StartAt(t, elsewhere+":53", "www.example.org. 60 IN A 192.0.2.9")
	container := parts.RunContainer(t, []string{"--network", network, "--network-alias", "neighbour", "--dns", gateway, "--dns", elsewhere})
	for name, want := range map[string]string{"web.service.kvd": "10.0.0.1", "a.web.service.kvd": "10.0.0.1", "neighbour": "Name:\tneighbour", "www.example.org": "192.0.2.9"} {
		eventually(t, "a container finds "+name, func() bool {
			found, err := exec.Command("docker", "exec", container, "busybox", "nslookup", name).CombinedOutput()
			return err == nil && strings.Contains(string(found), want)
		})
	}
}
