package override

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
	"github.com/kvd-io/kvd/pkg/mirror"
	"github.com/kvd-io/kvd/pkg/registry"
)

const (
	overridesMax = 10_000 // that a Source knows at one time; what is beyond is ignored
	wishesMax    = 1000   // that wait for the store
	problemsMax  = 100    // that are remembered

	requestTimeout = 5 * time.Second
	retryMin       = 100 * time.Millisecond
	retryMax       = 4 * time.Second
)

// Store is what a Source needs of a store.
type Store interface {
	kvclient.Source
	kv.Writer
}

// SourceConfig is what a Source needs. Only Store is required.
type SourceConfig struct {
	Store  Store
	Prefix string // the directory of all services; "" means registry.DefaultPrefix

	// StateDir holds a copy of what is wanted, which counts from the start of a run until the store was
	// read, and what has not got to the store yet. It is made when it is missing. "" keeps nothing.
	StateDir string

	Log *slog.Logger // nil discards
}

// Source knows what is wanted of every instance: what the store says, and before that what is newer
// on this host. An override that was Set here counts at once; it is written to the store as soon as
// that answers, unless somebody has meanwhile wanted something else there, later by the clocks of the
// hosts.
//
// Its methods are safe for concurrent use; Run is called once.
type Source struct {
	cfg       SourceConfig
	directory string
	mirror    *mirror.Mirror
	wake      chan struct{} // holds one token when there is a wish to write
	saved     string        // what the file holds; guarded by saving
	saving    sync.Mutex

	mu       sync.Mutex // guards the fields below
	known    map[name]Override
	index    kv.Index // of the store that said so; 0: the file did
	isRead   bool     // the store was read
	wishes   map[name]wish
	problems map[string]string // why what is at a key is ignored
	changed  chan struct{}     // closed and replaced when a Get may have another answer, or a wish is written
}

// name is what an instance is known by.
type name struct{ service, instance string }

// wish is an override that was Set on this host.
type wish struct {
	Override
	over  kv.Index // of the value at the key that was there when it was wished; 0: not known
	index kv.Index // of the store that has it, until what is known has come that far; 0: it is to be written
}

// Status says how a Source fares.
type Status struct {
	IsRead   bool              // the store was read since the start; before, what the host remembered counts
	Since    time.Time         // when the store was heard last; zero: never
	Err      error             // why it is not heard; nil while it is
	Count    int               // overrides that are known
	Pending  int               // of these, those that wait to be written to the store
	Problems map[string]string // keys that are ignored, and why
}

// NewSource returns a Source that knows what is in StateDir. An error says that there is something
// that cannot be used: nothing was changed there.
func NewSource(cfg SourceConfig) (*Source, error) {
	cfg.Prefix = cmp.Or(kv.Clean(cfg.Prefix), registry.DefaultPrefix)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{
		cfg: cfg, directory: Directory(cfg.Prefix), wake: make(chan struct{}, 1),
		problems: map[string]string{}, changed: make(chan struct{}),
	}
	s.mirror = mirror.New(mirror.Config{Source: cfg.Store, Prefix: s.directory, Log: cfg.Log, Apply: func(kvclient.Changes) { s.read() }})
	var err error
	s.known, s.wishes, s.saved, err = load(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Run keeps up with the store and writes what was Set here, until ctx ends. It returns an error only
// when the store is closed.
func (s *Source) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { s.write(ctx) })
	defer group.Wait()
	defer cancel()
	return s.mirror.Run(ctx)
}

// Get returns what is wanted of one instance, the zero Override if nothing is.
func (s *Source) Get(service, instance string) Override {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := name{service, instance}
	if w, ok := s.wishes[n]; ok {
		return w.Override
	}
	return s.known[n]
}

