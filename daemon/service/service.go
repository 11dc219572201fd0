// Package service is what the daemon does, free of any API: it takes reads, writes and watches in
// the words of pkg/kv, brings writes to the log and answers from the state.
//
// It knows the log through Log, the state and the hub. It knows no HTTP and renders nothing; the
// API packages translate, and meet only here.
package service

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Log is the replicated log as the service needs it; *raftnode.Node is one.
type Log interface {
	// Propose returns the command's result after it was applied here.
	Propose(ctx context.Context, c command.Command) (command.Result, error)
	// ProposeWithin is Propose for limit at most, unless that is 0.
	ProposeWithin(ctx context.Context, limit time.Duration, c command.Command) (command.Result, error)
	// ProposeLeading is Propose for what this member does as the leader, and only while it leads.
	ProposeLeading(ctx context.Context, c command.Command) (command.Result, error)
	// WhileLeading runs do if this member leads, when the state here holds everything that was committed
	// before the call, and returns what do returns if it surely still led after that.
	WhileLeading(ctx context.Context, do func() error) error
	// AskLeader has the leader answer a call.
	AskLeader(ctx context.Context, method raftnode.Method, request []byte) ([]byte, error)
	// ReadBarrier returns when the state here holds everything that was committed before the call.
	ReadBarrier(ctx context.Context) error
	// ReadBarrierWithin is ReadBarrier for limit at most.
	ReadBarrierWithin(ctx context.Context, limit time.Duration) error
	// LeaseNow returns the lease clock now, in ns.
	LeaseNow() int64
	// Position returns the last log index known to be committed, and the term.
	Position() (commitIndex, term uint64)
	// Space returns how much room there is on the disk.
	Space() raftnode.Space
}

// Config is what a service takes from outside. The zero value is for a service of its own.
type Config struct {
	QuotaBytes int64 // that the store may hold; 0 means DefaultQuota

	Log *slog.Logger // who changed access control and who was denied what; nil discards
	Now func() time.Time

	HashCost int // bcrypt's, of passwords; 0 means 10

	CertUsers bool // whoever shows a certificate and no password is the user of its common name

	// ReadQuorum makes every read linearizable.
	ReadQuorum bool

	// Timeout returns how long a session waits for the cluster, or for its turn to log in; nil means 7 s.
	Timeout func() time.Duration
}

const defaultTimeout = 7 * time.Second

// Service implements kv.Store and kv.Leaser over the replicated state for what the member does on its own account;
// Open and Authenticate return what clients may use of it. It is safe for concurrent use.
type Service struct {
	state   *State
	log     Log
	logins  *logins
	audit   *audit
	anybody *Session // without name and address
	timeout func() time.Duration
	quorum  bool // every read is linearizable

	certUsers bool

	quota  *quota
	checks checks

	replayed            store.Counts // what the state had executed when the service began
	gets, recursiveGets tally

	leases   leases
	members  members
	invitees inviteDoor
}

var (
	_ kv.Store  = (*Service)(nil)
	_ kv.Leaser = (*Service)(nil)
)

// New returns the service over state, which log drives.
func New(state *State, log Log, cfg Config) *Service {
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = DefaultQuota
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.HashCost == 0 {
		cfg.HashCost = hashCost
	}
	if cfg.Timeout == nil {
		cfg.Timeout = func() time.Duration { return defaultTimeout }
	}
	s := &Service{
		state: state, log: log, replayed: state.machine.Counts(),
		timeout: cfg.Timeout, quorum: cfg.ReadQuorum, certUsers: cfg.CertUsers, logins: newLogins(cfg.Now, cfg.HashCost), audit: newAudit(cfg.Log, cfg.Now),
		leases:  leases{held: map[uint64]chan struct{}{}, draw: func() uint64 { return rand.Uint64() >> 1 }},
		quota:   newQuota(cfg.QuotaBytes, state.machine, log.Space, cfg.Log),
		members: newMembers(),
		checks:  checks{machine: state.machine, log: log, told: cfg.Log},
	}
	s.anybody = &Session{service: s}
	return s
}

// Read implements kv.Reader. Without Quorum it answers from the state of this member, with it after
// Config.Timeout at the latest.
func (s *Service) Read(ctx context.Context, r kv.Read) (kv.Result, error) {
	result, err := s.read(ctx, r)
	if r.Recursive {
		s.recursiveGets.note(err)
	} else {
		s.gets.note(err)
	}
	return result, err
}

func (s *Service) read(ctx context.Context, r kv.Read) (kv.Result, error) {
	if r.Quorum {
		if err := s.barrier(ctx); err != nil {
			return kv.Result{}, err
		}
	}
	result, err := s.state.machine.Read(r, s.log.LeaseNow())
	if err != nil {
		return kv.Result{}, err
	}
	result.RaftIndex, result.RaftTerm = s.Position()
	return result, nil
}

