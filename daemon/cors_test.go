package daemon

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestOnlyPagesOfAllowedOriginsMayReadAndWrite(t *testing.T) {
	const (
		ours, foreign = "http://app.example:8080", "http://evil.example"
		allMethods    = "POST, GET, OPTIONS, PUT, DELETE"
	)
	for _, c := range []struct {
		origins []string
		method  string
		origin  string // of the page, "" for what is no browser
		status  int
		allowed string // Access-Control-Allow-Origin
		body    string
	}{
		{nil, "GET", "", 200, "", "next"},
		{nil, "PUT", "", 200, "", "next"},
		{nil, "GET", foreign, 200, "", "next"},
		{nil, "POST", foreign, 403, "", "--cors"},
		{nil, "PUT", foreign, 403, "", "--cors"},
		{nil, "DELETE", "null", 403, "", "--cors"},
		{nil, "OPTIONS", foreign, 200, "", ""},
		{nil, "OPTIONS", "", 200, "", ""},
		{nil, "PUT", "http://store.example", 200, "", "next"}, // a page that the store's own address serves
		{[]string{ours}, "GET", ours, 200, ours, "next"},
		{[]string{ours}, "PUT", ours, 200, ours, "next"},
		{[]string{ours}, "OPTIONS", ours, 200, ours, ""},
		{[]string{ours}, "GET", "", 200, "", "next"},
		{[]string{ours}, "GET", foreign, 200, "", "next"},
		{[]string{ours}, "PUT", foreign, 403, "", "--cors"},
		{[]string{ours, "*"}, "PUT", foreign, 200, "*", "next"},
		{[]string{"*"}, "GET", "", 200, "*", "next"},
		{[]string{"*"}, "DELETE", "null", 200, "*", "next"},
		{[]string{"*"}, "OPTIONS", foreign, 200, "*", ""},
	} {
		cors, err := newCORS(c.origins)
		if err != nil {
			t.Fatal(err)
		}
		next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "next") })
		r := httptest.NewRequest(c.method, "http://store.example/v2/keys/a", nil)
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		answer := httptest.NewRecorder()
		cors.wrap(next).ServeHTTP(answer, r)
		if answer.Code != c.status || !strings.Contains(answer.Body.String(), c.body) || (c.body == "") != (answer.Body.Len() == 0) {
			t.Errorf("%v: %s of a page of %q: %d %q", c.origins, c.method, c.origin, answer.Code, answer.Body)
		}
		methods := ""
		if c.allowed != "" {
			methods = allMethods
		}
		header := answer.Header()
		if vary := header.Get("Vary") == "Origin"; vary != (len(c.origins) == 1 && c.origins[0] == ours) {
			t.Errorf("%v: Vary: %q", c.origins, header.Get("Vary"))
		}
		if header.Get("Access-Control-Allow-Origin") != c.allowed || header.Get("Access-Control-Allow-Methods") != methods {
			t.Errorf("%v: %s of a page of %q: %v", c.origins, c.method, c.origin, header)
		}
	}
}

func TestEveryRoomIsBehindTheSameRules(t *testing.T) {
	cfg := DefaultConfig()
	cfg.DataDir, cfg.CORS = t.TempDir(), []string{"*"}
	cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	d, err := Open(t.Context(), cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for _, request := range []string{"GET /v2/keys/", "GET /version", "GET /health", "GET /nowhere", "PATCH /v2/keys/a", "GET /v2//keys", "OPTIONS /anywhere//", "OPTIONS /version"} {
		method, path, _ := strings.Cut(request, " ")
		r, err := http.NewRequestWithContext(t.Context(), method, d.ClientURLs()[0]+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.Header.Get("Access-Control-Allow-Origin") != "*" || answer.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %v", request, answer.Header)
		}
		if method == http.MethodOptions && (answer.StatusCode != 200 || answer.ContentLength != 0) {
			t.Errorf("%s: %d with %d bytes", request, answer.StatusCode, answer.ContentLength)
		}
	}
}
