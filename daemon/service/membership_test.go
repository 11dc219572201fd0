package service

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/pkg/kv"
)

// raftSide is raft's side of a cluster that member 1 leads.
type raftSide struct {
	mu      sync.Mutex // guards the fields below
	servers []raftnode.Server
	applied map[raftnode.ID]uint64 // of those that answer
	lost    int                    // answers of the leader that get lost from now on
	service *Service
}

func (c *raftSide) Status() raftnode.Status {
	s := raftnode.Status{Leader: 1, State: "leader", CommitIndex: 100}
	s.MemberID, s.ClusterID = 1, 7
	return s
}
func (c *raftSide) Servers() []raftnode.Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.servers)
}
func (c *raftSide) Connections() map[raftnode.ID]raftnode.Connection { return nil }
func (c *raftSide) LastContact() time.Duration                       { return 0 }
func (c *raftSide) Ask(_ context.Context, member raftnode.ID, _ raftnode.Method, _ []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	applied, ok := c.applied[member]
	if !ok {
		return nil, errors.New("connection refused")
	}
	return json.Marshal(memberStatus{Applied: applied})
}
func (c *raftSide) put(s raftnode.Server) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers = append(slices.DeleteFunc(c.servers, func(o raftnode.Server) bool { return o.ID == s.ID }), s)
	return nil
}
func (c *raftSide) AddServer(id raftnode.ID, address string) error {
	return c.put(raftnode.Server{ID: id, Address: address})
}
func (c *raftSide) PromoteServer(id raftnode.ID, address string) error {
	return c.put(raftnode.Server{ID: id, Address: address, Voter: true})
}
func (c *raftSide) DemoteServer(id raftnode.ID) error {
	return c.put(raftnode.Server{ID: id})
}
func (c *raftSide) Founders() []command.Member { return nil }
func (c *raftSide) RemoveServer(id raftnode.ID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers = slices.DeleteFunc(c.servers, func(o raftnode.Server) bool { return o.ID == id })
	return nil
}
func (c *raftSide) Transfer(context.Context, raftnode.ID) error { return nil }

// governedLog is a memoryLog whose leader is the service itself.
type governedLog struct {
	*memoryLog
	side *raftSide
}

func (l governedLog) AskLeader(ctx context.Context, _ raftnode.Method, request []byte) ([]byte, error) {
	answer, err := l.side.service.AnswerMembers(ctx, 0, request)
	l.side.mu.Lock()
	defer l.side.mu.Unlock()
	if l.side.lost > 0 {
		l.side.lost--
		return nil, &kv.Error{Kind: kv.Unknown}
	}
	return answer, err
}

// governed returns the session of root in a cluster of these voters, all of which answer.
func governed(t *testing.T, voters ...uint64) (*Session, *raftSide) {
	log := &memoryLog{state: NewState(), start: time.Now()}
	side := &raftSide{applied: map[raftnode.ID]uint64{}}
	s := New(log.state, governedLog{log, side}, Config{})
	side.service = s
	s.Govern(side)
	for _, id := range voters {
		address := "n" + string(rune('0'+id)) + ":2380"
		side.servers = append(side.servers, raftnode.Server{ID: raftnode.ID(id), Address: address, Voter: true})
		side.applied[raftnode.ID(id)] = 100
		if err := s.propose(t.Context(), command.Member{ID: id, Name: "n" + string(rune('0'+id)), PeerURLs: []string{"http://" + address}, ClientURLs: []string{"http://c"}, Voter: true}); err != nil {
			t.Fatal(err)
		}
	}
	return s.anybody, side
}

func tableOf(s *Session) map[uint64]command.Member {
	table := map[uint64]command.Member{}
	for _, m := range s.service.Members() {
		table[m.ID] = m
	}
	return table
}

func TestAChangeWhoseAnswerIsLostIsMadeOnce(t *testing.T) {
	s, side := governed(t, 1, 2, 3)
	side.lost = 2
	added, err := s.AddMember(t.Context(), NewMember{Name: "n4", PeerURLs: []string{"http://n4:2380"}})
	if err != nil || len(side.servers) != 4 || len(tableOf(s)) != 4 || tableOf(s)[added.ID].Name != "n4" {
		t.Errorf("%+v, %v: %+v", added, err, side.servers)
	}
	side.lost = 1
	if err := s.RemoveMember(t.Context(), added.ID, false); err != nil || len(side.servers) != 3 {
		t.Errorf("%v: %+v", err, side.servers)
	}
	if err := s.RemoveMember(t.Context(), added.ID, false); !errors.Is(err, ErrRemoved) {
		t.Errorf("a second removal: %v", err)
	}
	if err := s.UpdateMember(t.Context(), added.ID, []string{"http://n5:2380"}); !errors.Is(err, ErrRemoved) {
		t.Errorf("a change after the removal: %v", err)
	}
}

