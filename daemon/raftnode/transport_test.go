package raftnode

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/peer"
)

func TestRaftStaysAbleToAskBeforeItVotes(t *testing.T) {
	var transport raft.Transport = &transport{}
	if _, ok := transport.(raft.WithPreVote); !ok {
		t.Error("raft would leave pre-votes out")
	}
}

func TestAMemberReachesItselfWithoutTheNetwork(t *testing.T) {
	network, err := peer.New(peer.Config{
		Self:    func() (cluster, member uint64) { return 1, 7 },
		Address: func(uint64) (string, bool) { return "", false },
		Known:   func(uint64) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	layer := newStreams(7, "h1:2380", network.RaftStreams(), nil)
	defer layer.Close()
	accepted := make(chan net.Conn)
	go func() {
		conn, _ := layer.Accept()
		accepted <- conn
	}()
	here, err := layer.Dial("7", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	there := <-accepted
	go here.Write([]byte("x"))
	if n, err := there.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	if _, err := layer.Dial("8", time.Second); err == nil {
		t.Error("a member that nobody knows was reached")
	}
}
