package httpv2

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/kv"
)

// memberSession is root's, in a cluster that does what it is told to, or fails with err.
type memberSession struct {
	fakeSession
	asked []string
	err   error
}

func (s *memberSession) note(format string, args ...any) error {
	s.asked = append(s.asked, fmt.Sprintf(format, args...))
	return s.err
}

func (s *memberSession) AddMember(_ context.Context, m service.NewMember) (service.MemberView, error) {
	return service.MemberView{ID: 0xd3a3, Name: m.Name, PeerURLs: m.PeerURLs}, s.note("add %q %v %v", m.Name, m.PeerURLs, m.Learner)
}
func (s *memberSession) UpdateMember(_ context.Context, id uint64, urls []string) error {
	return s.note("update %x %v", id, urls)
}
func (s *memberSession) RemoveMember(_ context.Context, id uint64, acceptRisk bool) error {
	return s.note("remove %x %v", id, acceptRisk)
}
func (s *memberSession) PromoteMember(_ context.Context, id uint64) error {
	return s.note("promote %x", id)
}
func (s *memberSession) DemoteMember(_ context.Context, id uint64, acceptRisk bool) error {
	return s.note("demote %x %v", id, acceptRisk)
}
func (s *memberSession) TransferLeadership(_ context.Context, to uint64) error {
	return s.note("transfer %x", to)
}

// memberGate opens to root alone, or to nobody.
type memberGate struct {
	openGate
	session *memberSession
	deny    bool
}

func (g memberGate) Authenticate(context.Context, service.Credentials) (Session, error) {
	if g.deny {
		return nil, &kv.Error{Kind: kv.Denied, Cause: "Insufficient credentials"}
	}
	return g.session, nil
}

const jsonBody = "application/json"

