package service

import (
	"context"
	"encoding/json"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
)

// twoServers is a cluster of a leader, 1, and a member without a vote, 2, that has caught up.
type twoServers struct{ promoted bool }

func (c *twoServers) Status() raftnode.Status {
	return raftnode.Status{Identity: raftnode.Identity{MemberID: 1}, State: "leader", Leader: 1}
}

func (c *twoServers) Servers() []raftnode.Server {
	return []raftnode.Server{{ID: 1, Address: "h1:1", Voter: true}, {ID: 2, Address: "h2:1", Voter: c.promoted}}
}

func (c *twoServers) Connections() map[raftnode.ID]raftnode.Connection { return nil }
func (c *twoServers) LastContact() time.Duration                       { return 0 }

func (c *twoServers) Ask(context.Context, raftnode.ID, raftnode.Method, []byte) ([]byte, error) {
	return json.Marshal(memberStatus{Applied: math.MaxUint64})
}

func (c *twoServers) AddServer(raftnode.ID, string) error         { return nil }
func (c *twoServers) PromoteServer(raftnode.ID, string) error     { c.promoted = true; return nil }
func (c *twoServers) RemoveServer(raftnode.ID) error              { return nil }
func (c *twoServers) Transfer(context.Context, raftnode.ID) error { return nil }

// A member whose disk is lost is told apart from one that has never started by what it has made known of
// itself. If it could vote before, it could lose its disk, start again under the same id, and vote twice.
func TestAMemberGetsNoVoteBeforeTheOthersKnowThatItHasStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := open()
		cluster := &twoServers{}
		s.Govern(cluster)
		publish := func(m command.Member) {
			t.Helper()
			if err := s.Publish(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		publish(command.Member{ID: 1, Name: "m1", PeerURLs: []string{"http://h1:1"}, ClientURLs: []string{"http://h1:2"}, Voter: true})
		publish(command.Member{ID: 2, Name: "m2", PeerURLs: []string{"http://h2:1"}})
		s.settleMembers(t.Context())
		if err := s.promoteMember(t.Context(), 2); cluster.promoted || err == nil {
			t.Fatalf("a member that nobody knows to have started got a vote: %v", err)
		}
		publish(command.Member{ID: 2, Name: "m2", ClientURLs: []string{"http://h2:2"}, Part: command.MemberSelf})
		s.settleMembers(t.Context())
		if !cluster.promoted {
			t.Error("a member that has started and caught up got no vote")
		}
	})
}
