package ctl_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

// want runs kvctl and compares the exit code, and parts of what it prints.
func want(t *testing.T, endpoint string, code int, stdout, stderr string, words ...string) outcome {
	t.Helper()
	got := kvctl(t, endpoint, words...)
	if got.code != code || !strings.Contains(got.stdout, stdout) || !strings.Contains(got.stderr, stderr) {
		t.Errorf("kvctl %s: %d\n%s\n%s\nwant %d, %q, %q", strings.Join(words, " "), got.code, got.stdout, got.stderr, code, stdout, stderr)
	}
	return got
}

func TestMembersAreManagedByNameOrID(t *testing.T) {
	cluster := daemontest.Start(t, 3)
	url, leader := cluster.URL(), cluster.Leader()
	followers := cluster.Followers()
	want(t, url, 0, "3 voters, 3 alive, 2 are needed: writes go on, also when one more fails\n", "", "member", "list")
	want(t, url, 0, "nothing is wrong", "", "doctor")
	want(t, url, 1, "warning: no.crt: its certificate cannot be read", "", "doctor", "no.crt")
	want(t, url, 0, "is healthy", "", "endpoint", "health", "--cluster")
	want(t, url, 0, "leader", "", "endpoint", "status", "--cluster")
	want(t, url, 0, " ("+followers[0].Name+") leads\n", "", "member", "transfer", followers[0].Name)
	want(t, url, 4, "", "Couldn't find a member in the cluster with an ID of m9.", "member", "remove", "m9")
	want(t, url, 4, "", "No such member: abc", "member", "remove", "abc")
	want(t, url, 1, "", "member required", "member", "update")
	want(t, url, 1, "", "name and peer URL required", "member", "add", "m4")
	want(t, url, 1, "", "\"127.0.0.1:42380\" is no peer URL\nhint: http://127.0.0.1:42380, or https://127.0.0.1:42380 if", "member", "add", "m4", "127.0.0.1:42380")
	want(t, url, 1, "", "\"127.0.0.1:42380\" is no peer URL", "member", "update", "m2", "127.0.0.1:42380")
	want(t, url, 1, "", "--accept-risk everything: there is no such risk", "member", "remove", "m1", "--accept-risk", "everything")
	want(t, url, 4, "", "URL must not contain a path", "member", "update", "m2", "http://127.0.0.1:1/x")
	want(t, url, 4, "", "peerURL exists", "member", "add", "m4", leader.PeerURL())
	want(t, url, 4, "", "has a vote already", "member", "promote", "m1")

	added := want(t, url, 0, `ETCD_INITIAL_CLUSTER_STATE="existing"`, "which makes 4 voters", "member", "add", "m4", "http://127.0.0.1:1")
	if !strings.Contains(added.stdout, `ETCD_NAME="m4"`) || !strings.Contains(added.stdout, "m4=http://127.0.0.1:1") || !strings.Contains(added.stdout, "m1="+cluster.Members()[0].PeerURL()) {
		t.Errorf("the settings are\n%s", added.stdout)
	}
	want(t, url, 0, "Updated member with ID", "", "member", "update", "m4", "http://127.0.0.1:2")
	want(t, url, 0, `"done":"removed","forecast":{"text":"3 voters, 3 alive: removing m4, which has no vote,`, "", "-o", "json", "member", "remove", "m4")

	want(t, url, 0, "Demoted member ", "demoting "+followers[0].Name+" leaves 2 voters, of which 2 are alive", "member", "demote", followers[0].Name)
	want(t, url, 4, "", followers[0].Name+" has no vote", "member", "demote", followers[0].Name)
	want(t, url, 0, `"done":"promoted"`, "", "-o", "json", "member", "promote", followers[0].Name)
	want(t, url, 1, "", "there is no such risk", "member", "demote", "m1", "--accept-risk", "all")

	victim := followers[1]
	victim.Kill()
	got := want(t, leader.URL(), 5, "trouble: "+victim.Name+": it is down", "", "doctor")
	if strings.Count(got.stdout, "\n") != 1 {
		t.Errorf("one member is down, and the doctor says\n%s", got.stdout)
	}
	var told struct {
		Members  int
		Findings []struct{ Severity, Subject string }
	}
	if err := json.Unmarshal([]byte(kvctl(t, leader.URL(), "-o", "json", "doctor").stdout), &told); err != nil || told.Members != 3 || len(told.Findings) != 1 || told.Findings[0].Subject != victim.Name {
		t.Errorf("%+v, %v", told, err)
	}
	want(t, leader.URL(), 4, "", "not done: 3 voters, 2 alive: removing "+followers[0].Name+" leaves 2 voters, of which 1 is alive: writes would stop", "member", "remove", followers[0].Name)
	want(t, leader.URL(), 5, "unhealthy", "", "endpoint", "health", "--cluster")
	want(t, leader.URL(), 0, "Removed member", "removing "+victim.Name+" leaves 2 voters, of which 2 are alive", "member", "remove", victim.Name)
}

