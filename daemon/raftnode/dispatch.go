package raftnode

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/peer"
	"github.com/kvd-io/kvd/pkg/kv"
)

const (
	// flightsMax is how many batches a follower has on their way to the leader at a time. Their
	// sequences fit into the window in which repetitions are told apart.
	flightsMax = 3
	// retryPause is the time between two attempts at the same leader.
	retryPause = 20 * time.Millisecond
	// learnPatience bounds the wait for an entry that the leader has committed without this member.
	learnPatience = 100 * time.Millisecond
)

// dispatchLoop carries what the collector has gathered into the log, wherever the leader is, until ctx
// ends: on the leader one batch after the other, on others a few at a time.
func (n *Node) dispatchLoop(ctx context.Context) {
	slots := make(chan struct{}, flightsMax)
	var flights sync.WaitGroup
	defer flights.Wait()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		batch := n.collector.gather(ctx.Done())
		if batch == nil {
			return
		}
		if n.leading() != nil {
			n.carry(ctx, batch)
			<-slots
			continue
		}
		flights.Go(func() {
			n.carry(ctx, batch)
			<-slots
		})
	}
}

// verdict is what one attempt to bring a batch into the log has come to.
type verdict int

const (
	committed verdict = iota
	refused           // it surely was not executed, and will not be
	unknown           // it may have been, or may yet be
)

// carry brings a batch into the log and returns when each of its proposals has its outcome. While
// there is no leader, or another one than a moment ago, it tries again: what surely was not executed
// as if it were new, what may have been with the same sequences, so that the state executes it once.
func (n *Node) carry(ctx context.Context, batch []*proposal) {
	all := batch
	flight := n.registry.takeOff(all, ctx.Done())
	if flight == nil {
		n.give(all, closed())
		return
	}
	defer n.registry.land(flight, all)
	batch = append([]*proposal(nil), batch...)
	for {
		sight, err := n.awaitLeader(ctx)
		if err != nil {
			n.give(batch, err)
			return
		}
		batch = n.sortOut(batch, sight)
		batch = claim(batch)
		if len(batch) == 0 {
			return
		}
		verdict, at, err := n.attempt(ctx, sight, batch)
		switch verdict {
		case committed:
			n.finish(ctx, batch, at)
			return
		case unknown:
			for _, p := range batch {
				p.doubt.Store(true)
			}
		case refused:
			unclaim(batch)
		}
		n.log.Debug("a batch of writes was not taken", "commands", len(batch), "leader", sight.leader, "surely", verdict == refused, "err", err)
		batch = n.once(batch, verdict, err)
		select {
		case <-sight.changed():
		case <-time.After(retryPause):
		case <-ctx.Done():
		}
	}
}

// awaitLeader returns when there is a leader to turn to. Errors by Kind: NoLeader once there was none
// for too long, Closed.
func (n *Node) awaitLeader(ctx context.Context) (*sight, error) {
	for {
		select {
		case <-n.stopped:
			return nil, closed()
		default:
		}
		s := n.outlook.look()
		if s.term != nil || s.leader != 0 && s.leader != n.identity.MemberID {
			return s, nil
		}
		patience := time.NewTimer(n.patience())
		if s.leader != 0 { // this member, whose term is not open yet
			patience.Stop()
		} else if n.patience() <= 0 {
			patience.Stop()
			return s, n.notLeading()
		}
		select {
		case <-s.changed():
			patience.Stop()
		case <-patience.C:
		case <-n.stopped:
			patience.Stop()
		case <-ctx.Done():
			patience.Stop()
			return s, waitOrClosed(ctx, n.stopped)
		}
	}
}

// patience returns how much longer a request waits for a leader while none is known.
func (n *Node) patience() time.Duration {
	return 2*n.ElectionTimeout() - n.outlook.leaderless()
}

// Leaderless reports whether this member has known no leader for so long that writes are refused at
// once: two election timeouts.
func (n *Node) Leaderless() bool { return n.outlook.leaderless() > 2*n.ElectionTimeout() }

// CutOff reports whether this member has known no leader for so long that it must be taken for cut off
// from the others. Raft has needed up to 0.9 election timeouts to find that out: two of them have gone by.
func (n *Node) CutOff() bool { return n.outlook.leaderless() > n.ElectionTimeout()*11/10 }

func waitOrClosed(ctx context.Context, stopped <-chan struct{}) error {
	select {
	case <-stopped:
		return closed()
	default:
		return waitError(ctx.Err(), false)
	}
}

// sortOut answers proposals that are not for this leader, and returns the others.
func (n *Node) sortOut(batch []*proposal, s *sight) []*proposal {
	kept := batch[:0]
	for _, p := range batch {
		switch {
		case p.bound != nil && p.bound != s.term, p.foreign && s.term == nil:
			p.settle(outcome{err: noLeader()})
		default:
			kept = append(kept, p)
		}
	}
	return kept
}