func TestWhatAnEarlierLeaderHasBegunIsFinished(t *testing.T) {
	s, side := governed(t, 1, 2, 3)
	side.servers = side.servers[:2]                                                              // 3 was taken out
	side.servers = append(side.servers, raftnode.Server{ID: 4, Address: "n4:2380", Voter: true}) // 4 was given its vote
	side.servers = append(side.servers, raftnode.Server{ID: 5, Address: "n5:2380"})              // 5 was added, and is behind
	side.applied[4], side.applied[5] = 100, 99
	for _, m := range []command.Member{{ID: 4, Name: "n4"}, {ID: 5, Name: "n5", ClientURLs: []string{"http://c"}}} {
		if err := s.service.propose(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	s.service.settleMembers(t.Context())
	table := tableOf(s)
	if _, there := table[3]; there || !s.service.state.machine.Removed(3) || !table[4].Voter || table[5].Voter {
		t.Errorf("%+v", table)
	}
	side.applied[5] = 100
	s.service.settleMembers(t.Context())
	if !tableOf(s)[5].Voter || !side.servers[slices.IndexFunc(side.servers, func(v raftnode.Server) bool { return v.ID == 5 })].Voter {
		t.Errorf("5 has caught up and has no vote: %+v", side.servers)
	}
}

// A member whose disk is lost is told apart from one that has never started by what it has made known of
// itself. If it could vote before, it could lose its disk, start again under the same id, and vote twice.
func TestAMemberGetsNoVoteBeforeTheOthersKnowThatItHasStarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, side := governed(t, 1)
		added, err := s.AddMember(t.Context(), NewMember{Name: "n2", PeerURLs: []string{"http://n2:2380"}})
		if err != nil {
			t.Fatal(err)
		}
		side.applied[raftnode.ID(added.ID)] = 100
		s.service.settleMembers(t.Context())
		if err := s.PromoteMember(t.Context(), added.ID); err == nil || tableOf(s)[added.ID].Voter {
			t.Fatalf("a member that nobody knows to have started got a vote: %v", err)
		}
		if err := s.service.propose(t.Context(), command.Member{ID: added.ID, Name: "n2", ClientURLs: []string{"http://c"}, Part: command.MemberSelf}); err != nil {
			t.Fatal(err)
		}
		s.service.settleMembers(t.Context())
		if !tableOf(s)[added.ID].Voter {
			t.Error("a member that has started and caught up got no vote")
		}
	})
}

