package httpv2

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

const (
	memberA = `{"id":"a","name":"one","peerURLs":["http://127.0.0.1:2380"],"clientURLs":["http://127.0.0.1:2379","http://127.0.0.1:4001"]}`
	memberB = `{"id":"886b03c4ae679a15","name":"","peerURLs":["http://127.0.0.2:2380"],"clientURLs":[]}`
)

func twoMembers() fakeCluster {
	return fakeCluster{leader: 0xa, members: []Member{
		{ID: 0x886b03c4ae679a15, PeerURLs: []string{"http://127.0.0.2:2380"}},
		{ID: 0xa, Name: "one", PeerURLs: []string{"http://127.0.0.1:2380"}, ClientURLs: []string{"http://127.0.0.1:2379", "http://127.0.0.1:4001"}},
	}}
}

func TestEveryPathAndMethodIsAnsweredAsEtcdDoes(t *testing.T) {
	store := &recorder{}
	url := serve(t, Config{Gate: openGate{store}, Cluster: twoMembers()})
	const (
		notFound   = "404 page not found\n"
		notAllowed = "Method Not Allowed\n"
		text       = "text/plain; charset=utf-8"
		json       = "application/json"
	)
	for _, c := range []struct {
		request string
		status  int
		body    string
		header  map[string]string // "" means absent
	}{
		{"GET /", 404, notFound, map[string]string{"Content-Type": text, "X-Content-Type-Options": "nosniff"}},
		{"GET /v2", 404, notFound, nil},
		{"GET /v2/", 404, notFound, nil},
		{"GET /v2/keysfoo", 404, notFound, nil},
		{"GET /v2%2Fkeys/foo", 404, notFound, nil},
		{"GET /v2/keys%2Ffoo", 404, notFound, nil},
		{"GET /v2/machines/", 404, notFound, nil},
		{"PUT /v3/kv/put", 404, notFound, nil},
		{"GET /v2/auth", 404, notFound, nil},
		{"GET /v2/stats/", 404, notFound, nil},
		{"GET /v2/auth/enabled", 404, notFound, nil},
		{"GET /v2/auth/enable/", 404, notFound, nil},

		{"PATCH /v2/keys/a", 405, notAllowed, map[string]string{"Allow": "HEAD,GET,PUT,POST,DELETE", "Content-Type": text, "X-Content-Type-Options": "nosniff", "X-Etcd-Cluster-Id": ""}},
		{"TRACE /v2/keys", 405, notAllowed, map[string]string{"Allow": "HEAD,GET,PUT,POST,DELETE"}},

		{"GET /v2/keys//foo", 307, "", map[string]string{"Location": "/v2/keys/foo"}},
		{"PUT /v2//keys/a/./b/?x=1&y=%20", 307, "", map[string]string{"Location": "/v2/keys/a/b/?x=1&y=%20"}},
		{"GET /v2/keys/a/../../../etc", 307, "", map[string]string{"Location": "/etc"}},
		{"GET //evil.example/v2/keys", 307, "", map[string]string{"Location": "/evil.example/v2/keys"}},
		{"GET /v2/keys//a%20b%2Fc", 307, "", map[string]string{"Location": "/v2/keys/a%20b%2Fc"}},
		{"GET /v2/keys//%3Cscript%3E", 307, "", map[string]string{"Location": "/v2/keys/%3Cscript%3E", "Content-Type": ""}},

		{"GET /v2/machines", 200, "http://127.0.0.1:2379, http://127.0.0.1:4001", map[string]string{"Content-Type": text, "X-Etcd-Cluster-Id": ""}},
		{"HEAD /v2/machines", 200, "", map[string]string{"Content-Length": "44"}},
		{"POST /v2/machines", 405, notAllowed, map[string]string{"Allow": "GET,HEAD"}},

		{"GET /v2/members", 200, `{"members":[` + memberA + `,` + memberB + `]}` + "\n", map[string]string{"Content-Type": json, "X-Etcd-Cluster-Id": "ab54a98ceb1f0a", "X-Etcd-Index": ""}},
		{"GET /v2/members/", 200, `{"members":[` + memberA + `,` + memberB + `]}` + "\n", nil},
		{"GET /v2/members/leader", 200, memberA + "\n", map[string]string{"X-Etcd-Cluster-Id": "ab54a98ceb1f0a"}},
		{"GET /v2/members/leader/", 404, `{"message":"Not found"}`, nil},
		{"GET /v2/members/a", 404, `{"message":"Not found"}`, map[string]string{"Content-Type": json}},
		{"HEAD /v2/members", 405, "", map[string]string{"Allow": "GET,POST,DELETE,PUT"}},
	} {
		got := ask(t, url, c.request, "")
		if got.status != c.status || got.body != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.request, got.status, got.body, c.status, c.body)
		}
		for name, want := range c.header {
			if got.header.Get(name) != want {
				t.Errorf("%s: %s is %q, want %q", c.request, name, got.header.Get(name), want)
			}
		}
		if asked := store.takeAsked(); asked != nil {
			t.Errorf("%s reached the store: %#v", c.request, asked)
		}
	}
}

func TestARequestForTheServerAsAWholeIsRefused(t *testing.T) {
	for _, request := range []string{"GET * HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
		connection, err := net.Dial("tcp", strings.TrimPrefix(serve(t, Config{Gate: openGate{&recorder{}}}), "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		if _, err := io.WriteString(connection, request); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(connection) // returns: the connection is closed
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 Bad Request\r\n") {
			t.Errorf("%q: %q, %v", request, answer, err)
		}
	}
}

func TestDuringAnElectionThereIsNoLeaderToName(t *testing.T) {
	cluster := twoMembers()
	for _, leader := range []uint64{0, 0xdead} { // none, and one that this member does not know
		cluster.leader = leader
		got := ask(t, serve(t, Config{Gate: openGate{&recorder{}}, Cluster: cluster}), "GET /v2/members/leader", "")
		if got.status != http.StatusServiceUnavailable || got.body != `{"message":"During election"}` {
			t.Errorf("leader %x: %d %q", leader, got.status, got.body)
		}
	}
}
