package registry

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Defaults of a PublisherConfig.
const (
	DefaultTTL             = 15 * time.Second
	DefaultWithdrawTimeout = 5 * time.Second
)

const (
	visitsMax         = 16                     // keys being written at one time
	repairsMax        = 8                      // of these, those that are not about something new
	retryMin          = 100 * time.Millisecond // longest delay after the first failure
	retryMax          = 4 * time.Second        // longest delay of all: a store that returns has every key within seconds
	refusedMin        = time.Second            // the same after the store has refused one key
	refusedMax        = 15 * time.Second
	requestTimeoutMin = time.Second
	requestTimeoutMax = 5 * time.Second
	leasesApart       = 2 * time.Second       // between two that are lost, should the store not know what it has granted
	verifyInterval    = time.Minute           // between two looks at whether all keys are there
	spreadEach        = time.Millisecond      // keys that are due together are spread over as much for each
	spreadMax         = time.Second           // and no more for all
	farewellMax       = 1 * time.Second       // for ending a lease that has no keys any more
	overdueAfter      = 3 * requestTimeoutMax // a request that takes longer is no progress
)

// PublisherConfig is what a Publisher needs. Only Store is required.
type PublisherConfig struct {
	Store  kv.Store
	Leaser kv.Leaser     // for one lease that all keys share; nil, or of a store that has none: a TTL for each key
	Prefix string        // directory of all services if there are no Views; "" means DefaultPrefix
	Views  []View        // where and how each record is written, see ValidateViews; nil: as JSON below Prefix
	TTL    time.Duration // of the lease, or of each key, see ValidateTTL; 0 means DefaultTTL
	Owner  string        // of every record; "" means NewOwner()

	// Keep leaves the desired set in the store when Run ends: it lives on by its TTL, and the
	// next run of a StandingOwner carries on with it. Publisher.Keep changes it.
	Keep bool

	// AwaitSweep says that a Sweep will come once it is known what there is. What earlier runs have
	// left on a lease lives on until then, however long it takes. Otherwise it lives for one TTL.
	AwaitSweep bool

	// WithdrawTimeout bounds how long Run takes to remove its keys when it ends; 0 means
	// DefaultWithdrawTimeout. What is left then expires by its TTL.
	WithdrawTimeout time.Duration

	// OnStatus is called from Run, one call at a time, whenever Wanted, Registered or Err of Status
	// changes. It must not block.
	OnStatus func(Status)

	Log *slog.Logger // nil discards
}

// Status is how far the store agrees with the desired set. Counts are of keys, of which a record has
// one in each view; numbers of events count from the start.
type Status struct {
	Wanted     int   // keys of the desired set
	Registered int   // of these, those that are in the store now as they should be, as far as can be known
	Removed    int   // keys removed, each known to have been ours
	Err        error // why the rest is not, or why it cannot be known; nil if all is well

	Lease     kv.LeaseID // that the keys share; 0: each has a TTL of its own, or the store was not reached yet
	Heartbeat time.Time  // when the latest renewal began that the store has confirmed; zero before the first
	Expires   time.Time  // what that renewal has renewed lives at least until then

	Writes      int // keys written or removed, as the store has confirmed
	Renewals    int // of the lease, or of single keys
	Corrections int // keys that somebody else has removed or changed, and that were put right
	LeasesLost  int // leases that ended although they were to live
}

// Publisher makes the store hold a set of records for as long as Run runs. The set is a level, not a
// stream of changes: whatever happens at the store, the publisher works until the two agree again.
//
// All keys share one lease, which is kept alive without a write and without waking a watcher. With a
// store that knows no leases each key has a TTL, which is renewed without waking one.
//
// A key belongs to whoever wrote it: its value names its Owner, or, in a layout that has no room for
// that, it is attached to the owner's lease. A publisher never changes or removes what another owner
// wrote, with one exception: it takes over, once, what an earlier run on its own machine left behind
// (of a StandingOwner: an earlier run of its own program), and gives way to a later run that does the
// same. A key that somebody else has is taken as soon as it is free.
//
// All methods but Run are safe for concurrent use. Run is called once.
type Publisher struct {
	cfg      PublisherConfig // with its defaults filled in
	unusable error           // of the views: why some are left out
	patience time.Duration   // for one visit to the store

	wake     chan struct{}        // holds one token when the desired set has changed
	events   chan kv.Event        // from the watches
	links    chan link            // what becomes of the watches
	findings chan func()          // what tasks have found out, to be applied by the loop
	tasks    sync.WaitGroup       // requests to the store
	pending  map[uint64]time.Time // when those began; like all below guarded by mu

	// mu is held by Run for each of its turns, and never while it waits for anything.
	mu      sync.Mutex
	desired desired
	swept   map[string]Record // what the Sweep asked for spares; nil: none, or it is done
	isSwept bool              // a Sweep was done
	settled uint64            // generation that the store was last seen to agree with
	status  Status
	turned  time.Time // when the loop last turned
	ended   bool
	moved   chan struct{} // closed and replaced when settled, status or ended changes

	entries    map[string]*entry
	generation uint64   // of the desired set that entries reflect
	fresh      []*entry // to be visited at once, in this order
	agenda     agenda   // to be visited later
	visiting   int      // visits under way
	dirty      bool     // something has happened since the latest report
	touched    []*entry // to which
	allTouched bool     // it may concern every entry
	tally      tally    // of the entries as last reported
	said       []line   // to be logged when mu is free
	leaving    bool     // Run has been told to end
	taskNumber uint64

	tie       // to the store
	followers // of changes there
	farewell  // from the store
}