// TestMembersAreChangedAsEtcdDoes: the answers to what is wrong were taken from an etcd.
func TestMembersAreChangedAsEtcdDoes(t *testing.T) {
	removed := &kv.Error{Kind: kv.NotFound, Cause: "Member permanently removed: ab", Err: service.ErrRemoved}
	risk := &kv.Error{Kind: kv.Invalid, Cause: "writes would stop", Err: service.ErrRisk}
	for _, c := range []struct {
		request, contentType, body string
		err                        error
		status                     int
		answer                     string
		asked                      string
	}{
		{"POST /v2/members", formType, "x", nil, 415, `{"message":"Bad Content-Type application/x-www-form-urlencoded, accept application/json"}`, ""},
		{"POST /v2/members", "", "{}", nil, 415, `{"message":"Bad Content-Type , accept application/json"}`, ""},
		{"POST /v2/members", "Application/json", "{}", nil, 415, `{"message":"Bad Content-Type Application/json, accept application/json"}`, ""},
		{"POST /v2/members", jsonBody, "", nil, 400, `{"message":"unexpected end of JSON input"}`, ""},
		{"POST /v2/members", jsonBody, `{"peerURLs":[]}`, nil, 400, `{"message":"no valid URLs given"}`, ""},
		{"POST /v2/members", jsonBody, `{}`, nil, 400, `{"message":"no valid URLs given"}`, ""},
		{"POST /v2/members", jsonBody, `{"peerURLs":["http://127.0.0.1"]}`, nil, 400, `{"message":"URL address does not have the form \"host:port\": http://127.0.0.1"}`, ""},
		{"POST /v2/members", jsonBody, `{"peerURLs":["ftp://127.0.0.1:1"]}`, nil, 400, `{"message":"URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1"}`, ""},
		{"POST /v2/members", jsonBody, `{"peerURLs":["http://127.0.0.1:1/"]}`, nil, 400, `{"message":"URL must not contain a path: http://127.0.0.1:1/"}`, ""},
		{"POST /v2/members", jsonBody, `{"peerURLs":["http://127.0.0.1:1"]}`, &kv.Error{Kind: kv.Exists, Cause: "membership: peerURL exists"}, 409, `{"message":"membership: peerURL exists"}`, `add "" [http://127.0.0.1:1] false`},
		{"POST /v2/members", jsonBody, `{"peerURLs":["http://127.0.0.1:1"]}`, &kv.Error{Kind: kv.Timeout}, 500, `{"message":"Internal Server Error"}`, `add "" [http://127.0.0.1:1] false`},
		{"POST /v2/members", jsonBody, `{"peerURLs":["http://127.0.0.1:1"]}`, errors.New("?"), 500, `{"message":"Internal Server Error"}`, `add "" [http://127.0.0.1:1] false`},
		{"POST /v2/members/anything", "Application/JSON; charset=x", `{"peerURLs":["http://127.0.0.1:9", " http://127.0.0.1:8"]}`, nil, 201,
			`{"id":"d3a3","name":"","peerURLs":["http://127.0.0.1:8","http://127.0.0.1:9"],"clientURLs":[]}` + "\n", `add "" [http://127.0.0.1:8 http://127.0.0.1:9] false`},
		{"POST /v2/members", jsonBody, `{"peerURLs":["https://n4:2380"],"name":"n4","learner":true,"id":"1"}`, nil, 201,
			`{"id":"d3a3","name":"n4","peerURLs":["https://n4:2380"],"clientURLs":[]}` + "\n", `add "n4" [https://n4:2380] true`},

		{"PUT /v2/members", jsonBody, `{}`, nil, 405, "Method Not Allowed\n", ""},
		{"PUT /v2/members/zz", jsonBody, `{}`, nil, 404, `{"message":"No such member: zz"}`, ""},
		{"PUT /v2/members/12", formType, `{}`, nil, 415, `{"message":"Bad Content-Type application/x-www-form-urlencoded, accept application/json"}`, ""},
		{"PUT /v2/members/12", jsonBody, `{"peerURLs":["http://127.0.0.1:5"]}`, &kv.Error{Kind: kv.NotFound, Cause: "No such member: 12"}, 404, `{"message":"No such member: 12"}`, "update 12 [http://127.0.0.1:5]"},
		{"PUT /v2/members/12", jsonBody, `{"peerURLs":["http://127.0.0.1:5"]}`, nil, 204, "", "update 12 [http://127.0.0.1:5]"},

		{"DELETE /v2/members/", "", "", nil, 405, "Method Not Allowed\n", ""},
		{"DELETE /v2/members/a/b", "", "", nil, 404, `{"message":"No such member: a/b"}`, ""},
		{"DELETE /v2/members/ab", "", "", &kv.Error{Kind: kv.NotFound, Cause: "No such member: ab"}, 404, `{"message":"No such member: ab"}`, "remove ab false"},
		{"DELETE /v2/members/ab", "", "", removed, 410, `{"message":"Member permanently removed: ab"}`, "remove ab false"},
		{"DELETE /v2/members/ab", "", "", risk, 409, `{"message":"writes would stop"}`, "remove ab false"},
		{"DELETE /v2/members/ab?accept-risk=lose-quorum", "", "", nil, 204, "", "remove ab true"},
		{"DELETE /v2/members/ab?accept-risk=all", "", "", nil, 400, `{"message":"the only risk to accept is accept-risk=lose-quorum"}`, ""},

		{"POST /v2/cluster/leader", jsonBody, `{"member":"ab"}`, nil, 204, "", "transfer ab"},
		{"POST /v2/cluster/leader", jsonBody, `{}`, nil, 204, "", "transfer 0"},
		{"POST /v2/cluster/leader", jsonBody, `{"member":"x"}`, nil, 404, `{"message":"No such member: x"}`, ""},
		{"POST /v2/cluster/leader", jsonBody, `{"member":"ab"}`, &kv.Error{Op: "transfer", Kind: kv.NoLeader, Cause: "an election"}, 503, `{"message":"transfer: no leader (an election)","kind":"no leader","cause":"an election"}`, "transfer ab"},
		{"POST /v2/cluster/leader", jsonBody, `{"member":"ab"}`, &kv.Error{Op: "transfer", Kind: kv.Timeout}, 503, `{"message":"transfer: timed out"}`, "transfer ab"},
		{"POST /v2/cluster/promote", jsonBody, `{"member":"ab"}`, nil, 204, "", "promote ab"},
		{"POST /v2/cluster/demote", jsonBody, `{"member":"ab"}`, nil, 204, "", "demote ab false"},
		{"POST /v2/cluster/demote?accept-risk=lose-quorum", jsonBody, `{"member":"ab"}`, nil, 204, "", "demote ab true"},
		{"POST /v2/cluster/demote?accept-risk=x", jsonBody, `{"member":"ab"}`, nil, 400, `{"message":"the only risk to accept is accept-risk=lose-quorum"}`, ""},
		{"POST /v2/cluster/demote", jsonBody, `{"member":"ab"}`, risk, 409, `{"message":"writes would stop"}`, "demote ab false"},
		{"POST /v2/cluster/demote", jsonBody, `{"member":"x"}`, nil, 404, `{"message":"No such member: x"}`, ""},
		{"POST /v2/cluster/promote", jsonBody, `{}`, nil, 404, `{"message":"No such member: "}`, ""},
		{"POST /v2/cluster/promote", formType, `{}`, nil, 415, `{"message":"Bad Content-Type application/x-www-form-urlencoded, accept application/json"}`, ""},
		{"PUT /v2/cluster", jsonBody, `{}`, nil, 405, "Method Not Allowed\n", ""},
	} {
		session := &memberSession{err: c.err}
		url := serve(t, Config{Gate: memberGate{openGate{&recorder{}}, session, false}, Cluster: twoMembers()})
		got := askWith(t, url, c.request, c.contentType, strings.NewReader(c.body))
		if got.status != c.status || got.body != c.answer {
			t.Errorf("%s %s: %d %q, want %d %q", c.request, c.body, got.status, got.body, c.status, c.answer)
		}
		var want []string
		if c.asked != "" {
			want = []string{c.asked}
		}
		if !reflect.DeepEqual(session.asked, want) {
			t.Errorf("%s %s asked for %q, want %q", c.request, c.body, session.asked, want)
		}
		if got.header.Get("X-Etcd-Cluster-Id") == "" && c.request != "PUT /v2/cluster" {
			t.Errorf("%s: no cluster id", c.request)
		}
	}
}