func TestTheDoctorNamesAStoreThatIsFull(t *testing.T) {
	url := daemontest.Start(t, 1, "--quota-backend-bytes=2097152").URL()
	large := strings.Repeat("x", 1<<20)
	want(t, url, 0, "", "", "set", "/a", large)
	want(t, url, 5, "", "2097152 bytes are used, and this write needs", "set", "/b", large)
	want(t, url, 0, "", "", "set", "/b", large[:1_000_000])
	want(t, url, 5, "", "delete keys until it is", "set", "/c", large[:60_000])
	want(t, url, 5, "default: it has raised the alarm NOSPACE: only what makes the store smaller is written", "", "doctor")
	want(t, url, 5, "is unhealthy: health: store unavailable (ALARM NOSPACE)", "", "endpoint", "health")
	want(t, url, 0, "", "", "rm", "/b")
	want(t, url, 0, "nothing is wrong", "", "doctor")
}

func TestTheDoctorComparesTheClockOfAMemberWithItsOwn(t *testing.T) {
	var behind *httputil.ReverseProxy // to the member, and a minute back
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { behind.ServeHTTP(w, r) }))
	defer front.Close()
	cluster := daemontest.Start(t, 1, "--advertise-client-urls="+front.URL)
	member, err := url.Parse(cluster.URL())
	if err != nil {
		t.Fatal(err)
	}
	behind = httputil.NewSingleHostReverseProxy(member)
	behind.ModifyResponse = func(r *http.Response) error {
		date, err := http.ParseTime(r.Header.Get("Date"))
		r.Header.Set("Date", date.Add(-time.Minute).Format(http.TimeFormat))
		return err
	}
	got := want(t, cluster.URL(), 1, "warning: default: its clock is ", "", "doctor")
	if !strings.Contains(got.stdout, "s behind this machine's: ") || strings.Count(got.stdout, "\n") != 1 {
		t.Errorf("the doctor says\n%s", got.stdout)
	}
}

func TestAnInvitationIsOneLine(t *testing.T) {
	url := daemontest.Start(t, 1).URL()
	got := want(t, url, 0, ",token=", "", "member", "invite", "--name", "n2", "--ttl", "30s")
	if strings.Count(got.stdout, "\n") != 1 || strings.ContainsAny(got.stdout, " '\"&?$") || !strings.HasSuffix(got.stdout, ",name=n2\n") {
		t.Errorf("%q", got.stdout)
	}
	want(t, url, 4, "", "a name must not contain", "member", "invite", "--name", "a,b")
	want(t, url, 1, "", "a second at least", "member", "invite", "--ttl", "1ms")
	want(t, url, 4, "", "at most", "member", "invite", "--ttl", "48h")
}

func TestAnEndpointThatIsDownLeavesTheColumnsOfTheOthers(t *testing.T) {
	cluster := daemontest.Start(t, 1)
	got := want(t, cluster.URL()+",http://127.0.0.1:1", 5, "", "", "endpoint", "status")
	lines := strings.Split(got.stdout, "\n")
	if len(lines) != 4 {
		t.Fatalf("%d lines:\n%s", len(lines), got.stdout)
	}
	for _, column := range []string{"STATE", "TERM", "VERSION"} {
		at := strings.Index(lines[0], column)
		for _, line := range lines[1:3] {
			if at < 2 || len(line) <= at || line[at-1] != ' ' || line[at] == ' ' {
				t.Errorf("%s is not in one column:\n%s", column, got.stdout)
			}
		}
	}
	if !strings.Contains(lines[2], "unreachable  -") || !strings.Contains(lines[2], "refused") {
		t.Error(lines[2])
	}
}
