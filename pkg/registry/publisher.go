package registry

import (
	"context"
	"errors"
	"fmt"
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
	requestsMax       = 8                      // requests of one publisher in flight
	retryMin          = 100 * time.Millisecond // longest delay after the first failure
	retryMax          = 4 * time.Second        // longest delay of all: a store that returns has every key within seconds
	requestTimeoutMin = time.Second
	requestTimeoutMax = 5 * time.Second
)

// PublisherConfig is what a Publisher needs. Only Store is required.
type PublisherConfig struct {
	Store  kv.Store
	Prefix string        // directory of all services if there are no Views; "" means DefaultPrefix
	Views  []View        // where and how each record is written, see ValidateViews; nil: as JSON below Prefix
	Leaser kv.Leaser     // for one lease that all keys share; nil, or of a store that has none: a TTL for each key
	TTL    time.Duration // of each key, see ValidateTTL; 0 means DefaultTTL
	Owner  string        // of every record; "" means NewOwner()

	// Keep leaves the desired set in the store when Run ends: it lives on by its TTL, and the
	// next run of a StandingOwner carries on with it.
	Keep bool

	// WithdrawTimeout bounds how long Run takes to remove its keys when it ends; 0 means
	// DefaultWithdrawTimeout. What is left then expires by its TTL.
	WithdrawTimeout time.Duration

	// OnStatus is called from Run, one call at a time, whenever Status changes. It must not block.
	OnStatus func(Status)

	Log *slog.Logger // nil discards
}

// Status is how far the store agrees with the desired set.
type Status struct {
	Wanted     int // records in the desired set
	Registered int // of these, those whose key is in the store now, as far as can be known
	Removed    int // keys removed since the start, each known to have been ours

	Lease     kv.LeaseID // that the keys share; 0: each has a TTL of its own
	Heartbeat time.Time  // when the latest renewal began that the store has confirmed; zero before the first
	Expires   time.Time  // until when the keys live at least if there is no other; zero before the first

	Writes      int // keys written or removed since the start, as confirmed
	Renewals    int // of the lease, or of single keys
	Corrections int // keys found missing or changed by somebody else, and put right
	LeasesLost  int // leases that ended although they were to live

	Err error // why the rest is not, or why it cannot be known; nil if all is well
}

// Publisher makes the store hold a set of records for as long as Run runs. Each record is a key
// with a TTL that is renewed without waking a watcher. The set is a level, not a stream of
// changes: whatever happens at the store, the publisher works until the two agree again.
//
// A key belongs to whoever wrote it, named by Owner in its value. A publisher never changes or
// removes what another owner wrote, with one exception: it takes over, once, what an earlier run on
// its own machine left behind, and gives way to a later run that does the same.
//
// Set, Settle and Status are safe for concurrent use. Run is called once.
type Publisher struct {
	cfg PublisherConfig // with its defaults filled in

	wake    chan struct{} // holds one token when the desired set has changed
	changes chan change   // from the watch on the prefix
	links   chan error    // whether the watch could be opened

	// Owned by the goroutine of Run.
	entries    map[string]*entry
	sweeping   map[string]Record // what a sweep that is still to be made spares; nil: none is
	removed    int
	generation uint64 // of the desired set that entries reflect
	outage     error  // why the store does not answer; nil while it does
	retry      backoff.Backoff
	notBefore  time.Time // of the next pass, during an outage

	mu      sync.Mutex // guards the fields below
	desired desired
	swept   map[string]Record // what the Sweep asked for spares; nil: none, or Run has seen it
	settled uint64            // generation that the store was last seen to agree with
	status  Status
	turned  time.Time // when the latest pass ended
	ended   bool
	moved   chan struct{} // closed and replaced when settled, status or ended changes
}

// desired is the set asked for. Each Set makes a new generation.
type desired struct {
	generation uint64
	values     map[string]placed // by key
	refused    error             // records that were left out
}

// placed is the value of a key, and in which view.
type placed struct {
	view  View
	value string
	of    Record // whose Owner is the publisher's
}

// KeyState says how far a key of a publisher has come.
type KeyState string

// The states of a key.
const (
	KeyWaiting    KeyState = "waiting"    // wanted, and not in the store as far as is known
	KeyRegistered KeyState = "registered" // in the store as it should be
	KeyHeld       KeyState = "held"       // somebody else has it
	KeyLeaving    KeyState = "leaving"    // not wanted any more, and not known to be gone
)

// KeyStatus is what a publisher knows about one key.
type KeyStatus struct {
	Key      string
	Service  string
	Instance string
	View     View
	State    KeyState
	Since    time.Time // when State began
	Err      error     // why the latest attempt failed; nil after a success
	Owner    string    // of a key that is held; "" if its value names none
}

