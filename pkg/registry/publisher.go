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
	Prefix string        // directory of all services; "" means DefaultPrefix
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
	Wanted     int   // records in the desired set
	Registered int   // of these, those whose key is in the store now, as far as can be known
	Removed    int   // keys removed since the start, each known to have been ours
	Err        error // why the rest is not, or why it cannot be known; nil if all is well
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
	sweeping   func(Record) bool // what a sweep that is still to be made spares; nil: none is
	removed    int
	generation uint64 // of the desired set that entries reflect
	outage     error  // why the store does not answer; nil while it does
	retry      backoff.Backoff
	notBefore  time.Time // of the next pass, during an outage

	mu      sync.Mutex // guards the fields below
	desired desired
	swept   func(Record) bool // what the Sweep asked for spares; nil: none, or Run has seen it
	settled uint64            // generation that the store was last seen to agree with
	status  Status
	turned  time.Time // when the latest pass ended
	ended   bool
	moved   chan struct{} // closed and replaced when settled, status or ended changes
}

// desired is the set asked for. Each Set makes a new generation.
type desired struct {
	generation uint64
	values     map[string]string // key to value
	refused    error             // records that were left out
}

// NewPublisher returns a publisher with an empty desired set. It does nothing until Run.
func NewPublisher(cfg PublisherConfig) *Publisher {
	if cfg.Prefix = kv.Clean(cfg.Prefix); cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
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
	next := desired{values: make(map[string]string, len(records))}
	var refused []error
	for _, record := range records {
		if err := record.Validate(); err != nil {
			refused = append(refused, fmt.Errorf("service %q, instance %q: %w", record.Service, record.Instance, err))
			continue
		}
		key := record.Key(p.cfg.Prefix)
		if _, taken := next.values[key]; taken {
			refused = append(refused, fmt.Errorf("service %q has two instances named %q", record.Service, record.Instance))
			continue
		}
		record.Owner = p.cfg.Owner
		next.values[key] = record.encode()
	}
	next.refused = errors.Join(refused...)
	p.want(func() {
		next.generation = p.desired.generation
		p.desired = next
	})
}

// Sweep removes what earlier runs have left in the store and nobody wants any more: the records of
// this publisher's Owner, or of the same program with other settings, that are neither desired nor
// spared. It happens once, as soon as the store answers, never blocks, and needs a StandingOwner.
// spare is called from Run.
func (p *Publisher) Sweep(spare func(Record) bool) {
	p.want(func() { p.swept = spare })
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
