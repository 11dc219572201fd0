package httpv2

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
)

// asked sends one request through a handler and returns its answer and what the store was asked.
func asked(t *testing.T, r *http.Request, size int) (*httptest.ResponseRecorder, any) {
	store := &recorder{watch: newScriptedWatch()}
	close(store.watch.events)
	h := table(Config{Gate: openGate{store}, Cluster: twoMembers()})
	answer := httptest.NewRecorder()
	fuzztest.WantBounded(t, 512*uint64(size)+fuzztest.Fixed, func() { untilAborted(h, answer, r) })
	return answer, store.takeAsked()
}

// request is what a server makes of a request line, nil if it refuses it before any handler.
func request(method, target, body string) *http.Request {
	u, err := url.ParseRequestURI(target)
	if err != nil || !strings.HasPrefix(target, "/") {
		return nil
	}
	r, err := http.NewRequest(method, "/", strings.NewReader(body))
	if err != nil {
		return nil
	}
	r.URL, r.RequestURI, r.Host = u, target, "127.0.0.1:2379"
	return r
}

// plainKey finds the key in a path by walking it segment by segment. ok is false for a path that
// belongs to something else.
func plainKey(path string) (key string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v2/keys")
	if !ok || rest != "" && rest[0] != '/' {
		return "", false
	}
	var way []string
	for _, segment := range strings.Split(rest, "/") {
		switch segment {
		case "", ".":
		case "..":
			way = way[:max(0, len(way)-1)]
		default:
			way = append(way, segment)
		}
	}
	for _, segment := range way {
		key += "/" + segment
	}
	return key, true
}

// FuzzTarget: the path of a request is either that of a key, and then of exactly one in its one
// spelling, or leads elsewhere; a redirect leads to a place on this server that redirects no more.
func FuzzTarget(f *testing.F) {
	for _, target := range []string{
		"/v2/keys", "/v2/keys/", "/v2/keys/a/b?recursive=true", "/v2/keys//a", "/v2/keys/a/../..", "/v2/keys/a%2Fb", "/v2/keys/%2e%2e/%2E%2e/x",
		"/v2/keys/a%00%ff%C3%A9", "/v2/keys%2Fa", "//evil.example/v2/keys", "/v2/keys/a/?sorted=1;x", "/v2/keys/a?wait=true&waitIndex=3",
		"/v2/members/", "/v2/machines", "/v2/stats/self", "/v2/auth/users/a", "/v2/leases/0", "/..//..//v2/keys/+?+", `/v2/keys/\\x`,
	} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r := request(http.MethodGet, target, "")
		if r == nil {
			return
		}
		answer, question := asked(t, r, len(target))
		if answer.Code == http.StatusTemporaryRedirect {
			checkRedirect(t, r, answer.Header().Get("Location"))
			return
		}
		key, isKey := plainKey(r.URL.Path)
		if isKey && answer.Code >= 500 { // of what is no key, the session of the test can say nothing
			t.Fatalf("%q: %d %s", target, answer.Code, answer.Body)
		}
		switch q := question.(type) {
		case nil:
			if isKey && answer.Code == http.StatusOK {
				t.Fatalf("%q is about %q, but nobody was asked: %s", target, key, answer.Body)
			}
			return
		case kv.Read:
			checkKey(t, target, q.Key, key, isKey)
		case kv.WatchFrom:
			checkKey(t, target, q.Key, key, isKey)
		default:
			t.Fatalf("%q asks for %+v", target, question)
		}
	})
}

func checkKey(t *testing.T, target, got, want string, isKey bool) {
	got, _ = kv.SplitDir(got)
	if !isKey || got != want || kv.Clean(got) != got {
		t.Fatalf("%q asks for %q, a plain reader finds %q, %v", target, got, want, isKey)
	}
	path, err := url.PathUnescape(etcdv2.EscapeKey(got))
	if err != nil || path != etcdv2.KeysPath+got {
		t.Fatalf("%q is escaped as %q", got, etcdv2.EscapeKey(got))
	}
}

