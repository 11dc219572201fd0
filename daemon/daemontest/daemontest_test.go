package daemontest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kvd-io/kvd/daemon/daemontest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func call(t *testing.T, client *http.Client, method, url string, form url.Values) string {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func TestAClusterServesAndKeepsItsDataAndURLAcrossARestart(t *testing.T) {
	cluster, client := daemontest.Start(t, 1), newClient(t)
	keys := cluster.URL() + "/v2/keys"
	call(t, client, http.MethodPut, keys+"/a", url.Values{"value": {"1"}})
	cluster.Restart()
	if got, want := call(t, client, http.MethodGet, keys+"/a", nil), `"value":"1"`; !strings.Contains(got, want) {
		t.Errorf("after the restart %s, want %s", got, want)
	}
}

func TestAWatchDoesNotHoldUpAStop(t *testing.T) {
	cluster, client := daemontest.Start(t, 1), newClient(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, cluster.URL()+"/v2/keys/a?wait=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request) // the headers come when the watch is registered
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	start := time.Now()
	cluster.Stop()
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("the stop took %s with a watch open", took)
	}
	if body, err := io.ReadAll(response.Body); err == nil && strings.Contains(string(body), "action") {
		t.Errorf("the watch ended with an event: %s", body)
	}
}

func TestARestartedMemberHasTheSameStateSum(t *testing.T) {
	cluster, client := daemontest.Start(t, 1), newClient(t)
	mark := func() (m struct {
		Index, RaftIndex uint64
		Sum              string
	}) {
		t.Helper()
		if err := json.Unmarshal([]byte(call(t, client, http.MethodGet, cluster.URL()+"/debug/state", nil)), &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	empty := mark()
	for i := range 20 {
		call(t, client, http.MethodPut, fmt.Sprintf("%s/v2/keys/a/%d", cluster.URL(), i), url.Values{"value": {"1"}, "ttl": {"1000"}})
	}
	full := mark()
	if full.Sum == empty.Sum || full.Index != empty.Index+20 || full.RaftIndex < empty.RaftIndex+20 {
		t.Errorf("after 20 writes %+v, before %+v", full, empty)
	}
	cluster.Restart()
	if got := mark(); got.Sum != full.Sum || got.Index != full.Index || got.RaftIndex < full.RaftIndex {
		t.Errorf("after the restart %+v, before %+v", got, full)
	}
}
