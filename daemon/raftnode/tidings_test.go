package raftnode

import (
	"slices"
	"testing"

	"github.com/hashicorp/raft"
)

// A leader whose disk holds an entry back has not committed it, so raft tells nobody: all that followers learn
// here comes from tidings.
func TestALeaderTellsItsFollowersWhatIsCommittedWhenNothingFollows(t *testing.T) {
	c := hold(t)
	c.leader.tidings.note(mark{index: c.index, term: c.leader.raft.CurrentTerm()})
	for _, n := range c.others() {
		eventually(t, func() bool { return n.raft.CommitIndex() == c.index })
	}
	if now := c.leader.raft.CommitIndex(); now != c.before {
		t.Errorf("the leader has committed entry %d: the test has lost its case", now)
	}
	c.disk.release(nil)
	if err := <-c.late; err != nil {
		t.Error(err)
	}
}

func TestAFollowerDoesNotBelieveThatAnEntryIsCommittedWhichItDoesNotHave(t *testing.T) {
	c := hold(t)
	term, follower := c.leader.raft.CurrentTerm(), c.others()[0]
	servers := c.leader.configured().servers
	to := servers[slices.IndexFunc(servers, func(s raft.Server) bool { return s.ID == follower.serverID() })]
	for _, m := range []mark{{index: c.index + 1, term: term}, {index: c.index, term: term - 1}} {
		c.leader.tell(to, m)
		if now := follower.raft.CommitIndex(); now > c.before {
			t.Errorf("told of entry %d of term %d it takes %d for committed; it has entry %d of term %d", m.index, m.term, now, c.index, term)
		}
	}
}
