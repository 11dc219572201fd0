package raftnode

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// cluster starts n members that found a cluster together; they are closed at the end of the test.
func cluster(t *testing.T, n int) []*Node {
	t.Helper()
	nodes, configs, listeners := make([]*Node, n), make([]Config, n), make([][]net.Listener, n)
	var founders []Founder
	for i := range n {
		listeners[i] = peers(t)
		founders = append(founders, Founder{fmt.Sprintf("n%d", i), []string{"http://" + listeners[i][0].Addr().String()}})
	}
	var starting sync.WaitGroup
	for i, f := range founders {
		configs[i] = Config{Name: f.Name, DataDir: t.TempDir(), ClusterToken: "test", PeerURLs: f.PeerURLs, Founders: founders}
		starting.Go(func() { nodes[i] = startMember(t, configs[i], listeners[i]) })
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return nodes
}

func startMember(t *testing.T, cfg Config, listeners []net.Listener) *Node {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	node, err := Open(ctx, cfg, Deps{Peers: listeners, Fatal: func(err error) { panic(err) }}, &ledger{})
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { node.Close() })
	return node
}

// restart closes a member and starts it again, at the same address and with the same data.
func restart(t *testing.T, n *Node) *Node {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", n.address())
	if err != nil {
		t.Fatal(err)
	}
	again := startMember(t, n.config, []net.Listener{l})
	if again == nil {
		t.FailNow()
	}
	return again
}

func TestAMemberWhoseSnapshotEndsWithTheMarkOfATermAnswersReadsInAnIdleCluster(t *testing.T) {
	nodes := cluster(t, 3)
	propose(t, nodes[0], "/a")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var leader, follower *Node
	for _, n := range nodes {
		if n.leading() != nil {
			leader = n
		}
	}
	if leader == nil {
		t.Fatal("nobody leads")
	}
	if err := leader.transferTo(ctx, 0); err != nil {
		t.Fatal(err)
	}
	follower = leader // who has just handed over
	if err := follower.ReadBarrier(ctx); err != nil {
		t.Fatal(err)
	}
	if err := follower.snapshot(); err != nil {
		t.Fatal(err)
	}
	follower = restart(t, follower)
	soon, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := follower.ReadBarrier(soon); err != nil {
		t.Errorf("a quorum read on the restarted member: %v; raft's commit index is %d, applied %d", err, follower.raft.CommitIndex(), follower.fsm.applied.Load())
	}
}
