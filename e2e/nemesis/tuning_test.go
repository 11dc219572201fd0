package nemesis

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
	"github.com/kvd-io/kvd/e2e/parts"
)

const (
	// longPause is many election timeouts, also of a machine that is busy.
	longPause = 15 * time.Second
	// moveMax is half a minute in which a leader does not hand over, what it takes to know a disk, and what
	// a busy machine may add.
	moveMax = 90 * time.Second
)

// view is a member's /v2/cluster.
type view struct {
	Leader  string
	Term    uint64
	Members []struct {
		ElectionTimeoutMs float64
	}
}

func look(t *testing.T, caller *cluster.Caller, m *cluster.Member) (v view) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := caller.JSON(ctx, http.MethodGet, m.ClientURL+"/v2/cluster", nil, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAMemberThatWasPausedForLongDisturbsNobodyWhenItGoesOn(t *testing.T) {
	if subject(t).Name != "kvd" {
		t.Skip("it is asked how the cluster is")
	}
	c, caller := begun(t, subject(t), 3, true), cluster.NewCaller(1)
	defer caller.Close()
	leader, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	paused := c.Others(leader)[0]
	before := look(t, caller, leader)
	if err := paused.Pause(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(longPause)
	if err := paused.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := paused.AwaitHealthy(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * electionTimeout)
	for _, m := range c.Members() {
		if after := look(t, caller, m); after.Leader != before.Leader || after.Term != before.Term {
			t.Errorf("%s: before the pause %s led in term %d, and now %s in term %d", m.Name, before.Leader, before.Term, after.Leader, after.Term)
		}
	}
	if after := look(t, caller, leader); after.Members[0].ElectionTimeoutMs >= 5000 {
		t.Errorf("one pause of a member makes it %v ms", after.Members[0].ElectionTimeoutMs)
	}
}

func TestALeaderWhoseDiskHasBecomeSlowHandsOver(t *testing.T) {
	parts.Need(t, "strace")
	if subject(t).Name != "kvd" {
		t.Skip("etcd does not")
	}
	// What delays the syncs stops the process for moments, too: nobody else may stand for election by that.
	c, caller := begun(t, subject(t), 3, true, "--election-timeout=6000"), cluster.NewCaller(4)
	defer caller.Close()
	slow, err := c.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end, err := slow.Slow(80 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	begun := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	defer writing.Wait()
	defer cancel()
	writing.Go(func() {
		for ctx.Err() == nil {
			once, cancel := context.WithTimeout(ctx, settleMax)
			caller.Keys(once, http.MethodPut, c.Others(slow)[0].ClientURL, "/load", url.Values{"value": {"1"}})
			cancel()
			sleep(ctx, 100*time.Millisecond)
		}
	})
	for leader := slow; leader == slow; {
		if time.Since(begun) > moveMax {
			t.Fatalf("it still leads %v after its disk has become slow\n%s", moveMax, slow.Log())
		}
		sleep(ctx, 100*time.Millisecond)
		if leader, err = c.Leader(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if said := slow.Log(); !strings.Contains(said, "handing the leadership to a member that is much faster") {
		t.Errorf("it has lost the lead, but not by itself; %s", said)
	}
	t.Logf("it has handed over after %v", time.Since(begun).Round(time.Second))
	for range 5 {
		sleep(ctx, electionTimeout)
		if leader, err := c.Leader(ctx); err != nil || leader == slow {
			t.Fatalf("the slow member leads again, %v", err)
		}
	}
}