// once answers the proposals that are tried once only, and returns the others.
func (n *Node) once(batch []*proposal, v verdict, err error) []*proposal {
	kept := batch[:0]
	for _, p := range batch {
		if p.foreign || p.bound != nil {
			if v == refused {
				err = noLeader()
			}
			p.settle(outcome{err: err})
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// attempt brings a batch to the leader that is in sight.
func (n *Node) attempt(ctx context.Context, s *sight, batch []*proposal) (verdict, mark, error) {
	commands := make([]command.Command, 0, len(batch))
	for _, p := range batch {
		commands = append(commands, p.commands...)
	}
	if s.term == nil {
		n.meters.forwards.Add(1)
		verdict, at, err := n.forward(ctx, s, commands)
		if verdict != committed {
			n.meters.forwardsFailed.Add(1)
		}
		return verdict, at, err
	}
	n.meters.batch.Observe(float64(len(commands)))
	results, at, err := n.commit(s.term, commands)
	if err == nil {
		for _, p := range batch {
			if p.bound != nil {
				p.settle(outcome{result: located(results[0], at), index: at.index, term: at.term})
			}
			results = results[len(p.commands):]
		}
		return committed, at, nil
	}
	if kv.Is(err, kv.NoLeader) {
		return refused, mark{}, err
	}
	return unknown, mark{}, err
}

// finish gives the proposals of a committed batch the outcome that is not a matter of their
// execution here, which brings the result to all others.
func (n *Node) finish(ctx context.Context, batch []*proposal, at mark) {
	// The leader may have committed it with the others before it has come here.
	if n.stored.Load() < at.index {
		arrival, cancel := context.WithTimeout(ctx, learnPatience)
		_ = n.stored.Wait(arrival, at.index)
		cancel()
	}
	n.learn(at)
	lost := outcomeLost()
	if err := n.fsm.applied.Wait(ctx, at.index); err != nil {
		n.give(batch, proposalError(raft.ErrRaftShutdown))
		return
	}
	for _, p := range batch {
		if p.foreign {
			p.settle(outcome{index: at.index, term: at.term})
			continue
		}
		// Whoever has no result by now has had his command executed in a snapshot.
		p.settle(outcome{err: lost})
	}
}

// give answers all proposals of a batch with err, or with the doubt that there is about some.
func (n *Node) give(batch []*proposal, err error) {
	for _, p := range batch {
		if p.doubt.Load() {
			p.settle(outcome{err: proposalError(raft.ErrLeadershipLost)})
			continue
		}
		p.settle(outcome{err: err})
	}
}

// commit stamps the commands with the lease clock, carries them through the log in one entry and
// returns their results once the local machine has applied them. They are executed in term t, or never.
func (n *Node) commit(t *term, commands []command.Command) ([]command.Result, mark, error) {
	clock, now := t.clock()
	wallOffset := n.fsm.wallOffset.Load()
	if drift := now.UnixNano() - clock - wallOffset; wallOffset == 0 || drift > wallDriftMax || drift < -wallDriftMax {
		wallOffset = now.UnixNano() - clock
	}
	batch := command.Batch{Level: command.Level, Term: t.number, Clock: clock, WallOffset: wallOffset, Commands: commands}
	future := n.raft.ApplyLog(raft.Log{Data: batch.Append(nil)}, enqueueTimeout)
	err := future.Error()
	n.noteTransfer(err)
	if err != nil {
		return nil, mark{}, proposalError(err)
	}
	results := future.Response().([]command.Result)
	if len(results) != len(commands) { // it came into the log in a later term, and was void: see batchOf
		return nil, mark{}, noLeader()
	}
	at := mark{index: future.Index(), term: t.number}
	n.tidings.note(at)
	return results, at, nil
}

// located returns a result with its place in the log.
func located(result command.Result, at mark) command.Result {
	if result.RaftIndex == 0 {
		result.RaftIndex, result.RaftTerm = at.index, at.term
	}
	return result
}

// forward asks the leader to commit commands.
func (n *Node) forward(ctx context.Context, s *sight, commands []command.Command) (verdict, mark, error) {
	ctx, cancel := s.while(ctx)
	defer cancel()
	batch := command.Batch{Level: command.Level, Commands: commands}
	answer, err := n.network.Call(ctx, uint64(s.leader), methodPropose, batch.Append(nil))
	if err != nil {
		var failed *peer.Error
		if errors.As(err, &failed) && !failed.Sent {
			return refused, mark{}, err
		}
		return unknown, mark{}, err
	}
	numbers, err := parseNumbers(answer, 3)
	if err != nil {
		return unknown, mark{}, err
	}
	switch at := (mark{index: numbers[1], term: numbers[2]}); verdict(numbers[0]) {
	case committed:
		return committed, at, nil
	case refused:
		return refused, mark{}, fmt.Errorf("member %s does not lead, or is overloaded", s.leader)
	}
	return unknown, mark{}, fmt.Errorf("member %s does not know what came of it", s.leader)
}

// servePropose commits what a follower has forwarded.
func (n *Node) servePropose(ctx context.Context, _ uint64, request []byte) ([]byte, error) {
	n.meters.forwardsTaken.Add(1)
	t := n.leading()
	if t == nil {
		return appendNumbers(nil, uint64(refused), 0, 0), nil
	}
	batch, err := command.Decode(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrNotHandled, err)
	}
	if len(batch.Commands) == 0 {
		return nil, fmt.Errorf("%w: a batch without commands", peer.ErrNotHandled)
	}
	p := &proposal{commands: batch.Commands, size: int64(len(request)), foreign: true, done: make(chan outcome, 1)}
	o, err := n.collector.propose(ctx, p, n.stopped)
	switch {
	case err == nil:
		return appendNumbers(nil, uint64(committed), o.index, o.term), nil
	case kv.Is(err, kv.NoLeader), kv.Is(err, kv.Unavailable), kv.Is(err, kv.Closed):
		return appendNumbers(nil, uint64(refused), 0, 0), nil
	}
	return appendNumbers(nil, uint64(unknown), 0, 0), nil
}
