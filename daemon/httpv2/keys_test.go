package httpv2

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestRequestsBecomeOperations(t *testing.T) {
	store := &recorder{watch: newScriptedWatch()}
	close(store.watch.events)
	url := serve(t, Config{Gate: openGate{store}})
	for _, c := range []struct {
		request, form string
		want          any
	}{
		{"GET /v2/keys", "", kv.Read{}},
		{"GET /v2/keys/", "", kv.Read{Key: "/"}},
		{"GET /v2/keys/a/b/", "", kv.Read{Key: "/a/b/"}},
		{"GET /v2/keys/a%2F", "", kv.Read{Key: "/a/"}},
		{"GET /v2/keys/a?recursive=true&sorted=T&quorum=1", "", kv.Read{Key: "/a", Recursive: true, Sorted: true, Quorum: true}},
		{"GET /v2/keys/a?recursive=false&sorted=F&quorum=0&stream=true&dir=true&unknown=", "", kv.Read{Key: "/a"}},
		{"GET /v2/keys/a?wait=true&quorum=true", "", kv.Read{Key: "/a", Quorum: true}},
		{"GET /v2/keys/a", "recursive=maybe", kv.Read{Key: "/a"}}, // the body of a GET is ignored
		{"HEAD /v2/keys/a?quorum=true&recursive=true", "", kv.Read{Key: "/a", Recursive: true}},
		{"GET /v2/keys/a?wait=true", "", kv.WatchFrom{Key: "/a"}},
		{"GET /v2/keys/?wait=true&recursive=true&stream=true&waitIndex=7", "", kv.WatchFrom{Key: "/", Recursive: true, Index: 7}},

		{"GET /v2/keys/a%2Fb", "", kv.Read{Key: "/a/b"}},
		{"GET /v2/keys/a+b%2Bc", "", kv.Read{Key: "/a+b+c"}},
		{"GET /v2/keys/%00%3F%23%0Aé%FF", "", kv.Read{Key: "/\x00?#\né\xff"}},
		{"GET /v2/keys/%2e%2e/%2e%2e/x", "", kv.Read{Key: "/x"}},
		{"GET /v2/keys/a/%2e%2e%2f%2e%2e%2f%2e%2e/0/members", "", kv.Read{Key: "/0/members"}},
		{"GET /v2/keys%2e/x", "", nil},

		{"PUT /v2/keys/a", "value=1", kv.Write{Op: kv.OpSet, Key: "/a", Value: "1"}},
		{"PUT /v2/keys/a", "", kv.Write{Op: kv.OpSet, Key: "/a"}},
		{"PUT /v2/keys/a?value=query", "value=body&value=second", kv.Write{Op: kv.OpSet, Key: "/a", Value: "body"}},
		{"PUT /v2/keys/a?value=query&value=second", "", kv.Write{Op: kv.OpSet, Key: "/a", Value: "query"}},
		{"PUT /v2/keys/a", "value=a+b%2B%3D&ttl=5", kv.Write{Op: kv.OpSet, Key: "/a", Value: "a b+=", TTL: 5 * time.Second}},
		{"PUT /v2/keys/a", "ttl=0", kv.Write{Op: kv.OpSet, Key: "/a", TTL: kv.TTLDue}},
		{"PUT /v2/keys/a", "ttl=", kv.Write{Op: kv.OpSet, Key: "/a"}},
		{"PUT /v2/keys/a", "ttl=18446744073709551615", kv.Write{Op: kv.OpSet, Key: "/a", TTL: math.MaxInt64}},
		{"PUT /v2/keys/a", "dir=true&ttl=9", kv.Write{Op: kv.OpSet, Key: "/a", Dir: true, TTL: 9 * time.Second}},
		{"PUT /v2/keys/a", "value=1&noValueOnSuccess=true", kv.Write{Op: kv.OpSet, Key: "/a", Value: "1", NoValue: true}},
		{"PUT /v2/keys/a", "refresh=true&ttl=3", kv.Write{Op: kv.OpSet, Key: "/a", Refresh: true, TTL: 3 * time.Second}},
		{"PUT /v2/keys/a", "refresh=true&value=&ttl=3", kv.Write{Op: kv.OpSet, Key: "/a", Refresh: true, TTL: 3 * time.Second}},
		{"PUT /v2/keys/a", "refresh=false&value=1", kv.Write{Op: kv.OpSet, Key: "/a", Value: "1"}},
		{"PUT /v2/keys/a?prevIndex=0", "value=1", kv.Write{Op: kv.OpSet, Key: "/a", Value: "1"}},

		{"PUT /v2/keys/a?prevExist=false", "value=1", kv.Write{Op: kv.OpCreate, Key: "/a", Value: "1"}},
		{"PUT /v2/keys/a?prevExist=false&prevValue=x&prevIndex=3&refresh=true&ttl=1", "", kv.Write{Op: kv.OpCreate, Key: "/a", TTL: time.Second}},
		{"PUT /v2/keys/a", "prevExist=f&dir=true", kv.Write{Op: kv.OpCreate, Key: "/a", Dir: true}},
		{"PUT /v2/keys/a?prevExist=true", "value=1", kv.Write{Op: kv.OpUpdate, Key: "/a", Value: "1"}},
		{"PUT /v2/keys/a?prevExist=true&dir=true", "ttl=4", kv.Write{Op: kv.OpUpdate, Key: "/a", TTL: 4 * time.Second}},
		{"PUT /v2/keys/a?prevExist=true", "refresh=1&ttl=4", kv.Write{Op: kv.OpUpdate, Key: "/a", Refresh: true, TTL: 4 * time.Second}},
		{"PUT /v2/keys/a?prevValue=x", "value=1&ttl=2&dir=true", kv.Write{Op: kv.OpCompareAndSwap, Key: "/a", Value: "1", PrevValue: "x", TTL: 2 * time.Second}},
		{"PUT /v2/keys/a?prevIndex=8&prevExist=true", "value=1", kv.Write{Op: kv.OpCompareAndSwap, Key: "/a", Value: "1", PrevIndex: 8}},
		{"PUT /v2/keys/a", "value=1&prevValue=x&prevIndex=8&noValueOnSuccess=t", kv.Write{Op: kv.OpCompareAndSwap, Key: "/a", Value: "1", PrevValue: "x", PrevIndex: 8, NoValue: true}},
		{"PUT /v2/keys/a?prevIndex=8", "refresh=true&ttl=2", kv.Write{Op: kv.OpCompareAndSwap, Key: "/a", PrevIndex: 8, Refresh: true, TTL: 2 * time.Second}},

		{"POST /v2/keys/q", "value=1", kv.Write{Op: kv.OpCreateInOrder, Key: "/q", Value: "1"}},
		{"POST /v2/keys", "value=1&ttl=2&noValueOnSuccess=true", kv.Write{Op: kv.OpCreateInOrder, Value: "1", TTL: 2 * time.Second, NoValue: true}},
		{"POST /v2/keys/q?prevExist=true&prevValue=x&prevIndex=3&refresh=true&ttl=1", "dir=true", kv.Write{Op: kv.OpCreateInOrder, Key: "/q", Dir: true, TTL: time.Second}},

		{"DELETE /v2/keys/a", "", kv.Write{Op: kv.OpDelete, Key: "/a"}},
		{"DELETE /v2/keys/a?prevExist=false&noValueOnSuccess=true&ttl=3", "", kv.Write{Op: kv.OpDelete, Key: "/a"}},
		{"DELETE /v2/keys/a?dir=true", "", kv.Write{Op: kv.OpDelete, Key: "/a", Dir: true}},
		{"DELETE /v2/keys/a?recursive=true", "", kv.Write{Op: kv.OpDelete, Key: "/a", Recursive: true}},
		{"DELETE /v2/keys/a", "prevValue=x", kv.Write{Op: kv.OpDelete, Key: "/a"}}, // so is that of a DELETE
		{"DELETE /v2/keys/a?prevValue=x&recursive=true&dir=true", "", kv.Write{Op: kv.OpCompareAndDelete, Key: "/a", PrevValue: "x"}},
		{"DELETE /v2/keys/a?prevIndex=4&noValueOnSuccess=true", "", kv.Write{Op: kv.OpCompareAndDelete, Key: "/a", PrevIndex: 4}},
	} {
		ask(t, url, c.request, c.form)
		if got := store.takeAsked(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %q:\n got %#v\nwant %#v", c.request, c.form, got, c.want)
		}
	}
}

