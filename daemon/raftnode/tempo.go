package raftnode

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// The election timeout follows what is measured, unless it was given. Raft is safe with any; too short a
// one costs leaders that nothing is wrong with, too long a one leaves the cluster without a leader for
// longer than need be after one was lost.
const (
	// ElectionShortest is the timeout while nothing measured asks for more.
	ElectionShortest = time.Second
	// electionMargin is how often what a sign of life may have to wait for fits into an election timeout.
	// A leader gives up after a quarter of one without a majority.
	electionMargin = 8
	// calmTime is for how long less must have been enough before the timeout falls by one step.
	calmTime = 30 * time.Second
)

// electionSteps are the timeouts that are used, so that small changes change nothing.
func electionSteps() []time.Duration {
	return []time.Duration{
		ElectionShortest, 1500 * time.Millisecond, 2 * time.Second, 3 * time.Second,
		4 * time.Second, 6 * time.Second, 8 * time.Second, 10 * time.Second,
	}
}

// sluggishness is what signs of life have to wait for, as one member has measured it.
type sluggishness struct {
	trip  time.Duration // to the other voters and back
	sync  time.Duration // of this member's log: it does not listen meanwhile
	delay time.Duration // until something that is due gets its turn on this machine
}

// asks returns the election timeout that it calls for.
func (s sluggishness) asks() time.Duration { return electionMargin * (s.trip + s.sync + s.delay) }

// worstTrip returns the round trip to reckon with, given those to the voters that answer, of voters in
// all: what is usual on the longest link, and what is often reached on the links to the nearest majority.
// A single voter that answers late because it is overloaded does not matter to the others.
func worstTrip(trips []habit, voters int) time.Duration {
	var usual time.Duration
	var high []time.Duration
	for _, t := range trips {
		usual = max(usual, t.usual)
		high = append(high, t.high)
	}
	return max(usual, nearestMajority(high, voters))
}

// nearestMajority returns the time in which a majority of the voters is reached, given what it takes to
// reach each of the others. When they are too few, it is the longest.
func nearestMajority(others []time.Duration, voters int) time.Duration {
	if len(others) == 0 {
		return 0
	}
	slices.Sort(others)
	return others[max(min(majority(voters)-1, len(others))-1, 0)]
}

// agreed returns the election timeout that a member has to use, given what it asks for itself and what the
// other voters do: what is enough for a majority, and never less than for itself.
func agreed(own time.Duration, others []time.Duration, voters int) time.Duration {
	all := append([]time.Duration{own}, others...)
	slices.Sort(all)
	return max(own, all[min(majority(voters), len(all))-1])
}

// tempo is the election timeout in use.
type tempo struct {
	election time.Duration
	calm     time.Time // since when less would have been enough; zero: it would not
}

// next returns the tempo for when a timeout is called for: a longer one at once, a shorter one step by step.
func (p tempo) next(asked time.Duration, now time.Time) tempo {
	steps := electionSteps()
	at, _ := slices.BinarySearch(steps, asked)
	wanted := steps[min(at, len(steps)-1)]
	switch {
	case wanted >= p.election:
		return tempo{election: wanted}
	case p.calm.IsZero():
		p.calm = now
	case now.Sub(p.calm) >= calmTime:
		at, _ := slices.BinarySearch(steps, p.election)
		return tempo{election: steps[at-1], calm: now}
	}
	return p
}

// metronome holds raft, and all that waits for raft, to a tempo.
type metronome struct {
	shortest time.Duration // what raft was started with
	fixed    bool          // the operator has said so
	election atomic.Int64  // ns

	mu    sync.Mutex // held while raft is told
	tempo tempo      // for the loop that measures alone
}

// newMetronome starts at given, the operator's wish, if it is above 0.
func newMetronome(given time.Duration) *metronome {
	m := &metronome{shortest: ElectionShortest, fixed: given > 0}
	if m.fixed {
		m.shortest = given
	}
	m.tempo.election = m.shortest
	m.election.Store(int64(m.shortest))
	return m
}

// ElectionTimeout returns how long the cluster may be without a leader, as far as it depends on this
// member, until it stands for election. It is what was given, or follows what is measured.
func (n *Node) ElectionTimeout() time.Duration { return time.Duration(n.metronome.election.Load()) }

// raftTimeout is what raft counts in, given an election timeout: a leader that is lost is noticed after
// one to three of them.
func raftTimeout(election time.Duration) time.Duration { return election * 3 / 10 }

// leaderLease is how long a leader does without a majority, given an election timeout: it gives up before
// the others elect another one.
func leaderLease(election time.Duration) time.Duration { return raftTimeout(election) * 8 / 10 }

// grace is by how much a leader's lease is longer than raft's own.
func (n *Node) grace() time.Duration {
	return leaderLease(n.ElectionTimeout()) - leaderLease(n.metronome.shortest)
}

// roundTimeout is how long a leader waits for a majority to confirm it. By then it would have stepped
// down without them.
func (n *Node) roundTimeout() time.Duration { return 2 * raftTimeout(n.ElectionTimeout()) }

// tellRaft sets raft's timeouts to the tempo. A leader's signs of life come as often as at the shortest
// one, so that members never have to agree on a tempo: none has a shorter one.
func (n *Node) tellRaft() {
	n.metronome.mu.Lock()
	defer n.metronome.mu.Unlock()
	wanted := n.raft.ReloadableConfig()
	wanted.ElectionTimeout = raftTimeout(n.ElectionTimeout())
	wanted.HeartbeatTimeout = wanted.ElectionTimeout
	if n.raft.State() == raft.Leader {
		wanted.HeartbeatTimeout = raftTimeout(n.metronome.shortest)
	}
	if wanted == n.raft.ReloadableConfig() {
		return
	}
	if err := n.raft.ReloadConfig(wanted); err != nil {
		n.log.Error("raft does not take its new timeouts", "err", err)
	}
}

// follow takes in what is measured, and changes the tempo if need be.
func (n *Node) follow(own sluggishness, asked time.Duration, now time.Time) {
	if n.metronome.fixed {
		return
	}
	before := n.metronome.tempo.election
	n.metronome.tempo = n.metronome.tempo.next(asked, now)
	if n.metronome.tempo.election == before {
		return
	}
	n.metronome.election.Store(int64(n.metronome.tempo.election))
	n.log.Info("the election timeout follows what is measured", "from", before, "to", n.metronome.tempo.election,
		"round_trip", own.trip, "log_sync", own.sync, "delay", own.delay, "asked_for", asked)
}
