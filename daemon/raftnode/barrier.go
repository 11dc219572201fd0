package raftnode

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/pkg/kv"
)

// ReadBarrier returns when the local machine holds everything that was committed before the call,
// so that a read of it is linearizable. On the leader it takes one round in which a majority of the
// voters confirms the leader's term, elsewhere a question to the leader; all who wait at the same
// time share both. A round is bounded by itself, whatever else is waited for by ctx. Errors by Kind:
// NoLeader, Timeout, Closed.
func (n *Node) ReadBarrier(ctx context.Context) error {
	n.meters.readBarriers.Add(1)
	for {
		s, err := n.awaitLeader(ctx)
		if err != nil {
			return err
		}
		m, err := n.markOf(s)
		switch {
		case err == nil:
			return n.reach(ctx, m)
		case kv.Is(err, kv.Closed):
			return err
		case ctx.Err() != nil:
			return waitError(ctx.Err(), true)
		}
		select {
		case <-s.changed():
		case <-time.After(retryPause):
		case <-ctx.Done():
		}
	}
}

// ReadBarrierWithin is ReadBarrier for limit at most. It sets no timer for a round, which would cost a
// busy member more than a reader's share of the round.
func (n *Node) ReadBarrierWithin(ctx context.Context, limit time.Duration) error {
	m, err := n.markOf(n.outlook.look())
	if err == nil && n.reached(m) {
		n.meters.readBarriers.Add(1)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err == nil {
		n.meters.readBarriers.Add(1)
		return n.reach(ctx, m)
	}
	return n.ReadBarrier(ctx)
}

// markOf asks for a mark where the sight says that there is one.
func (n *Node) markOf(s *sight) (mark, error) {
	switch {
	case s.term != nil:
		return n.confirmed(s.term)
	case s.leader == 0 || s.leader == n.identity.MemberID:
		return mark{}, n.notLeading()
	}
	return n.remote.join()
}

// reached reports whether the entry at m is applied here.
func (n *Node) reached(m mark) bool {
	if s := n.outlook.look(); s.term != nil && m.index <= s.term.openIndex {
		return true
	}
	// Behind the mark that opened the term there are only entries that the fsm sees.
	return n.fsm.applied.Load() >= m.index
}

// reach waits until the entry at m is applied here.
func (n *Node) reach(ctx context.Context, m mark) error {
	if n.reached(m) {
		return nil
	}
	if err := n.fsm.applied.Wait(ctx, m.index); err != nil {
		return waitError(err, true)
	}
	return nil
}

// WhileLeading runs do if this member leads. By then the local machine holds everything that was committed
// before the call. It returns what do returns if this member surely still led in the same term at some
// moment after that: what do saw, and did in memory, was not overtaken by another leader's work before.
// Errors by Kind: do's, and NoLeader, Timeout, Closed, after which nothing is known.
func (n *Node) WhileLeading(ctx context.Context, do func() error) error {
	t := n.leading()
	if t == nil {
		return n.notLeading()
	}
	m, err := n.committed(t)
	if err == nil {
		err = n.reach(ctx, m)
	}
	if err != nil {
		return err
	}
	done := do()
	if _, err := n.confirmed(t); err != nil {
		return err
	}
	return done
}

// confirmed returns what is committed, once a majority of the voters has confirmed after the call
// that the term is still this one.
func (n *Node) confirmed(t *term) (mark, error) {
	// If what was seen last is out of date, a round is made that would not be needed.
	if seen := n.known.Load(); seen != nil && len(seen.others) > 0 || len(n.configured().others) > 0 {
		return t.rounds.join()
	}
	return n.committed(t) // a sole voter cannot be deposed without its knowing
}

// committed returns what is committed, if this member leads in t as far as it knows.
func (n *Node) committed(t *term) (mark, error) {
	m := mark{index: n.raft.CommitIndex(), term: t.number}
	if n.raft.CurrentTerm() != t.number || n.raft.State() != raft.Leader {
		return mark{}, n.notLeading()
	}
	return m, nil
}

// confirm is one round: a leader may have been deposed without knowing it, unless a majority of the
// voters says, asked after the round has begun, that its term is still this one. Whoever was elected
// before the round began had a majority at a higher term, the two majorities share a voter, and a
// voter's term never falls. No clock matters, and no answer to an older question.
func (n *Node) confirm(t *term) (mark, error) {
	ctx, cancel := context.WithTimeout(t.ctx, n.roundTimeout())
	defer cancel()
	m, err := n.committed(t)
	if err != nil {
		return mark{}, err
	}
	others := n.configured().others
	needed := majority(len(others)+1) - 1 // beside this member
	if !t.poll.run(others, needed, func(voter ID) bool { return n.confirms(ctx, voter, t.number) }) {
		return mark{}, &kv.Error{Kind: kv.NoLeader, Cause: "a majority of the members has not confirmed that this one still leads"}
	}
	_, err = n.committed(t) // this member is of the majority, too
	return m, err
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

func (n *Node) serveConfirm(uint64, []byte) ([]byte, bool) {
	return appendNumbers(nil, n.raft.CurrentTerm()), true
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
	answer, err := n.network.Call(ctx, uint64(s.leader), methodReadIndex, appendNumbers(nil, n.raft.CurrentTerm()))
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

func (n *Node) serveReadIndex(context.Context, uint64, []byte) ([]byte, error) {
	t := n.leading()
	if t == nil {
		return appendNumbers(nil, 0, 0, 0), nil
	}
	m, err := n.confirmed(t)
	if err != nil {
		return appendNumbers(nil, 0, 0, 0), nil
	}
	return appendNumbers(nil, 1, m.index, m.term), nil
}

// readIndexAtOnce answers a voter whose question is a round already: it has said which term it is after its
// readers had asked. In a cluster of three it makes a majority together with this member.
func (n *Node) readIndexAtOnce(from uint64, request []byte) ([]byte, bool) {
	t, others := n.leading(), n.configured().others
	if t == nil || majority(len(others)+1) > 2 || !slices.Contains(others, ID(from)) {
		return nil, false
	}
	if said, err := parseNumbers(request, 1); err != nil || said[0] != t.number {
		return nil, false
	}
	m, err := n.committed(t)
	return appendNumbers(nil, 1, m.index, m.term), err == nil
}

// learn tells raft that the leader of a term has committed the entry of that term at m. Raft would
// learn it with the next entries, or from tidings a moment later; whoever waits to read what he has just
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
	request := n.notice(m, leader, address)
	self := raft.ServerID(n.identity.MemberID.String())
	if err := n.transport.AppendEntries(self, n.transport.LocalAddr(), request, new(raft.AppendEntriesResponse)); err != nil {
		n.log.Debug("raft was not told what is committed", "index", m.index, "err", err)
	}
}