func TestOnlyURLEncodedBodiesAreForms(t *testing.T) {
	store := &recorder{}
	url := serve(t, Config{Gate: openGate{store}})
	for contentType, want := range map[string]string{
		formType:                          "1",
		formType + "; charset=utf-8":      "1",
		"application/json":                "",
		"text/plain":                      "",
		"":                                "",
		"multipart/form-data; boundary=x": "",
	} {
		askWith(t, url, "PUT /v2/keys/a", contentType, strings.NewReader("value=1"))
		if got := store.takeAsked(); !reflect.DeepEqual(got, kv.Write{Op: kv.OpSet, Key: "/a", Value: want}) {
			t.Errorf("%q: got %#v", contentType, got)
		}
	}
	// Without a known length the body arrives in chunks.
	askWith(t, url, "PUT /v2/keys/a", formType, struct{ *strings.Reader }{strings.NewReader("value=chunked")})
	if got := store.takeAsked(); !reflect.DeepEqual(got, kv.Write{Op: kv.OpSet, Key: "/a", Value: "chunked"}) {
		t.Errorf("chunked: got %#v", got)
	}
}

// badForms are requests that never reach the store, with code and cause.
var badForms = []struct {
	request, form string
	code          etcdv2.Code
	message       string
	cause         string
}{
	{"PUT /v2/keys/a", "value=%zz", 210, "Invalid POST form", `invalid URL escape \"%zz\"`},
	{"PUT /v2/keys/a", "value=a;b", 210, "Invalid POST form", "invalid semicolon separator in query"},
	{"GET /v2/keys/a?x=1;y=2", "", 210, "Invalid POST form", "invalid semicolon separator in query"},
	{"PUT /v2/keys/a?prevIndex=x", "", 203, "The given index in POST form is not a number", `invalid value for \"prevIndex\"`},
	{"GET /v2/keys/a?prevIndex=", "", 203, "The given index in POST form is not a number", `invalid value for \"prevIndex\"`},
	{"DELETE /v2/keys/a?prevIndex=-1", "", 203, "The given index in POST form is not a number", `invalid value for \"prevIndex\"`},
	{"GET /v2/keys/a?wait=true&waitIndex=", "", 203, "The given index in POST form is not a number", `invalid value for \"waitIndex\"`},
	{"GET /v2/keys/a?waitIndex=1.5", "", 203, "The given index in POST form is not a number", `invalid value for \"waitIndex\"`},
	{"GET /v2/keys/a?recursive", "", 209, "Invalid field", `invalid value for \"recursive\"`},
	{"GET /v2/keys/a?recursive=yes", "", 209, "Invalid field", `invalid value for \"recursive\"`},
	{"GET /v2/keys/a?sorted=", "", 209, "Invalid field", `invalid value for \"sorted\"`},
	{"GET /v2/keys/a?wait=tRUE", "", 209, "Invalid field", `invalid value for \"wait\"`},
	{"GET /v2/keys/a?dir=2", "", 209, "Invalid field", `invalid value for \"dir\"`},
	{"GET /v2/keys/a?quorum=x", "", 209, "Invalid field", `invalid value for \"quorum\"`},
	{"GET /v2/keys/a?stream=x", "", 209, "Invalid field", `invalid value for \"stream\"`},
	{"PUT /v2/keys/a?wait=true", "", 209, "Invalid field", `\"wait\" can only be used with GET requests`},
	{"POST /v2/keys/a", "wait=true", 209, "Invalid field", `\"wait\" can only be used with GET requests`},
	{"DELETE /v2/keys/a?wait=true", "", 209, "Invalid field", `\"wait\" can only be used with GET requests`},
	{"GET /v2/keys/a?prevValue=", "", 201, "PrevValue is Required in POST form", `\"prevValue\" cannot be empty`},
	{"PUT /v2/keys/a", "prevValue", 201, "PrevValue is Required in POST form", `\"prevValue\" cannot be empty`},
	{"PUT /v2/keys/a?noValueOnSuccess=", "", 209, "Invalid field", `invalid value for \"noValueOnSuccess\"`},
	{"PUT /v2/keys/a", "ttl=-1", 202, "The given TTL in POST form is not a number", `invalid value for \"ttl\"`},
	{"PUT /v2/keys/a", "ttl=1.5", 202, "The given TTL in POST form is not a number", `invalid value for \"ttl\"`},
	{"PUT /v2/keys/a", "ttl=18446744073709551616", 202, "The given TTL in POST form is not a number", `invalid value for \"ttl\"`},
	{"PUT /v2/keys/a", "prevExist=", 209, "Invalid field", "invalid value for prevExist"},
	{"PUT /v2/keys/a", "refresh=x", 209, "Invalid field", "invalid value for refresh"},
	{"PUT /v2/keys/a", "refresh=true&value=1", 211, "Value provided on refresh", "A value was provided on a refresh"},
	{"PUT /v2/keys/a", "refresh=true&value=1&ttl=1", 211, "Value provided on refresh", "A value was provided on a refresh"},
	{"PUT /v2/keys/a", "refresh=true", 212, "A TTL must be provided on refresh", "No TTL value set"},
	{"GET /v2/keys/a?refresh=true&ttl=", "", 212, "A TTL must be provided on refresh", "No TTL value set"},
}

