package daemontest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

// overview is what GET /v2/cluster says.
type overview struct {
	Leader, Quorum string
	Members        []struct {
		ID, Name, Role string
		Leader, Alive  bool
		PeerURLs       []string
		ClientURLs     []string
	}
}

// tell sends JSON and returns the status and the body.
func tell(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := newClient(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func look(t *testing.T, url string) (v overview) {
	t.Helper()
	status, body := tell(t, http.MethodGet, url+"/v2/cluster", "")
	if status != http.StatusOK {
		t.Fatalf("GET /v2/cluster: %d %s", status, body)
	}
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// await looks until holds.
func await(t *testing.T, url, what string, holds func(overview) bool) overview {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		v := look(t, url)
		if holds(v) {
			return v
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %s: %+v", what, v)
		}
	}
}

func (v overview) id(name string) string {
	for _, m := range v.Members {
		if m.Name == name {
			return m.ID
		}
	}
	return "none"
}

func (v overview) role(name string) string {
	for _, m := range v.Members {
		if m.Name == name {
			return m.Role
		}
	}
	return "none"
}

func TestAMemberIsAddedCatchesUpGetsAVoteAndIsReplaced(t *testing.T) {
	cluster := daemontest.Start(t, 3)
	leader, follower := cluster.Leader(), cluster.Followers()[0]
	if status, body := tell(t, http.MethodPut, leader.URL()+"/v2/keys/before", ""); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	// A follower is asked: it has the leader do it.
	added := ""
	fourth := cluster.Add("m4", func(peerURL string) {
		status, body := tell(t, http.MethodPost, follower.URL()+"/v2/members", `{"peerURLs":["`+peerURL+`"]}`)
		var m struct{ ID string }
		if err := json.Unmarshal([]byte(body), &m); err != nil || status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
		added = m.ID
		if want := fmt.Sprintf(`{"id":"%s","name":"","peerURLs":["%s"],"clientURLs":[]}`+"\n", m.ID, peerURL); body != want {
			t.Errorf("%s, want %s", body, want)
		}
		if status, body := tell(t, http.MethodPost, follower.URL()+"/v2/members", `{"peerURLs":["`+peerURL+`"]}`); status != http.StatusConflict || body != `{"message":"membership: peerURL exists"}` {
			t.Errorf("a second time: %d %s", status, body)
		}
	})
	v := await(t, fourth.URL(), "m4 votes", func(v overview) bool { return v.role("m4") == "voter" })
	if v.id("m4") != added || v.Quorum != "4 voters, 4 alive, 3 are needed: writes go on, also when one more fails" {
		t.Errorf("%+v", v)
	}
	if _, body := tell(t, http.MethodGet, fourth.URL()+"/v2/keys/before", ""); !strings.Contains(body, `"/before"`) {
		t.Errorf("m4 has not what was written before: %s", body)
	}
	// The leader is asked to go: another one takes over and removes it.
	gone := v.Leader
	name := leader.Name
	if status, body := tell(t, http.MethodDelete, fourth.URL()+"/v2/members/"+gone, ""); status != http.StatusNoContent {
		t.Fatalf("remove the leader: %d %s", status, body)
	}
	v = await(t, fourth.URL(), name+" is gone", func(v overview) bool { return v.id(name) == "none" && v.Leader != "" })
	if len(v.Members) != 3 || v.Leader == gone {
		t.Errorf("%+v", v)
	}
	if status, body := tell(t, http.MethodDelete, fourth.URL()+"/v2/members/"+gone, ""); status != http.StatusGone || body != `{"message":"Member permanently removed: `+gone+`"}` {
		t.Errorf("a second time: %d %s", status, body)
	}
	if status, body := tell(t, http.MethodPut, fourth.URL()+"/v2/keys/after", ""); status != http.StatusCreated {
		t.Errorf("%d %s", status, body)
	}
}

func TestAChangeThatWouldLoseTheQuorumIsRefused(t *testing.T) {
	cluster := daemontest.Start(t, 3)
	leader := cluster.Leader()
	dead, alive := cluster.Followers()[0], cluster.Followers()[1]
	v := look(t, leader.URL())
	dead.Kill()
	await(t, leader.URL(), dead.Name+" is seen to be down", func(v overview) bool { return strings.HasPrefix(v.Quorum, "3 voters, 2 alive") })
	want := `{"message":"3 voters, 2 alive: removing ` + alive.Name + ` leaves 2 voters, of which 1 is alive: writes would stop"}`
	if status, body := tell(t, http.MethodDelete, leader.URL()+"/v2/members/"+v.id(alive.Name), ""); status != http.StatusConflict || body != want {
		t.Errorf("%d %s, want %s", status, body, want)
	}
	if status, body := tell(t, http.MethodDelete, leader.URL()+"/v2/members/"+v.id(dead.Name), ""); status != http.StatusNoContent {
		t.Errorf("remove the dead one: %d %s", status, body)
	}
	if status, body := tell(t, http.MethodPut, alive.URL()+"/v2/keys/after", ""); status != http.StatusCreated {
		t.Errorf("%d %s", status, body)
	}
	if err := dead.Open(); err == nil {
		await(t, leader.URL(), "still two", func(v overview) bool { return len(v.Members) == 2 })
	}
}

func TestTheLeadershipIsTransferred(t *testing.T) {
	cluster := daemontest.Start(t, 3)
	for _, to := range cluster.Followers() {
		id := look(t, cluster.URL()).id(to.Name)
		if status, body := tell(t, http.MethodPost, cluster.URL()+"/v2/cluster/leader", `{"member":"`+id+`"}`); status != http.StatusNoContent {
			t.Fatalf("%d %s", status, body)
		}
		await(t, cluster.URL(), to.Name+" leads", func(v overview) bool { return v.Leader == id })
	}
}

func TestALearnerGetsAVoteWhenItIsPromoted(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	learner := cluster.Add("m2", func(peerURL string) {
		if status, body := tell(t, http.MethodPost, cluster.URL()+"/v2/members", `{"peerURLs":["`+peerURL+`"],"name":"m2","learner":true}`); status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
	})
	v := await(t, learner.URL(), "m2 answers", func(v overview) bool { return v.role("m2") == "learner" })
	if status, body := tell(t, http.MethodPost, learner.URL()+"/v2/cluster/promote", `{"member":"`+v.id("m2")+`"}`); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, body)
	}
	if v := look(t, learner.URL()); v.role("m2") != "voter" {
		t.Errorf("%+v", v)
	}
}

