package service

import (
	"context"
	"strconv"
)

// changeMembers has the leader make a change, and tells of it.
func (c *Session) changeMembers(ctx context.Context, r memberRequest) (memberAnswer, error) {
	what := r.Op + " member"
	if !c.Administrator() {
		return memberAnswer{}, c.deny(what, "")
	}
	answer, err := c.service.changeMembers(ctx, r)
	id := r.ID
	if r.Op == "add" {
		id = answer.ID
	}
	c.service.audit.membersChanged(what, c.user, c.source, err, "member", strconv.FormatUint(id, 16), "name", r.Name, "urls", r.PeerURLs)
	return answer, err
}

// AddMember makes a member that joins without a vote, and gets one when it has caught up unless it is a
// learner. It returns what is known of it. Errors by Kind: Exists if a member has one of its URLs;
// Invalid, with ErrRisk if there is no quorum; Denied, NoLeader, Timeout, Unknown.
func (c *Session) AddMember(ctx context.Context, m NewMember) (MemberView, error) {
	answer, err := c.changeMembers(ctx, memberRequest{Op: "add", Name: m.Name, PeerURLs: m.PeerURLs, Learner: m.Learner})
	if err != nil {
		return MemberView{}, err
	}
	return MemberView{ID: answer.ID, Name: m.Name, PeerURLs: m.PeerURLs, Learner: m.Learner}, nil
}

// UpdateMember gives a member other peer URLs. Errors by Kind: NotFound, with ErrRemoved if it was
// removed; Exists, Invalid, Denied, NoLeader, Timeout, Unknown.
func (c *Session) UpdateMember(ctx context.Context, id uint64, peerURLs []string) error {
	_, err := c.changeMembers(ctx, memberRequest{Op: "update", ID: id, PeerURLs: peerURLs})
	return err
}

// RemoveMember removes a member for good. Errors by Kind: NotFound, with ErrRemoved if it was removed
// before; Invalid with ErrRisk if the quorum would be lost, unless acceptRisk; Denied, NoLeader, Timeout, Unknown.
func (c *Session) RemoveMember(ctx context.Context, id uint64, acceptRisk bool) error {
	_, err := c.changeMembers(ctx, memberRequest{Op: "remove", ID: id, AcceptRisk: acceptRisk})
	return err
}

// PromoteMember gives a learner its vote. Errors by Kind: NotFound; Invalid if it has one, has not caught
// up, or, with ErrRisk, does not answer and would be needed; Denied, NoLeader, Timeout, Unknown.
func (c *Session) PromoteMember(ctx context.Context, id uint64) error {
	_, err := c.changeMembers(ctx, memberRequest{Op: "promote", ID: id})
	return err
}

// DemoteMember takes a member's vote away; it stays a learner. Errors by Kind: NotFound; Invalid if it is
// a learner already, or, with ErrRisk, if the quorum would be lost, unless acceptRisk; Denied, NoLeader,
// Timeout, Unknown.
func (c *Session) DemoteMember(ctx context.Context, id uint64, acceptRisk bool) error {
	_, err := c.changeMembers(ctx, memberRequest{Op: "demote", ID: id, AcceptRisk: acceptRisk})
	return err
}

// TransferLeadership has a member lead, 0 for the one that is most up to date. It returns when the leader
// of before has given the leadership up. Errors by Kind: NotFound, Invalid, Denied, NoLeader, Timeout, Unknown.
func (c *Session) TransferLeadership(ctx context.Context, to uint64) error {
	_, err := c.changeMembers(ctx, memberRequest{Op: "transfer", ID: to})
	return err
}
