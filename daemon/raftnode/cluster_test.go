package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/peer"
)

// cluster starts n members that found a cluster together; they are closed at the end of the test.
func cluster(t *testing.T, n int) []*Node {
	t.Helper()
	return clusterWith(t, n, Deps{Fatal: func(err error) { panic(err) }})
}

// clusterWith is cluster with these dependencies for each member.
func clusterWith(t *testing.T, n int, deps Deps) []*Node {
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
		starting.Go(func() { nodes[i] = startWith(t, configs[i], deps, listeners[i]) })
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return nodes
}

func startMember(t *testing.T, cfg Config, listeners []net.Listener) *Node {
	return startWith(t, cfg, Deps{Fatal: func(err error) { panic(err) }}, listeners)
}

func startWith(t *testing.T, cfg Config, deps Deps, listeners []net.Listener) *Node {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	deps.Peers = listeners
	node, err := Open(ctx, cfg, deps, &ledger{})
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

// leaderOfThem waits for one of nodes to lead.
func leaderOfThem(t *testing.T, nodes []*Node) *Node {
	t.Helper()
	var leader *Node
	eventually(t, func() bool {
		if at := slices.IndexFunc(nodes, func(n *Node) bool { return n.leading() != nil }); at >= 0 {
			leader = nodes[at]
		}
		return leader != nil
	})
	return leader
}

func TestAMemberWhoseSnapshotEndsWithTheMarkOfATermAnswersReadsInAnIdleCluster(t *testing.T) {
	nodes := cluster(t, 3)
	propose(t, nodes[0], "/a")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	follower := leaderOfThem(t, nodes)
	if err := follower.transferTo(ctx, 0); err != nil {
		t.Fatal(err)
	}
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

func TestTheLeaderDoesNothingForWhoIsNoMember(t *testing.T) {
	nodes := cluster(t, 3)
	leader := leaderOfThem(t, nodes)
	leader.Answer(MethodMembers, func(context.Context, uint64, []byte) ([]byte, error) {
		t.Error("a stranger was listened to")
		return nil, nil
	})
	member := uint64(leader.identity.MemberID)
	stranger, err := peer.New(peer.Config{
		Self:    func() (cluster, member uint64) { return uint64(leader.identity.ClusterID), 0x666 },
		Address: func(id uint64) (string, bool) { return leader.address(), id == member },
		Known:   func(uint64) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	batch := command.Batch{Level: command.Level, Commands: []command.Command{write("/stranger")}}
	for method, request := range map[Method][]byte{methodPropose: batch.Append(nil), methodReadIndex: nil, MethodMembers: nil} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		answer, err := stranger.Call(ctx, member, method, request)
		cancel()
		var failed *peer.Error
		if !errors.As(err, &failed) || failed.Sent {
			t.Errorf("method %d was answered with %x, %v", method, answer, err)
		}
	}
}

func TestAReaderOnAFollowerOfThreeNeedsNoRoundOfTheLeader(t *testing.T) {
	nodes := cluster(t, 3)
	leader := leaderOfThem(t, nodes)
	open := leader.leading()
	follower := nodes[slices.IndexFunc(nodes, func(n *Node) bool { return n != leader })]
	propose(t, leader, "/a")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	before := leader.meters.readRounds.Load()
	if err := follower.ReadBarrier(ctx); err != nil {
		t.Fatal(err)
	}
	if leader.leading() == open && leader.meters.readRounds.Load() != before {
		t.Error("the leader has asked who said by itself that it leads")
	}
	voter := uint64(follower.identity.MemberID)
	for name, c := range map[string]struct{ from, term uint64 }{
		"a voter that knows a newer term":  {voter, open.number + 1},
		"a voter that knows an older term": {voter, open.number - 1},
		"one that is no voter":             {0x666, open.number},
	} {
		if _, taken := leader.readIndexAtOnce(c.from, appendNumbers(nil, c.term)); taken {
			t.Errorf("the leader has taken the word of %s", name)
		}
	}
	leader.Close()
	if _, taken := leader.readIndexAtOnce(voter, appendNumbers(nil, open.number)); taken {
		t.Error("who does not lead any more has taken a word")
	}
}

func TestWhoBelongsToTheClusterIsReadAnewWhenRaftChangesIt(t *testing.T) {
	nodes := cluster(t, 3)
	leader := leaderOfThem(t, nodes)
	before := leader.configured()
	if before != leader.configured() {
		t.Error("a configuration that is the same was read twice")
	}
	if len(before.others) != 2 || !before.votes || len(before.addresses) != 3 {
		t.Errorf("three founders are %+v", before)
	}
	added := ID(0x666)
	if err := leader.AddServer(added, "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	after := leader.configured()
	if address := after.addresses[added]; address != "127.0.0.1:1" || len(after.others) != 2 {
		t.Errorf("with a member without a vote they are %+v", after)
	}
	if err := leader.RemoveServer(added); err != nil {
		t.Fatal(err)
	}
	if _, there := leader.configured().addresses[added]; there || len(before.addresses) != 3 {
		t.Error("a removed member is there, or an old configuration has changed")
	}
}

// logbook keeps what is logged.
type logbook struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logbook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logbook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// tryFounders starts three members, each with its configuration edited, the last two when the first one
// answers as says. It returns those that have begun, why the others have not, and what they have logged.
func tryFounders(t *testing.T, says string, edit func(i int, c *Config)) ([3]*Node, [3]error, *logbook) {
	t.Helper()
	var listeners [3][]net.Listener
	var founders []Founder
	for i := range listeners {
		listeners[i] = peers(t)
		founders = append(founders, Founder{fmt.Sprintf("n%d", i), []string{"http://" + listeners[i][0].Addr().String()}})
	}
	var nodes [3]*Node
	var problems [3]error
	var said logbook
	var starting sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i, f := range founders {
		c := Config{Name: f.Name, DataDir: t.TempDir(), ClusterToken: "test", PeerURLs: f.PeerURLs, Founders: slices.Clone(founders)}
		edit(i, &c)
		starting.Go(func() {
			if i > 0 {
				for ctx.Err() == nil {
					page, err := peer.Get(ctx, founders[0].PeerURLs[0]+ClusterPath, nil)
					if err == nil && strings.Contains(string(page), says) {
						break
					}
					time.Sleep(time.Millisecond)
				}
			}
			deps := Deps{Peers: listeners[i], Log: slog.New(slog.NewTextHandler(&said, nil)), Fatal: func(err error) { panic(err) }}
			nodes[i], problems[i] = Open(ctx, c, deps, &ledger{})
		})
	}
	starting.Wait()
	for _, n := range nodes {
		if n != nil {
			t.Cleanup(func() { n.Close() })
		}
	}
	return nodes, problems, &said
}

func TestFoundersThatAgreeBeginWithoutOneThatDoesNot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(c *Config)
		want  string
	}{
		"another token": {func(c *Config) { c.ClusterToken = "other" }, "the same --initial-cluster-token"},
		"another list":  {func(c *Config) { c.Founders[1].Name = "m1" }, "is started with another --initial-cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var odd Config
			nodes, problems, said := tryFounders(t, `"started":false`, func(i int, config *Config) {
				if i == 0 {
					c.spoil(config)
					odd = *config
				}
			})
			if problems[1] != nil || problems[2] != nil {
				t.Fatalf("those that agree: %v, %v", problems[1], problems[2])
			}
			if text := said.String(); !strings.Contains(text, "begins without a member that does not") || !strings.Contains(text, c.want) {
				t.Errorf("they say\n%s", text)
			}
			var mismatch *MismatchError
			if nodes[0] != nil || !errors.As(problems[0], &mismatch) || !strings.Contains(problems[0].Error(), c.want) {
				t.Errorf("the odd one: %v", problems[0])
			}
			leader := leaderOfThem(t, nodes[1:])
			propose(t, leader, "/a")
			if n := len(leader.configured().addresses); n != 3 {
				t.Errorf("the cluster has %d members: the place of the odd one must stay", n)
			}

			// Started as it should have been, it takes its place, in the directory that it has.
			odd.ClusterToken, odd.Founders = "test", nodes[1].config.Founders
			l, err := net.Listen("tcp", hostPort(odd.PeerURLs[0]))
			if err != nil {
				t.Fatal(err)
			}
			if late := startMember(t, odd, []net.Listener{l}); late != nil && late.identity.ClusterID != leader.identity.ClusterID {
				t.Errorf("it is in the cluster %v, the others are in %v", late.identity.ClusterID, leader.identity.ClusterID)
			}
		})
	}
}

func TestFoundersOfWhomNoMajorityAgreesEndWithTheReason(t *testing.T) {
	t.Parallel()
	nodes, problems, _ := tryFounders(t, `"started":false`, func(i int, c *Config) { c.ClusterToken = fmt.Sprint("token ", i) })
	for i, err := range problems {
		var mismatch *MismatchError
		if nodes[i] != nil || !errors.As(err, &mismatch) || !strings.Contains(err.Error(), "the same --initial-cluster-token") {
			t.Errorf("n%d: %v", i, err)
		}
	}
}

func TestFoundersDoNotBeginBesideAMemberThatRunsInAnotherCluster(t *testing.T) {
	t.Parallel()
	own := record{Identity: Identity{ClusterToken: "test", ClusterID: 5}}
	for _, c := range []struct {
		page clusterPage
		want bool
	}{
		{clusterPage{Token: "test", Cluster: 5}, false},
		{clusterPage{Token: "other", Cluster: 6}, true},
		{clusterPage{Token: "test", Cluster: 6}, true},
		{clusterPage{Token: "test", Cluster: 6, Started: true}, false},
		{clusterPage{Token: "other", Cluster: 6, Started: true}, false},
	} {
		if c.page.astray(own) != c.want {
			t.Errorf("%+v: %v", c.page, !c.want)
		}
	}
	_, problems, _ := tryFounders(t, `"started":true`, func(i int, c *Config) {
		if i == 0 {
			c.Founders = nil // it begins alone
		}
	})
	for i, err := range problems[1:] {
		var mismatch *MismatchError
		if !errors.As(err, &mismatch) || !strings.Contains(err.Error(), "belongs to another cluster") {
			t.Errorf("n%d: %v", i+1, err)
		}
	}
	if problems[0] != nil {
		t.Error(problems[0])
	}
}

func TestTwoListsThatOverlapDoNotBecomeTwoClusters(t *testing.T) {
	agreed := []Founder{{"n0", []string{"http://h0:1"}}, {"n1", []string{"http://h1:1"}}}
	for list, want := range map[string]bool{
		"n0=http://h0:1,n1=http://h1:1,n2=http://h2:1":                               false, // another token
		"n0=http://h0:1,m1=http://h1:1,n2=http://h2:1":                               false, // another name
		"n0=http://h0:1,n2=http://h2:1,n3=http://h3:1":                               true,
		"n0=http://h0:1,n1=http://h1:1,n2=http://h2:1,n3=http://h3:1,n4=http://h4:1": true,
		"n0=http://h0:1,n1=http://h1:1,n2=http://h2:1,n3=http://h3:1":                false,
		"n2=http://h2:1,n9=http://h9:1":                                              true,
		"":                                                                           true,
		"n0":                                                                         true,
	} {
		if couldBegin(list, agreed) != want {
			t.Errorf("%q: %v", list, !want)
		}
	}
}
