// Package mirror keeps one directory of a store in memory, and goes on having it while the store is away.
//
// It knows keys, values, and how old they may be. It does not know what the values mean (pkg/catalog does
// for records of services), and it has no directories: a key is there or it is not.
//
//	m := mirror.New(mirror.Config{Source: client, Prefix: "/services"})
//	go m.Run(ctx)
//	...
//	changed := m.Changed()
//	m.Ascend("/services/web", func(node *kv.Node) bool { ... })
//	<-changed
package mirror

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// How long to wait after a read that failed, more after each in a row.
const (
	retryWaitMin = 50 * time.Millisecond
	retryWaitMax = 2 * time.Second
)

// Config says what to mirror. Source is required.
type Config struct {
	Source kvclient.Source
	Prefix string       // the directory; "" is everything that is not hidden
	Log    *slog.Logger // nil discards

	// Apply, unless nil, is given each lot of changes after the mirror has it and before Changed tells.
	// It is called in the goroutine of Run, and may read the mirror.
	Apply func(kvclient.Changes)
}

// Mirror is a copy of what is at and below one key of a store and not hidden from there. All methods may
// be called from any goroutine, Run once.
type Mirror struct {
	cfg      Config
	follower *kvclient.Follower

	mu       sync.Mutex // guards the fields below
	nodes    btree.Map[string, *kv.Node]
	index    kv.Index
	complete bool
	changed  chan struct{} // closed and replaced with every change
}

// State says how true a mirror is.
type State struct {
	// Complete says that everything was read once. Before, the mirror is empty, and that means nothing.
	Complete bool
	Index    kv.Index // of the store that the mirror equals; only what lies in the directory moves it

	// Since is when the store was heard last: now while it is, the zero time if it never was. Err is why it is
	// not heard, nil while it is. A link that is dead takes up to 15 seconds to be noticed.
	Since time.Time
	Err   error
}

// New returns a mirror that is empty until Run fills it.
func New(cfg Config) *Mirror {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Mirror{cfg: cfg, follower: kvclient.Follow(cfg.Source, cfg.Prefix), changed: make(chan struct{})}
}

// Run keeps the mirror equal to the store until ctx ends, and returns nil then. What the mirror has it
// keeps, whatever becomes of the store. It returns an error only when the source is closed.
func (m *Mirror) Run(ctx context.Context) error {
	defer m.follower.Close()
	log := m.cfg.Log.With("prefix", m.cfg.Prefix)
	retry := backoff.Backoff{Min: retryWaitMin, Max: retryWaitMax}
	failing := false
	for {
		changes, err := m.follower.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case kv.Is(err, kv.Closed):
			return err
		case err != nil:
			if !failing {
				log.Warn("cannot read the store, trying again", "err", err)
			}
			failing = true
			if retry.Wait(ctx) != nil {
				return nil
			}
		default:
			if failing {
				log.Info("the store is read again")
			}
			failing = false
			retry.Reset()
			m.take(changes)
		}
	}
}

func (m *Mirror) take(changes kvclient.Changes) {
	m.mu.Lock()
	for _, event := range changes.Events {
		if event.Removes() {
			m.nodes.Delete(event.Node.Key)
		} else {
			m.nodes.Set(event.Node.Key, event.Node)
		}
	}
	m.index = changes.Index
	m.complete = true
	m.mu.Unlock()
	if m.cfg.Apply != nil {
		m.cfg.Apply(changes)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// Get returns the node of a key, false if there is none. It is shared and must not be changed. Its TTL and
// Expiration are those of its last write, not of what renewed it since.
func (m *Mirror) Get(key string) (*kv.Node, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nodes.Get(kv.Clean(key))
}

// Ascend calls fn with the nodes at and below the directory prefix in the order of their keys, until fn
// returns false. They are of one moment. Nothing is locked meanwhile.
func (m *Mirror) Ascend(prefix string, fn func(*kv.Node) bool) {
	m.mu.Lock()
	nodes := m.nodes.Copy() // shares what neither changes
	m.mu.Unlock()
	prefix = kv.Clean(prefix)
	if node, ok := nodes.Get(prefix); ok && !fn(node) {
		return
	}
	below := prefix + "/"
	nodes.Ascend(below, func(key string, node *kv.Node) bool { return strings.HasPrefix(key, below) && fn(node) })
}

// Changed returns a channel that is closed with the next change after the call, also with the first reading of
// a directory that is empty. Call it before reading what to wait for.
func (m *Mirror) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// State returns how true the mirror is now.
func (m *Mirror) State() State {
	since, err := m.follower.Contact()
	m.mu.Lock()
	defer m.mu.Unlock()
	return State{Complete: m.complete, Index: m.index, Since: since, Err: err}
}
