package keys

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
)

// Set is the sources that one process has, each with its mirror: whoever asks for the same settings shares
// them. It is safe for concurrent use.
type Set struct {
	deps Deps

	mu      sync.Mutex // guards the fields below
	members map[string]*member
}

// member is one source with its mirror.
type member struct {
	source Source
	mirror *Mirror
	keeper *keeper // nil: nothing is kept on disk
	poke   chan struct{}
}

// NewSet returns a set without sources.
func NewSet(deps Deps) *Set {
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	return &Set{deps: deps, members: map[string]*member{}}
}

// Mirror returns the mirror of the source that cfg names, and opens the source if the set does not have it
// yet. Errors are those of Open.
func (s *Set) Mirror(cfg Config) (*Mirror, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	identity := cfg.identity()
	if m := s.members[identity]; m != nil {
		return m.mirror, nil
	}
	source, err := Open(cfg, s.deps)
	if err != nil {
		return nil, err
	}
	m := &member{source: source, mirror: NewMirror(cfg.Polls()), poke: make(chan struct{}, 1)}
	if cfg.StateDir != "" && !cfg.Polls() {
		m.keeper = newKeeper(cfg, m.mirror, s.deps.Log)
	}
	s.members[identity] = m
	return m.mirror, nil
}

// identity is the same for settings that mean the same source.
func (c Config) identity() string {
	return fmt.Sprintf("%q", []any{
		c.Backend, c.Scheme, c.SRV, c.Files, c.Filter, c.StateDir, fmt.Sprint(c.Watch, c.Interval),
		c.Client.Endpoints, c.Client.Username, c.Client.Password, c.Client.PasswordFile,
		c.Client.CAFile, c.Client.CertFile, c.Client.KeyFile,
	})
}

// Load reads once what is at and below the keys that are wanted of each mirror, which are of this set.
// Mirrors whose source cannot be read are as they were.
func (s *Set) Load(ctx context.Context, wanted map[*Mirror][]string) error {
	var problems []error
	for _, m := range s.wanted(wanted) {
		problems = append(problems, m.source.Load(ctx, m.mirror, Roots(wanted[m.mirror])))
	}
	return errors.Join(problems...)
}

// Run keeps the mirrors, which are of this set, equal to what their sources have at and below the keys that are wanted of each,
// until ctx ends. It may be called again, with others wanted, when it has returned: until they are read,
// the mirrors have what they had.
func (s *Set) Run(ctx context.Context, wanted map[*Mirror][]string) {
	var running sync.WaitGroup
	for _, m := range s.wanted(wanted) {
		running.Go(func() { m.source.Run(ctx, m.mirror, Roots(wanted[m.mirror]), m.poke) })
		if m.keeper != nil {
			running.Go(func() { m.keeper.run(ctx) })
		}
	}
	running.Wait()
}

// wanted returns the members whose mirrors are wanted.
func (s *Set) wanted(wanted map[*Mirror][]string) (members []*member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, identity := range slices.Sorted(maps.Keys(s.members)) {
		if m := s.members[identity]; wanted[m.mirror] != nil {
			members = append(members, m)
		}
	}
	return members
}

// Poke makes sources that cannot be watched look again, and wakes all readers.
func (s *Set) Poke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.members {
		select {
		case m.poke <- struct{}{}:
		default:
		}
		m.mirror.WakeAll()
	}
}

// Close closes all sources. Nothing is called after it but methods of the mirrors.
func (s *Set) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.members {
		m.source.Close()
	}
	clear(s.members)
}
