package httpv2

import (
	"net/http"
	"strconv"
	"time"

	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Statistics is what the API tells of this member. Safe for concurrent use; no method blocks.
type Statistics interface {
	Self() Self
	Followers() []Follower // all other members, by ascending id; asked for on the leader only
	Stats() service.Stats
}

// Self is this member as it stands.
type Self struct {
	ID      uint64
	Name    string
	Started time.Time
	Leads   bool
	Leader  uint64        // 0 during an election
	Since   time.Time     // when the leadership began, as far as this member knows; zero if it does not
	Leading time.Duration // since then

	Received, Sent Flow // requests to append entries
}

// Flow is how many requests went one way since the member was started, and lately.
type Flow struct {
	Count                     uint64
	PerSecond, BytesPerSecond float64
}

// Follower is how the leader's requests to append entries to the log of one member went.
type Follower struct {
	ID                uint64
	Latency           Latency // of those that succeeded
	Succeeded, Failed uint64
}

// Latency describes durations in milliseconds. All are 0 while there are none.
type Latency struct {
	Current           float64 `json:"current"`
	Average           float64 `json:"average"`
	StandardDeviation float64 `json:"standardDeviation"`
	Minimum           float64 `json:"minimum"`
	Maximum           float64 `json:"maximum"`
}

// selfJSON is the wire form of Self. As etcd does, it leaves rates of 0 out.
type selfJSON struct {
	Name       string     `json:"name"`
	ID         string     `json:"id"`
	State      string     `json:"state"`
	StartTime  time.Time  `json:"startTime"`
	LeaderInfo leaderJSON `json:"leaderInfo"`

	RecvAppendRequestCnt uint64  `json:"recvAppendRequestCnt"`
	RecvPkgRate          float64 `json:"recvPkgRate,omitempty"`
	RecvBandwidthRate    float64 `json:"recvBandwidthRate,omitempty"`
	SendAppendRequestCnt uint64  `json:"sendAppendRequestCnt"`
	SendPkgRate          float64 `json:"sendPkgRate,omitempty"`
	SendBandwidthRate    float64 `json:"sendBandwidthRate,omitempty"`
}

type leaderJSON struct {
	Leader    string    `json:"leader"`
	Uptime    string    `json:"uptime"`
	StartTime time.Time `json:"startTime"`
}

func (h *handler) serveSelf(w http.ResponseWriter, _ *http.Request) {
	self := h.Statistics.Self()
	answer := selfJSON{
		Name: self.Name, ID: strconv.FormatUint(self.ID, 16), State: "StateFollower", StartTime: self.Started,
		LeaderInfo:           leaderJSON{Uptime: self.Leading.String(), StartTime: self.Since},
		RecvAppendRequestCnt: self.Received.Count, RecvPkgRate: self.Received.PerSecond, RecvBandwidthRate: self.Received.BytesPerSecond,
		SendAppendRequestCnt: self.Sent.Count, SendPkgRate: self.Sent.PerSecond, SendBandwidthRate: self.Sent.BytesPerSecond,
	}
	if self.Leads {
		answer.State = "StateLeader"
	}
	if self.Leader != 0 {
		answer.LeaderInfo.Leader = strconv.FormatUint(self.Leader, 16)
	}
	h.replyJSON(w, http.StatusOK, answer, "")
}

// leaderStatsJSON is the wire form of a leader and its followers, which have their ids as keys.
type leaderStatsJSON struct {
	Leader    string                  `json:"leader"`
	Followers map[string]followerJSON `json:"followers"`
}

type followerJSON struct {
	Latency Latency `json:"latency"`
	Counts  struct {
		Fail    uint64 `json:"fail"`
		Success uint64 `json:"success"`
	} `json:"counts"`
}

func (h *handler) serveLeader(w http.ResponseWriter, _ *http.Request) {
	self := h.Statistics.Self()
	if !self.Leads {
		h.replyMessage(w, http.StatusForbidden, "not current leader")
		return
	}
	answer := leaderStatsJSON{Leader: strconv.FormatUint(self.ID, 16), Followers: map[string]followerJSON{}}
	for _, f := range h.Statistics.Followers() {
		one := followerJSON{Latency: f.Latency}
		one.Counts.Fail, one.Counts.Success = f.Failed, f.Succeeded
		answer.Followers[strconv.FormatUint(f.ID, 16)] = one
	}
	h.replyJSON(w, http.StatusOK, answer, "")
}

// storeJSON is the wire form of service.Stats.
type storeJSON struct {
	GetsSuccess             uint64 `json:"getsSuccess"`
	GetsFail                uint64 `json:"getsFail"`
	SetsSuccess             uint64 `json:"setsSuccess"`
	SetsFail                uint64 `json:"setsFail"`
	DeleteSuccess           uint64 `json:"deleteSuccess"`
	DeleteFail              uint64 `json:"deleteFail"`
	UpdateSuccess           uint64 `json:"updateSuccess"`
	UpdateFail              uint64 `json:"updateFail"`
	CreateSuccess           uint64 `json:"createSuccess"`
	CreateFail              uint64 `json:"createFail"`
	CompareAndSwapSuccess   uint64 `json:"compareAndSwapSuccess"`
	CompareAndSwapFail      uint64 `json:"compareAndSwapFail"`
	CompareAndDeleteSuccess uint64 `json:"compareAndDeleteSuccess"`
	CompareAndDeleteFail    uint64 `json:"compareAndDeleteFail"`
	ExpireCount             uint64 `json:"expireCount"`
	Watchers                int    `json:"watchers"`
}

func (h *handler) serveStore(w http.ResponseWriter, _ *http.Request) {
	stats := h.Statistics.Stats()
	writes := &stats.Writes
	h.replyJSON(w, http.StatusOK, storeJSON{
		GetsSuccess: stats.Gets.Done + stats.RecursiveGets.Done, GetsFail: stats.Gets.Failed + stats.RecursiveGets.Failed,
		SetsSuccess: writes[kv.OpSet].Done, SetsFail: writes[kv.OpSet].Failed,
		DeleteSuccess: writes[kv.OpDelete].Done, DeleteFail: writes[kv.OpDelete].Failed,
		UpdateSuccess: writes[kv.OpUpdate].Done, UpdateFail: writes[kv.OpUpdate].Failed,
		CreateSuccess:         writes[kv.OpCreate].Done + writes[kv.OpCreateInOrder].Done,
		CreateFail:            writes[kv.OpCreate].Failed + writes[kv.OpCreateInOrder].Failed,
		CompareAndSwapSuccess: writes[kv.OpCompareAndSwap].Done, CompareAndSwapFail: writes[kv.OpCompareAndSwap].Failed,
		CompareAndDeleteSuccess: writes[kv.OpCompareAndDelete].Done, CompareAndDeleteFail: writes[kv.OpCompareAndDelete].Failed,
		ExpireCount: stats.Expired, Watchers: stats.Watches.Watchers,
	}, "")
}
