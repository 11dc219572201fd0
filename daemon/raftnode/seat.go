package raftnode

import (
	"context"
	"time"

	"github.com/kvd-io/kvd/pkg/pace"
)

// The leadership moves away from a member whose disk, or whose links, are much slower than those of
// another one, for as long as recent looks back.
const (
	// seatWorse is how many times longer a write must wait with this leader than with another one, and
	// seatWorseBy by how much.
	seatWorse   = 5
	seatWorseBy = 20 * time.Millisecond
	// seatSyncs is in how many of the last seconds both must have written to their logs.
	seatSyncs = 8
	// seatLag is how far behind a member may be that is to lead.
	seatLag = 256
	// seatRest is the time from one handover by a member to its next, and seatRetry to its next attempt.
	// The first one is when it has led for as long as recent looks back.
	seatRest  = 5 * time.Minute
	seatRetry = 30 * time.Second
)

// waits returns what a write waits for with that member as the leader.
func (f figures) waits() time.Duration { return f.sync + f.reach }

// judged reports whether there is enough to judge by.
func (f figures) judged() bool { return f.syncs >= seatSyncs && f.reach > 0 }

// betterSeat returns the member that should lead in place of one, 0 for none.
func betterSeat(leader figures, others map[ID]figures) (better ID) {
	if !leader.judged() {
		return 0
	}
	for id, f := range others {
		if !f.judged() || leader.waits() <= seatWorse*f.waits() || leader.waits() <= f.waits()+seatWorseBy {
			continue
		}
		if better == 0 || f.waits() < others[better].waits() || f.waits() == others[better].waits() && id < better {
			better = id
		}
	}
	return better
}

// seatLoop looks while this member leads whether another one should.
func (n *Node) seatLoop(ctx context.Context) {
	if n.config.KeepLeader {
		return
	}
	notBefore := time.Now().Add(recentSeconds * time.Second)
	for range pace.Every(ctx.Done(), figuresEvery) {
		now := time.Now()
		if now.Before(notBefore) || now.Sub(n.movedAt) < seatRest || !n.settled() {
			continue
		}
		if own, to, there := n.lookForSeat(now); to != 0 {
			notBefore = now.Add(seatRetry)
			n.move(own, to, there)
		}
	}
}

// settled reports whether nothing else is going on that a handover would be in the way of.
func (n *Node) settled() bool {
	return n.handingOver.Load() == 0 && n.raft.GetConfiguration().Index() <= n.raft.CommitIndex()
}

// lookForSeat returns how this leader does, and which member should lead in its place, 0 for none.
func (n *Node) lookForSeat(now time.Time) (own figures, to ID, there figures) {
	n.board.mu.Lock()
	own = n.board.own
	n.board.mu.Unlock()
	able := map[ID]figures{}
	for id, known := range n.board.fresh(n.configured().others, now) {
		if n.lag(id) <= seatLag {
			able[id] = known.figures
		}
	}
	to = betterSeat(own, able)
	return own, to, able[to]
}

// move hands the leadership over.
func (n *Node) move(own figures, to ID, there figures) {
	n.log.Warn("handing the leadership to a member that is much faster", "to", to, "log_sync", own.sync, "there", there.sync, "round_trip", own.reach, "from_there", there.reach,
		"try", "give this member a disk of its own, or a better link; with --keep-leader it leads all the same")
	if err := n.handOverTo(to); err != nil {
		n.meters.movesFailed.Add(1)
		n.log.Warn("the faster member has not taken over the leadership", "to", to, "err", err)
		return
	}
	n.meters.moves.Add(1)
	n.movedAt = time.Now()
}