func TestBadParametersAreRefusedBeforeTheStoreIsAsked(t *testing.T) {
	store := &recorder{}
	url := serve(t, Config{Gate: openGate{store}})
	for _, c := range badForms {
		got := ask(t, url, c.request, c.form)
		want := fmt.Sprintf(`{"errorCode":%d,"message":"%s","cause":"%s","index":0}`+"\n", c.code, c.message, c.cause)
		if got.status != http.StatusBadRequest || got.body != want {
			t.Errorf("%s %q: %d\n got %swant %s", c.request, c.form, got.status, got.body, want)
		}
		if got.header.Get("X-Etcd-Index") != "0" || got.header.Get("X-Etcd-Cluster-Id") != "ab54a98ceb1f0a" || got.header.Get("Content-Type") != "application/json" || got.header.Get("X-Raft-Index") != "" {
			t.Errorf("%s: headers %v", c.request, got.header)
		}
		if asked := store.takeAsked(); asked != nil {
			t.Errorf("%s %q reached the store: %#v", c.request, c.form, asked)
		}
	}
	got := askWith(t, url, "PUT /v2/keys/a", ";;", strings.NewReader("value=1"))
	if got.status != http.StatusBadRequest || got.body != `{"errorCode":210,"message":"Invalid POST form","cause":"mime: no media type","index":0}`+"\n" {
		t.Errorf("unparseable content type: %d %s", got.status, got.body)
	}
}

