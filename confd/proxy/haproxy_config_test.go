package proxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/fuzztest"
)

const base = `global
    maxconn 100
defaults
    mode http
    default-server check inter 2s weight 5
frontend http
    bind :80
    default_backend web
backend web
    balance roundrobin
    server a 10.0.0.1:80
    server b 10.0.0.2:80 weight 9
backend api
    server x [2001:db8::1]:443 maxconn 3
`

func TestOnlyServersOfKnownBackendsAreChangedAtRunTime(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"", "", "nothing"},
		{"    maxconn 100", "\tmaxconn   100 # as ever\n\n# another comment", "nothing"},
		{"    server a 10.0.0.1:80\n    server b 10.0.0.2:80 weight 9\n", "    server b 10.0.0.2:80 weight 9\n    server a 10.0.0.1:80\n", "nothing"},
		{"weight 9", "weight 9 inter 2s", "nothing"},
		{"a 10.0.0.1:80", "a 10.0.0.1:81", "runtime: set server web/a address 10.0.0.1:81"},
		{"a 10.0.0.1:80", "a [::1]:80 weight 7 disabled", "runtime: set server web/a address [::1]:80, weight 7, disabled"},
		{"weight 9", "", "runtime: set server web/b weight 5"},
		{"server a 10", "server c 10", "runtime: add server web/c 10.0.0.1:80; remove server web/a"},
		{"[2001:db8::1]:443", "10.9.9.9:1", "runtime: set server api/x address 10.9.9.9:1"},
		{"balance roundrobin", "balance leastconn", "reload: backend web: balance changed"},
		{"maxconn 100", "maxconn 101", "reload: global: maxconn changed"},
		{"backend api", "backend api2", "reload: new backend api2"},
		{"backend api\n    server x [2001:db8::1]:443 maxconn 3\n", "", "reload: backend api is gone"},
		{"    default_backend web\n", "", "reload: frontend http: default_backend changed"},
		{"inter 2s", "inter 3s", "reload: defaults: default-server changed"},
		{"weight 9", "weight 9 maxconn 4", "reload: backend web: server b: keyword maxconn cannot be changed at run time"},
		{"maxconn 3", "", "reload: backend api: server x: keyword maxconn cannot be taken away at run time"},
		{"weight 9", "weight 9 frobnicate", "reload: backend web: server b: keyword frobnicate cannot be changed at run time"},
		{"weight 9", "weight 257", "reload: backend web: server b: weight \"257\" is not a number from 0 to 256"},
		{"weight 9", "weight", "reload: backend web: server b: keyword weight has no value"},
		{"weight 9", "cookie b", "reload: backend web: server b: keyword cookie cannot be changed at run time"},
		{"server a 10.0.0.1:80", "server a web.example:80", "reload: backend web: server a: \"web.example:80\" is not an IP address with a port"},
		{"server a 10.0.0.1:80", "server a 10.0.0.1", "reload: backend web: server a: \"10.0.0.1\" is not an IP address with a port"},
		{"server a 10.0.0.1:80", "server a unix@/run/x", "reload: backend web: server a: \"unix@/run/x\" is not an IP address with a port"},
		{"server a 10.0.0.1:80", "server a 0.0.0.0:80", "reload: backend web: server a: \"0.0.0.0:80\" is not an IP address with a port"},
		{"server a 10.0.0.1:80", "server a 10.0.0.1:80 resolvers dns", "reload: backend web: server a: keyword resolvers ties it to more than its line"},
		{"server a 10.0.0.1:80", "server a 10.0.0.1:80 track api/x", "reload: backend web: server a: keyword track ties it to more than its line"},
		{"server a 10.0.0.1:80", "server a;b 10.0.0.1:80", "reload: backend web: server a;b: its name has characters that are not sent to HAProxy"},
		{"server a 10.0.0.1:80", "server c 10.0.0.1:80 cookie c", "reload: backend web: server c: keyword cookie is not for servers that are added at run time"},
		{"server a 10.0.0.1:80", "server c 10.0.0.1:80 inter 1s;x", "reload: backend web: server c: the value of inter has characters that are not sent to HAProxy"},
		{"server a 10.0.0.1:80", `server "a" 10.0.0.1:80`, "reload: backend web: server changed"},
		{"server a 10.0.0.1:80", `server a 10.0.0.1:${PORT}`, "reload: backend web: server changed"},
		{"    server a 10.0.0.1:80", "    server b 10.0.0.9:80", "reload: backend web: the configuration is not understood: there are two servers b"},
		{"    server a 10.0.0.1:80", "    default-server maxconn 9\n    server a 10.0.0.1:80", "reload: backend web: default-server changed"},
		{"    balance roundrobin", "    .if defined(X)\n    balance roundrobin", "reload: backend web: .if changed"},
		{"    balance roundrobin", "    server-template t 3 10.0.0.9:80", "reload: backend web: server-template changed"},
		{"defaults", "defaults x", "reload: new defaults x"},
	} {
		next := strings.Replace(base, c.from, c.to, 1)
		if got := planOf(t, base, next); got != c.want {
			t.Errorf("%q -> %q:\n got %s\nwant %s", c.from, c.to, got, c.want)
		}
	}
}

