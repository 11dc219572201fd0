package ctl_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

// says returns the URL of a server with one answer.
func says(t testing.TB, status int, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func refusing(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	return "http://" + listener.Addr().String()
}

// secure returns the URL of a TLS server that wants a client certificate if told so, and its CA.
func secure(t testing.TB, client tls.ClientAuthType) (url, ca string) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"action":"get","node":{"key":"/a","value":"1","modifiedIndex":7,"createdIndex":7}}`)
	}))
	server.TLS = &tls.Config{ClientAuth: client}
	server.Config.ErrorLog = nil
	server.StartTLS()
	t.Cleanup(server.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return server.URL, ca
}

func TestEachExitCodeMeansWhatIsDocumented(t *testing.T) {
	live := daemontest.Start(t, 1).URL()
	kvctl(t, live, "set", "/a", "1")
	kvctl(t, live, "set", "/d/x", "1")
	kvctl(t, live, "set", "/big", strings.Repeat("x", 200_000))
	trusted, ca := secure(t, tls.NoClientCert)
	wantsCertificate, _ := secure(t, tls.RequireAnyClientCert)
	const denied = `{"errorCode":110,"message":"The request requires user authentication","cause":"Insufficient credentials","index":0}`
	const historyGone = `{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"the requested history has been cleared [1001/2]","index":2000}`
	const timeout = `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: request timed out","index":0}`
	const noLeader = `{"errorCode":301,"message":"During Leader Election","index":0}`

	for _, c := range []struct {
		name     string
		endpoint string
		line     string
		code     int
		stderr   string // a part
	}{
		{"done", live, "get|/a", 0, ""},
		{"help", live, "help|exit-codes", 0, ""},
		{"version", live, "--version", 0, ""},
		{"TLS", trusted, "--ca-file|" + ca + "|get|/a", 0, ""},

		{"no key", live, "get", 1, "Error:  key required\n"},
		{"no value", live, "set|/a", 1, "Error:  value required\nhint: stdin is empty"},
		{"unknown command", live, "gte", 1, "get"},
		{"unknown flag", live, "ls|--recurse", 1, "did you mean --recursive?"},
		{"bad endpoint", "ftp://x", "get|/a", 1, "must be http or https"},
		{"bad CA file", live, "--ca-file|/none|get|/a", 1, "/none"},
		{"bad setting in the environment", live, "get|/a|--total-timeout|x", 1, "total-timeout"},
		{"user without password", live, "-u|root|get|/a", 1, "password of user root required"},
		{"directory", live, "get|/d", 1, "/d: is a directory\n"},
		{"nothing to run", live, "exec-watch|/a", 1, "key and command to exec required"},
		{"a value that fits no environment", live, "exec-watch|--after-index|1|/big|--|true", 1, "cannot run true for /big"},
		{"nothing that can run", live, "exec-watch|/a|--|/none/such", 1, "cannot run /none/such: "},
		{"negative TTL", live, "set|--ttl|-1|/a|1", 1, `invalid argument "-1" for "--ttl"`},
		{"negative TTL of a directory", live, "mkdir|--ttl|-5s|/new", 1, "--ttl -5s: it cannot be negative"},
		{"negative limit", live, "get|/a|--total-timeout|-1s", 1, "--total-timeout -1s: it cannot be negative\nhint: 0 is no limit"},
		{"no limit", live, "get|/a|--total-timeout|0", 0, ""},
		{"no limit to the opening of a watch", live, "watch|--after-index|1|/a|--total-timeout|0", 0, ""},
		{"a value that looks like a flag", live, "set|/a|-5", 1, `what begins with "-" and is no flag goes after "--", as in: kvctl set -- KEY -5`},

		{"refused", refusing(t), "get|/a", 2, "connection refused; is kvd running?"},
		{"refused everywhere", refusing(t) + "," + refusing(t), "set|/a|1", 2, "connection refused; is kvd running?"},
		{"refused watch", refusing(t), "watch|/a", 2, "connection refused; is kvd running?"},

		{"denied", says(t, 401, denied), "get|/a", 3, "Error:  110: The request requires user authentication (Insufficient credentials) [0]\nhint: no user is named"},
		{"unknown authority", trusted, "get|/a", 3, "check --ca-file"},
		{"no client certificate", wantsCertificate, "--ca-file|" + ca + "|set|/a|1", 3, ""},
		{"plain server asked for TLS", strings.Replace(live, "http:", "https:", 1), "get|/a", 3, "speaks https"},

		{"not found", live, "get|/none", 4, "Error:  100: Key not found (/none) ["},
		{"exists", live, "mk|/a|1", 4, "Error:  105: Key already exists (/a) ["},
		{"compare failed", live, "set|--swap-with-value|x|/a|2", 4, "Error:  101: Compare failed ([x != 1]) ["},
		{"not a file", live, "set|/d|1", 4, "hint: /d is a directory"},
		{"not a directory", live, "set|/a/b|1", 4, "Error:  104: Not a directory (/a) ["},
		{"not empty", live, "rmdir|/d", 4, "hint: kvctl rm -r /d"},
		{"history gone", says(t, 400, historyGone), "watch|--after-index|1|/a", 4, "hint: read the current state with kvctl get or ls, then watch with --after-index 2000\n"},
		{"root", live, "rm|-r|/", 4, "Error:  107: Root is read only (/) ["},

		{"timeout", says(t, 500, timeout), "set|/a|1", 5, "request timed out"},
		{"no leader", says(t, 500, noLeader), "set|/a|1", 5, "Error:  301: During Leader Election"},
		{"a proxy in between", says(t, 502, "bad gateway"), "get|/a", 5, "502"},
		{"no v2 server", says(t, 404, "404 page not found"), "get|/a", 5, "does not serve the v2 API"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := kvctl(t, c.endpoint, strings.Split(c.line, "|")...)
			if got.code != c.code || !strings.Contains(got.stderr, c.stderr) {
				t.Errorf("code %d and %q, want %d and %q", got.code, got.stderr, c.code, c.stderr)
			}
			if c.code != 0 && got.stdout != "" {
				t.Errorf("a failure on stdout: %q", got.stdout)
			}
		})
	}
}

