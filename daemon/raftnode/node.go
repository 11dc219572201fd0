// Package raftnode is one member of the cluster as raft knows it: the log on disk, the order in
// which commands are applied, who leads, and what a reader may rely on. It is hashicorp/raft with
// its open ends closed from outside: see failStop, guardedStable, transport and snapshotStore.
//
// It knows the frame of a command (command.Batch) and the Machine that executes it. It does not
// know what commands mean, who may issue them, nor any API.
//
//	node, err := raftnode.Open(ctx, raftnode.Config{...}, raftnode.Deps{Peers: listener}, machine)
//	result, err := node.Propose(ctx, command)  // durable and applied here when it returns
//	err = node.ReadBarrier(ctx)                // what the machine shows now is linearizable
package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
)

// What is fixed. A setting would be a question that nobody can answer better.
const (
	batchCommands = 1024
	batchBytes    = 256 << 10

	queueCommands = 16 << 10
	queueBytes    = 64 << 20

	wallDriftMax = int64(100 * time.Millisecond)

	// Entries are batches: sixteen of them fill a message of 4 MiB.
	maxAppendEntries = 16
	logCacheEntries  = 256
	// Entries kept behind a snapshot for members that lag. One voter has none that could.
	trailingLogs = 1024

	boltLockTimeout = time.Second // the data directory's lock is held by then: nobody else is there

	snapshotsKept        = 2
	snapshotIdleInterval = 30 * time.Minute
	snapshotIdleBytes    = 16 << 20
	snapshotCloseBytes   = 4 << 20 // less than this is read again faster than a snapshot is written
	snapshotRetry        = time.Minute

	enqueueTimeout = 5 * time.Second // for raft's main loop to take an entry
	commitTimeout  = 5 * time.Millisecond
	peerTimeout    = 2 * time.Second
	acceptRetry    = 100 * time.Millisecond
	notifyBuffer   = 64
)

// ExitFault is the exit code of a process whose disk failed it.
const ExitFault = 3

// Config says which member this is. All fields are needed, except where a default is given.
type Config struct {
	Name             string        // of the member
	DataDir          string        // of this member alone; made if absent
	ClusterToken     string        // tells clusters apart that use the same addresses
	LogStore         string        // LogStoreWAL (default) or LogStoreBoltDB
	ElectionTimeout  time.Duration // without a leader before a member stands for election; default 1 s
	WriteDeadline    time.Duration // longest time one write to the disk may take; default 30 s
	SnapshotLogBytes int64         // log that may grow before a snapshot is written; default 64 MiB
}

func (c Config) withDefaults() Config {
	if c.LogStore == "" {
		c.LogStore = LogStoreWAL
	}
	if c.ElectionTimeout == 0 {
		c.ElectionTimeout = time.Second
	}
	if c.WriteDeadline == 0 {
		c.WriteDeadline = 30 * time.Second
	}
	if c.SnapshotLogBytes == 0 {
		c.SnapshotLogBytes = 64 << 20
	}
	return c
}

// Deps is what the node takes from the outside world. The zero value means the real one, except
// for Peers.
type Deps struct {
	Peers net.Listener // the peer address; Open takes it over, also when it fails
	Log   *slog.Logger
	Now   func() time.Time
	// Fatal ends the process after a fault that must not be survived: a failed write, a damaged
	// log entry. It must not return. By default it logs the fault and exits with ExitFault.
	Fatal func(error)

	wrapLog func(logStore) logStore // tests put a failing disk here
}

func (d Deps) withDefaults() Deps {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Fatal == nil {
		log := d.Log
		d.Fatal = func(err error) {
			log.Error("stopping: this member cannot trust its disk or its log", "err", err, "try", remedy(err))
			os.Exit(ExitFault)
		}
	}
	return d
}

// Node is a running member. It is safe for concurrent use.
type Node struct {
	config    Config
	log       *slog.Logger
	now       func() time.Time
	identity  Identity
	dir       *dataDir
	stop      *failStop
	fsm       *fsm
	logs      logStore
	stable    *guardedStable
	snapshots *snapshotStore
	transport *transport
	raft      *raft.Raft
	collector *collector
	meters    *meters

	space         atomic.Pointer[Space] // as last seen
	written       *byteTrigger          // to the log since then
	snapshotBytes atomic.Int64          // size of the newest snapshot

	term atomic.Pointer[term] // nil while this member does not lead; stored under leadMu

	leadMu   sync.Mutex // guards the fields below
	leadWork []func(context.Context)
	opened   chan struct{} // closed when the first term opens; nil afterwards

	cancel  context.CancelFunc
	loops   sync.WaitGroup // leadLoop, snapshotLoop, spaceLoop
	stopped chan struct{}  // closed by Close
	close   sync.Once
}