func planOf(t testing.TB, live, next string) string {
	t.Helper()
	h := NewHAProxy(HAProxyConfig{Socket: "/nonexistent"})
	h.info = haInfo{pid: "1", version: haVersion{2, 6}, processes: 1}
	plan, err := h.Plan(t.Context(), []byte(live), []byte(next))
	if err != nil {
		t.Fatal(err)
	}
	return plan.String()
}

func TestWhatABackendSaysDecidesWhatItsServersAllow(t *testing.T) {
	const reload, runtime = "reload", "runtime"
	for _, c := range []struct{ lines, add, remove, move, weight string }{
		{"", runtime, runtime, runtime, runtime},
		{"balance leastconn", runtime, runtime, runtime, runtime},
		{"balance random(2)", runtime, runtime, runtime, runtime},
		{"balance static-rr", reload, reload, runtime, reload},
		{"balance source", reload, reload, runtime, reload},
		{"balance uri\n    hash-type consistent", reload, reload, runtime, runtime},
		{"balance hdr(x-user) use_domain_only\n    hash-type consistent sdbm", reload, reload, runtime, runtime},
		{"balance first", reload, reload, runtime, runtime},
		{"default-server backup", reload, runtime, runtime, runtime},
		{"default-server resolvers dns", reload, reload, reload, reload},
		{"default-server ssl verify none", reload, runtime, runtime, runtime},
		{"cookie SRV insert", reload, reload, reload, reload},
		{"mode log", reload, reload, reload, reload},
	} {
		text := func(servers string) string {
			return "defaults\n    mode tcp\nbackend web\n    " + c.lines + "\n    server a 10.0.0.1:80\n" + servers
		}
		for name, step := range map[string]struct{ live, next, want string }{
			"add":    {"", "    server b 10.0.0.2:80\n", c.add},
			"remove": {"    server b 10.0.0.2:80\n", "", c.remove},
			"move":   {"    server b 10.0.0.2:80\n", "    server b 10.0.0.3:80\n", c.move},
			"weight": {"    server b 10.0.0.2:80\n", "    server b 10.0.0.2:80 weight 4\n", c.weight},
		} {
			if got := planOf(t, text(step.live), text(step.next)); !strings.HasPrefix(got, step.want) {
				t.Errorf("%q: %s: got %s, want a %s", c.lines, name, got, step.want)
			}
		}
	}
	numbered := "defaults\nbackend web\n    balance source\n    hash-type consistent\n    server a 10.0.0.1:80 id 1\n"
	if got := planOf(t, numbered, numbered+"    server b 10.0.0.2:80 id 2\n"); got != "runtime: add server web/b 10.0.0.2:80" {
		t.Errorf("servers with an id: %s", got)
	}
	cutting := "defaults\nbackend web\n    server a 10.0.0.1:80 on-marked-down shutdown-sessions\n"
	for _, next := range []string{"defaults\nbackend web\n", strings.Replace(cutting, ":80", ":80 disabled", 1)} {
		if got := planOf(t, cutting, next); got != "reload: backend web: server a: on-marked-down would end the connections that a reload lets finish" {
			t.Error(got)
		}
	}
	if got := planOf(t, "backend web\n", "backend web\n    server b 10.0.0.2:80\n"); !strings.HasPrefix(got, "reload") {
		t.Errorf("a file without its defaults: %s", got)
	}
}

func TestDefaultsAreInheritedByName(t *testing.T) {
	text := "defaults one\n    default-server maxconn 1 check\ndefaults two from one\n    default-server weight 3\ndefaults three\n    default-server inter 9s\nbackend web from two\n    default-server no-check\n"
	want := "add server web/a 10.0.0.1:80 weight 3 maxconn 1 pool-max-conn -1 pool-purge-delay 5s"
	changes, reason := diffHAProxy(parseHAProxy([]byte(text)), parseHAProxy([]byte(text+"    server a 10.0.0.1:80\n")))
	if reason != "" || len(changes) != 1 || changes[0].add() != want {
		t.Errorf("got %v, %q, want %q", changes, reason, want)
	}
}

func TestManyChangesAreLeftToAReload(t *testing.T) {
	if got := planOf(t, manyServers(1, 600, 0), manyServers(1, 600, 600)); !strings.HasPrefix(got, "reload: 600 servers differ") {
		t.Error(got)
	}
}

