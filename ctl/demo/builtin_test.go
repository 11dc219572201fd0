package demo

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestTheBuiltInProxyReadsAnHAProxyConfiguration(t *testing.T) {
	const text = `# Written by kvconfd.
global
    stats socket /run/x.sock

frontend http
    bind 127.0.0.1:8080
    bind 127.0.0.1:8081
    default_backend service.web

backend service.web
    balance roundrobin
    # server old 127.0.0.1:1
    server web-1 127.0.0.1:5001
    server web-2 [::1]:5002 weight 10
`
	config, err := parseProxyConfig(text)
	if err != nil {
		t.Fatal(err)
	}
	if config.bind != "127.0.0.1:8080" || strings.Join(config.servers, " ") != "127.0.0.1:5001 [::1]:5002" {
		t.Errorf("got %+v", config)
	}
}

func TestTheBuiltInProxyRefusesWhatItCannotServe(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "no frontend with a bind line",
		"frontend http\n  bind nowhere\n":  "line 2: bind",
		"backend b\n  bind 127.0.0.1:80\n": "no frontend with a bind line",
		"frontend f\n  bind :1\nbackend b\n  server a b\n": "line 4: server",
	} {
		if _, err := parseProxyConfig(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// host is the address of a test server.
func host(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "http://") }

func TestTheBuiltInProxyTakesTurnsAndPassesOverServersThatRefuse(t *testing.T) {
	answer := func(name string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name) }))
		t.Cleanup(s.Close)
		return s
	}
	one, two, dead := answer("one"), answer("two"), answer("dead")
	dead.Close()
	ring := &serverRing{}
	ring.servers.Store(&[]string{host(one), host(dead), host(two)})
	front := httptest.NewServer(ring.handler())
	t.Cleanup(front.Close)

	got := map[string]int{}
	for range 9 {
		response, err := http.Get(front.URL)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("%s %v", response.Status, err)
		}
		got[string(body)]++
	}
	if got["one"] != 3 || got["two"] != 6 { // two also takes the turns of the dead one
		t.Errorf("answers %v", got)
	}
}

func TestTheBuiltInProxyWithoutServersSays503(t *testing.T) {
	ring := &serverRing{}
	ring.servers.Store(&[]string{})
	recorder := httptest.NewRecorder()
	ring.handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))
	if recorder.Code != http.StatusServiceUnavailable || !strings.Contains(recorder.Body.String(), "no server is registered") {
		t.Errorf("%d %s", recorder.Code, recorder.Body)
	}
}