// NewPublisher returns a publisher with an empty desired set. It does nothing until Run.
func NewPublisher(cfg PublisherConfig) *Publisher {
	if cfg.Prefix = kv.Clean(cfg.Prefix); cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if len(cfg.Views) == 0 {
		cfg.Views = []View{{cfg.Prefix, LayoutJSON}}
	}
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
	return &Publisher{
		cfg:     cfg,
		wake:    make(chan struct{}, 1),
		changes: make(chan change),
		links:   make(chan error),
		entries: map[string]*entry{},
		retry:   backoff.Backoff{Min: retryMin, Max: retryMax},
		moved:   make(chan struct{}),
	}
}

// Set replaces the desired set. It never blocks and copies what it needs. The Owner of a record
// is replaced by the publisher's. A record that Validate refuses, and all but the first of several with
// one key, are left out; Status says so.
func (p *Publisher) Set(records []Record) {
	next := desired{values: make(map[string]placed, len(records))}
	var refused []error
	for _, record := range records {
		if err := record.Validate(); err != nil {
			refused = append(refused, fmt.Errorf("service %q, instance %q: %w", record.Service, record.Instance, err))
			continue
		}
		record.Owner = p.cfg.Owner
		for _, view := range p.cfg.Views {
			key, value, err := view.place(record)
			switch {
			case err != nil:
				refused = append(refused, fmt.Errorf("service %q, instance %q, layout %s: %w", record.Service, record.Instance, view, err))
			case key == "":
			case next.values[key].value != "":
				refused = append(refused, fmt.Errorf("service %q has two instances named %q", record.Service, record.Instance))
			default:
				next.values[key] = placed{view, value, record}
			}
		}
	}
	next.refused = errors.Join(refused...)
	p.want(func() {
		next.generation = p.desired.generation
		p.desired = next
	})
}

// Sweep removes what earlier runs have left in the store and nobody wants any more: the keys of this
// publisher's Owner, or of the same program with other settings, that are neither desired nor those
// of a record in spare with its address and port. What is spared stays until it is desired, or expires.
// It happens once, as soon as the store answers, never blocks, and needs a StandingOwner.
func (p *Publisher) Sweep(spare []Record) {
	spared := map[string]Record{}
	for _, record := range spare {
		record.State = StateUp
		for _, view := range p.cfg.Views {
			if key, _, err := view.place(record); err == nil && key != "" {
				spared[key] = record
			}
		}
	}
	p.want(func() { p.swept = spared })
}

// want changes what is desired and wakes Run.
func (p *Publisher) want(change func()) {
	p.mu.Lock()
	change()
	p.desired.generation++
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Settle blocks until the store agreed at least once with the set of the latest Set before this
// call, or a later one, and returns nil then. It returns early with an error when ctx ends or Run
// has ended.
func (p *Publisher) Settle(ctx context.Context) error {
	p.mu.Lock()
	target := p.desired.generation
	p.mu.Unlock()
	for {
		p.mu.Lock()
		done, ended, moved, problem := p.settled >= target, p.ended, p.moved, p.status.Err
		p.mu.Unlock()
		switch {
		case done:
			return nil
		case ended:
			return errors.Join(&kv.Error{Op: "settle", Kind: kv.Closed, Cause: "the publisher has ended"}, problem)
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), problem)
		}
	}
}

// Status returns the state of the latest pass.
func (p *Publisher) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// LastPass is when Run last looked at its keys: at most one TTL ago while it makes progress, as long
// as requests to the store end within their time limit. It is zero before Run.
func (p *Publisher) LastPass() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.turned
}

// Run registers the desired set, renews it, puts back what vanishes and removes what is no longer
// desired, until ctx ends. It never gives up on a store that is away. When ctx ends it removes all
// its keys, or with Keep those that are not desired any more, and returns nil, or says which it had
// to leave to their TTL.
func (p *Publisher) Run(ctx context.Context) error {
	var watcher sync.WaitGroup
	watcher.Go(func() { p.watch(ctx) })
	p.loop(ctx)
	watcher.Wait()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.WithdrawTimeout)
	defer cancel()
	p.withdraw(ctx)
	err := p.leftover()
	p.publish(func() { p.ended = true })
	return err
}

// publish changes the shared state and wakes those who wait for it.
func (p *Publisher) publish(change func()) {
	p.mu.Lock()
	before := p.status
	change()
	after := p.status
	close(p.moved)
	p.moved = make(chan struct{})
	p.mu.Unlock()
	if p.cfg.OnStatus != nil && !before.equal(after) {
		p.cfg.OnStatus(after)
	}
}

func (s Status) equal(other Status) bool {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	return s.Wanted == other.Wanted && s.Registered == other.Registered && text(s.Err) == text(other.Err)
}

// Keys returns every key that is desired or still to be removed, in key order.
func (p *Publisher) Keys() []KeyStatus { return nil }