// Open starts the member whose data is in cfg.DataDir, or a new member of a new cluster of one if
// there is none. It returns when the member leads and has applied everything it had committed, or
// with ctx's error. The machine belongs to the node until Close.
func Open(ctx context.Context, cfg Config, deps Deps, machine Machine) (_ *Node, err error) {
	cfg, deps = cfg.withDefaults(), deps.withDefaults()
	n := &Node{
		config: cfg, log: deps.Log, now: deps.Now, collector: newCollector(), meters: newMeters(), written: newByteTrigger(spaceBytes),
		stop: &failStop{deadline: cfg.WriteDeadline}, opened: make(chan struct{}), stopped: make(chan struct{}),
	}
	n.space.Store(&Space{})
	n.fsm = &fsm{machine: machine, stop: n.stop, meters: n.meters, logBytes: newByteTrigger(cfg.SnapshotLogBytes)}
	n.fsm.readClock()
	n.transport = newTransport(newSoloLayer(deps.Peers), newRaftLog(n.log))
	defer func() {
		if err != nil && n.cancel == nil {
			n.closeStores()
		}
	}()

	if n.dir, err = openDataDir(cfg.DataDir, cfg.Name); err != nil {
		return nil, err
	}
	if n.identity, err = loadIdentity(n.dir.path, cfg, n.now()); err != nil {
		return nil, err
	}
	notify := make(chan bool, notifyBuffer)
	n.lookAtSpace()
	if err := n.openRaft(deps, notify); err != nil {
		return nil, fmt.Errorf("open the log in %s: %w", n.dir.path, n.explainNoSpace(err))
	}
	if err := n.stop.Arm(deps.Fatal); err != nil {
		return nil, errors.Join(err, n.raft.Shutdown().Error())
	}

	running, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	opened := n.opened
	n.loops.Go(func() { n.leadLoop(running, notify) })
	n.loops.Go(func() { n.snapshotLoop(running) })
	n.loops.Go(func() { n.spaceLoop(running) })
	n.elect()
	select {
	case <-opened:
		return n, nil
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("start member %s: %w", cfg.Name, ctx.Err()), n.Close())
	}
}

// openRaft opens the stores, makes the raft state of a new member, and starts raft.
func (n *Node) openRaft(deps Deps, notify chan<- bool) error {
	dir, log := filepath.Join(n.dir.path, raftDir), newRaftLog(n.log)
	if !n.identity.Bootstrapped {
		// What a first start left behind when it was cut short has never held anybody's data.
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	} else if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("%w; member %s (id %s) had its data there: restore it from a backup, or start a new member with an empty --data-dir",
			err, n.identity.Name, n.identity.MemberID)
	}
	if err := makeDirs(dir); err != nil {
		return err
	}
	create := !n.identity.Bootstrapped
	var err error
	if n.stable, err = openStable(n.config.LogStore, dir, create, n.stop); err != nil {
		return n.explainDamage(fmt.Errorf("term and vote: %w", err))
	}
	disk, err := openLogStore(n.config.LogStore, dir, create, n.stop)
	if err != nil {
		return n.explainDamage(fmt.Errorf("log store %s: %w", n.config.LogStore, err))
	}
	if deps.wrapLog != nil {
		disk = deps.wrapLog(disk)
	}
	n.logs = disk
	logs, err := n.guardLog(n.config.LogStore, disk)
	if err != nil {
		return err
	}
	if n.snapshots, err = newSnapshotStore(dir, log, n.meters); err != nil {
		return fmt.Errorf("snapshots: %w", err)
	}
	var newestIndex uint64
	if newest, err := n.snapshots.List(); err == nil && len(newest) > 0 {
		n.snapshotBytes.Store(newest[0].Size)
		newestIndex = newest[0].Index
	}
	config := n.raftConfig(log, notify)
	if err := n.bootstrap(config, logs, n.stable); err != nil {
		return err
	}
	if err := checkEnd(n.stable, disk); err != nil {
		return n.explainDamage(err)
	}
	if err := errors.Join(forgetEnd(n.stable, disk), dropCovered(logs, newestIndex)); err != nil {
		return err
	}
	n.raft, err = n.newRaft(config, logs, n.stable)
	return err
}

