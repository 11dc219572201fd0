package kvclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Cluster is a cluster of kvd as one of its members sees it.
type Cluster struct {
	ID      string          `json:"cluster"`
	Member  string          `json:"member"` // who has answered
	Leader  string          `json:"leader"` // "" during an election
	Term    uint64          `json:"term"`
	Quorum  string          `json:"quorum"` // how it stands, in one sentence
	Members []ClusterMember `json:"members"`

	Date      time.Time     `json:"-"` // of the member's clock, to the second; zero if it does not tell
	RoundTrip time.Duration `json:"-"` // that the answer took
}

// ClusterMember is a member as another one sees it.
type ClusterMember struct {
	Member
	Role    string `json:"role"` // voter, learner, or joining: it gets a vote when it has caught up
	Leader  bool   `json:"leader"`
	Alive   bool   `json:"alive"`             // it has answered
	Problem string `json:"problem,omitempty"` // why it is not alive

	// nil is not known. All but RoundTripMs are not known of a member that is not alive.
	RoundTripMs   *float64 `json:"roundTripMs"`
	AppliedIndex  *uint64  `json:"appliedIndex"`
	LastContactMs *float64 `json:"lastContactMs"` // since it has heard of the leader
	Version       *string  `json:"version"`

	ElectionTimeoutMs *float64 `json:"electionTimeoutMs"` // in use; nil also of an older release
	ElectionFixed     bool     `json:"electionTimeoutFixed,omitempty"`
}

// MemberChange is a change of the members to be looked at before it is made.
type MemberChange struct {
	Change string `json:"change"`           // add, add-learner, remove, promote or demote
	Member string `json:"member,omitempty"` // its id, unless it is to be added
	Name   string `json:"name,omitempty"`   // of one that is to be added
}

// Forecast is what a change would do to the quorum.
type Forecast struct {
	Text        string `json:"text"`   // in one sentence
	Voters      int    `json:"voters"` // after the change
	Alive       int    `json:"alive"`
	Needed      int    `json:"needed"`
	LosesQuorum bool   `json:"losesQuorum"` // writes would stop
	Stuck       bool   `json:"stuck"`       // there is no quorum now: the change could not be made
}

// NewMember is a member that is to be.
type NewMember struct {
	PeerURLs []string `json:"peerURLs"`
	Name     string   `json:"name,omitempty"`    // an etcd ignores it, and Learner too
	Learner  bool     `json:"learner,omitempty"` // gets no vote until it is promoted
}

// Cluster asks a member of kvd how it sees the cluster; an etcd does not serve that. Errors by Kind are
// those of Read.
func (c *Client) Cluster(ctx context.Context) (v Cluster, err error) {
	begun := time.Now()
	err = c.exchange(ctx, etcdv2.Request{Method: http.MethodGet, Path: clusterPath}, true, func(a *answer) error {
		v.Date, _ = http.ParseTime(a.header.Get("Date")) // zero if there is none
		v.RoundTrip = time.Since(begun)
		return a.decode(&v)
	})
	if err != nil {
		return Cluster{}, about(err, "cluster", "")
	}
	return v, nil
}

const (
	clusterPath = "/v2/cluster"
	membersPath = "/v2/members"
)

// CheckMemberChange tells what a change would do, without doing it. Errors by Kind: NotFound if there is
// no such member, Invalid, and those of Read.
func (c *Client) CheckMemberChange(ctx context.Context, change MemberChange) (f Forecast, err error) {
	err = c.changeMembers(ctx, "member check", http.MethodPost, clusterPath+"/check", nil, change, true, &f)
	return f, err
}

// AddMember adds a member and returns it with its id. Errors by Kind: Invalid, also if a member has one of
// the URLs or the quorum would be lost; Denied, Timeout, Unknown.
func (c *Client) AddMember(ctx context.Context, m NewMember) (added Member, err error) {
	err = c.changeMembers(ctx, "member add", http.MethodPost, membersPath, nil, m, false, &added)
	return added, err
}

