package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
	"github.com/kvd-io/kvd/pkg/workload/docker"
)

// run runs a program and returns what it prints.
func run(t *testing.T, env []string, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	command.Env = append(os.Environ(), env...)
	output, err := command.CombinedOutput()
	return strings.TrimSpace(string(output)), err
}

func TestEtcdctlKeepsToTheGateway(t *testing.T) {
	etcdctl := parts.Path(t, "etcdctl")
	cluster := daemontest.Start(t, 3)
	g := start(t, urls(cluster), func(cfg *Config) { cfg.Allow = []string{"127.0.0.0/8=rw:/app"} })
	say := func(args ...string) (string, error) {
		return run(t, []string{"ETCDCTL_API=2"}, etcdctl, append([]string{"--endpoints", g.url}, args...)...)
	}
	for _, c := range []struct{ args, want string }{
		{"set /app/a 1", "1"}, {"get /app/a", "1"}, {"mk /app/b 2", "2"}, {"update /app/b 3", "3"}, {"ls --recursive /app", "/app/a\n/app/b"},
		{"set --swap-with-value 1 /app/a 4", "4"}, {"mkdir /app/d", ""}, {"rm --recursive /app/d", ""}, {"get --quorum /app/a", "4"},
		{"watch --after-index 1 /app/a", "1"},
	} {
		if got, err := say(strings.Fields(c.args)...); err != nil || got != c.want {
			t.Errorf("etcdctl %s: %q, %v; want %q", c.args, got, err, c.want)
		}
	}
	if got, err := say("get", "/other"); err == nil || !strings.Contains(got, "--gateway-allow") {
		t.Errorf("a key of others: %q, %v", got, err)
	}
	if got, err := say("member", "list"); err != nil || !strings.Contains(got, "clientURLs="+g.url+" isLeader=true") {
		t.Errorf("members: %q, %v", got, err)
	}
	if got, err := say("cluster-health"); err != nil || !strings.Contains(got, "cluster is healthy") {
		t.Errorf("health: %q, %v", got, err)
	}
}

func TestCurlReadsWritesAndWatches(t *testing.T) {
	curl := parts.Path(t, "curl")
	g := start(t, urls(daemontest.Start(t, 1)), everything)
	say := func(args ...string) string {
		t.Helper()
		got, err := run(t, nil, curl, append([]string{"-sS", "--max-time", "20"}, args...)...)
		if err != nil {
			t.Errorf("curl %v: %v: %s", args, err, got)
		}
		return got
	}
	big := strings.Repeat("x", 1_400_000)
	file := t.TempDir() + "/value"
	if err := os.WriteFile(file, []byte(big), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-X", "PUT", g.url + "/v2/keys/a", "-d", "value=hello"}, `"value":"hello"`},
		{[]string{"-L", "-X", "PUT", g.url + "/v2//keys/b", "-d", "value=followed"}, `"value":"followed"`},
		{[]string{"-X", "PUT", g.url + "/v2/keys/big?noValueOnSuccess=true", "--data-urlencode", "value@" + file}, `{"action":"set"}`}, // after 100 Continue
		{[]string{"-I", g.url + "/v2/keys/a"}, "200 OK"},
		{[]string{g.url + "/v2/keys/a?wait=true&waitIndex=1"}, `"value":"hello"`},
		{[]string{"-X", "DELETE", g.url + "/v2/keys/a?prevValue=hello"}, `"action":"compareAndDelete"`},
	} {
		if got := say(c.args...); !strings.Contains(got, c.want) {
			t.Errorf("curl %v: %.300s; want %s", c.args, got, c.want)
		}
	}
	if got := say(g.url + "/v2/keys/big"); !strings.Contains(got, big) {
		t.Errorf("a big value comes back with %d bytes", len(got))
	}
}

// An etcd streams one event from the past and no more, and has no leases.
func TestAnEtcdBehindTheGatewayIsUsedAsAMember(t *testing.T) {
	etcd := etcdtest.Start(t)
	g := start(t, []string{etcd.URL}, everything)
	first := call(t, "PUT", g.url+"/v2/keys/d/a", "value=1")
	want(t, first, 201, `"value":"1"`)
	want(t, call(t, "PUT", g.url+"/v2/keys/d/a", "value=2"), 200, `"value":"2"`)
	if r := warm(t, g, "/v2/keys/d/a"); !strings.Contains(r.body, `"value":"2"`) {
		t.Errorf("read: %s", r.body)
	}
	stream, err := http.Get(fmt.Sprintf("%s/v2/keys/d?wait=true&recursive=true&stream=true&waitIndex=%d", g.url, first.index()))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	events := lines(stream.Body)
	for _, value := range []string{"1", "2", "3"} {
		if value == "3" {
			want(t, call(t, "PUT", etcd.URL+"/v2/keys/d/a", "value=3"), 200, "")
		}
		if line := next(t, events); !strings.Contains(line, `"node":{"key":"/d/a","value":"`+value) {
			t.Errorf("event %s: %s", value, line)
		}
	}
	await(t, "the write elsewhere is read", func() bool {
		return strings.Contains(call(t, "GET", g.url+"/v2/keys/d/a", "").body, `"value":"3"`)
	})
	want(t, call(t, "POST", g.url+"/v2/leases", "ttl=60"), 404, "")
}

