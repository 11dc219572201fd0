package kvclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
)

// FuzzEndpoint: an endpoint that is accepted is one address, has one spelling, and requests to it
// can be made.
func FuzzEndpoint(f *testing.F) {
	for _, text := range []string{"", "a", "a:1", "http://a", "https://[::1]:2379/", "HTTP://A", "http://u:p@a", "http://a/x", "http://a?x", "[fe80::1%25eth0]:1", "a:b:c", "http://a:", "localhost:http"} {
		f.Add(text, false)
	}
	f.Add("a", true)
	f.Fuzz(func(t *testing.T, text string, secure bool) {
		var endpoint *url.URL
		var err error
		fuzztest.WantBounded(t, 64*uint64(len(text))+fuzztest.Fixed, func() { endpoint, err = parseEndpoint(text, secure) })
		if err != nil {
			return
		}
		if *endpoint != (url.URL{Scheme: endpoint.Scheme, Host: endpoint.Host}) || endpoint.Hostname() == "" {
			t.Fatalf("%q became %+v", text, *endpoint)
		}
		switch {
		case endpoint.Scheme != "http" && endpoint.Scheme != "https":
			t.Fatalf("%q became %s", text, endpoint)
		case !strings.Contains(text, "://") && (endpoint.Scheme == "https") != secure:
			t.Fatalf("%q with TLS %v became %s", text, secure, endpoint)
		}
		again, err := parseEndpoint(endpoint.String(), !secure)
		if err != nil || *again != *endpoint {
			t.Fatalf("%q became %s, and that %v, %v", text, endpoint, again, err)
		}
		target, err := requestURL(endpoint, etcdv2.ReadRequest(kv.Read{Key: "/a b"}))
		if err != nil || target.Host != endpoint.Host || target.Scheme != endpoint.Scheme || target.Path != "/v2/keys/a b" {
			t.Fatalf("a request to %s goes to %v, %v", endpoint, target, err)
		}
		if _, err := http.NewRequest(http.MethodGet, target.String(), nil); err != nil {
			t.Fatalf("no request can be made to %s: %v", target, err)
		}
	})
}

// FuzzCredentials: what a user says of name and password, in any of the three ways, is what a
// server reads from the header.
func FuzzCredentials(f *testing.F) {
	f.Add("root", "secret")
	f.Add("é", ":\n")
	f.Add("a:b", "c\r\nd")
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, name, password string) {
		if name == "" {
			return
		}
		path := filepath.Join(folder, "password")
		line, _, _ := strings.Cut(password, "\n")
		line = strings.TrimSuffix(line, "\r")
		if err := os.WriteFile(path, []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
		wantSent(t, Config{Username: name, PasswordFile: path}, name, line)
		if password != "" {
			wantSent(t, Config{Username: name, Password: password}, name, password)
		}
		if !strings.Contains(name, ":") {
			wantSent(t, Config{Username: name + ":" + password}, name, password)
		}
	})
}

// roundTrip is a transport in one function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// wantSent checks what a server reads of the credentials of a client that New has accepted.
func wantSent(t *testing.T, cfg Config, name, password string) {
	t.Helper()
	client, err := New(cfg)
	if err != nil {
		return // refused, with a reason
	}
	defer client.Close()
	var seen *http.Request
	client.http.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		seen = r
		return nil, errors.New("nobody there")
	})
	client.Read(context.Background(), kv.Read{Key: "/a"})
	gotName, gotPassword, ok := seen.BasicAuth()
	if !ok || gotName != name || gotPassword != password {
		t.Fatalf("%q, %q arrive as %q, %q, %v", name, password, gotName, gotPassword, ok)
	}
}

// FuzzAnswer: whatever a server answers, it is a result with a node or an error that says what
// became of the request.
func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(`{"action":"get","node":{"key":"/a","value":"1","modifiedIndex":7,"createdIndex":7}}`), "7")
	f.Add(201, []byte(`{"action":"set"}`), "8")
	f.Add(412, []byte(`{"errorCode":101,"message":"Compare failed","cause":"[1 != 2]","index":3}`), "3")
	f.Add(500, []byte(`{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: request timed out","index":0}`), "")
	f.Add(502, []byte(`<html>`), "-1")
	from := &url.URL{Scheme: "http", Host: "127.0.0.1:2379"}
	f.Fuzz(func(t *testing.T, status int, body []byte, index string) {
		a := &answer{status: status, header: http.Header{etcdv2.HeaderIndex: {index}}, body: body, from: from, to: &user{}}
		for _, mayLackNode := range []bool{false, true} {
			var result kv.Result
			var err error
			fuzztest.WantBounded(t, 256*uint64(len(body))+fuzztest.Fixed, func() { result, err = a.result(mayLackNode) })
			success := status == http.StatusOK || status == http.StatusCreated
			if err == nil {
				if !success || result.Action == "" || result.Node == nil && !mayLackNode || result.Created != (status == http.StatusCreated) {
					t.Fatalf("%d %q is a result: %+v", status, body, result)
				}
				continue
			}
			var e *kv.Error
			switch {
			case !errors.As(err, &e) || e.Error() == "":
				t.Fatalf("%d %q is the error %#v", status, body, err)
			case success && e.Kind != kv.Unknown:
				t.Fatalf("%d %q says that it was done, the error that it was not: %v", status, body, err)
			}
		}
	})
}

