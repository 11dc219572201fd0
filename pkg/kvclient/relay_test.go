package kvclient

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// relaying is a client of servers, asked in their order.
func relaying(t *testing.T, cfg Config, handlers ...http.HandlerFunc) *Client {
	t.Helper()
	for _, h := range handlers {
		server := httptest.NewServer(h)
		t.Cleanup(server.Close)
		cfg.Endpoints = append(cfg.Endpoints, server.URL)
	}
	cfg.Shuffle = func(int, func(i, j int)) {}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// saying answers with a status and a body as a store does, and counts.
func saying(status int, body string, asked *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set(etcdv2.HeaderIndex, "7")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

const (
	noLeader = `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: no leader","index":0}`
	timedOut = `{"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: request timed out","index":0}`
)

func TestARequestThatIsPassedOnIsSentAgainOnlyWhereItIsSafe(t *testing.T) {
	for _, c := range []struct {
		name   string
		first  string // what the first endpoint says with 500; "" for a cut connection
		read   bool
		again  bool // the second endpoint is asked
		status int  // 0: an error
	}{
		{"a read after no leader", noLeader, true, true, 200},
		{"a write after no leader", noLeader, false, true, 200},
		{"a read after a time-out", timedOut, true, true, 200},
		{"a write after a time-out", timedOut, false, false, 500},
		{"a read after a cut", "", true, true, 200},
		{"a write after a cut", "", false, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var first, second atomic.Int32
			client := relaying(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
				if c.first == "" {
					panic(http.ErrAbortHandler)
				}
				saying(500, c.first, &first)(w, r)
			}, saying(200, "{}", &second))
			method := http.MethodPut
			if c.read {
				method = http.MethodGet
			}
			a, err := client.Relay(t.Context(), etcdv2.Request{Method: method, Path: "/v2/keys/a"}, c.read)
			if (second.Load() == 1) != c.again {
				t.Errorf("the second endpoint was asked %d times", second.Load())
			}
			switch {
			case c.status == 0 && (err == nil || !kv.Is(err, kv.Unknown)):
				t.Errorf("got %v, want that the outcome is unknown", err)
			case c.status != 0 && (err != nil || a.Status != c.status):
				t.Errorf("got %+v, %v; want %d", a, err, c.status)
			}
			if err == nil {
				a.Body.Close()
			}
		})
	}
}

func TestAnAnswerThatIsPassedOnKeepsItsBytesHoweverLongItIs(t *testing.T) {
	for _, size := range []int{0, 10, relayHeadBytes - 1, relayHeadBytes, relayHeadBytes + 1, 5 * relayHeadBytes} {
		for _, chunked := range []bool{false, true} {
			body := strings.Repeat("x", size)
			client := relaying(t, Config{ResponseBytesMax: 100}, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set(etcdv2.HeaderIndex, "7")
				if chunked {
					w.(http.Flusher).Flush()
				}
				io.WriteString(w, body)
			})
			a, err := client.Relay(t.Context(), etcdv2.Request{Method: http.MethodGet, Path: "/v2/keys/a"}, true)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(a.Body)
			a.Body.Close()
			if err != nil || string(got) != body {
				t.Errorf("%d bytes, chunked %v: got %d bytes, %v", size, chunked, len(got), err)
			}
		}
	}
}

func TestAnAnswerThatBreaksOffIsAskedForAgainAtItsHeadAndBreaksOffAfterIt(t *testing.T) {
	for _, size := range []int{100, 3 * relayHeadBytes} {
		var second atomic.Int32
		client := relaying(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(etcdv2.HeaderIndex, "7")
			io.WriteString(w, strings.Repeat("x", size))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, saying(200, "whole", &second))
		a, err := client.Relay(t.Context(), etcdv2.Request{Method: http.MethodGet, Path: "/v2/keys/a"}, true)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(a.Body)
		a.Body.Close()
		if size < relayHeadBytes && (err != nil || string(got) != "whole") {
			t.Errorf("got %q, %v; want the answer of the second endpoint", got, err)
		}
		if size > relayHeadBytes && err == nil {
			t.Error("an answer that broke off looks whole")
		}
	}
}

func TestCredentialsOfARequestReplaceTheClientsAndGoToEndpointsOnly(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(etcdv2.HeaderIndex, "7")
		io.WriteString(w, r.Header.Get("Authorization"))
	}))
	t.Cleanup(elsewhere.Close)
	client := relaying(t, Config{Username: "agent:secret"}, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/away") {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path+"/there", http.StatusTemporaryRedirect)
			return
		}
		w.Header().Set(etcdv2.HeaderIndex, "7")
		io.WriteString(w, r.Header.Get("Authorization"))
	})
	for path, want := range map[string]string{"/v2/keys/a": "Basic mine", "/v2/keys/away": ""} {
		a, err := client.Relay(t.Context(), etcdv2.Request{Method: http.MethodGet, Path: path, Header: http.Header{"Authorization": {"Basic mine"}}}, true)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(a.Body)
		a.Body.Close()
		if string(got) != want {
			t.Errorf("%s: the server was shown %q, want %q", path, got, want)
		}
	}
}

func TestAWatchForOneEventAsksForOne(t *testing.T) {
	header := make(chan http.Header, 10)
	client := relaying(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		header <- r.Header
		w.Header().Set(etcdv2.HeaderIndex, "7")
		w.Header().Set(etcdv2.HeaderRaftTerm, "3")
		io.WriteString(w, `{"action":"set","node":{"key":"/a","value":"1","modifiedIndex":8,"createdIndex":8}}`+"\n")
	})
	w, err := client.RelayWatch(t.Context(), kv.WatchFrom{Key: "/a"}, "Basic mine", true)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if event, err := w.Next(t.Context()); err != nil || event.Node.Value != "1" {
		t.Errorf("got %+v, %v", event, err)
	}
	if _, err := w.Next(t.Context()); !kv.Is(err, kv.Closed) {
		t.Errorf("after its event: %v", err)
	}
	if h := <-header; h.Get(etcdv2.HeaderWatch) != "" || h.Get("Authorization") != "Basic mine" {
		t.Errorf("asked with %v", h)
	}
	if w.Header.Get(etcdv2.HeaderRaftTerm) != "3" {
		t.Errorf("confirmed with %v", w.Header)
	}
	if _, cut := w.Cuts(); !cut {
		t.Error("a watch that is over counts as connected")
	}
	if len(header) > 0 {
		t.Error("asked again after the event")
	}
}

func TestAnAnswerOfNoStoreIsNoAnswer(t *testing.T) {
	var asked atomic.Int32
	client := relaying(t, Config{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "It works!") }, saying(200, "{}", &asked))
	a, err := client.Relay(t.Context(), etcdv2.Request{Method: http.MethodGet, Path: "/v2/keys/a", Query: url.Values{}}, true)
	if err != nil || a.Failed != 1 {
		t.Fatalf("got %+v, %v; want the answer of the second endpoint", a, err)
	}
	a.Body.Close()
	client = relaying(t, Config{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "It works!") })
	if _, err := client.Relay(context.Background(), etcdv2.Request{Method: http.MethodPut, Path: "/v2/keys/a"}, false); !kv.Is(err, kv.Unknown) {
		t.Errorf("a write: %v, want that the outcome is unknown", err)
	}
}