func TestAnInterruptionEndsACommandWith130AndAWatchWith0(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer server.Close()
	live := daemontest.Start(t, 1).URL()
	for _, c := range []struct {
		endpoint string
		line     string
		code     int
	}{
		{server.URL, "get|/a", 130},
		{server.URL, "watch|/a", 0},
		{live, "watch|--forever|/a", 0},
		{live, "exec-watch|/a|--|true", 0},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var stdout, stderr output
		ended := make(chan int)
		go func() {
			ended <- call{endpoint: c.endpoint, args: strings.Split("--debug|"+c.line, "|")}.start(ctx, &stdout, &stderr)
		}()
		stderr.waitFor(t, "curl -X GET")
		cancel()
		if code := <-ended; code != c.code {
			t.Errorf("%s: code %d, want %d", c.line, code, c.code)
		}
	}
}

func TestAnInterruptionEndsTheReadingOfAValueAtOnce(t *testing.T) {
	live := daemontest.Start(t, 1).URL()
	stdin, feed := io.Pipe()
	defer feed.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, stderr output
	ended := make(chan int)
	go func() {
		ended <- call{endpoint: live, stdin: stdin, args: []string{"set", "/a"}}.start(ctx, &stdout, &stderr)
	}()
	if _, err := feed.Write([]byte("half")); err != nil { // returns when kvctl has read it
		t.Fatal(err)
	}
	cancel()
	select {
	case code := <-ended:
		if code != 130 {
			t.Errorf("code %d: %s", code, &stderr)
		}
	case <-time.After(patience):
		t.Fatal("it waits for the rest")
	}
	if got := kvctl(t, live, "get", "/a"); got.code != 4 {
		t.Errorf("half a value was written: %+v", got)
	}
}

func TestTheTimeLimitBeginsWhenTheValueIsThere(t *testing.T) {
	live := daemontest.Start(t, 1).URL()
	const limit = 400 * time.Millisecond
	stdin, feed := io.Pipe()
	go func() {
		time.Sleep(limit + 50*time.Millisecond) // slow, which is what is tested
		io.WriteString(feed, "late")
		feed.Close()
	}()
	got := call{endpoint: live, stdin: stdin, args: []string{"set", "/a", "--total-timeout", limit.String()}}.run(t)
	if got.code != 0 || got.stdout != "late\n" {
		t.Errorf("%+v", got)
	}
}

func TestATTLIsATimeRoundedUpToSeconds(t *testing.T) {
	live := daemontest.Start(t, 1).URL()
	for ttl, want := range map[string]string{"90": "90", "15m": "900", "1500ms": "2"} {
		for _, command := range []string{"set|/a|1", "setdir|/d"} {
			got := kvctl(t, live, append(strings.Split(command, "|"), "--debug", "--ttl", ttl)...)
			if got.code != 0 || !strings.Contains(got.stderr, "ttl="+want) {
				t.Errorf("%s --ttl %s: %+v, want %s s", command, ttl, got, want)
			}
		}
		kvctl(t, live, "rm", "-r", "/d")
	}
}

func TestErrorsAreJSONWhenOutputIs(t *testing.T) {
	live := daemontest.Start(t, 1).URL()
	for _, c := range []struct {
		endpoint, line, want string
	}{
		{live, "-o|json|get|/none", `{"exit":4,"code":100,"message":"Key not found","cause":"/none","index":N}`},
		{live, "get|-o|json", `{"exit":1,"message":"key required"}`},
		{live, "ls|--recurse|-o|json", `{"exit":1,"message":"unknown flag: --recurse","hint":"did you mean --recursive?; try: kvctl ls --help"}`},
		{live, "--total-timeout|x|get|-o=json", `{"exit":1,"message":"invalid argument \"x\" for \"--total-timeout\" flag: use a time such as 500ms, 15s or 2m, or a number of seconds","hint":"try: kvctl get --help"}`},
		{live, "bogus|--output=json", `{"exit":1,"message":"unknown command \"bogus\" for \"kvctl\"","hint":"try: kvctl --help"}`},
		{live, "get|/a|-o|json|--config|/none.yaml", `{"exit":1,"message":"cannot read the configuration file: open /none.yaml: no such file or directory"}`},
		{live, "update|/none|1|-o|json", `{"exit":4,"code":100,"message":"Key not found","cause":"/none","index":N,"hint":"kvctl set creates a key, kvctl mkdir a directory"}`},
	} {
		got := kvctl(t, c.endpoint, strings.Split(c.line, "|")...).stderr
		var fields map[string]any
		if err := json.Unmarshal([]byte(got), &fields); err != nil {
			t.Errorf("%s: %v in %q", c.line, err, got)
			continue
		}
		if index, ok := fields["index"].(float64); ok {
			number, _ := json.Marshal(index)
			got = strings.Replace(got, `"index":`+string(number), `"index":N`, 1)
		}
		if got != c.want+"\n" {
			t.Errorf("%s: got %s, want %s", c.line, got, c.want)
		}
	}
}

func TestHelpListsEachExitCode(t *testing.T) {
	help := kvctl(t, "", "help", "exit-codes").stdout
	for _, code := range []string{"0", "1", "2", "3", "4", "5", "7", "130"} {
		if !strings.Contains(help, "\n  "+code+" ") {
			t.Errorf("no code %s in:\n%s", code, help)
		}
	}
}
