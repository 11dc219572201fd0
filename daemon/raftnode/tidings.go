package raftnode

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// tidingsPause is how long a leader waits for another batch, which tells the followers what is committed, before
// it tells them by itself. Raft would tell them after one to two commitTimeouts.
const tidingsPause = time.Millisecond

// tidings are what this leader has committed last. Followers need them to show it: their watches wait.
type tidings struct {
	newest atomic.Pointer[mark]
	fresh  chan struct{} // has room for one
}

// note takes a batch that was committed in the term of this leader. It does not block.
func (t *tidings) note(m mark) {
	t.newest.Store(&m)
	select {
	case t.fresh <- struct{}{}:
	default:
	}
}

// tidingsLoop tells the followers what is committed while this member leads. One that is slow to answer is
// left out meanwhile, and hears it from raft.
func (n *Node) tidingsLoop(ctx context.Context) {
	busy := map[raft.ServerID]*atomic.Bool{}
	pause := time.NewTimer(tidingsPause)
	defer pause.Stop()
	for {
		select {
		case <-n.tidings.fresh:
		case <-ctx.Done():
			return
		}
		m := n.tidings.newest.Load()
		pause.Reset(tidingsPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
		if m != n.tidings.newest.Load() || n.raft.LastIndex() > m.index {
			continue // the next batch has told it, or will
		}
		for _, s := range n.configured().servers {
			if s.ID == n.serverID() {
				continue
			}
			if busy[s.ID] == nil {
				busy[s.ID] = new(atomic.Bool)
			}
			telling := busy[s.ID]
			if telling.CompareAndSwap(false, true) && !n.start(func() { n.tell(s, *m); telling.Store(false) }) {
				return
			}
		}
	}
}

// tell tells a follower what is committed. What it answers is of no account, and is not measured: raft will find
// it out.
func (n *Node) tell(to raft.Server, m mark) {
	request := n.notice(m, n.serverID(), n.transport.LocalAddr())
	if err := n.transport.NetworkTransport.AppendEntries(to.ID, to.Address, request, new(raft.AppendEntriesResponse)); err != nil {
		n.log.Debug("a follower was not told what is committed", "member", to.ID, "index", m.index, "err", err)
	}
}

// notice returns the words in which the leader of a term says that it has committed the entry of that term at
// m. A member that does not have that very entry does not believe them.
func (n *Node) notice(m mark, leader raft.ServerID, address raft.ServerAddress) *raft.AppendEntriesRequest {
	from := n.transport.EncodePeer(leader, address)
	return &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader), Addr: from},
		Term:      m.term, PrevLogEntry: m.index, PrevLogTerm: m.term, LeaderCommitIndex: m.index,
	}
}