func checkRedirect(t *testing.T, from *http.Request, location string) {
	if !strings.HasPrefix(location, "/") || strings.HasPrefix(location, "//") || strings.HasPrefix(location, `/\`) || strings.ContainsAny(location, "\r\n") {
		t.Fatalf("%q redirects to %q, which a client may take for another host", from.RequestURI, location)
	}
	next := request(from.Method, location, "")
	if next == nil || next.URL.RawQuery != from.URL.RawQuery {
		t.Fatalf("%q redirects to %q with another query, or to what is no target", from.RequestURI, location)
	}
	if answer, _ := asked(t, next, len(location)); answer.Code == http.StatusTemporaryRedirect {
		t.Fatalf("%q redirects to %q, and that to %q", from.RequestURI, location, answer.Header().Get("Location"))
	}
}

// FuzzParameters: what query and form ask for agrees with a plain reading by net/url, and is asked
// again in the client's spelling with the same outcome. A refusal is an error of the API.
func FuzzParameters(f *testing.F) {
	for _, c := range [][3]string{
		{"GET", "recursive=true&sorted=1&quorum=f", ""}, {"GET", "wait=true&waitIndex=7&stream=true", ""}, {"GET", "recursive=true&only=/a/_b&only=a//c/", ""}, {"GET", "wait=true&recursive=1&only=/a&only=/b", ""}, {"HEAD", "quorum=true", ""},
		{"PUT", "prevExist=false", "value=1&ttl=5"}, {"PUT", "", "value=a%20b+c&prevIndex=3&prevValue=x"}, {"PUT", "dir=true&noValueOnSuccess=true", "ttl="},
		{"PUT", "refresh=true", "ttl=18446744073709551615"}, {"PUT", "value=a", "value=b;c&prevExist="}, {"POST", "", "value=&dir=1"}, {"DELETE", "prevValue=", ""},
		{"DELETE", "recursive=TRUE&dir=T&prevIndex=0", ""}, {"PUT", "%zz", "=&=&a"}, {"PUT", "ttl=-1", ""}, {"PUT", "prevExist=true&refresh=1&ttl=0", ""},
	} {
		f.Add(c[0], c[1], c[2])
	}
	f.Fuzz(func(t *testing.T, method, query, body string) {
		switch method {
		case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete:
		default:
			return
		}
		r := request(method, "/v2/keys/a", body)
		r.URL.RawQuery = query
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		answer, question := asked(t, r, len(query)+len(body))
		if question == nil {
			checkRefusal(t, answer)
			return
		}
		p := plainParameters(t, method, query, body)
		switch q := question.(type) {
		case kv.Read:
			if want := (kv.Read{Key: "/a", Recursive: p.on("recursive"), Sorted: p.on("sorted"), Quorum: p.on("quorum") && method == http.MethodGet, Only: p.Values["only"]}); !reflect.DeepEqual(q, want) {
				t.Fatalf("%s %q %q asks for %+v, by net/url for %+v", method, query, body, q, want)
			}
			askAgain(t, etcdv2.ReadRequest(q), q)
		case kv.WatchFrom:
			if want := (kv.WatchFrom{Key: "/a", Recursive: p.on("recursive"), Index: p.number("waitIndex"), Only: p.Values["only"]}); !reflect.DeepEqual(q, want) || !p.on("wait") || p.on("quorum") {
				t.Fatalf("%s %q asks for %+v, by net/url for %+v", method, query, q, want)
			}
			askAgain(t, etcdv2.WatchRequest(q), q)
		case kv.Write:
			p.checkWrite(t, method, q)
			if again, err := etcdv2.WriteRequest(q); err == nil {
				askAgain(t, again, q)
			}
		default:
			t.Fatalf("%s %q %q asks for %+v", method, query, body, question)
		}
	})
}

func checkRefusal(t *testing.T, answer *httptest.ResponseRecorder) {
	if answer.Code < 400 || answer.Code >= 500 {
		t.Fatalf("nobody was asked, and the answer is %d %s", answer.Code, answer.Body)
	}
	var refusal etcdv2.Error
	if err := json.Unmarshal(answer.Body.Bytes(), &refusal); err != nil || refusal.Code == 0 || refusal.Message == "" {
		t.Fatalf("%d %q is no error of the API: %v", answer.Code, answer.Body, err)
	}
}

// plain are parameters by name, as net/url reads them: those of the body come first.
type plain struct{ url.Values }

func plainParameters(t *testing.T, method, query, body string) plain {
	values := url.Values{}
	add := func(text string) {
		parsed, err := url.ParseQuery(text)
		if err != nil {
			t.Fatalf("%q is no query (%v), but was accepted", text, err)
		}
		for name, list := range parsed {
			values[name] = append(values[name], list...)
		}
	}
	if method == http.MethodPut || method == http.MethodPost {
		add(body)
	}
	add(query)
	return plain{values}
}

func (p plain) on(name string) bool { return plainFlag[p.Get(name)] }

// plainFlag lists the spellings of true.
var plainFlag = map[string]bool{"1": true, "t": true, "T": true, "true": true, "TRUE": true, "True": true}

func (p plain) number(name string) uint64 {
	n, _ := strconv.ParseUint(p.Get(name), 10, 64)
	return n
}

// checkWrite compares what the API promises of each parameter with the write that came of them.
func (p plain) checkWrite(t *testing.T, method string, w kv.Write) {
	compares := w.Op == kv.OpCompareAndSwap || w.Op == kv.OpCompareAndDelete
	removes := w.Op == kv.OpDelete || w.Op == kv.OpCompareAndDelete
	wrong := ""
	switch {
	case w.Key != "/a":
		wrong = "key"
	case removes != (method == http.MethodDelete), (w.Op == kv.OpCreateInOrder) != (method == http.MethodPost):
		wrong = "operation"
	case compares && (w.PrevValue != p.Get("prevValue") || w.PrevIndex != p.number("prevIndex")), !compares && (w.PrevValue != "" || w.PrevIndex != 0):
		wrong = "condition"
	case method == http.MethodDelete && !compares && p.Has("prevValue"):
		wrong = "dropped condition"
	case !removes && w.Value != p.Get("value"), removes && w.Value != "":
		wrong = "value"
	case !removes && (w.TTL != 0) != (p.Get("ttl") != ""), w.TTL != 0 && w.TTL != etcdv2.TTLFromSeconds(p.number("ttl")):
		wrong = "TTL"
	case w.Refresh && !p.on("refresh"), w.Dir && !p.on("dir"), w.Recursive != (w.Op == kv.OpDelete && p.on("recursive")):
		wrong = "flags"
	case w.NoValue != (p.on("noValueOnSuccess") && !removes):
		wrong = "noValueOnSuccess"
	}
	if wrong != "" {
		t.Fatalf("%s %v asks for %+v: wrong %s", method, p.Values, w, wrong)
	}
}

// askAgain sends a question in the client's spelling and wants the same question to arrive. What
// a client cannot say is left out: the value of a refresh is none, a directory has no value.
func askAgain(t *testing.T, spelled etcdv2.Request, question any) {
	form := spelled.Form.Encode()
	r := request(spelled.Method, spelled.Path, form)
	r.URL.RawQuery = spelled.Query.Encode()
	maps.Copy(r.Header, spelled.Header)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	_, again := asked(t, r, len(form)+len(r.URL.RawQuery))
	if w, ok := question.(kv.Write); ok && w.Dir {
		w.Value = ""
		question = w
	}
	if !reflect.DeepEqual(again, question) {
		t.Fatalf("%+v arrives as %+v", question, again)
	}
}
