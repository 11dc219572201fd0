// Package raftnode is one member of the cluster as raft knows it: the log on disk, the order in
// which commands are applied, who leads, and what a reader may rely on. It is hashicorp/raft with
// its open ends closed from outside: see failStop, guardedStable, transport and snapshotStore.
//
// It knows the frame of a command (command.Batch), the Machine that executes it, and the commands that
// make and remove members. It does not know what other commands mean, who may issue them, nor any API.
//
//	node, err := raftnode.Open(ctx, raftnode.Config{...}, raftnode.Deps{Peers: listeners}, machine)
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
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/peer"
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
	// Entries kept behind a snapshot for members that lag, unless they are many bytes: see trailingBytes.
	// A member that needs more gets the snapshot.
	trailingLogs = 16 << 10

	boltLockTimeout = time.Second // the data directory's lock is held by then: nobody else is there

	snapshotsKept        = 2
	snapshotIdleInterval = 30 * time.Minute
	snapshotIdleBytes    = 16 << 20
	snapshotCloseBytes   = 4 << 20 // less than this is read again faster than a snapshot is written
	snapshotRetry        = time.Minute

	enqueueTimeout = 5 * time.Second        // for raft's main loop to take an entry
	commitTimeout  = 100 * time.Millisecond // see tidings
	peerTimeout    = 2 * time.Second
	notifyBuffer   = 64
	joinGrace      = 2 * time.Second // for a member that starts to catch up before it serves
)

// ExitFault is the exit code of a process whose disk failed it.
const ExitFault = 3

// Config says which member this is. All fields are needed, except where a default is given.
type Config struct {
	Name             string        // of the member
	DataDir          string        // of this member alone; made if absent
	ClusterToken     string        // tells clusters apart that use the same addresses
	LogStore         string        // LogStoreWAL (default) or LogStoreBoltDB
	ElectionTimeout  time.Duration // without a leader until a member stands for election at the latest; 0: see Node.ElectionTimeout
	WriteDeadline    time.Duration // longest time one write to the disk may take; default 30 s
	SnapshotLogBytes int64         // log that may grow before a snapshot is written; default 64 MiB

	// PeerURLs are those that the other members reach this one under; by default that of the first
	// listener.
	PeerURLs []string
	// Founders are all members of a new cluster, this one among them. One or none is a cluster of this
	// member alone. They count for a new data directory only.
	Founders []Founder
	Founder  string // what Founders calls this member; default Name
	// KeepLeader says that a member goes on to lead though another one would be much faster at it.
	KeepLeader bool
	// Join says that a new member joins a cluster that exists, some of whose members Founders names,
	// and that it was added there before.
	Join bool
}

func (c Config) withDefaults() Config {
	if c.LogStore == "" {
		c.LogStore = LogStoreWAL
	}
	if c.WriteDeadline == 0 {
		c.WriteDeadline = 30 * time.Second
	}
	if c.SnapshotLogBytes == 0 {
		c.SnapshotLogBytes = 64 << 20
	}
	if c.Founder == "" {
		c.Founder = c.Name
	}
	return c
}

