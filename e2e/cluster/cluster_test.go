package cluster

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
)

// start starts an etcd cluster of three members: what is tried here is the harness, not the store.
func start(t *testing.T, loopback bool) *Cluster {
	t.Helper()
	if !loopback {
		parts.Need(t, "netns")
	}
	c, err := New(Config{Program: Etcd(parts.Path(t, "etcd")), Members: 3, Dir: t.TempDir(), Loopback: loopback,
		Args: []string{"--heartbeat-interval", "20", "--election-timeout", "200"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// put writes through a member and reports whether that was acknowledged.
func put(t *testing.T, c *Cluster, m *Member, key, value string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	reply, err := c.caller.Keys(ctx, http.MethodPut, m.ClientURL, key, url.Values{"value": {value}})
	return err == nil && reply.Status < 300
}

// eventually waits until what is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		pause(t.Context(), pollEvery)
	}
}

func leader(t *testing.T, c *Cluster) *Member {
	t.Helper()
	m, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func try(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAMemberThatIsCutOffCannotWriteAndTheOthersCan(t *testing.T) {
	c := start(t, false)
	old := leader(t, c)
	try(t, c.Cut(c.Around(old)...))
	others := c.Others(old)
	eventually(t, "the others write", func() bool { return put(t, c, others[0], "/a", "1") })
	if put(t, c, old, "/a", "2") {
		t.Error("the member that is cut off has acknowledged a write")
	}
	try(t, c.Heal())
	eventually(t, "the member writes again", func() bool { return put(t, c, old, "/a", "3") })
}

func TestACutInOneDirectionAndOneFromClientsAreFelt(t *testing.T) {
	c := start(t, false)
	m := c.Others(leader(t, c))[0]
	try(t, c.Cut(Link{Clients, m.Name}))
	if put(t, c, m, "/a", "1") {
		t.Error("a request has passed a cut from clients to the member")
	}
	try(t, c.Heal())
	eventually(t, "clients reach it again", func() bool { return put(t, c, m, "/a", "2") })
	try(t, c.Cut(Link{m.Name, Clients}))
	if put(t, c, m, "/a", "3") {
		t.Error("an answer has passed a cut from the member to clients")
	}
	try(t, c.Heal())
	var towards []Link
	for _, other := range c.Others(m) {
		towards = append(towards, Link{m.Name, other.Name})
	}
	try(t, c.Cut(towards...))
	if put(t, c, m, "/a", "4") {
		t.Error("a write was acknowledged by a follower that nobody hears")
	}
	try(t, c.Heal())
	eventually(t, "it is heard again", func() bool { return put(t, c, m, "/a", "5") })
}

func TestMembersAreKilledPausedSlowedAndReplaced(t *testing.T) {
	parts.Need(t, "strace")
	c := start(t, true)
	old := leader(t, c)
	old.Kill()
	if fresh := leader(t, c); fresh == old {
		t.Error("a member that was killed leads")
	}
	try(t, old.Launch())
	try(t, c.AwaitHealthy(t.Context()))

	old = leader(t, c)
	try(t, old.Pause())
	if put(t, c, old, "/a", "1") {
		t.Error("a paused member has answered")
	}
	if fresh := leader(t, c); fresh == old {
		t.Error("a paused member leads")
	}
	try(t, old.Resume())
	eventually(t, "it writes again", func() bool { return put(t, c, old, "/a", "2") })

	slow := leader(t, c)
	end, err := slow.Slow(50 * time.Millisecond)
	try(t, err)
	eventually(t, "a write takes longer", func() bool {
		begun := time.Now()
		return put(t, c, slow, "/slow", "1") && time.Since(begun) >= 50*time.Millisecond
	})
	try(t, end())

	m := c.Members()[2]
	before, err := c.id(t.Context(), m, c.Members()[0])
	try(t, err)
	try(t, c.Replace(t.Context(), m))
	after, err := c.id(t.Context(), m, c.Members()[0])
	try(t, err)
	if before == after || after == "" {
		t.Errorf("its id was %s and is %s", before, after)
	}
	eventually(t, "the new member writes", func() bool { return put(t, c, m, "/a", "3") })
	for _, m := range c.Members() {
		try(t, m.Died())
		try(t, m.Stop())
	}
}

func TestAProcessThatEndsByItselfIsNoticed(t *testing.T) {
	c := start(t, true)
	m := c.Members()[0]
	m.process.cmd.Process.Kill()
	eventually(t, "its end is told", func() bool { return m.Died() != nil })
}

// holdVariable makes this program start a cluster in the folder it names and wait to be killed.
const holdVariable = "KVD_TEST_CLUSTER_HOLD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holdVariable); dir != "" {
		hold(dir)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func hold(dir string) {
	c, err := New(Config{Program: Etcd("etcd"), Members: 2, Dir: dir})
	if err == nil {
		err = c.Start(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.members[0].ClientURL)
	time.Sleep(time.Minute)
}

func TestAKilledRunLeavesNoProcessAndNoNetworkBehind(t *testing.T) {
	parts.Need(t, "netns")
	parts.Need(t, "etcd")
	run := exec.Command(os.Args[0])
	run.Env = append(os.Environ(), holdVariable+"="+t.TempDir())
	output, err := run.StdoutPipe()
	try(t, err)
	try(t, run.Start())
	line, err := bufio.NewReader(output).ReadString('\n')
	target := strings.TrimSpace(line)
	host, _, splitErr := net.SplitHostPort(strings.TrimPrefix(target, "http://"))
	if err != nil || splitErr != nil {
		run.Process.Kill()
		t.Fatalf("it said %q: %v", line, err)
	}
	caller := NewCaller(1)
	defer caller.Close()
	if err := caller.Answers(t.Context(), target+"/health"); err != nil {
		t.Errorf("a cluster that was started does not answer: %v", err)
	}
	run.Process.Kill()
	run.Wait()
	eventually(t, "its network is gone", func() bool {
		addresses, err := net.InterfaceAddrs()
		try(t, err)
		for _, a := range addresses {
			if subnet, ok := a.(*net.IPNet); ok && subnet.Contains(net.ParseIP(host)) {
				return false
			}
		}
		return true
	})
}
