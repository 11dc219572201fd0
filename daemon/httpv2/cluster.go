package httpv2

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/daemon/service"
	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/invite"
	"github.com/kvd-io/kvd/pkg/kv"
)

// What is served below clusterPath is kvd's own; etcd's v2 API has only the members.

// clusterJSON is the wire form of service.ClusterView.
type clusterJSON struct {
	Cluster string              `json:"cluster"`
	Member  string              `json:"member"` // who answers
	Leader  string              `json:"leader"` // "" during an election
	Term    uint64              `json:"term"`
	Quorum  string              `json:"quorum"` // in one sentence
	Members []clusterMemberJSON `json:"members"`
}

type clusterMemberJSON struct {
	memberJSON
	Role   string `json:"role"` // voter, joining or learner
	Leader bool   `json:"leader"`
	Alive  bool   `json:"alive"`

	Problem       string   `json:"problem,omitempty"` // why it is not alive
	RoundTripMs   *float64 `json:"roundTripMs"`       // null if it is not known
	AppliedIndex  *uint64  `json:"appliedIndex"`      // null if it is not alive, like the rest
	LastContactMs *float64 `json:"lastContactMs"`
	Version       *string  `json:"version"`

	ElectionTimeoutMs *float64 `json:"electionTimeoutMs"` // in use
	ElectionFixed     bool     `json:"electionTimeoutFixed,omitempty"`
}

// The roles of members.
const (
	roleVoter   = "voter"
	roleJoining = "joining" // gets a vote when it has caught up
	roleLearner = "learner"
)

func encodeCluster(v service.ClusterView) clusterJSON {
	answer := clusterJSON{
		Cluster: strconv.FormatUint(v.ID, 16), Member: strconv.FormatUint(v.Self, 16), Term: v.Term,
		Quorum: service.Quorum(v.Standings()), Members: make([]clusterMemberJSON, 0, len(v.Members)),
	}
	if v.Leader != 0 {
		answer.Leader = strconv.FormatUint(v.Leader, 16)
	}
	for _, m := range v.Members {
		one := clusterMemberJSON{
			memberJSON: encodeMember(Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs}),
			Role:       roleOf(m), Leader: m.ID == v.Leader, Alive: m.Alive, Problem: m.Problem,
		}
		if m.RoundTrip > 0 {
			one.RoundTripMs = milliseconds(m.RoundTrip)
		}
		if m.Alive {
			one.AppliedIndex, one.LastContactMs, one.Version = &m.Applied, milliseconds(m.LastContact), &m.Version
		}
		if m.Alive && m.ElectionTimeout > 0 {
			one.ElectionTimeoutMs, one.ElectionFixed = milliseconds(m.ElectionTimeout), m.ElectionFixed
		}
		answer.Members = append(answer.Members, one)
	}
	return answer
}

func roleOf(m service.MemberView) string {
	switch {
	case m.Voter:
		return roleVoter
	case m.Learner:
		return roleLearner
	}
	return roleJoining
}

// milliseconds rounds to microseconds.
func milliseconds(d time.Duration) *float64 {
	ms := float64(d.Microseconds()) / 1000
	return &ms
}

func (h *handler) serveCluster(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	view, err := h.Cluster.Overview(r.Context())
	if err != nil {
		h.replyClusterError(w, err)
		return
	}
	h.replyJSON(w, http.StatusOK, encodeCluster(view), "\n")
}

// subjectJSON names the member that a request is about, and what is to happen to it.
type subjectJSON struct {
	Member string `json:"member"` // id
	Change string `json:"change"`
	Name   string `json:"name"` // of one that is to be
}

// consequenceJSON is the wire form of service.Consequence.
type consequenceJSON struct {
	Text        string `json:"text"`
	Voters      int    `json:"voters"` // after the change
	Alive       int    `json:"alive"`
	Needed      int    `json:"needed"`
	LosesQuorum bool   `json:"losesQuorum"`
	Stuck       bool   `json:"stuck"`
}