func TestOnlyRootChangesMembers(t *testing.T) {
	session := &memberSession{}
	url := serve(t, Config{Gate: memberGate{openGate{&recorder{}}, session, true}, Cluster: twoMembers()})
	for _, request := range []string{"POST /v2/members", "PUT /v2/members/a", "DELETE /v2/members/a", "POST /v2/cluster/leader", "POST /v2/cluster/promote", "POST /v2/cluster/demote"} {
		got := askWith(t, url, request, jsonBody, strings.NewReader(`{"peerURLs":["http://n:1"],"member":"a"}`))
		if got.status != 401 || got.body != `{"message":"Insufficient credentials"}` || got.header.Get("X-Etcd-Cluster-Id") != "" {
			t.Errorf("%s: %d %q", request, got.status, got.body)
		}
	}
	if len(session.asked) > 0 {
		t.Errorf("%q was done", session.asked)
	}
	if got := ask(t, url, "GET /v2/members", ""); got.status != 200 {
		t.Errorf("reading needs rights: %d", got.status)
	}
}

// viewed is a cluster with a view.
type viewed struct {
	fakeCluster
	view service.ClusterView
}

func (c viewed) Overview(context.Context) (service.ClusterView, error) { return c.view, nil }

func threeViewed() viewed {
	return viewed{fakeCluster{}, service.ClusterView{ID: 0xc, Self: 1, Leader: 2, Term: 7, Members: []service.MemberView{
		{ID: 1, Name: "m1", PeerURLs: []string{"http://a:1"}, ClientURLs: []string{"http://a:2"}, Voter: true, Alive: true, Applied: 40, LastContact: 12 * time.Millisecond, Version: "1.0", ElectionTimeout: 1500 * time.Millisecond},
		{ID: 2, Name: "m2", PeerURLs: []string{"http://b:1"}, Voter: true, Alive: true, Applied: 41, RoundTrip: 310 * time.Microsecond, Version: "1.0", ElectionTimeout: 700 * time.Millisecond, ElectionFixed: true},
		{ID: 3, Learner: true, Problem: "connection refused"},
	}}}
}

