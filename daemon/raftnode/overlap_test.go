package raftnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// heldDisk is a log store whose syncs of begun appends can be made to wait, and to fail.
type heldDisk struct {
	logStore
	mu    sync.Mutex
	held  chan struct{} // closed when syncs may go on; nil: they need not wait
	fault error
}

func (d *heldDisk) hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = make(chan struct{})
}

func (d *heldDisk) release(fault error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
	if d.held != nil {
		close(d.held)
		d.held = nil
	}
}

func (d *heldDisk) Begin(entries []*raft.Log) (func() error, error) {
	sync, err := d.logStore.(halving).Begin(entries)
	return func() error {
		d.mu.Lock()
		held := d.held
		d.mu.Unlock()
		if held != nil {
			<-held
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		return errors.Join(sync(), d.fault)
	}, err
}

// heldCluster is a cluster whose leader's disk is about to sync the write of /late, which all others have.
type heldCluster struct {
	nodes  []*Node
	leader *Node
	disk   *heldDisk // of the leader
	index  uint64    // of the entry with /late
	before uint64    // was committed
	late   chan error
}

func hold(t *testing.T) *heldCluster {
	c := &heldCluster{late: make(chan error, 1)}
	c.nodes = clusterWith(t, 3, Deps{
		Fatal: func(err error) {
			fmt.Println("fatal:", err)
			os.Exit(ExitFault)
		},
		wrapLog: func(l logStore) logStore { return &heldDisk{logStore: l} },
	})
	propose(t, c.nodes[0], "/early")
	c.leader = leaderOfThem(t, c.nodes)
	c.disk = c.leader.logs.(*heldDisk)
	eventually(t, func() bool { return c.leader.raft.CommitIndex() == c.leader.raft.LastIndex() })
	c.before = c.leader.raft.CommitIndex()
	c.disk.hold()
	t.Cleanup(func() { c.disk.release(nil) }) // so that a failed test ends
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	go func() {
		_, err := c.leader.Propose(ctx, write("/late"))
		c.late <- err
	}()
	eventually(t, func() bool { return c.leader.raft.LastIndex() > c.before })
	c.index = c.leader.raft.LastIndex()
	for _, n := range c.others() {
		eventually(t, func() bool { return c.leader.acknowledged(n) >= c.index })
	}
	return c
}

// acknowledged returns the last entry that another member has said it has.
func (n *Node) acknowledged(by *Node) uint64 {
	if m := n.meters.appends.look(by.serverID()); m != nil {
		return m.matched.Load()
	}
	return 0
}

func (c *heldCluster) others() (others []*Node) {
	for _, n := range c.nodes {
		if n != c.leader {
			others = append(others, n)
		}
	}
	return others
}

func TestFollowersHaveAnEntryBeforeTheLeadersDiskAndItCountsAfterIt(t *testing.T) {
	c := hold(t)
	if now := c.leader.raft.CommitIndex(); now != c.before {
		t.Errorf("entry %d was committed before the leader's disk had it", now)
	}
	select {
	case err := <-c.late:
		t.Errorf("the write was answered before the leader's disk had it: %v", err)
	default:
	}
	c.disk.release(nil)
	if err := <-c.late; err != nil {
		t.Error(err)
	}
}

// failingSync makes a run of the test below the process whose disk fails.
const failingSync = "RAFTNODE_TEST_SYNC"

func TestALeaderWhoseSyncFailsEndsAndAcknowledgesNothing(t *testing.T) {
	if os.Getenv(failingSync) != "" {
		c := hold(t)
		c.disk.release(syscall.EIO)
		fmt.Println("answered:", <-c.late)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), failingSync+"=yes")
	output, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != ExitFault {
		t.Fatalf("the process ended with %v, want exit code %d; it said:\n%s", err, ExitFault, output)
	}
	if said := string(output); !strings.Contains(said, "fatal: append to the log: input/output error") || strings.Contains(said, "answered") {
		t.Errorf("it said:\n%s", said)
	}
}

func TestALeaderThatIsDeposedSyncsWhatItHasBegunBeforeItTakesAnythingFromAnother(t *testing.T) {
	c := hold(t)
	next := c.others()[0]
	next.elect()
	eventually(t, func() bool { return next.leading() != nil })
	propose(t, next, "/next")
	if has := next.acknowledged(c.leader); has > c.index {
		t.Errorf("it said that it has entry %d, while entry %d was not synced", has, c.index)
	}
	c.disk.release(nil)
	if err := <-c.late; err != nil {
		t.Error(err)
	}
	for _, n := range c.nodes { // the write is repeated, and the ledger does not tell repetitions apart
		eventually(t, func() bool {
			return strings.HasPrefix(strings.Join(n.fsm.machine.(*ledger).keys(), " "), "/early /late /next")
		})
	}
}

// halves counts how entries are appended.
type halves struct {
	brokenStore
	stored, begun int
	synced        atomic.Int64
}

func (d *halves) StoreLogs(entries []*raft.Log) error {
	d.stored++
	return d.brokenStore.StoreLogs(entries)
}

func (d *halves) Begin(entries []*raft.Log) (func() error, error) {
	d.begun++
	return func() error { d.synced.Add(1); return nil }, d.brokenStore.StoreLogs(entries)
}

func TestOnlyWhatFollowersHoldBackIsSyncedLater(t *testing.T) {
	for _, c := range []struct {
		name     string
		voters   bool // beside this member
		stopping bool
		entries  []*raft.Log
		begun    int
	}{
		{"of the leader", true, false, []*raft.Log{{Index: 1}, {Index: 2}}, 1},
		{"of the leader, while it stops", true, true, []*raft.Log{{Index: 1}}, 1},
		{"of a sole voter", false, false, []*raft.Log{{Index: 1}}, 0},
		{"with a configuration", true, false, []*raft.Log{{Index: 1}, {Index: 2, Type: raft.LogConfiguration}}, 0},
		{"from another leader", true, false, []*raft.Log{{Index: 1, Extensions: checksum(&raft.Log{Index: 1})}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := &halves{brokenStore: *newBrokenStore()}
			var work sync.WaitGroup
			o := &overlap{voters: func() bool { return c.voters }, start: func(f func()) bool {
				if !c.stopping {
					work.Go(f)
				}
				return !c.stopping
			}}
			logs := &guardedLog{logStore: disk, stop: &failStop{deadline: time.Minute}, written: newByteTrigger(spaceBytes), meters: newMeters(), overlap: o}
			if err := logs.StoreLogs(c.entries); err != nil {
				t.Fatal(err)
			}
			if disk.begun != c.begun || disk.stored != 1-c.begun {
				t.Errorf("begun %d times, stored %d times; want %d, %d", disk.begun, disk.stored, c.begun, 1-c.begun)
			}
			if err := o.wait(c.entries[len(c.entries)-1].Index); err != nil || disk.synced.Load() != int64(c.begun) {
				t.Errorf("synced %d times, %v; want %d", disk.synced.Load(), err, c.begun)
			}
			work.Wait()
			for _, entry := range c.entries {
				if err := verifyEntry(entry); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
