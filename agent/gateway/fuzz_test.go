package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
)

// FuzzAsked looks for a request that a store would take for another one than the rules were asked about.
func FuzzAsked(f *testing.F) {
	for _, seed := range [][3]string{
		{"GET", "/v2/keys/a/%2e%2e/b?recursive=true&recursive=false", ""}, {"PUT", "/v2/keys/a%2Fb/", "value=1&value=2&lease=00000000000000ff"},
		{"DELETE", "/v2/keys/%2F..%2f?dir=1", ""}, {"POST", "/v2/keys", "ttl=%31"}, {"GET", "/v2/keys/a%00b?wait=T&waitIndex=7&stream=1", ""},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, method, target, form string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		escaped := u.EscapedPath()
		if _, ok := under(escaped, etcdv2.KeysPath); !ok || cleanPath(escaped) != escaped {
			return
		}
		values, err := url.ParseQuery(form + "&" + u.RawQuery)
		if err != nil {
			return
		}
		var q asked
		fuzztest.WantBounded(t, 64*uint64(len(target)+len(form))+fuzztest.Fixed, func() { q = ask(method, u.Path[len(etcdv2.KeysPath):], values) })
		r := q.request()
		path := r.Path
		if path == etcdv2.KeysPath {
			path += "/"
		}
		sent, err := (&url.URL{Scheme: "http", Host: "store"}).Parse(path)
		if err != nil {
			t.Fatalf("%q cannot be sent: %v", path, err)
		}
		wire, err := url.ParseRequestURI(sent.RequestURI())
		if err != nil || wire.EscapedPath() != path || cleanPath(path) != path {
			t.Fatalf("%q is %q on the wire: %v", path, sent.RequestURI(), err)
		}
		key, asDir := kv.SplitDir(wire.Path[len(etcdv2.KeysPath):])
		if key != q.key || q.key != "" && asDir != q.asDir {
			t.Fatalf("checked %q (%v), but %q (%v) is sent", q.key, q.asDir, key, asDir)
		}
		given := r.Query
		if method == http.MethodPut || method == http.MethodPost {
			given = r.Form
		}
		again, err := url.ParseQuery(given.Encode())
		if err != nil {
			t.Fatal(err)
		}
		twice := ask(method, wire.Path[len(etcdv2.KeysPath):], again)
		if twice.recursive != q.recursive || twice.wait != q.wait || twice.params.Get("lease") != q.params.Get("lease") || twice.params.Encode() != q.params.Encode() || !slices.Equal(twice.only, q.only) {
			t.Fatalf("checked %+v, but %+v is sent", q, twice)
		}
	})
}

// FuzzRules looks for a rule that makes the parser fail, or that lets in who should not be.
func FuzzRules(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/8=r:/a,rw:/b", "docker:x=none:/", "unix=rw:/", "::1=r:/../.."} {
		f.Add(seed, "/a/b")
	}
	f.Fuzz(func(t *testing.T, text, key string) {
		p, err := newPolicy([]string{text}, "/services")
		if err != nil {
			return
		}
		list, key := p.grants[0].rules, kv.Clean(key)
		for _, r := range list {
			if r.key != kv.Clean(r.key) {
				t.Fatalf("the key of a rule is %q", r.key)
			}
		}
		if list.mayWrite(key) && !list.mayRead(key, true) {
			t.Errorf("%q: %q may be written and not read", text, key)
		}
		if list.mayRead(key, true) && !(list.mayRead(key+"/x", true) && list.mayRead(key, false)) {
			t.Errorf("%q: %q may be read with all below it, but what is below may not", text, key)
		}
	})
}
