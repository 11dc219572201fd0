package gateway

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

func TestTheLongestKeyOfTheRulesCounts(t *testing.T) {
	list, err := parseRules("r:/services,rw:/services/web,none:/services/web/secret, rw:/app/")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key                string
		read, deep, writes bool
	}{
		{"/services", true, false, false}, // recursively the secret would show
		{"/services/db", true, true, false},
		{"/services/web", false, false, false}, // its listing would show the secret, and a removal take it along
		{"/services/web/a", true, true, true},
		{"/services/web/secret", false, false, false},
		{"/services/web/secret/a", false, false, false},
		{"/services/web/secretly", true, true, true},
		{"/servicesx", false, false, false},
		{"/service", false, false, false},
		{"/app", true, true, true},
		{"/app/_hidden/a", true, true, true},
		{"/_app", false, false, false},
		{"", false, false, false},
	} {
		if got := list.mayRead(c.key, false); got != c.read {
			t.Errorf("read %q: %v", c.key, got)
		}
		if got := list.mayRead(c.key, true); got != c.deep {
			t.Errorf("read %q recursively: %v", c.key, got)
		}
		if got := list.mayWatch(c.key, true); got != c.deep {
			t.Errorf("watch %q recursively: %v", c.key, got)
		}
		if got := list.mayWrite(c.key); got != c.writes {
			t.Errorf("write %q: %v", c.key, got)
		}
	}
}

func TestRulesThatAreNoneAreNamed(t *testing.T) {
	for _, text := range []string{"", "x", "10.0.0.0/8", "10.0.0.0/8=", "10.0.0.0/8=r", "10.0.0.0/8=r:", "10.0.0.0/8=r:a", "10.0.0.0/8=w:/a", "10.0.0.0/8=r:/a,rw:/a/",
		"10.0.0.0/8=r:/a,,", "docker:=r:/a", "10.0.0.0/33=r:/a", "fe80::1%eth0=r:/a", "::ffff:10.0.0.0/104=r:/a", "name=r:/a"} {
		if p, err := newPolicy([]string{text}, "/services"); err == nil || !strings.Contains(err.Error(), "--gateway-allow") {
			t.Errorf("%q: %+v, %v", text, p, err)
		}
	}
	if _, err := newPolicy([]string{"10.0.0.0/8=r:/a", "10.1.2.3/8=r:/b"}, "/services"); err == nil {
		t.Error("one network twice")
	}
}

func TestTheLongestNetworkCountsAndNobodyElseIsLetIn(t *testing.T) {
	p, err := newPolicy([]string{"10.0.0.0/8=r:/a", "10.1.0.0/16=r:/b", "::ffff:10.1.2.3=r:/c", "fd00::/8=r:/d", "docker:front=r:/e", "unix=r:/f"}, "/services")
	if err != nil {
		t.Fatal(err)
	}
	rulesAt := func(address string) string {
		var a netip.Addr
		if address != "" {
			a = netip.MustParseAddr(address)
		}
		if list := p.of(a, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}); list != nil {
			return list[0].key
		}
		return ""
	}
	check := func(want map[string]string) {
		t.Helper()
		for address, key := range want {
			if got := rulesAt(address); got != key {
				t.Errorf("%q has the rules of %q, want %q", address, got, key)
			}
		}
	}
	check(map[string]string{"10.9.9.9": "/a", "10.1.9.9": "/b", "10.1.2.3": "/c", "fd00::1": "/d", "172.18.0.2": "", "192.168.0.1": "", "fe80::1": "", "": "/f"})
	p.resolve(map[string][]netip.Prefix{"front": {netip.MustParsePrefix("172.18.0.1/16"), netip.MustParsePrefix("fd00:1::/64")}})
	check(map[string]string{"172.18.0.2": "/e", "fd00:1::7": "/e", "fd00:2::7": "/d", "172.19.0.2": ""})
	if got := p.readable(); strings.Join(got, " ") != "/a /b /c /d /e /f" {
		t.Errorf("readable: %v", got)
	}
}

