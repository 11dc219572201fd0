// Package catalog is what a store says about services now: the records of the canonical JSON layout, read by
// pkg/mirror, checked, and sorted by service.
//
// Whoever may write to the store writes records, so that none of them is trusted: one that cannot be read, is
// not valid, or lies at another key than its own is left out and counted, and hides no other. It does not know
// what records are read for.
package catalog

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/mirror"
	"github.com/kvd-io/kvd/pkg/registry"
)

const (
	examplesMax    = 5   // unreadable keys that State names
	reasonBytesMax = 200 // kept of why a key is unreadable: it quotes what nobody has checked
)

// Config says where the records are. Source is required.
type Config struct {
	Source kvclient.Source
	Prefix string       // the directory of all services; "": registry.DefaultPrefix
	Log    *slog.Logger // nil discards
}

// Catalog holds the records below one prefix. All methods may be called from any goroutine, Run once.
type Catalog struct {
	prefix string
	log    *slog.Logger
	mirror *mirror.Mirror
	whole  atomic.Bool // what there was at first has been taken over

	mu         sync.RWMutex // guards the fields below
	services   map[string]*service
	folded     map[string][]string // lower-case name -> services, sorted
	unreadable map[string]error    // by key
}

// service is one service that has instances.
type service struct {
	instances map[string]registry.Record
	sorted    []registry.Record // lent out, so that it is never changed; nil when it must be made afresh
}

// State says how true a catalog is.
type State struct {
	mirror.State
	Services, Instances int
	Unreadable          int          // keys below the prefix that are no valid record
	Examples            []Unreadable // the first few of them by key
}

// Unreadable is a key that was left out.
type Unreadable struct {
	Key string
	Err error
}

// New returns a catalog that is empty until Run fills it.
func New(cfg Config) *Catalog {
	c := &Catalog{
		prefix:     kv.Clean(cmp.Or(cfg.Prefix, registry.DefaultPrefix)),
		log:        cfg.Log,
		services:   map[string]*service{},
		folded:     map[string][]string{},
		unreadable: map[string]error{},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.mirror = mirror.New(mirror.Config{Source: cfg.Source, Prefix: c.prefix, Log: c.log, Apply: c.apply})
	return c
}

// Run keeps the catalog equal to the store until ctx ends, and returns nil then. What the catalog has it keeps,
// whatever becomes of the store. It returns an error only when the source is closed.
func (c *Catalog) Run(ctx context.Context) error { return c.mirror.Run(ctx) }

// Services returns the names of all services that have instances, in order. The slice is the caller's.
func (c *Catalog) Services() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	names := make([]string, 0, len(c.services))
	for name := range c.services {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Fold returns the services whose names are name but for the case of their letters, in order. The slice is
// shared and must not be changed.
func (c *Catalog) Fold(name string) []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.folded[strings.ToLower(name)]
}

// Instances returns the valid records of a service in every state, by instance, nil if there are none. The slice
// and what it holds are shared and must not be changed.
func (c *Catalog) Instances(name string) []registry.Record {
	c.mu.RLock()
	s := c.services[name]
	if s == nil || s.sorted != nil {
		defer c.mu.RUnlock()
		if s == nil {
			return nil
		}
		return s.sorted
	}
	c.mu.RUnlock()

	c.mu.Lock()
	defer c.mu.Unlock()
	if s = c.services[name]; s == nil {
		return nil
	}
	if s.sorted == nil {
		s.sorted = make([]registry.Record, 0, len(s.instances))
		for _, record := range s.instances {
			s.sorted = append(s.sorted, record)
		}
		slices.SortFunc(s.sorted, func(a, b registry.Record) int { return cmp.Compare(a.Instance, b.Instance) })
	}
	return s.sorted
}

// Changed returns a channel that is closed with the next change after the call. Call it before reading what
// to wait for.
func (c *Catalog) Changed() <-chan struct{} { return c.mirror.Changed() }

// Mirror returns how true the catalog is now. Unlike State it counts nothing, whatever the catalog holds.
func (c *Catalog) Mirror() mirror.State {
	whole := c.whole.Load() // the mirror is complete a little before: meanwhile nothing seems to be there
	state := c.mirror.State()
	state.Complete = whole
	return state
}

// State returns how true the catalog is now, and what it has left out. Its slice is the caller's.
func (c *Catalog) State() State {
	state := State{State: c.Mirror()}
	c.mu.RLock()
	defer c.mu.RUnlock()
	state.Services, state.Unreadable = len(c.services), len(c.unreadable)
	for _, s := range c.services {
		state.Instances += len(s.instances)
	}
	for key, err := range c.unreadable {
		state.Examples = append(state.Examples, Unreadable{key, err})
	}
	slices.SortFunc(state.Examples, func(a, b Unreadable) int { return cmp.Compare(a.Key, b.Key) })
	state.Examples = slices.Clip(state.Examples[:min(len(state.Examples), examplesMax)])
	return state
}

// apply takes over what has changed in the mirror.
func (c *Catalog) apply(changes kvclient.Changes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, event := range changes.Events {
		key := event.Node.Key
		delete(c.unreadable, key)
		if event.Removes() {
			c.remove(key)
			continue
		}
		record, err := c.read(event.Node)
		if err != nil {
			c.remove(key)
			if len(c.unreadable) == 0 { // a directory of something else is told once, not line by line
				c.log.Warn("not a record of a service, left out", "key", key, "err", shorten(err))
			}
			c.unreadable[key] = shorten(err)
			continue
		}
		c.put(record)
	}
	c.whole.Store(true)
}

// read returns the record of a node if it is valid and lies where it says.
func (c *Catalog) read(node *kv.Node) (registry.Record, error) {
	record, err := registry.Decode(node.Value)
	if err != nil {
		return record, err
	}
	if err := record.Validate(); err != nil {
		return record, err
	}
	if record.Key(c.prefix) != node.Key {
		return record, errors.New("it names itself " + record.Service + "/" + record.Instance)
	}
	return record, nil
}

func shorten(err error) error {
	text := err.Error()
	if len(text) <= reasonBytesMax {
		return err
	}
	return errors.New(strings.ToValidUTF8(text[:reasonBytesMax], "") + "...")
}

func (c *Catalog) put(record registry.Record) {
	s := c.services[record.Service]
	if s == nil {
		s = &service{instances: map[string]registry.Record{}}
		c.services[record.Service] = s
		lower := strings.ToLower(record.Service)
		names := append(slices.Clone(c.folded[lower]), record.Service)
		slices.Sort(names)
		c.folded[lower] = names
	}
	s.instances[record.Instance] = record
	s.sorted = nil
}

// remove takes the record at key out, if there is one.
func (c *Catalog) remove(key string) {
	dir, instance := kv.Parent(key), kv.Base(key)
	if kv.Parent(dir) != c.prefix {
		return
	}
	name := kv.Base(dir)
	s := c.services[name]
	if s == nil {
		return
	}
	delete(s.instances, instance)
	s.sorted = nil
	if len(s.instances) > 0 {
		return
	}
	delete(c.services, name)
	lower := strings.ToLower(name)
	c.folded[lower] = slices.DeleteFunc(slices.Clone(c.folded[lower]), func(other string) bool { return other == name })
	if len(c.folded[lower]) == 0 {
		delete(c.folded, lower)
	}
}
