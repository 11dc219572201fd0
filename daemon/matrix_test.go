package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/kvd-io/kvd/daemon/route"
)

// ask sends a request and returns its status and body. Who is "user:password", or "" for nobody. A
// watch is not waited for.
func ask(t *testing.T, base, method, path, who, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" && !strings.HasPrefix(body, "{") {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if user, password, ok := strings.Cut(who, ":"); ok {
		r.SetBasicAuth(user, password)
	}
	client := http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if strings.Contains(path, "wait=true") && answer.StatusCode == http.StatusOK {
		return answer.StatusCode, ""
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func must(t *testing.T, base, method, path, who, body string) {
	t.Helper()
	if status, text := ask(t, base, method, path, who, body); status >= 300 {
		t.Fatalf("%s %s as %q: %d %s", method, path, who, status, text)
	}
}

// openForMatrix starts a member with users of every kind, access control off.
func openForMatrix(t *testing.T) (*Daemon, string) {
	cfg := DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	d, err := Open(t.Context(), cfg, Deps{
		Log:      slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		HashCost: bcrypt.MinCost,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	base := d.ClientURLs()[0]
	role := func(name, read, write string) {
		list := func(patterns string) string {
			b, _ := json.Marshal(strings.Fields(patterns))
			return string(b)
		}
		must(t, base, "PUT", "/v2/auth/roles/"+name, "", `{"role":"`+name+`","permissions":{"kv":{"read":`+list(read)+`,"write":`+list(write)+`}}}`)
	}
	role("guest", "/open/* /open", "")
	role("reader", "/k/* /k", "")
	role("writer", "", "/k/* /k")
	for user, roles := range map[string]string{
		"root": `"root"`, "none": `"absent"`, "reader": `"reader"`, "writer": `"writer"`, "both": `"reader","writer"`, "admin": `"root"`,
	} {
		must(t, base, "PUT", "/v2/auth/users/"+user, "", `{"user":"`+user+`","password":"pw","roles":[`+roles+`]}`)
	}
	must(t, base, "PUT", "/v2/keys/k/file", "", "value=1")
	must(t, base, "PUT", "/v2/keys/open/file", "", "value=1")
	return d, base
}

// who asks in the matrix, and what is expected of the table's words for it.
var askers = []struct {
	name, credentials string
	on                bool // access control
	read, write, root bool
}{
	{"anybody, off", "", false, true, true, true},
	{"a wrong password, off", "reader:bad", false, true, true, true},
	{"guest", "", true, false, false, false},
	{"a wrong password", "root:bad", true, false, false, false},
	{"an unknown user", "ghost:pw", true, false, false, false},
	{"a user without rights", "none:pw", true, false, false, false},
	{"a reader", "reader:pw", true, true, false, false},
	{"a writer", "writer:pw", true, false, true, false},
	{"both", "both:pw", true, true, true, false},
	{"root", "root:pw", true, true, true, true},
	{"a user with the role root", "admin:pw", true, true, true, true},
}

// targets are the paths that stand for each route, and the body that a change sends there. A route that
// is not here fails the test.
var targets = map[string]struct{ path, body string }{
	"/v2/keys":         {"/v2/keys/k/file", "value=2"},
	"/v2/auth/users/*": {"/v2/auth/users/someone", `{"user":"someone","password":"pw"}`},
	"/v2/auth/roles/*": {"/v2/auth/roles/something", `{"role":"something"}`},
	"/v2/members/*":    {"/v2/members/1", ""},
	"/v2/leases":       {"/v2/leases", "ttl=60"},
	"/v2/leases/*":     {"/v2/leases/0000000000000001", ""},
}

func TestNoRouteIsReachableByWhomTheTableDoesNotName(t *testing.T) {
	t.Parallel()
	d, base := openForMatrix(t)
	on := false
	for _, who := range askers {
		if who.on != on {
			must(t, base, "PUT", "/v2/auth/enable", "", "")
			on = true
			for _, other := range askers { // before those with wrong passwords use up what this address may get wrong
				ask(t, base, "GET", "/v2/keys/open/file", other.credentials, "")
			}
		}
		for _, r := range d.table.Routes() {
			name := r.Path
			if r.Below && name != "/v2/keys" {
				name += "/*"
			}
			target, known := targets[name]
			if !known && r.Below {
				t.Fatalf("the matrix does not know how to ask for %s", name)
			}
			if !known {
				target.path = r.Path
			}
			for _, m := range r.Methods {
				if !who.on && r.Path == "/v2/auth/enable" && m.Name == "PUT" {
					continue // would turn it on
				}
				permitted := true
				switch m.Needs {
				case route.Nothing:
				case route.Root:
					permitted = who.root
				case route.Rights:
					reads := m.Name == "GET" || m.Name == "HEAD"
					permitted = reads && who.read || !reads && who.write
					if strings.HasPrefix(r.Path, "/v2/leases") {
						permitted = who.write // which is what leases are for
					}
				default:
					t.Fatalf("%s %s has no entry in the table", m.Name, r.Path)
				}
				if r.Path == "/v2/auth/enable" && permitted && m.Name == "DELETE" {
					continue // would turn it off
				}
				if r.Path == "/v2/keys" && m.Name == "POST" {
					target.path = "/v2/keys/k/queue"
				}
				body := target.body
				if m.Name == "GET" || m.Name == "HEAD" || m.Name == "DELETE" {
					body = ""
				}
				status, text := ask(t, base, m.Name, target.path, who.credentials, body)
				if (status == http.StatusUnauthorized) == permitted {
					t.Errorf("%s %s by %s: %d %s, needs %v", m.Name, target.path, who.name, status, text, m.Needs)
				}
				if status >= http.StatusInternalServerError {
					t.Errorf("%s %s by %s: %d %s", m.Name, target.path, who.name, status, text)
				}
				if r.Path == "/v2/keys" && m.Name == "DELETE" && permitted {
					must(t, base, "PUT", "/v2/keys/k/file", "root:pw", "value=1")
				}
			}
		}
	}
}

// oracle decides as the documentation reads, key by key, without ranges: whether a request of somebody
// with these patterns is denied. file, dir say what stands at the key.
func oracle(method, key string, slash bool, form url.Values, read, write []string, file, dir bool) (permitted bool) {
	patterns := write
	if method == "GET" {
		patterns = read
	}
	matches := func(pattern, key string) bool {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
			return strings.HasPrefix(key, prefix)
		}
		return pattern == key
	}
	some := func(test func(string) bool) bool {
		for _, p := range patterns {
			if test(p) {
				return true
			}
		}
		return false
	}
	flag := func(name string) bool { return form.Get(name) == "true" }
	compares := form.Has("prevValue") || form.Has("prevIndex")
	creates := method == "PUT" && (form.Get("prevExist") == "false" || !compares && !form.Has("prevExist"))

	below := flag("recursive") && (method == "GET" || method == "DELETE" && !compares)
	if form.Has("ttl") && (creates && flag("dir") || method == "POST" && flag("dir") || form.Get("prevExist") == "true" && !compares && dir) {
		below = true
	}
	if below && !some(func(p string) bool { return strings.HasSuffix(p, "*") && matches(p, key+"/") }) {
		return false
	}
	if some(func(p string) bool { return matches(p, key) }) {
		return true
	}
	asDir := slash && (method == "GET" || method == "POST" || creates && flag("dir") || method == "DELETE" && !compares && (flag("dir") || flag("recursive")))
	return asDir && !file && some(func(p string) bool { return matches(p, key+"/") })
}

func TestEveryFieldOfARequestIsJudged(t *testing.T) {
	t.Parallel()
	_, base := openForMatrix(t)
	rights := map[string]string{
		"exact": "/x", "below": "/x/*", "slash": "/x/", "prefix": "/x*", "both": "/x /x/*", "part": "/x /x/a*", "other": "/y*",
	}
	stands := map[string][]string{"nothing": nil, "a value": {"/x"}, "a directory": {"/x/a", "/x/b"}} // each in a place of its own
	place := func(what string) string { return "/" + strings.ReplaceAll(what, " ", "-") }
	in := func(what, patterns string) (list []string) {
		for _, pattern := range strings.Fields(patterns) {
			list = append(list, place(what)+pattern)
		}
		return list
	}
	for name, patterns := range rights {
		var all []string
		for what := range stands {
			all = append(all, in(what, patterns)...)
		}
		list, _ := json.Marshal(all)
		for _, kind := range []string{"read", "write"} {
			must(t, base, "PUT", "/v2/auth/roles/"+kind+name, "", fmt.Sprintf(`{"role":%q,"permissions":{"kv":{%q:%s}}}`, kind+name, kind, list))
			must(t, base, "PUT", "/v2/auth/users/"+kind+name, "", fmt.Sprintf(`{"user":%q,"password":"pw","roles":[%q]}`, kind+name, kind+name))
		}
	}
	must(t, base, "PUT", "/v2/auth/enable", "", "")
	requests := []struct{ method, form string }{
		{"GET", ""}, {"GET", "recursive=true"}, {"GET", "quorum=true"}, {"GET", "sorted=true"}, {"GET", "wait=true"},
		{"GET", "wait=true&stream=true"}, {"GET", "wait=true&recursive=true"}, {"GET", "wait=true&quorum=true&recursive=true"},
		{"PUT", "value=1"}, {"PUT", "value=1&ttl=100"}, {"PUT", "dir=true"}, {"PUT", "dir=true&ttl=100"}, {"PUT", "value=1&recursive=true"},
		{"PUT", "value=1&prevExist=true"}, {"PUT", "ttl=100&prevExist=true"}, {"PUT", "prevExist=true"}, {"PUT", "prevExist=true&dir=true&ttl=100"},
		{"PUT", "value=1&prevExist=false"}, {"PUT", "dir=true&prevExist=false"}, {"PUT", "dir=true&prevExist=false&ttl=100"},
		{"PUT", "refresh=true&ttl=100"}, {"PUT", "refresh=true&ttl=100&prevExist=true"}, {"PUT", "value=2&prevValue=canary"}, {"PUT", "value=2&prevValue=guess"},
		{"PUT", "value=2&prevIndex=1"}, {"PUT", "value=1&noValueOnSuccess=true"},
		{"POST", "value=1"}, {"POST", "dir=true"}, {"POST", "dir=true&ttl=100"},
		{"DELETE", ""}, {"DELETE", "dir=true"}, {"DELETE", "recursive=true"}, {"DELETE", "prevValue=guess"}, {"DELETE", "prevIndex=1"}, {"DELETE", "prevValue=guess&recursive=true&dir=true"},
	}
	for what, keys := range stands {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			make := func() {
				for _, key := range keys {
					must(t, base, "PUT", "/v2/keys"+place(what)+key, "root:pw", "value=canary")
				}
			}
			make()
			for _, c := range requests {
				for name, patterns := range rights {
					for _, kind := range []string{"read", "write"} {
						for _, slash := range []bool{false, true} {
							var read, write []string
							if kind == "read" {
								read = in(what, patterns)
							} else {
								write = in(what, patterns)
							}
							form, err := url.ParseQuery(c.form)
							if err != nil {
								t.Fatal(err)
							}
							key := place(what) + "/x"
							path := "/v2/keys" + key
							if slash {
								path += "/"
							}
							want := oracle(c.method, key, slash, form, read, write, what == "a value", what == "a directory")
							if form.Get("wait") == "true" && form.Get("quorum") != "true" && c.method == "GET" {
								// A watch waits for a directory too, and shows no value meanwhile.
								want = oracle(c.method, key, slash, form, read, write, false, false)
							}
							status, text := ask(t, base, c.method, path+"?"+c.form, kind+name+":pw", "")
							if (status != http.StatusUnauthorized) != want {
								t.Errorf("%s %s?%s with %s %s: %d %s, permitted %v", c.method, path, c.form, kind, patterns, status, text, want)
							}
							// Whoever may only write learns of no value, whatever the request.
							if kind == "write" && strings.Contains(text, "canary") && !strings.Contains(c.form, "canary") {
								t.Errorf("%s %s?%s with %s %s shows a value: %s", c.method, path, c.form, kind, patterns, text)
							}
							if status < 300 && c.method != "GET" { // it has changed what stands there
								ask(t, base, "DELETE", "/v2/keys"+place(what)+"?recursive=true", "root:pw", "")
								make()
							}
						}
					}
				}
			}
		})
	}
}