func TestWithoutRulesTheServicesMayBeReadFromTheNetworkListenedAt(t *testing.T) {
	p, err := newPolicy(nil, "/services")
	if err != nil {
		t.Fatal(err)
	}
	own := []netip.Prefix{netip.MustParsePrefix("172.17.0.0/16")}
	list := p.of(netip.MustParseAddr("172.17.0.9"), own)
	if !list.mayRead("/services", true) || list.mayWrite("/services/a") || list.mayRead("/config", false) || list.mayRead("", false) {
		t.Errorf("in the network: %+v", list)
	}
	if list := p.of(netip.MustParseAddr("172.18.0.9"), own); list != nil {
		t.Errorf("from another network: %+v", list)
	}
	if list := p.of(netip.Addr{}, nil); !list.mayRead("/services", true) || list.mayWrite("/services/a") {
		t.Errorf("at a socket: %+v", list)
	}
	if _, err := New(Config{Listen: []string{"0.0.0.0:2379"}, Services: "/services"}); err == nil {
		t.Error("at every address without rules")
	}
}

// Everything here is about keys of others, in every spelling that a server or a path between could take apart.
func TestNoSpellingReachesAKeyOfOthers(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	for _, key := range []string{"/secret/a", "/app/a", "/app/_mine", "/appendix", "/_hidden"} {
		want(t, call(t, "PUT", cluster.URL()+"/v2/keys"+key, "value=SECRET"+key), 201, "set")
	}
	before := call(t, "GET", cluster.URL()+"/v2/keys/?recursive=true&sorted=true", "")
	g := start(t, []string{cluster.URL()}, func(cfg *Config) { cfg.Allow = []string{"127.0.0.0/8=r:/app"} })
	for _, path := range []string{
		"", "/", "/secret", "/secret/a", "/secret/", "/appendix", "/app%2e%2e", "/_hidden",
		"/app/../secret/a", "/app/%2e%2e/secret/a", "/app/%2E%2E/secret/a", "/app/.%2e/secret/a", "/app/%2e./secret/a",
		"/app%2F..%2Fsecret%2Fa", "/app%2f%2e%2e%2fsecret%2fa", "//secret/a", "/app//../secret/a", "/app/..%2fsecret/a",
		"/app/%2e%2e%2f%2e%2e/secret/a", "/./secret/a", "/%2e/secret/a", "/%2Fsecret/a", "/%2e%2e/%2e%2e/secret/a",
		"/app/x/../../secret/a", "/app/..", "/app/%2e%2e", "/app/../", "/app;/../secret/a", "/app\\..\\secret",
	} {
		for _, query := range []string{"", "?recursive=true", "?quorum=true", "?recursive=false&recursive=true", "?sorted=true", "?wait=true&waitIndex=1", "?wait=true&recursive=true&waitIndex=1", "?dir=true"} {
			for _, method := range []string{"GET", "HEAD", "PUT", "POST", "DELETE"} {
				r, err := try(method, g.url+"/v2/keys"+path+query, "value=written")
				if err != nil {
					t.Fatalf("%s %s: %v", method, path+query, err)
				}
				if r.status/100 == 2 || strings.Contains(r.body, "SECRET/secret") || strings.Contains(r.body, "SECRET/_hidden") || strings.Contains(r.body, "SECRET/appendix") {
					t.Errorf("%s %s: %d %s", method, path+query, r.status, r.body)
				}
			}
		}
	}
	for _, c := range []struct{ method, path, form string }{
		{"PUT", "/app/a", "value=x"}, {"PUT", "/app/a?prevExist=true", "value=x"}, {"PUT", "/app/a?prevValue=SECRET/app/a", "value=x"}, {"PUT", "/app/new?prevExist=false", "value=x"},
		{"PUT", "/app?dir=true&prevExist=true&ttl=1", ""}, {"PUT", "/app", "dir=true&ttl=1&prevExist=true"}, {"POST", "/app", "value=x"}, {"DELETE", "/app/a", ""},
		{"DELETE", "/app?recursive=true", ""}, {"DELETE", "/app/a?prevValue=SECRET/app/a", ""}, {"PUT", "/app/a", "refresh=true&ttl=1"},
	} {
		want(t, call(t, c.method, g.url+"/v2/keys"+c.path, c.form), 403, "--gateway-allow")
	}
	want(t, call(t, "GET", g.url+"/v2/keys/app?recursive=true", ""), 200, "SECRET/app/a")
	want(t, call(t, "GET", g.url+"/v2/keys/app%2Fa", ""), 200, "SECRET/app/a")
	want(t, call(t, "GET", g.url+"/v2/keys/secret/%2e%2e/app/a", ""), 200, "SECRET/app/a") // is /app/a
	want(t, call(t, "GET", g.url+"/v2/keys/app/_mine", ""), 200, "SECRET/app/_mine")
	want(t, call(t, "GET", g.url+"/v2//keys/app/a", ""), 307, "")
	after := call(t, "GET", cluster.URL()+"/v2/keys/?recursive=true&sorted=true", "")
	if before.body != after.body {
		t.Errorf("something was written:\n%s\n%s", before.body, after.body)
	}
}