// serveClusterCheck tells what a change would do, and does nothing.
func (h *handler) serveClusterCheck(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	var in subjectJSON
	if !h.readTypedJSON(w, r, &in) {
		return
	}
	change, ok := service.ParseChange(in.Change)
	if !ok {
		h.replyMessage(w, http.StatusBadRequest, "change is one of add, add-learner, remove, promote, demote")
		return
	}
	who := service.Standing{Name: in.Name}
	if change != service.AddVoter && change != service.AddLearner {
		if who.ID, ok = h.subject(w, in); !ok {
			return
		}
	} else if who.Name == "" {
		who.Name = "a new member"
	}
	view, err := h.Cluster.Overview(r.Context())
	if err != nil {
		h.replyClusterError(w, err)
		return
	}
	c, err := service.WhatIf(view.Standings(), change, who)
	if err != nil {
		h.replyClusterError(w, err)
		return
	}
	h.replyJSON(w, http.StatusOK, consequenceJSON{c.Text, c.Voters, c.Alive, c.Needed, c.LosesQuorum, c.Stuck}, "\n")
}

// subject returns the id that a request names, or answers that it names none.
func (h *handler) subject(w http.ResponseWriter, in subjectJSON) (uint64, bool) {
	id, err := strconv.ParseUint(in.Member, 16, 64)
	if err != nil || id == 0 {
		h.replyMessage(w, http.StatusNotFound, "No such member: "+in.Member)
		return 0, false
	}
	return id, true
}

// serveClusterLeader has another member lead; whichever is fittest if none is named.
func (h *handler) serveClusterLeader(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	var in subjectJSON
	if !h.readTypedJSON(w, r, &in) {
		return
	}
	var to uint64
	if in.Member != "" {
		var ok bool
		if to, ok = h.subject(w, in); !ok {
			return
		}
	}
	h.acted(w, session(r).TransferLeadership(r.Context(), to))
}

// inviteJSON says what an invitation is to be.
type inviteJSON struct {
	Name       string `json:"name"`       // of the new member; "" leaves it to it
	TTLSeconds uint64 `json:"ttlSeconds"` // 0 for the default
}

// serveClusterInvite makes an invitation for a new member.
func (h *handler) serveClusterInvite(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	var in inviteJSON
	if !h.readTypedJSON(w, r, &in) {
		return
	}
	if strings.ContainsAny(in.Name, "=,/\x00\n") {
		h.replyMessage(w, http.StatusBadRequest, "a name must not contain any of = , /")
		return
	}
	ttl := etcdv2.TTLFromSeconds(in.TTLSeconds)
	if in.TTLSeconds == 0 {
		ttl = service.DefaultInviteTTL
	}
	token, peers, err := session(r).Invite(r.Context(), ttl)
	if err != nil {
		h.replyClusterError(w, err)
		return
	}
	line := invite.Invitation{Peers: peers, Token: token, CA: h.Cluster.Authority(), Name: in.Name}.String()
	h.replyJSON(w, http.StatusCreated, struct {
		Invitation string `json:"invitation"`
		TTLSeconds uint64 `json:"ttlSeconds"`
	}{line, uint64(ttl / time.Second)}, "\n")
}

// serveClusterPromote gives a learner a vote.
func (h *handler) serveClusterPromote(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	var in subjectJSON
	if !h.readTypedJSON(w, r, &in) {
		return
	}
	id, ok := h.subject(w, in)
	if !ok {
		return
	}
	h.acted(w, session(r).PromoteMember(r.Context(), id))
}

// serveClusterDemote takes a vote away.
func (h *handler) serveClusterDemote(w http.ResponseWriter, r *http.Request) {
	h.setClusterID(w)
	risk, ok := h.risk(w, r)
	if !ok {
		return
	}
	var in subjectJSON
	if !h.readTypedJSON(w, r, &in) {
		return
	}
	id, ok := h.subject(w, in)
	if !ok {
		return
	}
	h.acted(w, session(r).DemoteMember(r.Context(), id, risk))
}

// acted answers a change that has nothing to show.
func (h *handler) acted(w http.ResponseWriter, err error) {
	if err != nil {
		h.replyClusterError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// replyClusterError is replyMemberError where etcd has no answer to keep to: trouble is told in words,
// with 503 where the same request may succeed later.
func (h *handler) replyClusterError(w http.ResponseWriter, err error) {
	var e *kv.Error
	if errors.As(err, &e) && kv.Temporary(e) {
		told := messageJSON{Message: e.Error()}
		if e.Kind == kv.NoLeader {
			told.Kind, told.Cause = e.Kind.String(), e.Cause
		}
		h.replyJSON(w, http.StatusServiceUnavailable, told, "")
		return
	}
	h.replyMemberError(w, err)
}
