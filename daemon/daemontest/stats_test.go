package daemontest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

type followers struct {
	Leader    string
	Followers map[string]struct {
		Latency struct{ Current, Average, StandardDeviation, Minimum, Maximum float64 }
		Counts  struct{ Fail, Success uint64 }
	}
}

// followersOf returns what the leader tells at /v2/stats/leader.
func followersOf(t *testing.T, client *http.Client, leader *daemontest.Member) (f followers) {
	t.Helper()
	if err := json.Unmarshal([]byte(call(t, client, http.MethodGet, leader.URL()+"/v2/stats/leader", nil)), &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// self is what a member tells at /v2/stats/self.
type self struct {
	ID                                         string
	RecvAppendRequestCnt, SendAppendRequestCnt uint64
}

func selfOf(t *testing.T, client *http.Client, m *daemontest.Member) (s self) {
	t.Helper()
	if err := json.Unmarshal([]byte(call(t, client, http.MethodGet, m.URL()+"/v2/stats/self", nil)), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// metric returns the sum of the metrics of m with this name.
func metric(t *testing.T, client *http.Client, m *daemontest.Member, name string) float64 {
	t.Helper()
	return metricIn(t, call(t, client, http.MethodGet, m.URL()+"/metrics", nil), name)
}

func metricIn(t *testing.T, page, name string) (sum float64) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^`+name+`(?:\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(page, -1)
	if len(found) == 0 {
		t.Fatalf("%s is not there", name)
	}
	for _, f := range found {
		value, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += value
	}
	return sum
}

// eventually waits until holds does.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen that %s", what)
		}
	}
}

func TestTheLeaderTellsHowItsFollowersKeepUp(t *testing.T) {
	cluster, client := daemontest.Start(t, 3), newClient(t)
	leader := cluster.Leader()
	before := followersOf(t, client, leader)
	for i := range 20 {
		call(t, client, http.MethodPut, leader.URL()+fmt.Sprint("/v2/keys/", i), url.Values{"value": {"x"}})
	}
	if before.Leader != selfOf(t, client, leader).ID || len(before.Followers) != 2 {
		t.Fatalf("%+v", before)
	}
	for _, f := range cluster.Followers() {
		id := selfOf(t, client, f).ID
		if _, ok := before.Followers[id]; !ok {
			t.Fatalf("%s is no follower in %+v", id, before)
		}
		eventually(t, f.Name+" has got the entries", func() bool {
			return followersOf(t, client, leader).Followers[id].Counts.Success > before.Followers[id].Counts.Success
		})
		l := followersOf(t, client, leader).Followers[id].Latency
		if l.Minimum <= 0 || l.Current < l.Minimum || l.Average < l.Minimum || l.Maximum < l.Average || l.Maximum < l.Current {
			t.Errorf("%s: %+v", f.Name, l)
		}
		if got := call(t, client, http.MethodGet, f.URL()+"/v2/stats/leader", nil); got != `{"message":"not current leader"}` {
			t.Errorf("%s answers %s", f.Name, got)
		}
		if s := selfOf(t, client, f); s.RecvAppendRequestCnt == 0 {
			t.Errorf("%s has received no entries: %+v", f.Name, s)
		}
	}
	if s := selfOf(t, client, leader); s.SendAppendRequestCnt < 20 {
		t.Errorf("the leader has sent %+v", s)
	}
}

func TestAFollowerThatHasGoneFailsAndFallsBehind(t *testing.T) {
	cluster, client := daemontest.Start(t, 3), newClient(t)
	leader, gone := cluster.Leader(), cluster.Followers()[0]
	id := selfOf(t, client, gone).ID
	gone.Kill()
	for i := range 5 {
		call(t, client, http.MethodPut, leader.URL()+fmt.Sprint("/v2/keys/", i), url.Values{"value": {"x"}})
	}
	eventually(t, "requests to it fail", func() bool { return followersOf(t, client, leader).Followers[id].Counts.Fail > 0 })
	label := `\{peer="` + id + `"\}`
	eventually(t, "it is seen to be gone", func() bool {
		page := call(t, client, http.MethodGet, leader.URL()+"/metrics", nil)
		return metricIn(t, page, "kvd_peer_lag_entries"+label) >= 5 && metricIn(t, page, "kvd_peer_connected"+label) == 0 &&
			metricIn(t, page, "kvd_peer_failures_total"+label) > 0 && metricIn(t, page, "kvd_peer_appends_failed_total"+label) > 0
	})
	gone.Start()
	eventually(t, "it has caught up", func() bool { return metric(t, client, leader, "kvd_peer_lag_entries"+label) == 0 })
}

func TestWhatMembersDoForEachOtherIsCounted(t *testing.T) {
	cluster, client := daemontest.Start(t, 3), newClient(t)
	leader, follower := cluster.Leader(), cluster.Followers()[0]
	call(t, client, http.MethodPut, follower.URL()+"/v2/keys/a", url.Values{"value": {"x"}})
	call(t, client, http.MethodGet, follower.URL()+"/v2/keys/a?quorum=true", nil)
	for name, m := range map[string]*daemontest.Member{
		"kvd_forwarded_batches_total": follower, "kvd_forwarded_batches_received_total": leader,
		"kvd_read_barriers_total": follower, "kvd_read_rounds_total": follower, "kvd_vote_sync_duration_seconds_count": follower,
		"kvd_peer_sent_bytes_total": leader, "kvd_peer_received_bytes_total": leader, "kvd_peer_append_duration_seconds_count": leader,
	} {
		if metric(t, client, m, name) < 1 {
			t.Errorf("%s has not moved on %s", name, m.Name)
		}
	}
	eventually(t, "round trips are measured", func() bool {
		return metric(t, client, leader, "etcd_network_peer_round_trip_time_seconds_count") > 0
	})
	page := call(t, client, http.MethodGet, leader.URL()+"/metrics", nil)
	for _, want := range []string{`etcd_network_peer_sent_bytes_total{To="`, `etcd_network_peer_received_bytes_total{From="`, `etcd_network_peer_round_trip_time_seconds_bucket{To="`} {
		if !strings.Contains(page, "\n"+want) {
			t.Errorf("%s is not there", want)
		}
	}
	eventually(t, "all that is committed is executed", func() bool { return metric(t, client, follower, "kvd_apply_lag_entries") == 0 })
}

func TestAMemberThatWasRemovedIsNotInTheStatistics(t *testing.T) {
	cluster, client := daemontest.Start(t, 3), newClient(t)
	leader, removed := cluster.Leader(), cluster.Followers()[0]
	id := selfOf(t, client, removed).ID
	call(t, client, http.MethodDelete, leader.URL()+"/v2/members/"+id, nil)
	eventually(t, "one follower is left", func() bool {
		known := followersOf(t, client, leader).Followers
		_, there := known[id]
		return len(known) == 1 && !there && !strings.Contains(call(t, client, http.MethodGet, leader.URL()+"/metrics", nil), id)
	})
}