func TestTheFirstFailureInEtcdsOrderWins(t *testing.T) {
	store := &recorder{}
	url := serve(t, Config{Gate: openGate{store}})
	// Each name fails for itself; taken away one by one, the next one is named.
	order := []struct{ query, complaint string }{
		{"%zz", "zz"}, {"prevIndex=", "prevIndex"}, {"waitIndex=", "waitIndex"}, {"recursive=", "recursive"}, {"sorted=", "sorted"},
		{"wait=", "invalid value"}, {"dir=", "dir"}, {"quorum=", "quorum"}, {"stream=", "stream"}, {"wait=true", "can only be used with GET"},
		{"prevValue=", "prevValue"}, {"noValueOnSuccess=", "noValueOnSuccess"}, {"ttl=x", "ttl"}, {"prevExist=", "prevExist"},
		{"refresh=true&value=1", "A value was provided"},
	}
	for i := range order {
		var query []string
		for _, later := range order[i:] {
			query = append(query, later.query)
		}
		got := ask(t, url, "PUT /v2/keys/a?"+strings.Join(query, "&"), "")
		if got.status != http.StatusBadRequest || !strings.Contains(got.body, order[i].complaint) {
			t.Errorf("%v: %s", query, got.body)
		}
	}
}

func TestResultsAreRenderedWithTheirHeaders(t *testing.T) {
	file := &kv.Node{Key: "/foo", Value: "bar2", ModifiedIndex: 5, CreatedIndex: 5}
	prev := &kv.Node{Key: "/foo", Value: "bar", ModifiedIndex: 4, CreatedIndex: 4}
	expiring := &kv.Node{Key: "/t", Value: "<&>", Expiration: time.Date(2030, 1, 2, 3, 4, 5, 120_000_000, time.UTC), TTL: 5, ModifiedIndex: 6, CreatedIndex: 6}
	store := &recorder{}
	url := serve(t, Config{Gate: openGate{store}})
	for _, c := range []struct {
		request string
		result  kv.Result
		status  int
		body    string
	}{
		{"GET /v2/keys", kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: &kv.Node{Dir: true}}}, 200, `{"action":"get","node":{"dir":true}}`},
		{"PUT /v2/keys/foo", kv.Result{Event: kv.Event{Action: kv.ActionSet, Node: file}, Created: true}, 201, `{"action":"set","node":{"key":"/foo","value":"bar2","modifiedIndex":5,"createdIndex":5}}`},
		{"PUT /v2/keys/foo", kv.Result{Event: kv.Event{Action: kv.ActionSet, Node: file, PrevNode: prev}}, 200, `{"action":"set","node":{"key":"/foo","value":"bar2","modifiedIndex":5,"createdIndex":5},"prevNode":{"key":"/foo","value":"bar","modifiedIndex":4,"createdIndex":4}}`},
		{"PUT /v2/keys/foo", kv.Result{Event: kv.Event{Action: kv.ActionSet}, Created: true}, 201, `{"action":"set"}`},
		{"PUT /v2/keys/foo?noValueOnSuccess=true", kv.Result{Event: kv.Event{Action: kv.ActionSet, Node: file, PrevNode: prev}}, 200, `{"action":"set"}`},
		{"GET /v2/keys/foo?noValueOnSuccess=true", kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: prev}}, 200, `{"action":"get","node":{"key":"/foo","value":"bar","modifiedIndex":4,"createdIndex":4}}`},
		{"DELETE /v2/keys/foo?noValueOnSuccess=true&prevIndex=5", kv.Result{Event: kv.Event{Action: kv.ActionCompareAndDelete, Node: &kv.Node{Key: "/foo", ModifiedIndex: 7, CreatedIndex: 5}, PrevNode: file}}, 200, `{"action":"compareAndDelete","node":{"key":"/foo","modifiedIndex":7,"createdIndex":5},"prevNode":{"key":"/foo","value":"bar2","modifiedIndex":5,"createdIndex":5}}`},
		{"GET /v2/keys/t", kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: expiring}}, 200, `{"action":"get","node":{"key":"/t","value":"\u003c\u0026\u003e","expiration":"2030-01-02T03:04:05.12Z","ttl":5,"modifiedIndex":6,"createdIndex":6}}`},
		{"DELETE /v2/keys/foo", kv.Result{Event: kv.Event{Action: kv.ActionDelete, Node: &kv.Node{Key: "/foo", ModifiedIndex: 7, CreatedIndex: 5}, PrevNode: file}}, 200, `{"action":"delete","node":{"key":"/foo","modifiedIndex":7,"createdIndex":5},"prevNode":{"key":"/foo","value":"bar2","modifiedIndex":5,"createdIndex":5}}`},
		{"GET /v2/keys/d?recursive=true", kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: &kv.Node{Key: "/d", Dir: true, ModifiedIndex: 2, CreatedIndex: 2, Nodes: []*kv.Node{{Key: "/d/e", Dir: true, ModifiedIndex: 3, CreatedIndex: 3}, file}}}}, 200, `{"action":"get","node":{"key":"/d","dir":true,"nodes":[{"key":"/d/e","dir":true,"modifiedIndex":3,"createdIndex":3},{"key":"/foo","value":"bar2","modifiedIndex":5,"createdIndex":5}],"modifiedIndex":2,"createdIndex":2}}`},
	} {
		c.result.Index, c.result.RaftIndex, c.result.RaftTerm = 12, 34, 2
		store.result = c.result
		got := ask(t, url, c.request, "")
		if got.status != c.status || got.body != c.body+"\n" {
			t.Errorf("%s: %d\n got %swant %s", c.request, got.status, got.body, c.body)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/json", "X-Etcd-Cluster-Id": "ab54a98ceb1f0a", "X-Etcd-Index": "12",
			"X-Raft-Index": "34", "X-Raft-Term": "2", "Content-Length": strconv.Itoa(len(got.body)),
		} {
			if got.header.Get(name) != want {
				t.Errorf("%s: %s is %q, want %q", c.request, name, got.header.Get(name), want)
			}
		}
	}
}

