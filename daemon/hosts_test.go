package daemon

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestAMemberAnswersToItsOwnNamesOnly(t *testing.T) {
	h := newHosts([]string{"http://Kvd-1.example:2379", "http://[2001:db8::1]:2379"}, []string{"box", "Proxy.Example."})
	for host, want := range map[string]bool{
		"": true, "127.0.0.1": true, "127.0.0.1:2379": true, "10.1.2.3:80": true, "[::1]": true, "[::1]:2379": true, "::1": true,
		"[fe80::1%eth0]:2379": true, "[::ffff:1.2.3.4]:1": true,
		"localhost": true, "localhost:2379": true, "LOCALHOST:1": true, "localhost.": true, "localhost.:2379": true, "a.localhost:2379": true, "a.b.LocalHost.": true,
		"kvd-1.example": true, "KVD-1.EXAMPLE.:2379": true, "box:2379": true, "proxy.example": true,

		"evil.example": false, "evil.example:2379": false, "kvd-1.example.evil.example": false, "kvd-2.example": false, "example": false,
		"notlocalhost": false, "localhost.evil.example": false, "127.0.0.1.evil.example": false, "evil@127.0.0.1": false, "127.0.0.1@evil.example": false,
		"box..": false, ".": false, "*": false, "127.1": false, "kvd-1.example:": true, "[evil.example]:2379": false, "localhost]": false, "[localhost": false, "[box]:1": false, "localhost:1:2": false,
	} {
		if got := h.answersTo(host); got != want {
			t.Errorf("Host: %s is answered: %v, want %v", host, got, want)
		}
	}
	if everybody := newHosts(nil, []string{"*"}); !everybody.answersTo("evil.example") {
		t.Error("* does not stand for all names")
	}
}

func TestEveryRouteRefusesForeignHostsAndSaysWhatToDo(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DataDir, cfg.HostWhitelist = t.TempDir(), []string{"kvd.compose"}
	cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	cfg.AdvertiseClientURLs = []string{"http://kvd.advertised:2379"}
	d, err := Open(t.Context(), cfg, Deps{Hostname: func() (string, error) { return "Box", nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ask := func(request, host string) (int, string) {
		t.Helper()
		conn, err := net.Dial("tcp", address(d.listening[0]))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if host != "" {
			host = "Host: " + host + "\r\n"
		}
		fmt.Fprintf(conn, "%s\r\n%sConnection: close\r\n\r\n", request, host)
		answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: strings.Fields(request)[0]})
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		return answer.StatusCode, string(body)
	}
	for _, path := range []string{"/v2/keys/", "/v2/keys/a?wait=true", "/v2/members", "/v2/machines", "/v2/stats/self", "/v2/auth/users", "/v2/leases", "/version", "/health", "/metrics", "/nowhere", "//"} {
		for _, method := range []string{"GET", "PUT", "DELETE", "OPTIONS", "HEAD"} {
			status, body := ask(method+" "+path+" HTTP/1.1", "evil.example:2379")
			var wire struct{ Cause string }
			if status != http.StatusForbidden || method != "HEAD" && (json.Unmarshal([]byte(body), &wire) != nil || !strings.Contains(wire.Cause, "--host-whitelist")) {
				t.Errorf("%s %s of a foreign host: %d %q", method, path, status, body)
			}
		}
	}
	for _, host := range []string{"127.0.0.1", "localhost:2379", "kvd.compose:2379", "kvd.advertised", "box", "BOX.:1"} {
		if status, body := ask("GET /v2/keys/ HTTP/1.1", host); status != http.StatusOK {
			t.Errorf("Host: %s: %d %q", host, status, body)
		}
	}
	if status, body := ask("GET /v2/keys/ HTTP/1.0", ""); status != http.StatusOK {
		t.Errorf("HTTP/1.0 without a host: %d %q", status, body)
	}
	if status, _ := ask("GET http://evil.example/v2/keys/ HTTP/1.1", "127.0.0.1"); status != http.StatusForbidden {
		t.Errorf("a foreign host in the request line: %d", status)
	}
}

func TestAMemberThatDoesNotKnowItsNameStarts(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DataDir, cfg.ListenClientURLs, cfg.ListenPeerURLs = t.TempDir(), []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	d, err := Open(t.Context(), cfg, Deps{Hostname: func() (string, error) { return "", errors.New("no name") }})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}
