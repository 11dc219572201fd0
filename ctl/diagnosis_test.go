package ctl

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

// sound returns three members in the best of health.
func sound() (kvclient.Cluster, []patient) {
	member := func(id, name string) kvclient.ClusterMember {
		applied, contact, trip, version := uint64(9000), 5.0, 0.3, "1.0"
		return kvclient.ClusterMember{
			Member: kvclient.Member{ID: id, Name: name, PeerURLs: []string{"http://" + name + ":2380"}, ClientURLs: []string{"http://" + name + ":2379"}},
			Role:   "voter", Leader: id == "1", Alive: true, AppliedIndex: &applied, LastContactMs: &contact, RoundTripMs: &trip, Version: &version,
		}
	}
	all := func() []kvclient.ClusterMember {
		return []kvclient.ClusterMember{member("1", "m1"), member("2", "m2"), member("3", "m3")}
	}
	cluster := kvclient.Cluster{Member: "1", Leader: "1", Quorum: "3 voters", Members: all()}
	var patients []patient
	for _, m := range all() {
		view := kvclient.Cluster{Member: m.ID, Leader: "1", Members: all(), Date: noon, RoundTrip: time.Millisecond}
		patients = append(patients, patient{ClusterMember: m, endpoint: m.ClientURLs[0], view: view, asked: noon.Add(300 * time.Millisecond)})
	}
	return cluster, patients
}

func TestNothingIsFoundWhereNothingIsWrong(t *testing.T) {
	if found := judgeCluster(sound()); len(found) > 0 {
		t.Errorf("found %+v", found)
	}
}

func TestEachAilmentIsFoundOnceAndNamed(t *testing.T) {
	for want, harm := range map[string]func(c *kvclient.Cluster, p []patient){
		"trouble cluster: there is no leader": func(c *kvclient.Cluster, p []patient) { c.Leader = "" },
		"trouble m2: it is down, or cut off: refused": func(c *kvclient.Cluster, p []patient) {
			p[1].Alive, p[1].Problem, p[1].problem, p[1].AppliedIndex, p[1].Version = false, "refused", errors.New("refused"), nil, nil
			p[0].view.Members[1].Alive, p[2].view.Members[1].Alive = false, false
		},
		"warning m2: it was added, and has not come: refused": func(c *kvclient.Cluster, p []patient) {
			p[1].Alive, p[1].Problem, p[1].problem, p[1].AppliedIndex, p[1].Version = false, "refused", errors.New("none"), nil, nil
			p[1].Role, p[1].ClientURLs, p[1].endpoint = "joining", nil, ""
			p[0].view.Members[1].Alive, p[2].view.Members[1].Alive = false, false
		},
		"trouble m2: its client port does not answer": func(c *kvclient.Cluster, p []patient) { p[1].problem = errors.New("refused") },
		"warning m2: it has no client URL": func(c *kvclient.Cluster, p []patient) {
			p[1].problem, p[1].endpoint = errors.New("none"), ""
		},
		"trouble m3 to m2: it cannot be reached at http://m2:2380: timed out": func(c *kvclient.Cluster, p []patient) {
			p[2].view.Members[1].Alive, p[2].view.Members[1].Problem = false, "timed out"
		},
		"warning m1 to m3: a round trip takes 80 ms": func(c *kvclient.Cluster, p []patient) {
			slow := 80.0
			p[0].view.Members[2].RoundTripMs = &slow
		},
		"warning m2: it is 8000 entries behind": func(c *kvclient.Cluster, p []patient) {
			old := uint64(1000)
			p[1].AppliedIndex = &old
		},
		"warning m2: it has not heard from the leader for 2500 ms": func(c *kvclient.Cluster, p []patient) {
			long := 2500.0
			p[1].LastContactMs = &long
		},
		"trouble m2: it knows no leader": func(c *kvclient.Cluster, p []patient) { p[1].view.Leader = "" },
		"trouble m2: it has raised the alarm NOSPACE": func(c *kvclient.Cluster, p []patient) {
			p[1].health = &kv.Error{Kind: kv.Unavailable, Cause: "ALARM NOSPACE"}
		},
		"trouble m2: it is not well": func(c *kvclient.Cluster, p []patient) {
			p[1].health = &kv.Error{Kind: kv.Unavailable, Cause: "QGET ERROR:timed out"}
		},
		"warning m2: its disk is slow": func(c *kvclient.Cluster, p []patient) {
			p[1].sync = kvclient.Durations{Count: 100, Buckets: []kvclient.Bucket{{Limit: 32 * time.Millisecond, Count: 98}, {Limit: 64 * time.Millisecond, Count: 100}}}
		},
		"warning m2: its election timeout has risen to 3000 ms": func(c *kvclient.Cluster, p []patient) {
			risen := 3000.0
			p[1].ElectionTimeoutMs = &risen
			p[0].ElectionTimeoutMs, p[0].ElectionFixed = &risen, true
		},
		"warning m2: its clock is 59s ahead of": func(c *kvclient.Cluster, p []patient) { p[1].view.Date = noon.Add(59400 * time.Millisecond) },
		"warning m2: its clock is 1h0m0s behind": func(c *kvclient.Cluster, p []patient) {
			p[1].view.Date = noon.Add(-time.Hour - 700*time.Millisecond)
		},
		"warning cluster: its members run different versions: 1.0 on m1, m3; 1.1 on m2": func(c *kvclient.Cluster, p []patient) {
			newer := "1.1"
			p[1].Version = &newer
		},
	} {
		cluster, patients := sound()
		harm(&cluster, patients)
		found := judgeCluster(cluster, patients)
		if len(found) != 1 || !strings.HasPrefix(found[0].Severity+" "+found[0].Subject+": "+found[0].Finding, want) || found[0].Meaning == "" || found[0].Remedy == "" {
			t.Errorf("found %+v, want %q", found, want)
		}
	}
}