func TestStoreErrorsAreRendered(t *testing.T) {
	store := &recorder{}
	url := serve(t, Config{Gate: openGate{store}})
	for _, c := range []struct {
		err    error
		status int
		body   string
	}{
		{&kv.Error{Kind: kv.NotFound, Cause: "/a", Index: 9}, 404, `{"errorCode":100,"message":"Key not found","cause":"/a","index":9}`},
		{&kv.Error{Kind: kv.CompareFailed, Cause: "[x != y] [3 != 4]", Index: 9}, 412, `{"errorCode":101,"message":"Compare failed","cause":"[x != y] [3 != 4]","index":9}`},
		{&kv.Error{Kind: kv.NotFile, Cause: "/a", Index: 9}, 403, `{"errorCode":102,"message":"Not a file","cause":"/a","index":9}`},
		{&kv.Error{Kind: kv.NotFile, Index: 9}, 403, `{"errorCode":102,"message":"Not a file","index":9}`},
		{&kv.Error{Kind: kv.NotDir, Cause: "/a", Index: 9}, 400, `{"errorCode":104,"message":"Not a directory","cause":"/a","index":9}`},
		{&kv.Error{Kind: kv.Exists, Cause: "/a", Index: 9}, 412, `{"errorCode":105,"message":"Key already exists","cause":"/a","index":9}`},
		{&kv.Error{Kind: kv.RootReadOnly, Cause: "/", Index: 9}, 400, `{"errorCode":107,"message":"Root is read only","cause":"/","index":9}`},
		{&kv.Error{Kind: kv.DirNotEmpty, Cause: "/a", Index: 9}, 403, `{"errorCode":108,"message":"Directory not empty","cause":"/a","index":9}`},
		{&kv.Error{Kind: kv.Denied, Cause: "Insufficient credentials"}, 401, `{"errorCode":110,"message":"The request requires user authentication","cause":"Insufficient credentials","index":0}`},
		{&kv.Error{Kind: kv.HistoryGone, Cause: "the requested history has been cleared [152/3]", Index: 1151}, 400, `{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"the requested history has been cleared [152/3]","index":1151}`},
		{&kv.Error{Kind: kv.Timeout, Cause: "etcdserver: request timed out"}, 500, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: request timed out","index":0}`},
		{&kv.Error{Kind: kv.Timeout, Err: context.DeadlineExceeded}, 500, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: request timed out","index":0}`},
		{&kv.Error{Kind: kv.NoLeader, Cause: "this member does not lead now"}, 500, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: no leader","index":0}`},
		{&kv.Error{Kind: kv.Unavailable, Cause: "overloaded: 9 bytes"}, 500, `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: too many requests","index":0}`},
		{fmt.Errorf("apply: %w", &kv.Error{Kind: kv.Exists, Cause: "/a", Index: 9}), 412, `{"errorCode":105,"message":"Key already exists","cause":"/a","index":9}`},
		{&kv.Error{Kind: kv.TooLarge, Cause: "the key has 131 levels"}, 413, `{"errorCode":210,"message":"Invalid POST form","cause":"the key has 131 levels","index":0}`},
		{fmt.Errorf("disk <gone>"), 500, `{"errorCode":300,"message":"Raft Internal Error","cause":"disk \u003cgone\u003e","index":0}`},
	} {
		store.err = c.err
		for _, request := range []string{"GET /v2/keys/a", "PUT /v2/keys/a", "GET /v2/keys/a?wait=true"} {
			if kv.Is(c.err, kv.Unavailable) && strings.Contains(request, "wait") {
				continue // a watch is refused in its own way
			}
			got := ask(t, url, request, "")
			if got.status != c.status || got.body != c.body+"\n" {
				t.Errorf("%s, %v: %d\n got %swant %s", request, c.err, got.status, got.body, c.body)
			}
			wantIndex := "0"
			if at := strings.LastIndex(c.body, ":"); at > 0 {
				wantIndex = strings.TrimSuffix(c.body[at+1:], "}")
			}
			if got.header.Get("X-Etcd-Index") != wantIndex || got.header.Get("X-Etcd-Cluster-Id") == "" {
				t.Errorf("%s, %v: headers %v", request, c.err, got.header)
			}
			if _, has := got.header["X-Raft-Index"]; has {
				t.Errorf("%s, %v: an error carries X-Raft-Index", request, c.err)
			}
		}
		head := ask(t, url, "HEAD /v2/keys/a", "")
		if head.status != c.status || head.body != "" || head.header.Get("Content-Length") != strconv.Itoa(len(c.body)+1) {
			t.Errorf("HEAD, %v: %d, length %s, body %q", c.err, head.status, head.header.Get("Content-Length"), head.body)
		}
	}
}

func TestLongAnswersArriveWholeAndKnowTheirLength(t *testing.T) {
	long := strings.Repeat("x", 3*replyChunk+17)
	store := &recorder{result: kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: &kv.Node{Key: "/a", Value: long}}}}
	url := serve(t, Config{Gate: openGate{store}})
	want := `{"action":"get","node":{"key":"/a","value":"` + long + `"}}` + "\n"
	got := ask(t, url, "GET /v2/keys/a", "")
	if got.body != want || got.header.Get("Content-Length") != strconv.Itoa(len(want)) {
		t.Errorf("%d bytes of %d, length %s", len(got.body), len(want), got.header.Get("Content-Length"))
	}
	head := ask(t, url, "HEAD /v2/keys/a", "")
	if head.body != "" || head.header.Get("Content-Length") != strconv.Itoa(len(want)) {
		t.Errorf("HEAD: length %s", head.header.Get("Content-Length"))
	}
}

func TestAFormAboveTheLimitIsRefusedWith413(t *testing.T) {
	store := &recorder{}
	url := serve(t, Config{Gate: openGate{store}, MaxRequestBytes: 100})
	fits := "value=" + strings.Repeat("a", 94)
	if got := ask(t, url, "PUT /v2/keys/a", fits); got.status != http.StatusOK || store.takeAsked() == nil {
		t.Errorf("100 bytes: %d %s", got.status, got.body)
	}
	got := ask(t, url, "PUT /v2/keys/a", fits+"a")
	if got.status != http.StatusRequestEntityTooLarge || !strings.HasPrefix(got.body, `{"errorCode":210,"message":"Invalid POST form","cause":"the form is longer than 100 bytes`) {
		t.Errorf("101 bytes: %d %s", got.status, got.body)
	}
	if asked := store.takeAsked(); asked != nil {
		t.Errorf("101 bytes reached the store: %#v", asked)
	}
}