// Changed returns a channel that is closed when a Get may have another answer, or the store has what was
// Set. Take it before asking.
func (s *Source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Set wants something of one instance, from now on and over restarts: it returns when StateDir has
// it, or that has failed, in which case it counts all the same, as long as the process lives. At is
// set to now if it is zero. Errors by Kind: Invalid, TooLarge if too many wait for the store.
func (s *Source) Set(service, instance string, o Override) error {
	if err := errors.Join(ValidateNames(service, instance), o.Validate()); err != nil {
		return &kv.Error{Op: "override", Kind: kv.Invalid, Err: err}
	}
	if o.At.IsZero() {
		o.At = time.Now()
	}
	o.At = o.At.UTC().Truncate(time.Second)
	var over kv.Index
	if node, ok := s.mirror.Get(Key(s.cfg.Prefix, service, instance)); ok {
		over = node.ModifiedIndex
	}
	s.mu.Lock()
	if len(s.wishes) >= wishesMax {
		s.mu.Unlock()
		return &kv.Error{Op: "override", Kind: kv.TooLarge, Cause: fmt.Sprintf("%d overrides wait for the store already", wishesMax)}
	}
	s.wishes[name{service, instance}] = wish{Override: o, over: over}
	s.stir()
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return s.save()
}

// AwaitStore returns when what was last Set of one instance is in the store, or something that was wanted
// later; at once if nothing waits. An error is that of ctx.
func (s *Source) AwaitStore(ctx context.Context, service, instance string) error {
	for {
		s.mu.Lock()
		w, waits := s.wishes[name{service, instance}]
		changed := s.changed
		s.mu.Unlock()
		if !waits || w.index != 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Status says how the Source fares. Its map is the caller's.
func (s *Source) Status() Status {
	state := s.mirror.State()
	s.mu.Lock()
	defer s.mu.Unlock()
	status := Status{IsRead: s.isRead, Since: state.Since, Err: state.Err, Count: len(s.known), Problems: maps.Clone(s.problems)}
	for n, w := range s.wishes {
		if w.index == 0 {
			status.Pending++
		}
		if _, ok := s.known[n]; !ok {
			status.Count++
		}
	}
	return status
}

// stir wakes those who wait for another answer. It is called with mu held.
func (s *Source) stir() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// read takes over what the mirror has.
func (s *Source) read() {
	index := s.mirror.State().Index
	known, problems := map[name]Override{}, map[string]string{}
	ignore := func(key string, reason string) {
		if len(problems) < problemsMax {
			problems[key] = reason
		}
	}
	s.mirror.Ascend(s.directory, func(node *kv.Node) bool {
		n, ok := namesOf(s.directory, node.Key)
		o, err := Decode(node.Value)
		switch {
		case !ok:
			ignore(node.Key, "this is no place for an override: it must be SERVICE/INSTANCE")
		case err != nil:
			ignore(node.Key, err.Error())
		case len(known) == overridesMax:
			ignore(node.Key, fmt.Sprintf("there are more than %d overrides", overridesMax))
		case !o.IsZero():
			known[n] = o
		}
		return true
	})
	s.mu.Lock()
	before, isReplaced := s.problems, index < s.index // a store that counts anew knows nothing of what was written
	s.known, s.problems, s.index, s.isRead = known, problems, index, true
	for n, w := range s.wishes {
		if s.isKnown(n, w) || isReplaced && w.index != 0 {
			delete(s.wishes, n)
		}
	}
	s.stir()
	s.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(problems)) {
		if before[key] != problems[key] {
			s.cfg.Log.Warn("override ignored", "key", fmt.Sprintf("%.300q", key), "reason", fmt.Sprintf("%.300s", problems[key]))
		}
	}
	if err := s.save(); err != nil {
		s.cfg.Log.Warn("overrides cannot be remembered", "reason", err)
	}
}

// isKnown reports whether what is known reflects what became of a wish. It is called with mu held.
func (s *Source) isKnown(n name, w wish) bool {
	_, isThere := s.known[n]
	return s.isRead && w.index != 0 && (w.index <= s.index || w.IsZero() && !isThere)
}

// write brings wishes to the store until ctx ends.
func (s *Source) write(ctx context.Context) {
	retry := backoff.Backoff{Min: retryMin, Max: retryMax}
	told := ""
	for {
		var again <-chan time.Time
		err := s.writeAll(ctx)
		if told = s.complain(err, told); err == nil {
			retry.Reset()
		} else {
			again = time.After(retry.Next())
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-again:
		}
	}
}

// writeAll writes all wishes that are to be written and returns the last error.
func (s *Source) writeAll(ctx context.Context) (failure error) {
	s.mu.Lock()
	wishes := maps.Clone(s.wishes)
	s.mu.Unlock()
	for n, w := range wishes {
		if w.index != 0 {
			continue
		}
		index, err := s.writeOne(ctx, n, w)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			s.written(n, w, index)
		case kv.Temporary(err): // the others would wait for the same
			return err
		default:
			failure = err
		}
	}
	return failure
}

// complain logs why a wish cannot be written, once for each reason.
func (s *Source) complain(err error, told string) string {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != told {
		s.cfg.Log.Warn("an override waits to be written to the store; it counts on this host", "reason", err)
	}
	return text
}

// written notes that the store has a wish, or what was wanted later, since index.
func (s *Source) written(n name, w wish, index kv.Index) {
	s.mu.Lock()
	if s.wishes[n] != w { // somebody wants something else by now
		s.mu.Unlock()
		return
	}
	w.index = index
	s.wishes[n] = w
	if s.isKnown(n, w) {
		delete(s.wishes, n)
	}
	s.stir()
	s.mu.Unlock()
	s.cfg.Log.Info("override settled with the store", "service", n.service, "instance", n.instance, "mode", w.Mode, "by", w.By, "reason", w.Reason)
	if err := s.save(); err != nil {
		s.cfg.Log.Warn("overrides cannot be remembered", "reason", err)
	}
}

// conflictsMax bounds how often a write starts over because the key keeps changing.
const conflictsMax = 5

// writeOne brings a wish to its key, unless what is there was wanted later. It returns an index since
// when the store has one of the two.
func (s *Source) writeOne(ctx context.Context, n name, wanted wish) (kv.Index, error) {
	o := wanted.Override
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	key := Key(s.cfg.Prefix, n.service, n.instance)
	for range conflictsMax {
		found, err := s.cfg.Store.Read(ctx, kv.Read{Key: key, Quorum: true})
		var missing *kv.Error
		isMissing := errors.As(err, &missing) && missing.Kind == kv.NotFound
		if err != nil && !isMissing {
			return 0, err
		}
		if isMissing && o.IsZero() {
			return missing.Index, nil
		}
		w := kv.Write{Op: kv.OpCreate, Key: key, Value: o.encode()}
		if !isMissing {
			there, err := Decode(found.Node.Value)
			isLater := found.Node.ModifiedIndex > wanted.over && there.At.After(o.At)
			if err == nil && (isLater || there == o) {
				return found.Node.ModifiedIndex, nil
			}
			w.Op, w.PrevIndex = kv.OpCompareAndSwap, found.Node.ModifiedIndex
			if o.IsZero() {
				w.Op, w.Value = kv.OpCompareAndDelete, ""
			}
		}
		result, err := s.cfg.Store.Write(ctx, w)
		if kv.Is(err, kv.NotFound) || kv.Is(err, kv.CompareFailed) || kv.Is(err, kv.Exists) {
			continue
		}
		return result.Index, err
	}
	return 0, &kv.Error{Op: "override", Key: key, Kind: kv.Timeout, Cause: "the key keeps changing"}
}
