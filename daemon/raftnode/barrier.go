package raftnode

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/pkg/kv"
)

// ReadBarrier returns when the local machine holds everything that was committed before the call,
// so that a read of it is linearizable. On the leader it takes one round in which a majority of the
// voters confirms the leader's term, elsewhere a question to the leader before; all who wait at the
// same time share both. Errors by Kind: NoLeader, Timeout, Closed.
func (n *Node) ReadBarrier(ctx context.Context) error {
	n.meters.readBarriers.Add(1)
	for {
		s, err := n.awaitLeader(ctx)
		if err != nil {
			return err
		}
		var m mark
		if s.term != nil {
			m, err = n.confirmed(ctx, s.term)
		} else {
			m, err = n.remote.join(ctx)
		}
		switch {
		case err == nil:
			return n.reach(ctx, m)
		case ctx.Err() != nil, kv.Is(err, kv.Closed):
			return err
		}
		select {
		case <-s.changed():
		case <-time.After(retryPause):
		case <-ctx.Done():
		}
	}
}

// reach waits until the entry at m is applied here.
func (n *Node) reach(ctx context.Context, m mark) error {
	if s := n.outlook.look(); s.term != nil && m.index <= s.term.openIndex {
		return nil
	}
	// Behind the mark that opened the term there are only entries that the fsm sees.
	if err := n.fsm.applied.Wait(ctx, m.index); err != nil {
		return waitError(err, true)
	}
	return nil
}

// WhileLeading runs do if this member leads, and returns nil if it surely still led in the same term
// at some moment after do had returned: what do did in memory was not overtaken by another leader's
// work before. Errors by Kind: do's, and NoLeader, Timeout, Closed, after which nothing is known.
func (n *Node) WhileLeading(ctx context.Context, do func() error) error {
	t := n.leading()
	if t == nil {
		return n.notLeading()
	}
	if err := do(); err != nil {
		return err
	}
	_, err := n.confirmed(ctx, t)
	return err
}

// confirmed returns what is committed, once a majority of the voters has confirmed after the call
// that the term is still this one.
func (n *Node) confirmed(ctx context.Context, t *term) (mark, error) {
	if len(n.otherVoters()) > 0 {
		return t.rounds.join(ctx)
	}
	// A sole voter cannot be deposed without its knowing.
	index := n.raft.CommitIndex()
	if n.raft.CurrentTerm() != t.number || n.raft.State() != raft.Leader {
		return mark{}, n.notLeading()
	}
	return mark{index: index, term: t.number}, nil
}

// confirm is one round: a leader may have been deposed without knowing it, unless a majority of the
// voters says, asked after the round has begun, that its term is still this one. Whoever was elected
// before the round began had a majority at a higher term, the two majorities share a voter, and a
// voter's term never falls. No clock matters, and no answer to an older question.
func (n *Node) confirm(t *term) (mark, error) {
	ctx, cancel := context.WithTimeout(t.ctx, n.roundTimeout())
	defer cancel()
	m := mark{index: n.raft.CommitIndex(), term: t.number}
	others := n.otherVoters()
	needed := majority(len(others)+1) - 1 // beside this member
	votes := make(chan bool, len(others))
	for _, voter := range others {
		if !n.start(func() { votes <- n.confirms(ctx, voter, t.number) }) {
			return mark{}, closed()
		}
	}
	for asked := len(others); needed > 0; asked-- {
		if asked < needed {
			return mark{}, &kv.Error{Kind: kv.NoLeader, Cause: "a majority of the members has not confirmed that this one still leads"}
		}
		if <-votes {
			needed--
		}
	}
	if n.raft.CurrentTerm() != t.number || n.raft.State() != raft.Leader {
		return mark{}, n.notLeading()
	}
	return m, nil
}

// confirms reports whether a voter says that the term is number.
func (n *Node) confirms(ctx context.Context, voter ID, number uint64) bool {
	answer, err := n.network.Call(ctx, uint64(voter), methodConfirm, nil)
	if err != nil {
		return false
	}
	numbers, err := parseNumbers(answer, 1)
	return err == nil && numbers[0] == number
}

func (n *Node) serveConfirm(context.Context, uint64, []byte) ([]byte, error) {
	return appendNumbers(nil, n.raft.CurrentTerm()), nil
}

// fetchIndex asks the leader up to where a reader has to see the log.
func (n *Node) fetchIndex() (mark, error) {
	s := n.outlook.look()
	if s.leader == 0 || s.leader == n.identity.MemberID {
		return mark{}, noLeader()
	}
	ctx, cancel := context.WithTimeout(n.running, 2*n.roundTimeout())
	defer cancel()
	ctx, stop := s.while(ctx)
	defer stop()
	answer, err := n.network.Call(ctx, uint64(s.leader), methodReadIndex, nil)
	if err != nil {
		return mark{}, &kv.Error{Kind: kv.NoLeader, Cause: "the leader has not answered", Err: err}
	}
	numbers, err := parseNumbers(answer, 3)
	if err != nil {
		return mark{}, err
	}
	if numbers[0] != 1 {
		return mark{}, noLeader()
	}
	m := mark{index: numbers[1], term: numbers[2]}
	n.learn(m)
	return m, nil
}

func (n *Node) serveReadIndex(ctx context.Context, _ uint64, _ []byte) ([]byte, error) {
	t := n.leading()
	if t == nil {
		return appendNumbers(nil, 0, 0, 0), nil
	}
	m, err := n.confirmed(ctx, t)
	if err != nil {
		return appendNumbers(nil, 0, 0, 0), nil
	}
	return appendNumbers(nil, 1, m.index, m.term), nil
}

// learn tells raft that the leader of a term has committed the entry of that term at m. Raft would
// learn it with the next entries, or a few milliseconds later; whoever waits to read what he has just
// written should not have to. It is said in the leader's words, an AppendEntries without entries,
// which raft checks like any other.
func (n *Node) learn(m mark) {
	known := func() bool {
		return n.raft.CommitIndex() >= m.index || n.stored.Load() < m.index || n.raft.CurrentTerm() != m.term || n.raft.State() != raft.Follower
	}
	if known() {
		return
	}
	n.learning.Lock() // those who wait here mostly learn what they have come for
	defer n.learning.Unlock()
	address, leader := n.raft.LeaderWithID()
	if known() || leader == "" {
		return
	}
	from := n.transport.EncodePeer(leader, address)
	request := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader), Addr: from},
		Term:      m.term, PrevLogEntry: m.index, PrevLogTerm: m.term, LeaderCommitIndex: m.index,
	}
	self := raft.ServerID(n.identity.MemberID.String())
	if err := n.transport.AppendEntries(self, n.transport.LocalAddr(), request, new(raft.AppendEntriesResponse)); err != nil {
		n.log.Debug("raft was not told what is committed", "index", m.index, "err", err)
	}
}
