package raftnode

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Between a look at the term and raft's main loop, which takes the entry, a leader may be deposed and elected
// again.
func TestWhatALeaderMadeInAnEarlierTermOfItsOwnIsNotExecuted(t *testing.T) {
	cfg := testConfig(t.TempDir())
	node, machine := open(t, cfg)
	propose(t, node, "/now")
	past := *node.leading()
	past.number--
	results, _, err := node.commit(&past, []command.Command{write("/past")})
	if !kv.Is(err, kv.NoLeader) || results != nil {
		t.Errorf("it came to %+v, %v: want that it surely was not executed", results, err)
	}
	propose(t, node, "/then")
	want := []string{"/now", "/then"}
	if got := machine.keys(); !slices.Equal(got, want) {
		t.Errorf("executed %q, want %q", got, want)
	}
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	if _, machine = open(t, cfg); !slices.Equal(machine.keys(), want) {
		t.Errorf("after a restart %q are there, want %q", machine.keys(), want)
	}
}

func TestEveryMemberCountsEachLeaderThatItLearnsOf(t *testing.T) {
	nodes := cluster(t, 3)
	leader := leaderOfThem(t, nodes)
	agree := func() bool {
		return !slices.ContainsFunc(nodes, func(n *Node) bool { return n.Status().Leader != leader.identity.MemberID })
	}
	eventually(t, agree)
	before := make([]uint64, len(nodes))
	for i, n := range nodes {
		before[i] = n.outlook.leaders.Load()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := leader.transferTo(ctx, 0); err != nil {
		t.Fatal(err)
	}
	leader = leaderOfThem(t, nodes)
	eventually(t, agree)
	for i, n := range nodes {
		if now := n.outlook.leaders.Load(); before[i] == 0 || now <= before[i] {
			t.Errorf("member %d has counted %d leaders before a change and %d after it", i, before[i], now)
		}
	}
}