// FuzzStream gives a watch the body of a server's answer. It passes on what a plain reader of the
// same lines finds: events in order, none twice, none that do not concern it.
func FuzzStream(f *testing.F) {
	const set = `{"action":"set","node":{"key":"/a/b","value":"1","modifiedIndex":7,"createdIndex":7}}`
	f.Add([]byte(set+"\n"+strings.ReplaceAll(set, "7", "9")+"\n"), uint64(3), true)
	f.Add([]byte(set+set+strings.ReplaceAll(set, "/a/b", "/a/_h")), uint64(7), true)
	f.Add([]byte(`{"action":"delete","node":{"key":"/a","dir":true,"modifiedIndex":8}}`), uint64(0), false)
	f.Add([]byte(set+`{"errorCode":401,"message":"gone","index":9}`), uint64(1), false)
	client, err := New(Config{ResponseBytesMax: 1 << 10})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { client.Close() })
	f.Fuzz(func(t *testing.T, body []byte, from uint64, recursive bool) {
		asked := kv.WatchFrom{Key: "/a", Recursive: recursive, Index: from}
		w := &watch{client: client, from: asked, events: make(chan kv.Event, len(body)+1), lifetime: t.Context()}
		limit := &io.LimitedReader{R: bytes.NewReader(body)}
		fuzztest.WantBounded(t, 256*uint64(len(body))+fuzztest.Fixed, func() {
			_, err = w.receive(&poll{streaming: true, limit: limit, events: json.NewDecoder(limit)})
		})
		close(w.events)
		if err == nil {
			t.Fatal("a stream has no good end")
		}
		expected := plainEvents(body, asked)
		last := from
		for event := range w.events {
			if len(expected) == 0 || event.Node.ModifiedIndex != expected[0].Node.ModifiedIndex || event.Action != expected[0].Action || event.Node.Key != expected[0].Node.Key {
				t.Fatalf("got %s %+v, a plain reader has %+v", event.Action, event.Node, expected)
			}
			expected = expected[1:]
			if event.Node.ModifiedIndex < last || w.from.Index <= event.Node.ModifiedIndex {
				t.Fatalf("event %d after %d, next from %d", event.Node.ModifiedIndex, last, w.from.Index)
			}
			last = event.Node.ModifiedIndex + 1
		}
		if len(expected) > 0 && !kv.Is(err, kv.TooLarge) {
			t.Fatalf("lost %+v: %v", expected, err)
		}
	})
}

// plainEvents reads body with nothing but encoding/json, until something is no event.
func plainEvents(body []byte, from kv.WatchFrom) []kv.Event {
	var found []kv.Event
	lines := json.NewDecoder(bytes.NewReader(body))
	next := from.Index
	for {
		var line struct {
			etcdv2.Event
			Code int `json:"errorCode"`
		}
		if lines.Decode(&line) != nil || line.Code != 0 {
			return found
		}
		event := line.Event.Decode()
		if event.Node == nil || event.Node.ModifiedIndex == 0 {
			return found
		}
		if event.Node.ModifiedIndex < next {
			continue
		}
		next = event.Node.ModifiedIndex + 1
		if concernsBySegments(event, from) {
			found = append(found, event)
		}
	}
}

// concernsBySegments says, segment by segment, whether a watch is to see an event.
func concernsBySegments(event kv.Event, from kv.WatchFrom) bool {
	mine, its := strings.Split(from.Key, "/"), strings.Split(event.Node.Key, "/")
	for i := range min(len(mine), len(its)) {
		if mine[i] != its[i] {
			return false
		}
	}
	if len(its) <= len(mine) {
		return len(its) == len(mine) || event.Removes()
	}
	for _, segment := range its[len(mine):] {
		if strings.HasPrefix(segment, "_") {
			return false
		}
	}
	return from.Recursive
}