func TestAVoterThatIsDemotedStaysALearnerUntilItIsPromoted(t *testing.T) {
	cluster := daemontest.Start(t, 3)
	leader, other := cluster.Leader(), cluster.Followers()[0]
	v := look(t, other.URL())
	demote := func(name, query string) (int, string) {
		return tell(t, http.MethodPost, other.URL()+"/v2/cluster/demote"+query, `{"member":"`+v.id(name)+`"}`)
	}
	// The leader is asked for its own vote: another one takes over and takes it away.
	if status, body := demote(leader.Name, ""); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, body)
	}
	v = await(t, other.URL(), "another leads", func(v overview) bool {
		return v.Leader != "" && v.Leader != v.id(leader.Name) && v.role(leader.Name) == "learner"
	})
	if want := "2 voters, 2 alive, 2 are needed"; !strings.HasPrefix(v.Quorum, want) {
		t.Errorf("%s, want %s", v.Quorum, want)
	}
	if status, body := demote(leader.Name, ""); status != http.StatusBadRequest || body != `{"message":"it has no vote"}` {
		t.Errorf("a second time: %d %s", status, body)
	}
	leader.Kill() // the quorum does not need it any more
	if status, body := tell(t, http.MethodPut, other.URL()+"/v2/keys/a", ""); status != http.StatusCreated {
		t.Errorf("%d %s", status, body)
	}
	leader.Start()
	await(t, leader.URL(), "it has come back as a learner", func(v overview) bool { return v.role(leader.Name) == "learner" && v.Leader != "" })

	third := cluster.Members()[0]
	for _, m := range cluster.Members() {
		if m != leader && m != other {
			third = m
		}
	}
	third.Kill()
	await(t, leader.URL(), third.Name+" is seen to be down", func(v overview) bool { return strings.HasPrefix(v.Quorum, "2 voters, 1 alive") })
	if status, body := demote(third.Name, ""); status != http.StatusConflict || !strings.Contains(body, "no change can be made until more of them are back") {
		t.Errorf("without a quorum: %d %s", status, body)
	}
	third.Start()
	await(t, leader.URL(), "all are back", func(v overview) bool { return strings.HasPrefix(v.Quorum, "2 voters, 2 alive") && v.Leader != "" })
	if status, body := tell(t, http.MethodPost, other.URL()+"/v2/cluster/promote", `{"member":"`+v.id(leader.Name)+`"}`); status != http.StatusNoContent {
		t.Fatalf("%d %s", status, body)
	}
	await(t, other.URL(), "it votes again", func(v overview) bool { return v.role(leader.Name) == "voter" })
}