func (n *Node) raftConfig(log hclog.Logger, notify chan<- bool) *raft.Config {
	config := raft.DefaultConfig()
	config.LocalID = raft.ServerID(n.identity.MemberID.String())
	config.Logger = log
	config.NotifyCh = notify
	config.HeartbeatTimeout = n.config.ElectionTimeout
	config.ElectionTimeout = n.config.ElectionTimeout
	config.LeaderLeaseTimeout = n.config.ElectionTimeout * 8 / 10
	config.CommitTimeout = commitTimeout
	config.MaxAppendEntries = maxAppendEntries
	config.ShutdownOnRemove = false // a daemon decides itself what it does then
	config.NoLegacyTelemetry = true
	config.TrailingLogs = trailingLogs
	// Raft counts entries, which says nothing when entries are batches: snapshotLoop counts bytes.
	config.SnapshotThreshold = math.MaxUint64
	config.SnapshotInterval = time.Hour
	return config
}

// bootstrap makes the state of a cluster of one, once in the life of a data directory.
func (n *Node) bootstrap(config *raft.Config, logs raft.LogStore, stable raft.StableStore) error {
	if n.identity.Bootstrapped {
		return n.checkNotEmpty(logs)
	}
	self := raft.Server{Suffrage: raft.Voter, ID: config.LocalID, Address: n.transport.LocalAddr()}
	err := raft.BootstrapCluster(config, logs, stable, n.snapshots, n.transport, raft.Configuration{Servers: []raft.Server{self}})
	if err != nil {
		return fmt.Errorf("make a new cluster: %w", err)
	}
	n.identity.Bootstrapped = true
	if err := n.identity.write(n.dir.path); err != nil {
		return err
	}
	n.log.Info("new cluster", "cluster", n.identity.ClusterID, "member", n.identity.MemberID, "name", n.identity.Name)
	return nil
}

// checkNotEmpty refuses raft state that has neither log entries nor a snapshot: the first entry of
// a member names its cluster. Raft itself takes a term for state enough, and would wait for a leader
// for ever.
func (n *Node) checkNotEmpty(logs raft.LogStore) error {
	last, err := logs.LastIndex()
	snapshots, err2 := n.snapshots.List()
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	if last == 0 && len(snapshots) == 0 {
		return fmt.Errorf("it is empty, though member %s (id %s) had its data there; restore it from a backup, or start a new member with an empty --data-dir",
			n.identity.Name, n.identity.MemberID)
	}
	return nil
}

// newRaft starts raft.
func (n *Node) newRaft(config *raft.Config, logs raft.LogStore, stable raft.StableStore) (r *raft.Raft, err error) {
	defer func() {
		// Raft panics on an entry that cannot be read while it scans the log for configurations.
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
		if fault := n.stop.Err(); err != nil && fault != nil {
			err = fmt.Errorf("%w; restore this member from a backup, or start a new one with an empty --data-dir", fault)
		}
	}()
	return raft.NewRaft(config, n.fsm, logs, stable, n.snapshots, n.transport)
}

// elect makes a sole voter stand for election at once: the leader that it would otherwise wait
// for cannot exist. If that fails, the election timeout does the same later.
func (n *Node) elect() {
	id, address := raft.ServerID(n.identity.MemberID.String()), n.transport.LocalAddr()
	request := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: n.transport.EncodePeer(id, address),
	}}
	if err := n.transport.TimeoutNow(id, address, request, new(raft.TimeoutNowResponse)); err != nil {
		n.log.Debug("cannot stand for election at once", "err", err)
	}
}