// UpdateMember gives a member other peer URLs. Errors by Kind: NotFound, Invalid, Denied, Timeout, Unknown.
func (c *Client) UpdateMember(ctx context.Context, id string, peerURLs []string) error {
	return c.changeMembers(ctx, "member update", http.MethodPut, membersPath+"/"+url.PathEscape(id), nil, NewMember{PeerURLs: peerURLs}, false, nil)
}

// RemoveMember removes a member for good. What would lose the quorum is refused unless that is accepted.
// Errors by Kind: NotFound, also if it was removed before; Invalid, Denied, Timeout, Unknown.
func (c *Client) RemoveMember(ctx context.Context, id string, acceptQuorumLoss bool) error {
	return c.changeMembers(ctx, "member remove", http.MethodDelete, membersPath+"/"+url.PathEscape(id), accepted(acceptQuorumLoss), nil, false, nil)
}

// PromoteMember gives a learner a vote. Errors by Kind: NotFound, Invalid if it has one or has not caught
// up, Denied, Timeout, Unknown.
func (c *Client) PromoteMember(ctx context.Context, id string) error {
	return c.changeMembers(ctx, "member promote", http.MethodPost, clusterPath+"/promote", nil, MemberChange{Member: id}, false, nil)
}

// DemoteMember takes a member's vote away; it stays a learner. What would lose the quorum is refused unless
// that is accepted. Errors by Kind: NotFound, Invalid, Denied, Timeout, Unknown.
func (c *Client) DemoteMember(ctx context.Context, id string, acceptQuorumLoss bool) error {
	return c.changeMembers(ctx, "member demote", http.MethodPost, clusterPath+"/demote", accepted(acceptQuorumLoss), MemberChange{Member: id}, false, nil)
}

// accepted is the query of a change that may lose the quorum.
func accepted(quorumLoss bool) url.Values {
	if !quorumLoss {
		return nil
	}
	return url.Values{"accept-risk": {"lose-quorum"}}
}

// TransferLeadership has a member lead, or whichever is fittest for "". Errors by Kind: NotFound, Invalid,
// Denied, Timeout, Unknown.
func (c *Client) TransferLeadership(ctx context.Context, to string) error {
	return c.changeMembers(ctx, "member transfer", http.MethodPost, clusterPath+"/leader", nil, MemberChange{Member: to}, false, nil)
}

// Invite makes an invitation for one new member, to be called name unless that is "", and returns the line
// that its kvd --join takes. It is good for ttl, in whole seconds; 0 is ten minutes. Errors by Kind:
// Denied, Invalid, Timeout, Unknown.
func (c *Client) Invite(ctx context.Context, name string, ttl time.Duration) (string, error) {
	var made struct{ Invitation string }
	err := c.changeMembers(ctx, "member invite", http.MethodPost, clusterPath+"/invite", nil, struct {
		Name       string `json:"name,omitempty"`
		TTLSeconds int64  `json:"ttlSeconds,omitempty"`
	}{name, int64(ttl / time.Second)}, false, &made)
	return made.Invitation, err
}

// changeMembers makes one call with a JSON body, unless that is nil, and decodes the answer into v unless
// v is nil.
func (c *Client) changeMembers(ctx context.Context, op, method, path string, query url.Values, body any, repeatable bool, v any) error {
	r := etcdv2.Request{Method: method, Path: path, Query: query}
	if body != nil {
		var err error
		if r.JSON, err = json.Marshal(body); err != nil {
			return &kv.Error{Op: op, Kind: kv.Internal, Err: err}
		}
	}
	err := c.exchange(ctx, r, repeatable, func(a *answer) error {
		if a.status == http.StatusNoContent {
			return nil
		}
		return a.decode(v)
	})
	if err != nil {
		return about(err, op, "")
	}
	return nil
}
