package gateway

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

// filled is a cluster with keys of which some belong to others.
func filled(t *testing.T) string {
	url := daemontest.Start(t, 1).URL()
	for _, key := range []string{"/app/a/1", "/app/b", "/app/c", "/app/_own/x", "/app/secret/s", "/other"} {
		want(t, call(t, "PUT", url+"/v2/keys"+key, "value=V"+key), 201, "set")
	}
	return url
}

func TestANarrowedReadIsAnsweredAsByAMember(t *testing.T) {
	url := filled(t)
	g := start(t, []string{url}, everything)
	for _, query := range []string{
		"/app?recursive=true&only=/app/a&only=app//b/", "/?recursive=true&only=/other&only=/app/b&only=/none", "/app?recursive=true&only=/app/_own&only=/app/b&quorum=true",
		"/app?recursive=true&only=/app/b&only=/app/b", "/?recursive=true&only=/", "/app?recursive=true&only=/other", "/app?only=/app/b", "/app?recursive=yes&only=/app/b",
		"/app?recursive=true" + strings.Repeat("&only=/app/b", 257),
	} {
		for _, method := range []string{"GET", "HEAD"} {
			direct, through := call(t, method, url+"/v2/keys"+query, ""), call(t, method, g.url+"/v2/keys"+query, "")
			if direct.status != through.status || direct.body != through.body || direct.header.Get("Kvd-Only") != through.header.Get("Kvd-Only") {
				t.Errorf("%s %.80s: %d %s (%s), not %d %s (%s)", method, query, through.status, through.body, through.header.Get("Kvd-Only"), direct.status, direct.body, direct.header.Get("Kvd-Only"))
			}
		}
	}
	want(t, call(t, "PUT", g.url+"/v2/keys/app/b?only=/app/b", "value=1"), 400, `only`)
}

func TestEachKeyOfANarrowedReadNeedsItsRight(t *testing.T) {
	g := start(t, []string{filled(t)}, func(cfg *Config) { cfg.Allow = []string{"127.0.0.0/8=r:/app,none:/app/secret"} })
	for _, wait := range []string{"", "&wait=true&waitIndex=1"} {
		for _, named := range []string{"only=/app/b&only=/app/secret", "only=/app/secret/s", "only=/app", "only=/other", "only=/", "only=/app/b&only=/other", "only=/app/b/../secret", "only=%2Fapp%2Fsecret"} {
			want(t, call(t, "GET", g.url+"/v2/keys/?recursive=true&"+named+wait, ""), 403, "--gateway-allow")
		}
		for _, named := range []string{"?recursive=true", "?only=/app/b", "?recursive=false&only=/app/b"} {
			want(t, call(t, "GET", g.url+"/v2/keys/"+named+wait, ""), 403, "--gateway-allow")
		}
	}
	r := call(t, "GET", g.url+"/v2/keys/?recursive=true&only=/app/a&only=/app/b", "")
	want(t, r, 200, `"V/app/a/1"`)
	if strings.Contains(r.body, "secret") || strings.Contains(r.body, "/other") || r.header.Get("Kvd-Only") != "2" {
		t.Errorf("%s: %s", r.header.Get("Kvd-Only"), r.body)
	}
}

func TestANarrowedReadDoesNotComeFromMemory(t *testing.T) {
	url := filled(t)
	g := start(t, []string{url}, everything)
	warm(t, g, "/v2/keys/app?recursive=true")
	hits := g.Stats().CacheHits
	for range 3 {
		r := call(t, "GET", g.url+"/v2/keys/app?recursive=true&only=/app/b", "")
		want(t, r, 200, `"V/app/b"`)
		if strings.Contains(r.body, "/app/a") || r.header.Get("Kvd-Only") != "1" {
			t.Errorf("%s: %s", r.header.Get("Kvd-Only"), r.body)
		}
	}
	if got := g.Stats().CacheHits; got != hits {
		t.Errorf("%d narrowed reads came from memory", got-hits)
	}
	if r := call(t, "GET", g.url+"/v2/keys/app?recursive=true", ""); !strings.Contains(r.body, "/app/a") || r.header.Get("Kvd-Only") != "" {
		t.Errorf("the whole: %s", r.body)
	}
}

func TestANarrowedWatchBringsItsKeysAlone(t *testing.T) {
	url := filled(t)
	g := start(t, []string{url}, func(cfg *Config) {
		cfg.Allow = []string{"127.0.0.0/8=r:/app,none:/app/secret"}
		cfg.WatchesPerClient = 3
	})
	response, err := http.Get(g.url + "/v2/keys/?wait=true&recursive=true&stream=true&only=/app/b&only=/app/_own")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != 200 || response.Header.Get("Kvd-Only") != "2" {
		t.Errorf("%d, %v", response.StatusCode, response.Header)
	}
	events := lines(response.Body)
	for _, key := range []string{"/app/c", "/app/_own/x", "/other", "/app/secret/s", "/app/b"} {
		call(t, "PUT", url+"/v2/keys"+key, "value=new")
	}
	for _, key := range []string{"/app/_own/x", "/app/b"} {
		if line := next(t, events); !strings.Contains(line, `"key":"`+key+`"`) {
			t.Errorf("%s instead of %s", line, key)
		}
	}
	want(t, call(t, "GET", g.url+"/v2/keys/?wait=true&recursive=true&only=/app/b&only=/app/c", ""), 429, "no more than 3 watches")
}

func TestAStoreThatDoesNotNarrowShowsNothingOfOthers(t *testing.T) {
	etcd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Etcd-Cluster-Id", "c1")
		w.Header().Set("X-Etcd-Index", "7")
		w.Write([]byte(`{"action":"get","node":{"key":"/app","dir":true,"nodes":[{"key":"/app/secret","value":"SECRET"}]}}`))
	}))
	t.Cleanup(etcd.Close)
	g := start(t, []string{etcd.URL}, func(cfg *Config) { cfg.Allow = []string{"127.0.0.0/8=r:/app,none:/app/secret"} })
	for _, method := range []string{"GET", "HEAD"} {
		r := call(t, method, g.url+"/v2/keys/app?recursive=true&only=/app/b", "")
		if r.status != 403 || strings.Contains(r.body, "SECRET") {
			t.Errorf("%s: %d %s", method, r.status, r.body)
		}
	}
	open := start(t, []string{etcd.URL}, everything)
	want(t, call(t, "GET", open.url+"/v2/keys/app?recursive=true&only=/app/b", ""), 200, "SECRET")
}