// Propose carries a command through the log and returns its result after the local machine has
// applied it: by then it is durable. Errors by Kind: NoLeader and Unavailable mean that it was
// not applied, Timeout and Unknown that it may have been or may yet be, Closed that the node is
// stopping. What the machine says about the command is in the result's Err.
func (n *Node) Propose(ctx context.Context, c command.Command) (command.Result, error) {
	if n.leading() == nil {
		return command.Result{}, n.notLeading()
	}
	start := time.Now()
	n.meters.pending.Add(1)
	defer n.meters.pending.Add(-1)
	result, err := n.collector.propose(ctx, c, n.stopped)
	if err != nil {
		n.meters.failed.Add(1)
		return command.Result{}, err
	}
	observeSince(n.meters.proposal, start)
	return result, nil
}

// ReadBarrier returns when the local machine holds everything that was committed before the call,
// so that a read of it is linearizable. Errors by Kind: NoLeader, Timeout, Closed.
func (n *Node) ReadBarrier(ctx context.Context) error {
	t := n.leading()
	if t == nil {
		return n.notLeading()
	}
	// A leader may have been deposed without knowing it, unless a majority of the voters has
	// confirmed since the call that the term is still this one. Here the only voter is asked.
	index := n.raft.CommitIndex()
	if n.raft.CurrentTerm() != t.number || n.raft.State() != raft.Leader {
		return n.notLeading()
	}
	if index <= t.openIndex {
		return nil
	}
	// Behind the mark that opened the term there are only entries that the fsm sees.
	if err := n.fsm.applied.Wait(ctx, index); err != nil {
		return waitError(err, true)
	}
	return nil
}

func (n *Node) notLeading() error {
	select {
	case <-n.stopped:
		return closed()
	default:
		return noLeader()
	}
}

// Status is how a member stands at one moment.
type Status struct {
	Identity
	Leader       ID     // 0 when no leader is known
	State        string // "leader", "follower" or "candidate"; "starting" until a term is open
	Term         uint64
	CommitIndex  uint64
	AppliedIndex uint64
	Since        time.Time // when the member began to lead; zero if it does not
}

// Status returns how the member stands. It never blocks.
func (n *Node) Status() Status {
	s := Status{
		Identity: n.identity, State: strings.ToLower(n.raft.State().String()), Term: n.raft.CurrentTerm(),
		CommitIndex: n.raft.CommitIndex(), AppliedIndex: n.fsm.applied.Load(),
	}
	_, leader := n.raft.LeaderWithID()
	s.Leader.UnmarshalText([]byte(leader)) // leaves 0 when there is none
	if t := n.leading(); t != nil {
		s.Since = t.since
	} else if s.State == "leader" {
		s.State = "starting"
	}
	return s
}

// Position returns the last log index that this member knows to be committed, and the term, as
// Status does. It takes no lock: every answer to a client tells them.
func (n *Node) Position() (commitIndex, term uint64) {
	return n.raft.CommitIndex(), n.raft.CurrentTerm()
}

// Alive returns when raft's main loop has answered. While the loop waits for the disk it does not.
func (n *Node) Alive() error {
	if err := n.raft.VerifyLeader().Error(); err != nil {
		return proposalError(err)
	}
	return nil
}

// Close stops the member cleanly: the work of LeadWhile ends, leases keep exactly the time they
// have left, and a log that has grown long is folded into a snapshot. It waits for everything that
// Open started and may be called twice.
func (n *Node) Close() error {
	var err error
	n.close.Do(func() {
		t := n.leading()
		close(n.stopped)
		n.cancel()
		close(n.snapshots.hurry)
		n.loops.Wait()
		if t != nil {
			if _, _, err := n.commit(t, []command.Command{{Body: command.Tick{}}}); err != nil {
				n.log.Warn("leases will have a little more time left", "err", err)
			}
		}
		if n.fsm.logBytes.count.Load() > snapshotCloseBytes {
			if err := n.snapshot(); err != nil {
				n.log.Warn("cannot write a snapshot: the next start reads the log instead", "err", err)
			}
		}
		err = n.raft.Shutdown().Error()
		if err == nil {
			err = noteEnd(n.stable, n.logs)
		}
		err = errors.Join(err, n.closeStores())
	})
	return err
}

// closeStores closes what Open has opened so far.
func (n *Node) closeStores() error {
	err := n.transport.Close()
	if n.logs != nil {
		err = errors.Join(err, n.logs.Close())
	}
	if n.stable != nil {
		err = errors.Join(err, n.stable.Close())
	}
	if n.dir != nil {
		err = errors.Join(err, n.dir.Close())
	}
	return err
}
