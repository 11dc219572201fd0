package daemontest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

func TestAWriteOnAnyMemberIsReadThereAndByQuorumOnAllOthers(t *testing.T) {
	cluster, client := daemontest.Start(t, 3), newClient(t)
	for _, writer := range cluster.Members() {
		key := "/v2/keys/" + writer.Name
		call(t, client, http.MethodPut, writer.URL()+key, url.Values{"value": {writer.Name}})
		want := `"value":"` + writer.Name + `"`
		if got := call(t, client, http.MethodGet, writer.URL()+key, nil); !strings.Contains(got, want) {
			t.Errorf("%s reads %s", writer.Name, got)
		}
		for _, reader := range cluster.Members() {
			if got := call(t, client, http.MethodGet, reader.URL()+key+"?quorum=true", nil); !strings.Contains(got, want) {
				t.Errorf("%s has written, %s reads %s", writer.Name, reader.Name, got)
			}
		}
	}
}

// keysIn returns the keys below /load that a quorum read on member shows.
func keysIn(t *testing.T, client *http.Client, member *daemontest.Member) map[string]bool {
	t.Helper()
	var listing struct {
		Node struct {
			Nodes []struct{ Key string }
		}
	}
	text := call(t, client, http.MethodGet, member.URL()+"/v2/keys/load?quorum=true", nil)
	if err := json.Unmarshal([]byte(text), &listing); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	keys := map[string]bool{}
	for _, n := range listing.Node.Nodes {
		keys[n.Key] = true
	}
	return keys
}

// A write on a follower that was on its way to the leader when that died is repeated at the next one,
// with POST, which would show if it were executed twice.
func TestNothingAcknowledgedIsLostOrDoneTwiceWhenTheLeaderDies(t *testing.T) {
	cluster, client := daemontest.Start(t, 3), newClient(t)
	call(t, client, http.MethodPut, cluster.URL()+"/v2/keys/load?dir=true", nil)
	leader, followers := cluster.Leader(), cluster.Followers()
	var acknowledged, unsure atomic.Int64
	stop := make(chan struct{})
	var writing sync.WaitGroup
	for i := range 8 {
		url := followers[i%2].URL() + "/v2/keys/load"
		writing.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				response, err := client.PostForm(url, nil)
				if err != nil {
					t.Errorf("a follower has not answered: %v", err)
					return
				}
				body, _ := io.ReadAll(response.Body)
				response.Body.Close()
				switch {
				case response.StatusCode == http.StatusCreated:
					acknowledged.Add(1)
				case strings.Contains(string(body), "no leader"):
				default:
					unsure.Add(1)
				}
			}
		})
	}
	wait := func(more int64) {
		t.Helper()
		for was, deadline := acknowledged.Load(), time.Now().Add(20*time.Second); acknowledged.Load() < was+more; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d writes, not %d more, in 20 s", acknowledged.Load(), more)
			}
		}
	}
	wait(200)
	leader.Kill()
	wait(200)
	leader.Start()
	wait(200)
	close(stop)
	writing.Wait()
	for _, m := range cluster.Members() {
		if got := int64(len(keysIn(t, client, m))); got < acknowledged.Load() || got > acknowledged.Load()+unsure.Load() {
			t.Errorf("%s has %d keys, %d writes were acknowledged, of %d the outcome is not known", m.Name, got, acknowledged.Load(), unsure.Load())
		}
	}
}

func TestALeaderThatStopsCleanlyCostsNobodyAnElection(t *testing.T) {
	cluster, client := daemontest.Start(t, 3), newClient(t)
	leader := cluster.Leader()
	stay := cluster.Followers()[0]
	leader.Stop()
	if next := cluster.Leader(); next == leader {
		t.Fatal("nobody has taken over")
	}
	if got := call(t, client, http.MethodPut, stay.URL()+"/v2/keys/a", url.Values{"value": {"1"}}); !strings.Contains(got, `"value":"1"`) {
		t.Errorf("after the leader has stopped: %s", got)
	}
	leader.Start()
	if got := call(t, client, http.MethodGet, leader.URL()+"/v2/keys/a?quorum=true", nil); !strings.Contains(got, `"value":"1"`) {
		t.Errorf("the member that was back reads %s", got)
	}
}

func TestAMemberWithoutAQuorumAnswersLocalReadsAndRefusesTheRest(t *testing.T) {
	cluster, client := daemontest.Start(t, 3, "--election-timeout=1000"), newClient(t)
	call(t, client, http.MethodPut, cluster.URL()+"/v2/keys/a", url.Values{"value": {"1"}})
	alone := cluster.Members()[0]
	call(t, client, http.MethodGet, alone.URL()+"/v2/keys/a?quorum=true", nil)
	watch, err := client.Get(alone.URL() + "/v2/keys/a?wait=true")
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Body.Close()
	for _, m := range cluster.Members()[1:] {
		m.Kill()
	}
	if body, err := io.ReadAll(watch.Body); err == nil {
		t.Errorf("the watch ended as if nothing were wrong: %q", body)
	}
	if got := call(t, client, http.MethodGet, alone.URL()+"/v2/keys/a", nil); !strings.Contains(got, `"value":"1"`) {
		t.Errorf("a local read: %s", got)
	}
	for what, got := range map[string]string{
		"write":  call(t, client, http.MethodPut, alone.URL()+"/v2/keys/a", url.Values{"value": {"2"}}),
		"quorum": call(t, client, http.MethodGet, alone.URL()+"/v2/keys/a?quorum=true", nil),
		"watch":  call(t, client, http.MethodGet, alone.URL()+"/v2/keys/a?wait=true", nil),
	} {
		if !strings.Contains(got, `"errorCode":300`) || !strings.Contains(got, "no leader") && !strings.Contains(got, "timed out") {
			t.Errorf("%s: %s", what, got)
		}
	}
	alone.Stop()
	alone.Start() // without a quorum, and without waiting for one
	if got := call(t, client, http.MethodPut, alone.URL()+"/v2/keys/a", url.Values{"value": {"2"}}); !strings.Contains(got, `"errorCode":300`) {
		t.Errorf("after a restart: %s", got)
	}
}

func TestAMemberThatLostItsDataIsNotLetInAgain(t *testing.T) {
	cluster := daemontest.Start(t, 3)
	lost := cluster.Followers()[0]
	lost.Stop()
	lost.Wipe()
	err := lost.Open()
	if err == nil || !strings.Contains(err.Error(), "has started before") || !strings.Contains(err.Error(), "kvctl member remove") {
		t.Errorf("it may start: %v", err)
	}
}

func TestALeaseIsKeptAliveThroughAnyMemberAndAcrossLeaders(t *testing.T) {
	cluster, client := daemontest.Start(t, 3), newClient(t)
	follower := cluster.Followers()[0]
	var lease struct {
		ID        string
		Remaining float64
		TTL       float64
	}
	decode := func(text string) {
		t.Helper()
		if err := json.Unmarshal([]byte(text), &lease); err != nil || lease.ID == "" {
			t.Fatalf("%v: %s", err, text)
		}
	}
	decode(call(t, client, http.MethodPost, follower.URL()+"/v2/leases", url.Values{"ttl": {"60"}}))
	id := lease.ID
	for _, m := range cluster.Members() {
		decode(call(t, client, http.MethodPut, m.URL()+"/v2/leases/"+id, nil))
		decode(call(t, client, http.MethodGet, m.URL()+"/v2/leases/"+id, nil))
	}
	cluster.Leader().Kill()
	decode(call(t, client, http.MethodPut, cluster.Followers()[0].URL()+"/v2/leases/"+id, nil))
}
