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
}

// selfJSON is the wire form of Self. Members do not exchange entries over HTTP, so there is nothing
// to count, and etcd leaves rates of 0 out.
type selfJSON struct {
	Name       string     `json:"name"`
	ID         string     `json:"id"`
	State      string     `json:"state"`
	StartTime  time.Time  `json:"startTime"`
	LeaderInfo leaderJSON `json:"leaderInfo"`

	RecvAppendRequestCnt uint64 `json:"recvAppendRequestCnt"`
	SendAppendRequestCnt uint64 `json:"sendAppendRequestCnt"`
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
		LeaderInfo: leaderJSON{Uptime: self.Leading.String(), StartTime: self.Since},
	}
	if self.Leads {
		answer.State = "StateLeader"
	}
	if self.Leader != 0 {
		answer.LeaderInfo.Leader = strconv.FormatUint(self.Leader, 16)
	}
	h.replyJSON(w, http.StatusOK, answer, "")
}

func (h *handler) serveLeader(w http.ResponseWriter, _ *http.Request) {
	self := h.Statistics.Self()
	if !self.Leads {
		h.replyMessage(w, http.StatusForbidden, "not current leader")
		return
	}
	h.replyJSON(w, http.StatusOK, struct {
		Leader    string   `json:"leader"`
		Followers struct{} `json:"followers"`
	}{Leader: strconv.FormatUint(self.ID, 16)}, "")
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