// line is one line of the log.
type line struct {
	level slog.Level
	text  string
	args  []any
}

// NewPublisher returns a publisher with an empty desired set. It does nothing until Run. Views that
// ValidateViews refuses are left out; Status says so.
func NewPublisher(cfg PublisherConfig) *Publisher {
	if cfg.Prefix = kv.Clean(cfg.Prefix); cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if len(cfg.Views) == 0 {
		cfg.Views = []View{{cfg.Prefix, LayoutJSON}}
	}
	var usable []View
	var unusable []error
	for _, view := range cfg.Views {
		if err := ValidateViews(append(usable, view)); err != nil {
			unusable = append(unusable, err)
			continue
		}
		usable = append(usable, view)
	}
	cfg.Views = usable
	if cfg.TTL <= 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.Owner == "" {
		cfg.Owner = NewOwner()
	}
	if cfg.WithdrawTimeout <= 0 {
		cfg.WithdrawTimeout = DefaultWithdrawTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	patience := min(max(cfg.TTL/3, requestTimeoutMin), requestTimeoutMax)
	return &Publisher{
		cfg:       cfg,
		unusable:  errors.Join(unusable...),
		patience:  patience,
		wake:      make(chan struct{}, 1),
		events:    make(chan kv.Event),
		links:     make(chan link),
		findings:  make(chan func(), visitsMax+3), // a task never waits to tell: besides visits there are three
		pending:   map[uint64]time.Time{},
		entries:   map[string]*entry{},
		moved:     make(chan struct{}),
		followers: followers{open: map[string]bool{}, refused: map[string]bool{}},
		tie:       tie{retry: backoff.Backoff{Min: retryMin, Max: max(min(retryMax, cfg.TTL/3), retryMin)}},
	}
}

// Run registers the desired set, renews it, puts back what vanishes and removes what is no longer
// desired, until ctx ends. It never gives up on a store that is away. When ctx ends it removes all
// its keys, or with Keep those that are not desired any more, and returns nil, or says which it had
// to leave to their TTL.
func (p *Publisher) Run(ctx context.Context) error {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx)) // what is under way is not cut short
	defer p.tasks.Wait()
	defer cancel()
	var watchers sync.WaitGroup
	for _, view := range p.cfg.Views {
		watchers.Go(func() { p.watch(ctx, view.Prefix) })
	}
	p.loop(ctx, lasting)
	watchers.Wait()
	err := p.withdraw(lasting)
	p.mu.Lock()
	p.ended = true
	p.stir()
	p.mu.Unlock()
	return err
}

// Keep replaces PublisherConfig.Keep, for who knows only at the end why it ends. It counts when Run is
// told to end.
func (p *Publisher) Keep(keep bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cfg.Keep = keep
}

// stir wakes those who wait for a change of the shared state.
func (p *Publisher) stir() {
	close(p.moved)
	p.moved = make(chan struct{})
}

// loop takes turns until ctx ends: each after something has happened, or is due.
func (p *Publisher) loop(ctx, lasting context.Context) {
	timer := time.NewTimer(p.turn(lasting, nil))
	defer timer.Stop()
	for {
		var happened func()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-p.wake:
		case event := <-p.events:
			happened = func() { p.note(event) }
		case l := <-p.links:
			happened = func() { p.linked(l) }
		case happened = <-p.findings:
		}
		timer.Reset(p.turn(lasting, happened))
	}
}

// turn takes note of what has happened, begins what is to be done now, and returns how long nothing
// else is due. ctx is for what it begins.
func (p *Publisher) turn(ctx context.Context, happened func()) time.Duration {
	p.mu.Lock()
	if happened != nil {
		happened()
	}
	if !p.leaving {
		p.adopt()
		p.sweep()
		p.look(ctx)
	}
	p.tend(ctx)
	p.revoke(ctx)
	p.dispatch(ctx)
	tell := p.report()
	wait := p.wait()
	status, said := p.status, p.said
	p.said = nil
	p.mu.Unlock()

	for _, l := range said {
		p.cfg.Log.Log(ctx, l.level, l.text, l.args...)
	}
	if tell && p.cfg.OnStatus != nil {
		p.cfg.OnStatus(status)
	}
	return wait
}

// say puts a line into the log as soon as nobody has to wait for it.
func (p *Publisher) say(level slog.Level, text string, args ...any) {
	p.said = append(p.said, line{level, text, args})
}

// begin makes a request to the store in a goroutine of its own. What work returns is applied in a
// later turn.
func (p *Publisher) begin(ctx context.Context, work func(context.Context) (apply func())) {
	p.taskNumber++
	number := p.taskNumber
	p.pending[number] = time.Now()
	p.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, p.patience)
		defer cancel()
		apply := work(ctx)
		p.findings <- func() {
			delete(p.pending, number)
			apply()
		}
	})
}

// wait is the time until something is due.
func (p *Publisher) wait() time.Duration {
	now := time.Now()
	next := now.Add(p.cfg.TTL)
	earlier := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	if p.canTend() {
		earlier(p.tendAt)
	}
	if !p.looking && p.canLook() {
		earlier(p.lookAt)
	}
	if len(p.agenda) > 0 && p.isCalm() && p.visiting < repairsMax && p.revocation == revocationNone {
		earlier(p.agenda[0].due)
	}
	if p.revocation == revocationDue && p.visiting == 0 {
		earlier(p.revokeAt)
	}
	return max(next.Sub(now), 0)
}