func TestAnEndpointThatIsNoMembersIsLookedAt(t *testing.T) {
	cluster, _ := sound()
	cluster.ID = "a"
	for want, stray := range map[string]patient{
		"": {endpoint: "http://x", view: kvclient.Cluster{ID: "a"}},
		"warning http://x: this endpoint does not answer, and no member names it: refused": {endpoint: "http://x", problem: errors.New("refused")},
		"trouble http://x: this endpoint belongs to another cluster: b, not a":             {endpoint: "http://x", view: kvclient.Cluster{ID: "b"}},
	} {
		got := ""
		for _, f := range judgeStrays(cluster, []patient{stray}) {
			got += f.Severity + " " + f.Subject + ": " + f.Finding
		}
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestTheCertificateOfAPortIsSeenWhoeverHasSignedIt(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	f := portCert(t.Context(), server.URL, server.Listener.Addr().String())
	if f.problem != nil || !f.notAfter.Equal(server.Certificate().NotAfter) {
		t.Errorf("%+v", f)
	}
	server.Close()
	if f := portCert(t.Context(), server.URL, server.Listener.Addr().String()); f.problem == nil {
		t.Errorf("a closed port has a certificate: %+v", f)
	}
}

func TestCertificatesAreFoundBeforeTheyEnd(t *testing.T) {
	for want, c := range map[string]foundCert{
		"": {where: "a", notAfter: noon.Add(31 * 24 * time.Hour)},
		"warning a: its certificate ends in 12 days, on 2030-01-14": {where: "a", notAfter: noon.Add(12*24*time.Hour + time.Minute)},
		"trouble a: its certificate has ended, on 2030-01-02":       {where: "a", notAfter: noon},
		"warning a: its certificate cannot be read: gone":           {where: "a", problem: errors.New("gone")},
	} {
		got := ""
		for _, f := range judgeCerts([]foundCert{c}, noon) {
			got += f.Severity + " " + f.Subject + ": " + f.Finding
		}
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