func TestOldVersionsHaveAFixedSetOfServers(t *testing.T) {
	h := NewHAProxy(HAProxyConfig{Socket: "/nonexistent"})
	for _, c := range []struct {
		info haInfo
		next string
		want Kind
	}{
		{haInfo{pid: "1", version: haVersion{2, 4}, processes: 1}, strings.Replace(base, "weight 9", "weight 8", 1), Runtime},
		{haInfo{pid: "1", version: haVersion{2, 4}, processes: 1}, strings.Replace(base, "server b", "server c", 1), Reload},
		{haInfo{pid: "1", version: haVersion{2, 4}, processes: 2}, strings.Replace(base, "weight 9", "weight 8", 1), Reload},
		{haInfo{pid: "1", version: haVersion{3, 0}, processes: 1}, strings.Replace(base, "server b", "server c", 1), Runtime},
		{haInfo{}, strings.Replace(base, "server b", "server c", 1), Reload}, // its version cannot be had
	} {
		h.info = c.info
		if plan, err := h.Plan(t.Context(), []byte(base), []byte(c.next)); err != nil || plan.Kind != c.want {
			t.Errorf("%+v: %v, %v", c.info, plan, err)
		}
	}
}

// manyServers is a file with servers for each of backends, of which the first moved have another
// address.
func manyServers(backends, servers, moved int) string {
	var text strings.Builder
	text.WriteString("global\n    maxconn 100\ndefaults\n    mode http\n    default-server check inter 2s fall 2 rise 1\n")
	for b := range backends {
		fmt.Fprintf(&text, "backend web.%d\n    balance roundrobin\n", b)
		for s := range servers {
			port := 2000
			if moved > 0 {
				port, moved = 3000, moved-1
			}
			fmt.Fprintf(&text, "    server node%d:web:80 10.0.%d.%d:%d weight 10\n", s, s/250, 1+s%250, port)
		}
	}
	return text.String()
}

func BenchmarkPlanOfOneChangeAmong5000Servers(b *testing.B) {
	live, next := []byte(manyServers(100, 50, 0)), []byte(manyServers(100, 50, 1))
	for b.Loop() {
		h := NewHAProxy(HAProxyConfig{Socket: "/nonexistent"})
		h.info = haInfo{pid: "1", version: haVersion{2, 6}, processes: 1}
		h.config(live) // as the plan before left it
		b.StartTimer()
		if plan, err := h.Plan(b.Context(), live, next); err != nil || plan.Kind != Runtime {
			b.Fatal(plan, err)
		}
	}
}

func FuzzPlan(f *testing.F) {
	f.Add(base, strings.Replace(base, "server a", "server c", 1))
	f.Add(base, strings.Replace(base, "weight 9", "weight 0 disabled", 1))
	f.Add("defaults a from b\ndefaults b from a\nbackend x from b\n server", "backend\n server a\n server a [::1]:1 weight")
	f.Add("listen x\n\tserver a 1.1.1.1:1 #\n", "listen x\n server a 1.1.1.1:1 no-check check \\\n")
	f.Fuzz(func(t *testing.T, live, next string) {
		var changes []haChange
		var reason string
		fuzztest.WantBounded(t, 256*uint64(len(live)+len(next))+fuzztest.Fixed, func() {
			changes, reason = diffHAProxy(parseHAProxy([]byte(live)), parseHAProxy([]byte(next)))
		})
		if reason != "" && len(changes) > 0 {
			t.Errorf("changes, and a reload: %s", reason)
		}
		if again, _ := diffHAProxy(parseHAProxy([]byte(next)), parseHAProxy([]byte(next))); len(again) > 0 {
			t.Errorf("a configuration differs from itself: %v", again)
		}
		for _, change := range changes {
			commands := append(change.up(), change.down()...)
			if change.moves() {
				commands = append(commands, change.address())
			}
			if change.before == nil {
				commands = append(commands, change.add())
			}
			for _, command := range commands {
				if !isPlain(strings.ReplaceAll(command, " ", "")[:min(256, len(strings.ReplaceAll(command, " ", "")))], "_.:-/%+[]") {
					t.Errorf("the command %q holds what HAProxy could take for something else", command)
				}
			}
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add("1\n" + statesHeader + "more\n3 web 1 a 127.0.0.1 2 0 1 1 0 6 3 2 6 0 0 0 - 1 - 0 0 - - 0\n\n")
	f.Add("Name: HAProxy\nVersion: 2.6.12\nNbproc: 1\nPid: 7\nStart_time_sec: 9\n\n")
	f.Add("[6]: New server registered.\n\n\n[3]: No such server.\n")
	f.Add("#<PID>          <type>          <reloads>       <uptime>        <version>\n28509           master          1 [failed: 1]   0d00h12m17s     2.6.12\n\n")
	f.Fuzz(func(t *testing.T, answer string) {
		fuzztest.WantBounded(t, 512*uint64(len(answer))+fuzztest.Fixed, func() {
			if states, err := parseStates(answer); err == nil && !strings.HasSuffix(answer, "\n") {
				t.Errorf("an answer that was cut off is understood: %v", states)
			}
			parseInfo(answer)
			parseProc(answer)
			refusals(answer)
			connections(answer, "web/a")
		})
	})
}