// Deps is what the node takes from the outside world. The zero value means the real one, except
// for Peers.
type Deps struct {
	Peers   []net.Listener // of the peer port, at least one; Open takes them over, also when it fails
	PeerTLS *peer.TLS      // nil: peers speak plain HTTP
	Log     *slog.Logger
	Now     func() time.Time
	// Fatal ends the process after a fault that must not be survived: a failed write, a damaged
	// log entry. It must not return. By default it logs the fault and exits with ExitFault.
	Fatal func(error)
	// Waits, unless nil, is told in words what Open waits for, whenever it has looked.
	Waits func(what string)

	wrapLog func(logStore) logStore // tests put a failing disk here
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

func (d Deps) withDefaults() Deps {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Waits == nil {
		d.Waits = func(string) {}
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
	waits     func(what string)
	now       func() time.Time
	tls       *peer.TLS
	identity  Identity
	notes     *notebook
	dir       *dataDir
	stop      *failStop
	fsm       *fsm
	logs      logStore
	stable    *guardedStable
	snapshots *snapshotStore
	network   *peer.Network
	serve     sync.Once // of network
	transport *transport
	raft      *raft.Raft
	collector *collector
	registry  *registry
	outlook   *outlook
	metronome *metronome
	board     *board
	known     atomic.Pointer[configuration] // as last seen
	remote    *rounds                       // of asking the leader for a read index
	stored    watermark                     // index of what was appended to the log, perhaps taken back since
	overlap   overlap
	tidings   tidings
	learning  sync.Mutex
	installs  installs

	movedAt     time.Time    // when this member has last handed over to a faster one; of seatLoop alone
	handingOver atomic.Int64 // unix ns since when a handover refuses writes; 0: none does
	meters      *meters
	handlers    handlers
	pages       http.ServeMux // of the peer port

	space         atomic.Pointer[Space] // as last seen
	written       *byteTrigger          // to the log since then
	tight         chan struct{}         // holds a signal when the log is to become smaller
	snapshotBytes atomic.Int64          // size of the newest snapshot

	ready   atomic.Bool   // raft runs
	removed chan struct{} // closed when the member has learned that it was removed

	leadMu   sync.Mutex // guards the fields below
	leadWork []func(context.Context)
	opened   chan struct{} // closed when the first term opens; nil afterwards

	running context.Context // ends with Close
	cancel  context.CancelFunc
	loops   sync.WaitGroup
	stopped chan struct{} // closed by Close
	close   sync.Once

	workMu sync.Mutex // guards the fields below
	closed bool
	work   sync.WaitGroup // what start has started
}

// Open starts the member whose data is in cfg.DataDir, or a new member if there is none: of a new
// cluster, or of one that it joins. A sole voter leads when Open returns, and has applied everything it
// had committed. Any other member has caught up, or has tried for a moment. A founder waits until a
// majority of the founders is there. If ctx ends first, its error is returned. The machine belongs to
// the node until Close.
func Open(ctx context.Context, cfg Config, deps Deps, machine Machine) (_ *Node, err error) {
	cfg, deps = cfg.withDefaults(), deps.withDefaults()
	n := &Node{
		config: cfg, log: deps.Log, now: deps.Now, waits: deps.Waits, tls: deps.PeerTLS, collector: newCollector(), meters: newMeters(), written: newByteTrigger(spaceBytes), tight: make(chan struct{}, 1),
		registry: newRegistry(uint64(newID())), outlook: newOutlook(deps.Now), stop: &failStop{deadline: cfg.WriteDeadline},
		metronome: newMetronome(cfg.ElectionTimeout), board: newBoard(), opened: make(chan struct{}), stopped: make(chan struct{}), removed: make(chan struct{}),
	}
	n.running, n.cancel = context.WithCancel(context.Background())
	n.remote = newRounds(n.start, n.meters.counted(n.fetchIndex))
	n.space.Store(&Space{})
	n.overlap.start = n.start
	n.tidings.fresh = make(chan struct{}, 1)
	n.overlap.voters = func() bool { return n.ready.Load() && len(n.configured().others) > 0 }
	n.fsm = &fsm{machine: machine, stop: n.stop, meters: n.meters, registry: n.registry, logBytes: newByteTrigger(cfg.SnapshotLogBytes)}
	n.fsm.readClock()
	n.leadWork = append(n.leadWork, n.seatLoop, n.tidingsLoop)
	defer func() {
		if err != nil && n.raft == nil {
			n.cancel()
			err = errors.Join(err, n.closeStores())
		}
	}()
	if err := n.openNetwork(deps); err != nil {
		return nil, err
	}
	if n.dir, err = openDataDir(cfg.DataDir, cfg.Name); err != nil {
		return nil, err
	}
	if err := n.becomeMember(ctx); err != nil {
		return nil, err
	}
	notify := make(chan bool, notifyBuffer)
	n.lookAtSpace()
	if err := n.openRaft(deps, notify); err != nil {
		return nil, fmt.Errorf("open the log in %s: %w", n.dir.path, n.explainNoSpace(err))
	}
	if err := n.stop.Arm(deps.Fatal); err != nil {
		return nil, errors.Join(err, n.raft.Shutdown().Error(), n.closeStores())
	}
	n.ready.Store(true)
	opened := n.opened
	unwatch := n.outlook.watch(n.raft)
	n.loops.Go(func() { <-n.running.Done(); unwatch() })
	n.loops.Go(func() { n.leadLoop(n.running, notify) })
	n.loops.Go(func() { n.dispatchLoop(n.running) })
	n.loops.Go(func() { n.snapshotLoop(n.running) })
	n.loops.Go(func() { n.spaceLoop(n.running) })
	n.loops.Go(func() { n.removalLoop(n.running) })
	n.loops.Go(func() { n.tempoLoop(n.running) })
	n.serve.Do(n.network.Serve)
	if list := newFounders(cfg.Founders); len(list) > 1 && n.Alone() {
		n.log.Warn("this member is alone in its cluster, whatever --initial-cluster says: that counts for a new data directory only",
			"given", list.String(), "data", n.dir.path, "try", "kvctl member add or kvctl member invite for each of the others; or, if nothing is in it that matters, an empty --data-dir")
	}
	if err := n.settle(ctx, opened); err != nil {
		return nil, errors.Join(fmt.Errorf("start member %s: %w", cfg.Name, err), n.Close())
	}
	return n, nil
}

// becomeMember finds out who this member is. A new one that is not alone talks to the others first.
func (n *Node) becomeMember(ctx context.Context) error {
	r, fresh, err := loadRecord(n.dir.path, n.config, n.now())
	if err != nil {
		return err
	}
	list := newFounders(n.config.Founders)
	if fresh {
		if r, err = n.join(ctx, r, list, n.config.PeerURLs); err != nil {
			return err
		}
		if err := r.write(n.dir.path); err != nil {
			return err
		}
	}
	n.notes = &notebook{dir: n.dir.path, record: r}
	n.identity = r.Identity
	switch {
	case r.Removed:
		return mismatch("member %s (id %s) was removed from its cluster: add it as a new member with kvctl member add, and start it with an empty --data-dir and --initial-cluster-state existing", r.Name, r.MemberID)
	case r.Bootstrapped && r.Founders != "" && len(list) > 0 && !n.config.Join && list.String() != r.Founders:
		n.log.Warn("--initial-cluster is left out of account: the data directory belongs to a cluster that was founded with another",
			"given", list.String(), "founded", r.Founders, "data", n.dir.path)
	case !r.Bootstrapped && !r.Joining && len(list) > 1:
		n.serve.Do(n.network.Serve)
		return n.form(ctx, list)
	}
	return nil
}

// settle waits until the member has something to serve.
func (n *Node) settle(ctx context.Context, opened <-chan struct{}) error {
	if n.Alone() {
		n.elect()
		select {
		case <-opened:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	patience, cancel := context.WithTimeout(ctx, joinGrace)
	defer cancel()
	if err := n.ReadBarrier(patience); err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return n.lookAtSelf(ctx)
}

// start runs f in a goroutine that Close waits for. It returns false if Close was called.
func (n *Node) start(f func()) bool {
	n.workMu.Lock()
	defer n.workMu.Unlock()
	if n.closed {
		return false
	}
	n.work.Go(f)
	return true
}

// openRaft opens the stores, makes the raft state of a new member, and starts raft.
func (n *Node) openRaft(deps Deps, notify chan<- bool) error {
	dir, log := filepath.Join(n.dir.path, raftDir), newRaftLog(n.log)
	if !n.identity.Bootstrapped {
		// What a first start left behind when it was cut short has never held anybody's data.
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	} else if _, err := os.Stat(dir); err != nil { // also of a member that joins: it has made it
		return fmt.Errorf("%w; member %s (id %s) had its data there: restore it from a backup, or start a new member with an empty --data-dir",
			err, n.identity.Name, n.identity.MemberID)
	}
	if err := makeDirs(dir); err != nil {
		return err
	}
	create := !n.identity.Bootstrapped
	var err error
	if n.stable, err = openStable(n.config.LogStore, dir, create, n.stop, n.meters.voteSync); err != nil {
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
	n.snapshots.finished = func(index uint64) {
		if err := n.installs.note(index, n.now()); err != nil {
			n.stop.Trip(err)
		}
	}
	var newestIndex uint64
	if newest, err := n.snapshots.List(); err == nil && len(newest) > 0 {
		n.snapshotBytes.Store(newest[0].Size)
		newestIndex = newest[0].Index
	}
	config := n.raftConfig(log, notify)
	n.transport = newTransport(newStreams(n.identity.MemberID, n.address(), n.network.RaftStreams(), n.fitsSnapshot), n.meters.appends, n.isGone, n.grace, raftTimeout(n.metronome.shortest)/6, n.overlap.wait, log)
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
	// A follower looks for the leader's signs of life at random times one to two of raft's timeouts
	// apart, and stands for election when the last one is older than a timeout: after one to three.
	config.HeartbeatTimeout = raftTimeout(n.metronome.shortest)
	config.ElectionTimeout = raftTimeout(n.metronome.shortest)
	config.LeaderLeaseTimeout = leaderLease(n.metronome.shortest) // for ever: see heartbeats
	config.CommitTimeout = commitTimeout
	config.MaxAppendEntries = maxAppendEntries
	config.ShutdownOnRemove = false // a daemon decides itself what it does then
	config.NoLegacyTelemetry = true
	config.TrailingLogs = 1 // guardedLog keeps more
	// Raft counts entries, which says nothing when entries are batches: snapshotLoop counts bytes.
	config.SnapshotThreshold = math.MaxUint64
	config.SnapshotInterval = time.Hour
	return config
}

// bootstrap makes the first raft state of a data directory. All founders begin with the same one.
func (n *Node) bootstrap(config *raft.Config, logs raft.LogStore, stable raft.StableStore) error {
	r := n.notes.look()
	if r.Bootstrapped {
		if r.Joining {
			return nil
		}
		return n.checkNotEmpty(logs)
	}
	if !r.Joining {
		configuration := raft.Configuration{Servers: n.foundingServers()}
		if err := raft.BootstrapCluster(config, logs, stable, n.snapshots, n.transport, configuration); err != nil {
			return fmt.Errorf("make a new cluster: %w", err)
		}
	}
	if err := n.notes.note(func(r *record) { r.Bootstrapped = true }); err != nil {
		return err
	}
	n.identity.Bootstrapped = true
	what := "new cluster"
	if r.Joining {
		what = "new member of a cluster"
	}
	n.log.Info(what, "cluster", n.identity.ClusterID, "member", n.identity.MemberID, "name", n.identity.Name)
	return nil
}

// foundingServers returns the members that the cluster begins with.
func (n *Node) foundingServers() []raft.Server {
	if n.notes.look().Founders == "" {
		return []raft.Server{{Suffrage: raft.Voter, ID: n.serverID(), Address: n.transport.LocalAddr()}}
	}
	var servers []raft.Server
	for _, f := range newFounders(n.config.Founders) {
		servers = append(servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(f.memberID(n.config.ClusterToken).String()), Address: raft.ServerAddress(hostPort(f.PeerURLs[0]))})
	}
	return servers
}

func (n *Node) serverID() raft.ServerID { return raft.ServerID(n.identity.MemberID.String()) }

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

// Propose carries a command through the log, wherever the leader is, and returns its result after the
// local machine has applied it: by then it is durable. When the leader is lost on the way, it is
// repeated; the state executes it once. Errors by Kind: NoLeader and Unavailable mean that it was
// not applied, Timeout and Unknown that it may have been or may yet be, Closed that the node is
// stopping. What the machine says about the command is in the result's Err.
func (n *Node) Propose(ctx context.Context, c command.Command) (command.Result, error) {
	return n.propose(ctx, newProposal(c))
}

// ProposeWithin is Propose for limit at most, unless that is 0. It costs less than a ctx that ends then.
func (n *Node) ProposeWithin(ctx context.Context, limit time.Duration, c command.Command) (command.Result, error) {
	p := newProposal(c)
	p.limit = limit
	return n.propose(ctx, p)
}

// ProposeLeading is Propose for what the leader does by itself: the command goes into the log in the
// term that this member leads now, or not at all, and is not repeated.
func (n *Node) ProposeLeading(ctx context.Context, c command.Command) (command.Result, error) {
	p := newProposal(c)
	if p.bound = n.leading(); p.bound == nil {
		return command.Result{}, n.notLeading()
	}
	return n.propose(ctx, p)
}

func (n *Node) propose(ctx context.Context, p *proposal) (command.Result, error) {
	select {
	case <-n.stopped:
		return command.Result{}, closed()
	default:
	}
	if n.Leaderless() {
		return command.Result{}, n.notLeading()
	}
	begun := time.Now()
	n.meters.pending.Add(1)
	defer n.meters.pending.Add(-1)
	o, err := n.collector.propose(ctx, p, n.stopped)
	if err != nil {
		n.meters.failed.Add(1)
		return command.Result{}, err
	}
	observeSince(n.meters.proposal, begun)
	return o.result, nil
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
	// ElectionTimeout is Node.ElectionTimeout; Fixed says that it was given.
	ElectionTimeout time.Duration
	Fixed           bool
	Since           time.Time // when the leadership began, as far as this member knows; zero if there is none
}

// Status returns how the member stands. It never blocks.
func (n *Node) Status() Status {
	s := Status{
		Identity: n.identity, State: strings.ToLower(n.raft.State().String()), Term: n.raft.CurrentTerm(),
		CommitIndex: n.raft.CommitIndex(), AppliedIndex: n.fsm.applied.Load(), ElectionTimeout: n.ElectionTimeout(), Fixed: n.metronome.fixed,
	}
	seen := n.outlook.look()
	s.Leader, s.Since = seen.leader, seen.since
	if seen.term != nil {
		s.Leader, s.Since = s.MemberID, seen.term.since
	} else if s.State == "leader" {
		s.State, s.Since = "starting", time.Time{}
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
	if err := n.raft.VerifyLeader().Error(); errors.Is(err, raft.ErrRaftShutdown) {
		return proposalError(err)
	}
	return nil
}

// Close stops the member cleanly: the work of LeadWhile ends, leases keep exactly the time they
// have left, and a log that has grown long is folded into a snapshot. It waits for everything that
// Open started and may be called twice. A leader that has followers should hand over before: see
// HandOver.
func (n *Node) Close() error {
	var err error
	n.close.Do(func() {
		t, alone := n.leading(), n.Alone()
		close(n.stopped)
		n.cancel()
		close(n.snapshots.hurry)
		n.loops.Wait()
		if t != nil && alone {
			if _, _, err := n.commit(t, []command.Command{{Body: command.Tick{}}}); err != nil {
				n.log.Warn("leases will have a little more time left", "err", err)
			}
		}
		if n.fsm.logBytes.count.Load() > snapshotCloseBytes {
			if err := n.snapshot(); err != nil {
				n.log.Warn("cannot write a snapshot: the next start reads the log instead", "err", err)
			}
		}
		n.workMu.Lock()
		n.closed = true
		n.workMu.Unlock()
		n.work.Wait()
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
	var err error
	if n.transport != nil {
		err = n.transport.Close()
	}
	if n.network != nil {
		err = errors.Join(err, n.network.Close())
	}
	if n.transport != nil {
		n.transport.beats.close()
	}
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
