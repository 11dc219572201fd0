package httpv2

import (
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestStatisticsAreThoseOfEtcdToTheByte(t *testing.T) {
	start := time.Date(2030, 1, 2, 3, 4, 5, 600_000_000, time.UTC)
	leader := fakeStatistics{self: Self{ID: 0xab, Name: "n1", Started: start, Leads: true, Leader: 0xab, Since: start.Add(time.Second), Leading: 90 * time.Second}}
	three := leader
	three.self.Sent, three.self.Received = Flow{Count: 7, PerSecond: 2, BytesPerSecond: 512.5}, Flow{Count: 3}
	three.followers = []Follower{{ID: 0xc, Latency: Latency{Current: 1.5, Average: 2, StandardDeviation: 0.25, Minimum: 1, Maximum: 3}, Succeeded: 9, Failed: 4}, {ID: 0xd}}
	leaderless := fakeStatistics{self: Self{ID: 0xab, Name: "n1", Started: start}}
	busy := fakeStatistics{stats: service.Stats{Gets: service.Tally{Done: 1, Failed: 2}, RecursiveGets: service.Tally{Done: 10, Failed: 20}}}
	for op := kv.OpSet; op <= kv.OpCompareAndDelete; op++ {
		busy.stats.Writes[op] = service.Tally{Done: 100 * uint64(op), Failed: 100*uint64(op) + 1}
	}
	busy.stats.Expired, busy.stats.Watches.Watchers = 16, 17
	for _, c := range []struct {
		name, request string
		statistics    fakeStatistics
		status        int
		body          string
	}{
		{"leader", "GET /v2/stats/self", leader, 200, `{"name":"n1","id":"ab","state":"StateLeader","startTime":"2030-01-02T03:04:05.6Z","leaderInfo":{"leader":"ab","uptime":"1m30s","startTime":"2030-01-02T03:04:06.6Z"},"recvAppendRequestCnt":0,"sendAppendRequestCnt":0}`},
		{"without a leader", "GET /v2/stats/self", leaderless, 200, `{"name":"n1","id":"ab","state":"StateFollower","startTime":"2030-01-02T03:04:05.6Z","leaderInfo":{"leader":"","uptime":"0s","startTime":"0001-01-01T00:00:00Z"},"recvAppendRequestCnt":0,"sendAppendRequestCnt":0}`},
		{"of the leader", "GET /v2/stats/leader?any=thing", leader, 200, `{"leader":"ab","followers":{}}`},
		{"leader of three", "GET /v2/stats/self", three, 200, `{"name":"n1","id":"ab","state":"StateLeader","startTime":"2030-01-02T03:04:05.6Z","leaderInfo":{"leader":"ab","uptime":"1m30s","startTime":"2030-01-02T03:04:06.6Z"},"recvAppendRequestCnt":3,"sendAppendRequestCnt":7,"sendPkgRate":2,"sendBandwidthRate":512.5}`},
		{"of the leader of three", "GET /v2/stats/leader", three, 200, `{"leader":"ab","followers":{"c":{"latency":{"current":1.5,"average":2,"standardDeviation":0.25,"minimum":1,"maximum":3},"counts":{"fail":4,"success":9}},"d":{"latency":{"current":0,"average":0,"standardDeviation":0,"minimum":0,"maximum":0},"counts":{"fail":0,"success":0}}}}`},
		{"of no leader", "GET /v2/stats/leader", leaderless, 403, `{"message":"not current leader"}`},
		{"of the store", "GET /v2/stats/store", busy, 200, `{"getsSuccess":11,"getsFail":22,"setsSuccess":100,"setsFail":101,"deleteSuccess":600,"deleteFail":601,"updateSuccess":400,"updateFail":401,"createSuccess":500,"createFail":502,"compareAndSwapSuccess":500,"compareAndSwapFail":501,"compareAndDeleteSuccess":700,"compareAndDeleteFail":701,"expireCount":16,"watchers":17}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ask(t, serve(t, Config{Statistics: c.statistics}), c.request, "")
			if got.status != c.status || got.body != c.body || got.header.Get("Content-Type") != "application/json" {
				t.Errorf("%d %s\n got %s\nwant %s", got.status, got.header.Get("Content-Type"), got.body, c.body)
			}
			if id, there := got.header["X-Etcd-Cluster-Id"]; there {
				t.Errorf("it names the cluster: %s", id)
			}
		})
	}
	for _, resource := range []string{"self", "leader", "store"} {
		for _, method := range []string{"HEAD", "PUT", "POST", "DELETE"} {
			if got := ask(t, serve(t, Config{}), method+" /v2/stats/"+resource, ""); got.status != 405 || got.header.Get("Allow") != "GET" {
				t.Errorf("%s %s: %d, Allow %q", method, resource, got.status, got.header.Get("Allow"))
			}
		}
		if got := ask(t, serve(t, Config{}), "GET /v2/stats/"+resource+"/", ""); got.status != 404 {
			t.Errorf("%s with a slash: %d", resource, got.status)
		}
	}
}