func TestTheLastVoterIsNotDemoted(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	id := look(t, url).Members[0].ID
	for _, query := range []string{"", "?accept-risk=lose-quorum"} {
		if status, body := tell(t, http.MethodPost, url+"/v2/cluster/demote"+query, `{"member":"`+id+`"}`); status != http.StatusConflict || !strings.Contains(body, "demoting default leaves nobody who votes") {
			t.Errorf("%d %s", status, body)
		}
	}
}

func invitation(t *testing.T, url, body string) string {
	t.Helper()
	status, text := tell(t, http.MethodPost, url+"/v2/cluster/invite", body)
	var made struct{ Invitation string }
	if err := json.Unmarshal([]byte(text), &made); err != nil || status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	return made.Invitation
}

func TestAnInvitedMemberJoinsAndGetsAVote(t *testing.T) {
	cluster := daemontest.Start(t, 1, "--initial-cluster-token=ours")
	line := invitation(t, cluster.URL(), `{"name":"m2"}`)
	m2, err := cluster.Invite("m2", line)
	if err != nil {
		t.Fatal(err)
	}
	await(t, m2.URL(), "m2 votes", func(v overview) bool { return v.role("m2") == "voter" })
	m2.Stop() // its settings still hold the invitation, which was used
	m2.Start()
	await(t, m2.URL(), "m2 is back", func(v overview) bool { return v.role("m2") == "voter" && v.Leader != "" })
	for what, c := range map[string]struct{ line, want string }{
		"used":         {line[:strings.LastIndex(line, ",")], "this invitation was used before"},
		"wrong":        {line[:strings.Index(line, "token=")] + "token=00112233445566778899aabbccddeeff", "nobody was invited with this token"},
		"another name": {invitation(t, cluster.URL(), `{"name":"m4"}`), "for a member that is called m4"},
	} {
		if _, err := cluster.Invite("m3", c.line); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	short := invitation(t, cluster.URL(), `{"ttlSeconds":1}`)
	token := short[strings.Index(short, "token=")+len("token="):]
	// An address that another member has is refused, and leaves the invitation as it is.
	leader, status, text := cluster.Leader(), 0, ""
	for deadline := time.Now().Add(30 * time.Second); status != http.StatusForbidden && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		status, text = tell(t, http.MethodPost, leader.PeerURL()+"/kvd/join", `{"token":"`+token+`","name":"m5","peerURLs":["`+leader.PeerURL()+`"]}`)
	}
	if status != http.StatusForbidden || !strings.Contains(text, "it was not used in time") {
		t.Errorf("%d %s", status, text)
	}
	if v := look(t, cluster.URL()); len(v.Members) != 2 {
		t.Errorf("%+v", v)
	}
}