// Write implements kv.Writer. The answer comes when the write is durable and applied here. A write
// that there is no room for is refused with NoSpace.
func (s *Service) Write(ctx context.Context, w kv.Write) (kv.Result, error) {
	w.Key = kv.Clean(w.Key)
	return s.write(ctx, 0, command.Command{Body: w})
}

// write proposes a command whose body is a write of a clean key, for limit at most unless that is 0.
func (s *Service) write(ctx context.Context, limit time.Duration, c command.Command) (kv.Result, error) {
	w := c.Body.(kv.Write)
	if err := w.Check(); err != nil { // an unknown operation in the log would stop every member
		return kv.Result{}, err
	}
	if err := s.quota.admit(w); err != nil {
		return kv.Result{}, err
	}
	growth, err := s.quota.reserveFor(w)
	if err != nil {
		return kv.Result{}, err
	}
	defer s.quota.release(growth)
	result, err := s.log.ProposeWithin(ctx, limit, c)
	if err != nil {
		return kv.Result{}, err
	}
	if w.NoValue {
		result.Node, result.PrevNode = nil, nil
	}
	return result.Result, result.Err
}

// Watch implements kv.Watcher.
func (s *Service) Watch(_ context.Context, from kv.WatchFrom) (kv.Watch, error) {
	w, err := s.state.hub.Watch(from)
	if err != nil {
		return nil, err // not w: a nil *Watcher would make a kv.Watch that is not nil
	}
	return w, nil
}

// Index returns the store's index on this member.
func (s *Service) Index() kv.Index { return s.state.machine.Index() }

// Mark returns the sum of this member's state and the place in the log that it belongs to.
func (s *Service) Mark() store.Mark { return s.state.machine.Mark() }

// Snapshot returns the state of this member as it is now, whether it leads or not.
func (s *Service) Snapshot() *store.Snapshot { return s.state.machine.Snapshot() }

// Position returns the last log index that this member knows to be committed, and the term.
func (s *Service) Position() (index, term uint64) { return s.log.Position() }

// ReadBarrier returns when this member is able to answer a linearizable read; health asks it. Errors by
// Kind: those of the log, and Corrupt.
func (s *Service) ReadBarrier(ctx context.Context) error {
	if err := s.checks.refuse(); err != nil {
		return err
	}
	return s.log.ReadBarrier(ctx)
}

// barrier is ReadBarrier for as long as a session waits.
func (s *Service) barrier(ctx context.Context) error {
	if err := s.checks.refuse(); err != nil {
		return err
	}
	return s.log.ReadBarrierWithin(ctx, s.timeout())
}

// Alarms returns what is wrong with the store, in the words of etcd: AlarmNoSpace, AlarmCorrupt.
func (s *Service) Alarms() []string {
	var alarms []string
	if s.quota.alarmed() {
		alarms = append(alarms, AlarmNoSpace)
	}
	if s.checks.corrupt.Load() != nil {
		alarms = append(alarms, AlarmCorrupt)
	}
	return alarms
}

// Members returns the members of the cluster by ascending id.
func (s *Service) Members() []command.Member { return s.state.machine.Members() }

// Publish makes m known to all members as what it says. It writes only if they know otherwise.
// Errors by Kind: Invalid if m was removed from the cluster, and those of the log.
func (s *Service) Publish(ctx context.Context, m command.Member) error {
	for _, known := range s.Members() {
		if known.ID == m.ID && sameMember(known, m) {
			return nil
		}
	}
	result, err := s.log.Propose(ctx, command.Command{Body: m})
	if err != nil {
		return err
	}
	return result.Err
}

// Announce is Publish for the name and the client URLs of m alone; the rest counts only while the others
// do not know the member: they may have changed it meanwhile.
func (s *Service) Announce(ctx context.Context, m command.Member) error {
	if err := s.log.ReadBarrier(ctx); err != nil {
		return err
	}
	for _, known := range s.Members() {
		if known.ID == m.ID {
			known.Name, known.ClientURLs = m.Name, m.ClientURLs
			m = known
			break
		}
	}
	m.Part = command.MemberSelf
	return s.Publish(ctx, m)
}

// CutOff says whether this member has lost the leader, so that what happens is not seen here. While it
// has, there are no watches: those there were end with NoLeader, and so do attempts at others.
func (s *Service) CutOff(lost bool) {
	if lost {
		s.state.hub.Interrupt("this member is cut off from the leader: ask another one")
	} else {
		s.state.hub.Resume()
	}
}

// Close ends all watches, and the checks.
func (s *Service) Close() {
	s.state.hub.Close()
	s.checks.close()
}
