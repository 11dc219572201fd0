package raftnode

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/peer"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/pace"
)

// removalChecked is the time between two looks at whether this member was removed.
const removalChecked = time.Second

// HandlePeers has h answer requests to the peer port, beside what is between members. pattern is one of
// http.ServeMux.
func (n *Node) HandlePeers(pattern string, h http.Handler) { n.pages.Handle(pattern, h) }

// Started returns the identity in a data directory if a member has started with it before.
func Started(dir string) (Identity, bool) {
	r, err := readRecord(dir)
	return r.Identity, err == nil && r.Bootstrapped
}

// Server is a member as raft has it.
type Server struct {
	ID      ID
	Address string // host:port of its peer port
	Voter   bool
}

// Servers returns the members as raft's latest configuration has them, committed or not. It does not
// block.
func (n *Node) Servers() []Server {
	configured := n.configured().servers
	list := make([]Server, 0, len(configured))
	for _, s := range configured {
		one := Server{Address: string(s.Address), Voter: s.Suffrage == raft.Voter}
		if one.ID.UnmarshalText([]byte(s.ID)) == nil {
			list = append(list, one)
		}
	}
	return list
}

// Founders returns the members that the cluster was founded with, as all of them were told; none if one
// member founded it, or if this one has joined it. Some may have left since.
func (n *Node) Founders() []command.Member {
	r := n.notes.look()
	list, err := ParseFounders(r.Founders)
	if err != nil {
		return nil
	}
	members := make([]command.Member, len(list))
	for i, f := range list {
		members[i] = command.Member{ID: uint64(f.memberID(r.ClusterToken)), Name: f.Name, PeerURLs: f.PeerURLs, Voter: true}
	}
	return members
}

// AddServer makes a member without a vote, or moves one that is there to another address. This member
// must lead; it returns when the change is committed. Errors by Kind: NoLeader, Unknown, Invalid.
func (n *Node) AddServer(id ID, address string) error {
	return n.changed(n.raft.AddNonvoter(raft.ServerID(id.String()), raft.ServerAddress(address), 0, enqueueTimeout))
}

// PromoteServer gives a member a vote, under the conditions of AddServer.
func (n *Node) PromoteServer(id ID, address string) error {
	return n.changed(n.raft.AddVoter(raft.ServerID(id.String()), raft.ServerAddress(address), 0, enqueueTimeout))
}

// DemoteServer takes a member's vote away, under the conditions of AddServer.
func (n *Node) DemoteServer(id ID) error {
	return n.changed(n.raft.DemoteVoter(raft.ServerID(id.String()), 0, enqueueTimeout))
}

// RemoveServer takes a member out, under the conditions of AddServer.
func (n *Node) RemoveServer(id ID) error {
	return n.changed(n.raft.RemoveServer(raft.ServerID(id.String()), 0, enqueueTimeout))
}

// changed waits for a change of raft's configuration.
func (n *Node) changed(future raft.IndexFuture) error {
	switch err := future.Error(); {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown),
		errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return proposalError(err)
	default: // raft has looked at the new configuration and found it wrong
		return &kv.Error{Kind: kv.Invalid, Cause: err.Error()}
	}
}

// Transfer hands the leadership to a voter, 0 for the one that is most up to date, and returns when this
// member has given it up. This member must lead. Errors by Kind: NoLeader, Timeout, Invalid.
func (n *Node) Transfer(ctx context.Context, to ID) error {
	if n.leading() == nil {
		return n.notLeading()
	}
	return n.transferTo(ctx, to)
}

// Ask has a member answer a call of method, be it this one. It fails at once if the member cannot be
// reached; the error says why, and not whom it was about.
func (n *Node) Ask(ctx context.Context, member ID, method Method, request []byte) ([]byte, error) {
	if member == n.identity.MemberID {
		return n.handler(method)(ctx, uint64(member), request)
	}
	answer, err := n.network.Call(ctx, uint64(member), method, request)
	var failed *peer.Error
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return answer, err
}

// Connection is what is known of the connection with another member.
type Connection struct {
	RoundTrip time.Duration // median of the last pings; 0 if it is not known
	Problem   error         // why there is none; nil if there is one
}

// Connections returns the connections with the other members that were ever called, or have called.
func (n *Node) Connections() map[ID]Connection {
	list := map[ID]Connection{}
	for _, s := range n.network.Stats() {
		list[ID(s.Member)] = Connection{RoundTrip: s.RoundTrip, Problem: s.LastError}
	}
	return list
}

// LastContact returns how long ago this member has heard from the leader; 0 if it leads, and a negative
// time if it has not heard from any.
func (n *Node) LastContact() time.Duration {
	if n.raft.State() == raft.Leader {
		return 0
	}
	at := n.raft.LastContact()
	if at.IsZero() {
		return -1
	}
	return max(n.now().Sub(at), 0)
}

// Removed returns a channel that is closed when this member has learned that the cluster has removed it.
// It can do nothing from then on, and its data directory cannot be started with again.
func (n *Node) Removed() <-chan struct{} { return n.removed }

// removalLoop looks out for the removal of this member until ctx ends. Nobody sends a removed member the
// log any more: it learns of its removal from the configuration that takes it out, if that has still
// reached it, or from the others, who refuse its connections.
func (n *Node) removalLoop(ctx context.Context) {
	for range pace.Every(ctx.Done(), removalChecked) {
		for _, other := range n.Servers() { // to know how it is, and whether it still knows this one
			if other.ID != n.identity.MemberID {
				_ = n.network.Connect(uint64(other.ID)) // fails only for who was removed meanwhile, or at the end
			}
		}
		if !n.wasRemoved() {
			continue
		}
		if err := n.notes.note(func(r *record) { r.Removed = true }); err != nil {
			n.stop.Trip(err)
			return
		}
		n.log.Error("this member was removed from its cluster", "member", n.identity.MemberID, "name", n.identity.Name,
			"try", "add it as a new member with kvctl member add, and start it with an empty --data-dir")
		close(n.removed)
		return
	}
}

func (n *Node) wasRemoved() bool {
	if n.fsm.machine.Removed(uint64(n.identity.MemberID)) {
		return true
	}
	for _, c := range n.Connections() {
		var refusal *peer.Refusal
		if errors.As(c.Problem, &refusal) && refusal.Status == peer.StatusUnknownMember {
			return true
		}
	}
	return false
}