func TestTheClusterIsShown(t *testing.T) {
	got := ask(t, serve(t, Config{Cluster: threeViewed()}), "GET /v2/cluster", "")
	want := `{"cluster":"c","member":"1","leader":"2","term":7,"quorum":"2 voters, 2 alive, 2 are needed: writes go on, and stop when one more fails","members":[` +
		`{"id":"1","name":"m1","peerURLs":["http://a:1"],"clientURLs":["http://a:2"],"role":"voter","leader":false,"alive":true,"roundTripMs":null,"appliedIndex":40,"lastContactMs":12,"version":"1.0","electionTimeoutMs":1500},` +
		`{"id":"2","name":"m2","peerURLs":["http://b:1"],"clientURLs":[],"role":"voter","leader":true,"alive":true,"roundTripMs":0.31,"appliedIndex":41,"lastContactMs":0,"version":"1.0","electionTimeoutMs":700,"electionTimeoutFixed":true},` +
		`{"id":"3","name":"","peerURLs":[],"clientURLs":[],"role":"learner","leader":false,"alive":false,"problem":"connection refused","roundTripMs":null,"appliedIndex":null,"lastContactMs":null,"version":null,"electionTimeoutMs":null}]}` + "\n"
	if got.status != 200 || got.body != want {
		t.Errorf("%d\n%s\nwant\n%s", got.status, got.body, want)
	}
}

func TestAChangeIsCheckedWithoutBeingMade(t *testing.T) {
	session := &memberSession{}
	url := serve(t, Config{Gate: memberGate{openGate{&recorder{}}, session, true}, Cluster: threeViewed()})
	for body, want := range map[string]string{
		`{"change":"remove","member":"2"}`:      `{"text":"2 voters, 2 alive: removing m2 leaves 1 voter, of which 1 is alive: writes go on, and stop when this one fails","voters":1,"alive":1,"needed":1,"losesQuorum":false,"stuck":false}` + "\n",
		`{"change":"promote","member":"3"}`:     `{"text":"2 voters, 2 alive: promoting 3 makes 3 voters, of which 2 are alive: writes go on, and stop when one more fails","voters":3,"alive":2,"needed":2,"losesQuorum":false,"stuck":false}` + "\n",
		`{"change":"add-learner","name":"m4"}`:  `{"text":"2 voters, 2 alive: m4 joins without a vote, which leaves all votes as they are: writes go on, and stop when one more fails","voters":2,"alive":2,"needed":2,"losesQuorum":false,"stuck":false}` + "\n",
		`{"change":"remove","member":"9"}`:      `{"message":"No such member: 9"}`,
		`{"change":"replace","member":"2"}`:     `{"message":"change is one of add, add-learner, remove, promote, demote"}`,
		`{"change":"remove","member":"member"}`: `{"message":"No such member: member"}`,
		`{"change":"demote","member":"3"}`:      `{"message":"3 has no vote"}`,
	} {
		got := askWith(t, url, "POST /v2/cluster/check", jsonBody, strings.NewReader(body))
		if got.body != want {
			t.Errorf("%s: %d %s, want %s", body, got.status, got.body, want)
		}
	}
	if len(session.asked) > 0 {
		t.Errorf("%q was done", session.asked)
	}
}
