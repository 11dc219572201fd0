package daemon

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// FuzzBrowser sends a request as a web page could have it sent, to a member named kvd.example that
// lets pages of https://app.example in. What a browser reaches under a name that is not the
// member's is refused, and so is a write by a page of another origin; no other page may read answers.
func FuzzBrowser(f *testing.F) {
	const allowed = "https://app.example"
	names := newHosts([]string{"http://kvd.example:2379"}, nil)
	pages, err := newCORS([]string{allowed})
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range [][4]string{
		{"GET", "kvd.example:2379", "", ""}, {"PUT", "127.0.0.1", "http://127.0.0.1", "same-origin"}, {"PUT", "[::1]:1", "https://evil.example", "cross-site"},
		{"DELETE", "KVD.example.", allowed, "cross-site"}, {"POST", "evil.example", "null", ""}, {"OPTIONS", "localhost:1", "x", "none"}, {"PUT", "a.localhost", "http://a.localhost", "same-site"},
		{"PUT", "[fe80::1%25eth0]", "", "cross-site"}, {"GET", "127.0.0.1.evil.example", allowed + ".evil", ""}, {"PUT", "0x7f.1", "", ""},
	} {
		f.Add(c[0], c[1], c[2], c[3])
	}
	f.Fuzz(func(t *testing.T, method, host, origin, site string) {
		reached := false
		handler := names.wrap(pages.wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true })))
		r := &http.Request{Method: method, Host: host, Header: http.Header{}, URL: &url.URL{Path: "/v2/keys/a"}}
		if origin != "" {
			r.Header.Set("Origin", origin)
		}
		if site != "" {
			r.Header.Set("Sec-Fetch-Site", site)
		}
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		if reached && !ownName(host) {
			t.Fatalf("%s of host %q reaches the store", method, host)
		}
		if may := answer.Header().Get("Access-Control-Allow-Origin"); may != "" && (may != allowed || origin != allowed) {
			t.Fatalf("origin %q may read as %q", origin, may)
		}
		reads := method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
		if reached && !reads && origin != allowed && foreign(host, origin, site) {
			t.Fatalf("%s of host %q by a page of %q (%s) reaches the store", method, host, origin, site)
		}
	})
}

// ownName reports whether a browser that connects to host has looked up no name of somebody else.
func ownName(host string) bool {
	u, err := url.Parse("http://" + host + "/")
	if host == "" || err != nil || u.Host != host {
		return true // no browser sends that
	}
	name := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	_, err = netip.ParseAddr(name)
	return err == nil || name == "localhost" || strings.HasSuffix(name, ".localhost") || name == "kvd.example"
}

// foreign reports whether the browser says that the page is of another origin than the host.
func foreign(host, origin, site string) bool {
	switch site {
	case "same-origin", "none":
		return false
	case "":
		u, err := url.Parse(origin)
		return origin != "" && (err != nil || u.Host != host)
	}
	return true
}