// A container knows the address of its bridge, and has nothing but busybox.
func TestAContainerUsesTheStoreOverItsBridge(t *testing.T) {
	parts.Docker(t)
	cluster := daemontest.Start(t, 3)
	engine, err := docker.New(docker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	network := fmt.Sprintf("kvd-gw-%d", os.Getpid())
	parts.DockerCommand(t, "network", "create", "--label", "kvd-test", network)
	t.Cleanup(func() { exec.Command("docker", "network", "rm", network).Run() })
	g := start(t, urls(cluster), func(cfg *Config) {
		cfg.Listen = []string{"docker0:0"}
		cfg.Allow = []string{"docker:bridge=r:/services,rw:/app", "docker:" + network + "=rw:/other"}
		cfg.Subnets = engine.Subnets
	})
	bridge := g.Stats().Listening[0]
	if _, err := netip.ParseAddrPort(bridge); err != nil || strings.HasPrefix(bridge, "127.") {
		t.Fatalf("listening at %q", bridge)
	}
	host, port, _ := strings.Cut(bridge, ":")
	get := func(container, path string) (string, error) {
		return run(t, nil, "docker", "exec", container, "wget", "-q", "-O", "-", "http://"+bridge+path)
	}
	put := func(container, path, form string) string {
		request := fmt.Sprintf(`PUT %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s`, path, bridge, len(form), form)
		answer, err := run(t, nil, "docker", "exec", container, "sh", "-c", "echo -ne '"+request+"' | nc -w 15 "+host+" "+port)
		if err != nil {
			t.Errorf("nc: %v: %s", err, answer)
		}
		return answer
	}
	want(t, call(t, "PUT", cluster.URL()+"/v2/keys/services/web/a", "value=10.0.0.7"), 201, "")
	plain := parts.RunContainer(t, nil, "sleep", "300")
	other := parts.RunContainer(t, []string{"--network", network}, "sleep", "300")
	await(t, "the network is known", func() bool { return g.policy.of(containerAddress(t, plain), nil) != nil })

	if got, err := get(plain, "/v2/keys/services?recursive=true"); err != nil || !strings.Contains(got, "10.0.0.7") {
		t.Errorf("read: %q, %v", got, err)
	}
	if got := put(plain, "/v2/keys/app/a", "value=written"); !strings.Contains(got, "201 Created") {
		t.Errorf("write: %q", got)
	}
	want(t, call(t, "GET", cluster.URL()+"/v2/keys/app/a", ""), 200, "written")
	if got := put(plain, "/v2/keys/services/web/b", "value=stolen"); !strings.Contains(got, "403 Forbidden") {
		t.Errorf("write to the services: %q", got)
	}
	if got, err := get(other, "/v2/keys/services"); err == nil {
		t.Errorf("from another network: %q", got)
	}
	if got := put(other, "/v2/keys/other/a", "value=1"); !strings.Contains(got, "201 Created") {
		t.Errorf("write from another network: %q", got)
	}
	watched := make(chan string, 1)
	go func() {
		got, err := get(plain, "/v2/keys/app?wait=true&recursive=true")
		watched <- fmt.Sprint(got, err)
	}()
	await(t, "the container watches", func() bool { return g.Stats().Watches == 1 })
	cluster.Members()[0].Kill() // the one in use
	want(t, call(t, "PUT", cluster.Members()[1].URL()+"/v2/keys/app/b", "value=seen"), 201, "")
	select {
	case got := <-watched:
		if !strings.Contains(got, `"value":"seen"`) {
			t.Errorf("the watch ended with %s", got)
		}
	case <-time.After(patience):
		t.Error("the watch has told nothing")
	}
}

func containerAddress(t *testing.T, id string) netip.Addr {
	t.Helper()
	address, err := netip.ParseAddr(parts.DockerCommand(t, "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", id))
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// An interface that is not there yet, that is given another address, and that goes.
func TestAnInterfaceIsFollowed(t *testing.T) {
	parts.Need(t, "root")
	ip := parts.Path(t, "ip")
	name := fmt.Sprintf("kvgw%d", os.Getpid()%100000)
	link := func(args ...string) {
		t.Helper()
		if got, err := run(t, nil, ip, args...); err != nil {
			t.Skipf("part missing: netns: ip %v: %v: %s", args, err, got)
		}
	}
	s, err := New(Config{Listen: []string{name + ":23790"}, Services: "/services", Store: kvclient.Config{Endpoints: urls(daemontest.Start(t, 1))}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	await(t, "the gateway says what it waits for", func() bool { return len(s.Stats().Waiting) == 1 })
	link("link", "add", name, "type", "bridge")
	defer run(t, nil, ip, "link", "del", name)
	link("addr", "add", "10.213.7.1/24", "dev", name)
	link("link", "set", name, "up")
	is := func(address string) func() bool {
		return func() bool {
			stats := s.Stats()
			return len(stats.Listening) == 1 && stats.Listening[0] == address && len(stats.Waiting) == 0
		}
	}
	await(t, "it listens", is("10.213.7.1:23790"))
	if r := call(t, "GET", "http://10.213.7.1:23790/v2/keys/services", ""); r.status != 404 {
		t.Errorf("from the interface's own network: %+v", r)
	}
	link("addr", "del", "10.213.7.1/24", "dev", name)
	link("addr", "add", "10.213.8.1/24", "dev", name)
	await(t, "it listens at the new address", is("10.213.8.1:23790"))
	link("link", "del", name)
	await(t, "it waits again", func() bool { return len(s.Stats().Listening) == 0 && len(s.Stats().Waiting) == 1 })
}