// A lease is known to everybody who may read a key that is attached to it.
func TestALeaseIsUsedByThoseWhoMayWriteAllItsKeys(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, []string{cluster.URL()}, func(cfg *Config) { cfg.Allow = []string{"127.0.0.0/8=r:/services,rw:/app"} })
	grant := func(url string) string {
		r := call(t, "POST", url+"/v2/leases", "ttl=3600")
		want(t, r, 201, `"id"`)
		return strings.Split(r.body, `"`)[3]
	}
	theirs, mine := grant(cluster.URL()), grant(g.url)
	want(t, call(t, "PUT", cluster.URL()+"/v2/keys/services/web", "value=1&lease="+theirs), 201, "")
	want(t, call(t, "PUT", g.url+"/v2/keys/app/a", "value=1&lease="+mine), 201, "")
	for _, method := range []string{"PUT", "DELETE"} {
		want(t, call(t, method, g.url+"/v2/leases/"+theirs, ""), 403, "--gateway-allow")
	}
	want(t, call(t, "PUT", g.url+"/v2/keys/app/b", "value=1&lease="+theirs), 403, "--gateway-allow")
	want(t, call(t, "PUT", g.url+"/v2/keys/app/b?lease="+theirs, "value=1"), 403, "--gateway-allow")
	want(t, call(t, "PUT", g.url+"/v2/keys/app/b", "value=1&lease=nonsense"), 400, "lease")
	want(t, call(t, "GET", g.url+"/v2/leases", ""), 403, "--gateway-allow")
	want(t, call(t, "GET", g.url+"/v2/leases/"+theirs, ""), 200, "/services/web")
	want(t, call(t, "GET", g.url+"/v2/leases/00000000000000ff", ""), 404, "")
	want(t, call(t, "PUT", g.url+"/v2/leases/"+mine, ""), 200, mine)
	want(t, call(t, "GET", g.url+"/v2/keys/app/a", ""), 200, "value")
	want(t, call(t, "DELETE", g.url+"/v2/leases/"+mine, ""), 200, mine)
	want(t, call(t, "GET", g.url+"/v2/keys/app/a", ""), 404, "")
	want(t, call(t, "GET", g.url+"/v2/keys/services/web", ""), 200, "value")
}

func TestANameThatAWebPageCanMakeLeadHereIsRefused(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	g := start(t, []string{cluster.URL()}, everything, func(cfg *Config) { cfg.Hosts = []string{"Kvd.Example"} })
	for host, status := range map[string]int{"evil.example": 403, "evil.example:2379": 403, "10.0.0.1": 404, "[fd00::1]:2379": 404, "localhost:2379": 404, "kvd": 404,
		"host.docker.internal:2379": 404, "kvd.example.:2379": 404, "a.localhost": 404} {
		r := rawGet(t, g.url, "/v2/keys/none", host)
		if r.status != status {
			t.Errorf("Host: %s is answered %d %s, want %d", host, r.status, r.body, status)
		}
	}
	want(t, call(t, "PUT", g.url+"/v2/keys/a", "value=1", "Origin: http://evil.example"), 403, "web pages") // the member's rule
}

// engineNetworks are networks of an engine.
type engineNetworks struct {
	subnet atomic.Pointer[netip.Prefix]
}

func (n *engineNetworks) Subnets(_ context.Context, name string) ([]netip.Prefix, error) {
	if p := n.subnet.Load(); p != nil && name == "front" {
		return []netip.Prefix{*p}, nil
	}
	return nil, errors.New("the engine does not answer")
}

func TestANetworkOfTheEngineIsLetInByName(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	networks := &engineNetworks{}
	subnet := netip.MustParsePrefix("127.0.0.0/8")
	networks.subnet.Store(&subnet)
	g := start(t, []string{cluster.URL()}, func(cfg *Config) { cfg.Allow, cfg.Subnets = []string{"docker:front=rw:/app"}, networks.Subnets })
	await(t, "the network is known", func() bool { return call(t, "PUT", g.url+"/v2/keys/app/a", "value=1").status/100 == 2 })
	none := start(t, []string{cluster.URL()}, func(cfg *Config) { cfg.Allow, cfg.Subnets = []string{"docker:back=rw:/app"}, networks.Subnets })
	want(t, call(t, "GET", none.url+"/v2/keys/app/a", ""), 403, "no rule")
}