func TestWhatAnEarlierLeaderHasBegunIsFinishedByWhoIsAskedForItAgain(t *testing.T) {
	s, side := governed(t, 1, 2, 3)
	side.servers = side.servers[:2] // 3 was taken out
	if err := s.RemoveMember(t.Context(), 3, false); err != nil || !s.service.state.machine.Removed(3) {
		t.Errorf("removing: %v", err)
	}
	side.servers = append(side.servers, raftnode.Server{ID: 4, Address: "n4:2380", Voter: true}) // 4 was given its vote
	side.applied[4] = 100
	if err := s.service.propose(t.Context(), command.Member{ID: 4, Name: "n4", Learner: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.PromoteMember(t.Context(), 4); err != nil || !tableOf(s)[4].Voter || tableOf(s)[4].Learner {
		t.Errorf("promoting: %v, %+v", err, tableOf(s)[4])
	}
}

func TestAVoteThatWasTakenAwayDoesNotComeBackByItself(t *testing.T) {
	s, side := governed(t, 1, 2, 3)
	side.servers[2].Voter = false // and the leader was lost before it could say so
	s.service.settleMembers(t.Context())
	if m := tableOf(s)[3]; m.Voter || !m.Learner || side.servers[2].Voter {
		t.Errorf("%+v, %+v", m, side.servers)
	}
}

func TestTwoMembersCannotHaveOneName(t *testing.T) {
	s, side := governed(t, 1)
	if _, err := s.AddMember(t.Context(), NewMember{Name: "n2", PeerURLs: []string{"http://n2:2380"}, Learner: true}); err != nil {
		t.Fatal(err)
	}
	_, err := s.AddMember(t.Context(), NewMember{Name: "n2", PeerURLs: []string{"http://n3:2380"}})
	if !kv.Is(err, kv.Invalid) || !strings.Contains(err.Error(), "a member is called n2 already") || len(side.servers) != 2 {
		t.Errorf("%v, %+v", err, side.servers)
	}
}

func TestTwoMembersCannotHaveOneAddress(t *testing.T) {
	s, side := governed(t, 1)
	added, err := s.AddMember(t.Context(), NewMember{Name: "n2", PeerURLs: []string{"http://n2:2380"}, Learner: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, taken := range []string{"https://n2:2380", "http://n2:2380/", "https://n1:2380"} {
		if _, err := s.AddMember(t.Context(), NewMember{Name: "n3", PeerURLs: []string{"http://n3:2380", taken}}); !kv.Is(err, kv.Exists) {
			t.Errorf("%s beside another: %v", taken, err)
		}
		if _, err := s.AddMember(t.Context(), NewMember{Name: "n3", PeerURLs: []string{taken}}); !kv.Is(err, kv.Exists) {
			t.Errorf("%s: %v", taken, err)
		}
	}
	if m := tableOf(s)[added.ID]; m.Name != "n2" || len(side.servers) != 2 {
		t.Errorf("%+v, %+v", m, side.servers)
	}
	if err := s.UpdateMember(t.Context(), added.ID, []string{"https://n2:2380"}); err != nil {
		t.Errorf("another scheme for itself: %v", err)
	}
}

func TestWhoLagsBehindHoldsUpNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, side := governed(t, 1)
		for id := uint64(4); id < 10; id++ {
			side.servers = append(side.servers, raftnode.Server{ID: raftnode.ID(id), Address: "n:" + string(rune('0'+id))})
			side.applied[raftnode.ID(id)] = 99
			if err := s.service.propose(t.Context(), command.Member{ID: id, ClientURLs: []string{"http://c"}}); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		var settling sync.WaitGroup
		settling.Go(func() { s.service.LeadMembers(ctx) })
		time.Sleep(promoteRound)
		synctest.Wait()
		if _, err := s.AddMember(t.Context(), NewMember{Name: "n2", PeerURLs: []string{"http://n2:2380"}}); err != nil {
			t.Error(err)
		}
		if took := time.Since(began) - promoteRound; took != 0 {
			t.Errorf("a member was added after %s", took)
		}
		cancel()
		settling.Wait()
	})
}

func TestAChangeThatHasToWaitTooLongForAnotherIsNotMade(t *testing.T) {
	s, side := governed(t, 1)
	if !s.service.members.begin(t.Context()) {
		t.Fatal("somebody makes a change")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	request, _ := json.Marshal(memberRequest{Op: "add", PeerURLs: []string{"http://n2:2380"}})
	if _, err := s.service.AnswerMembers(ctx, 0, request); !errors.Is(err, raftnode.ErrNotHandled) || len(side.servers) != 1 {
		t.Errorf("%v: %+v", err, side.servers)
	}
}

func TestAMemberThatWasAddedInHalfIsAddedInFullTheNextTime(t *testing.T) {
	s, side := governed(t, 1)
	side.servers = append(side.servers, raftnode.Server{ID: 9, Address: "n2:2380"})
	added, err := s.AddMember(t.Context(), NewMember{PeerURLs: []string{"http://n2:2380"}})
	if err != nil || added.ID != 9 || len(side.servers) != 2 {
		t.Errorf("%+v, %v: %+v", added, err, side.servers)
	}
}

func TestTheLastVoterStaysWhateverRiskIsAccepted(t *testing.T) {
	s, side := governed(t, 1)
	if err := s.RemoveMember(t.Context(), 1, true); !errors.Is(err, ErrRisk) || len(side.servers) != 1 {
		t.Errorf("%v", err)
	}
	two, side := governed(t, 1, 2)
	if err := two.RemoveMember(t.Context(), 2, true); err != nil || len(side.servers) != 1 {
		t.Errorf("%v", err)
	}
}

func TestWhatIsNoMemberIsRefused(t *testing.T) {
	s, side := governed(t, 1)
	for what, m := range map[string]NewMember{
		"no URL":      {},
		"a long URL":  {PeerURLs: []string{"http://n2:2380/" + strings.Repeat("x", memberTextMax)}},
		"a long name": {PeerURLs: []string{"http://n2:2380"}, Name: strings.Repeat("x", memberTextMax+1)},
		"no host":     {PeerURLs: []string{"n2"}},
	} {
		if _, err := s.AddMember(t.Context(), m); !kv.Is(err, kv.Invalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(side.servers) != 1 {
		t.Errorf("%+v", side.servers)
	}
}

func TestAttemptsWithTokensAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := governed(t, 1)
		try := func(token string) error {
			_, err := s.service.Redeem(t.Context(), token, NewMember{Name: "n2", PeerURLs: []string{"http://n2:2380"}}, "10.0.0.9:1")
			return err
		}
		token, peers, err := s.Invite(t.Context(), time.Minute)
		if err != nil || len(peers) != 1 || peers[0] != "http://n1:2380" {
			t.Fatal(peers, err)
		}
		for range int(redemptions.burst) {
			if err := try(strings.Repeat("0", len(token))); !kv.Is(err, kv.Denied) {
				t.Errorf("a wrong token: %v", err)
			}
		}
		if err := try(token); !kv.Is(err, kv.Unavailable) {
			t.Errorf("one too many: %v", err)
		}
		time.Sleep(2 * redemptions.every)
		if err := try(token); err != nil {
			t.Errorf("the right token: %v", err)
		}
		if err := try(token); err != nil { // the answer may have been lost, and the member has not started
			t.Errorf("once more for the same member: %v", err)
		}
		time.Sleep(2 * redemptions.every)
		if _, err := s.service.Redeem(t.Context(), token, NewMember{Name: "n3", PeerURLs: []string{"http://n3:2380"}}, ""); !kv.Is(err, kv.Denied) {
			t.Errorf("a second member: %v", err)
		}
		late, _, err := s.Invite(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := try(late); !kv.Is(err, kv.Denied) {
			t.Errorf("too late: %v", err)
		}
	})
}
