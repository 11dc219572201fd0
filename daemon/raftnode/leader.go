package raftnode

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/peer"
	"github.com/kvd-io/kvd/pkg/kv"
)

// AskLeader has the leader answer a call of method, this member itself if it leads. While it surely was
// not handled, it asks the next leader. Errors by Kind: NoLeader, Timeout, Closed; Unknown when the leader
// was lost before it has answered.
func (n *Node) AskLeader(ctx context.Context, method Method, request []byte) ([]byte, error) {
	for {
		s, err := n.awaitLeader(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := n.askLeader(ctx, s, method, request)
		switch {
		case err == nil:
			return answer, nil
		case ctx.Err() != nil:
			return nil, waitError(ctx.Err(), true)
		case !errors.Is(err, peer.ErrNotHandled):
			return nil, &kv.Error{Kind: kv.Unknown, Cause: "the leader was lost before it has answered", Err: err}
		}
		select {
		case <-s.changed():
		case <-time.After(retryPause):
		case <-ctx.Done():
		}
	}
}

// askLeader asks the leader in sight. An error that is peer.ErrNotHandled says that it did nothing.
func (n *Node) askLeader(ctx context.Context, s *sight, method Method, request []byte) ([]byte, error) {
	if s.term != nil {
		return n.handler(method)(ctx, uint64(n.identity.MemberID), request)
	}
	if method != MethodMembers { // which may end the leadership itself
		var cancel context.CancelFunc
		ctx, cancel = s.while(ctx)
		defer cancel()
	}
	answer, err := n.network.Call(ctx, uint64(s.leader), method, request)
	var failed *peer.Error
	if errors.As(err, &failed) && !failed.Sent {
		return nil, peer.ErrNotHandled
	}
	return answer, err
}

// ErrNotHandled is what a handler of Answer returns that has done nothing, because this member does not
// lead: the next leader will be asked.
var ErrNotHandled = peer.ErrNotHandled

// HandOver has another voter lead if this member does. It takes one election's time at most; if nobody
// can take over, this member goes on to lead.
func (n *Node) HandOver() {
	if n.leading() == nil || n.Alone() {
		return
	}
	if err := n.handOverTo(0); err != nil {
		n.log.Warn("no other member has taken over the leadership: the others will elect a leader", "err", err)
	}
}

// handOverTo hands the leadership to a member, 0 for the one that is most up to date. Errors are those of
// transferTo.
func (n *Node) handOverTo(to ID) error {
	ctx, cancel := context.WithTimeout(n.running, 2*n.ElectionTimeout())
	defer cancel()
	// So that leases have exactly the time left that they have here.
	if _, err := n.ProposeLeading(ctx, command.Command{Body: command.Tick{}}); err != nil {
		n.log.Warn("leases will have a little more time left", "err", err)
	}
	return n.transferTo(ctx, to)
}

// transferTo hands the leadership to a member, 0 for the one that is most up to date, and returns when
// this member has given it up. Errors by Kind: NoLeader, Timeout, Invalid.
func (n *Node) transferTo(ctx context.Context, to ID) error {
	s := n.outlook.look()
	var done raft.Future
	if to == 0 {
		done = n.raft.LeadershipTransfer()
	} else {
		address, ok := n.addressOf(uint64(to))
		if !ok {
			return &kv.Error{Kind: kv.Invalid, Cause: to.String() + " is no member"}
		}
		done = n.raft.LeadershipTransferToServer(raft.ServerID(to.String()), raft.ServerAddress(address))
	}
	if err := done.Error(); err != nil {
		return &kv.Error{Kind: kv.NoLeader, Cause: "the leadership was not handed over", Err: err}
	}
	for ; s.term != nil || s.leader == n.identity.MemberID; s = n.outlook.look() {
		select {
		case <-s.changed():
		case <-ctx.Done():
			return waitError(ctx.Err(), true)
		}
	}
	return nil
}

// Published notes that the cluster knows this member: from now on an empty log means lost data.
func (n *Node) Published() {
	if !n.notes.look().Joining {
		return
	}
	if err := n.notes.note(func(r *record) { r.Joining = false }); err != nil {
		n.stop.Trip(err)
	}
}

// transferStuckLimit is for how long, in election timeouts, a leader may refuse everything because of a
// handover. One takes a single timeout at most. But raft can forget to end one that its own stepping down
// has interrupted, and then leads, and refuses all writes, for ever; only a restart helps.
const transferStuckLimit = 3

// noteTransfer takes the outcome of an entry, and stops the process when a handover never ends.
func (n *Node) noteTransfer(err error) {
	if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		n.handingOver.Store(0)
		return
	}
	now := n.now().UnixNano()
	if n.handingOver.CompareAndSwap(0, now) {
		return
	}
	if since := time.Duration(now - n.handingOver.Load()); since > transferStuckLimit*n.ElectionTimeout() {
		n.stop.Trip(fmt.Errorf("handing over the leadership has not ended in %s: raft is stuck, and only a restart helps", since))
	}
}
