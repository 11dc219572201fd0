package keys

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// How long a source waits before it tries again after a failure.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
	awayMax  = 250 * time.Millisecond // if the store is not there: asking costs nobody anything
)

// deniedRetry is how long keys that may not be read are left alone before they are asked for again.
const deniedRetry = time.Minute

// manyKeys is how many keys at once leave so much memory behind that it is worth being given back.
const manyKeys = 10_000

// followed is a kv.Store as a source.
type followed struct {
	store    kv.Store
	close    func() // nil: the store is not this source's
	watch    bool
	interval time.Duration
	log      *slog.Logger

	directories bool // it has them: an empty one is there

	// What the log was told last, and not taken back. They belong to the goroutine of Run, of which there is one at a time.
	toldWhy    error // why the store cannot be followed
	toldDenied error // why some keys are not read
}

func (f *followed) Close() {
	if f.close != nil {
		f.close()
	}
}

func (f *followed) Load(ctx context.Context, m *Mirror, roots []string) error {
	if len(roots) == 0 {
		return nil
	}
	g := f.newFollowing(m, roots)
	r, err := g.read(ctx)
	if err != nil {
		return err
	}
	g.replace(r)
	return errors.Join(r.denied, g.over)
}

func (f *followed) Absent(ctx context.Context, keys []string, at kv.Index) (absent []string, err error) {
	if !f.directories {
		return nil, nil
	}
	for _, key := range keys {
		found, err := f.store.Read(ctx, kv.Read{Key: key, Quorum: true})
		switch {
		case kv.Is(err, kv.NotFound), err == nil && found.Node.CreatedIndex > at:
			absent = append(absent, key)
		case err != nil:
			return nil, err
		}
	}
	return absent, nil
}

func (f *followed) Run(ctx context.Context, m *Mirror, roots []string, _ <-chan struct{}) {
	if len(roots) == 0 {
		<-ctx.Done()
		return
	}
	g := f.newFollowing(m, roots)
	retry, away := backoff.Backoff{Min: retryMin, Max: retryMax}, backoff.Backoff{Max: awayMax}
	var historyGone bool // since the last good round
	for ctx.Err() == nil {
		began := time.Now()
		read, err := g.round(ctx)
		// A store that can be listed and not watched must not be listed over and over.
		if err == nil || time.Since(began) >= retryMax {
			retry.Reset()
			away.Reset()
			historyGone = false
		}
		switch {
		case err == nil || ctx.Err() != nil:
			continue
		case kv.Is(err, kv.HistoryGone) && !historyGone: // no trouble: the next round reads everything
			historyGone = true
			f.log.Debug("everything is read again", "reason", err)
		default:
			g.troubled(err)
		}
		if kind := kv.KindOf(err); !read && (kind == kv.Unavailable || kind == kv.NoLeader) {
			away.Wait(ctx)
		} else {
			retry.Wait(ctx)
		}
	}
}

// following is one mirror that is kept equal to a store. It belongs to one goroutine, except contact.
type following struct {
	*followed
	mirror *Mirror
	roots  []string // as many as the store can be asked for at once
	over   error    // why not all keys that are wanted are at or below roots

	mu     sync.Mutex // guards the fields below for contact
	watch  kv.Watch   // nil while there is none
	heard  time.Time  // without a watch: when the store was heard last
	why    error      // why it is not heard any more
	denied error      // why some of the keys are not read
}

func (f *followed) newFollowing(m *Mirror, roots []string) *following {
	before := m.Status()
	g := &following{followed: f, mirror: m, roots: roots, heard: before.Heard, why: before.Err} // until something is heard
	if over := len(roots) - rootsMax; over > 0 && m.naming == Segments {
		g.roots = roots[:rootsMax]
		g.over = fmt.Errorf("%d of the keys that resources name are not followed, %s and those after it: each lies in a hidden directory of its own, and a store is asked for %d at once; "+
			"name keys that are not hidden, or give some of the resources a [backend] of their own", over, roots[rootsMax], rootsMax)
	}
	var bytes func() uint64
	if counts, ok := f.store.(interface{ BytesRead() uint64 }); ok {
		bytes = counts.BytesRead
	}
	m.report(g.contact, bytes)
	return g
}

// contact returns when the store was heard last, and why it is not heard any more or not of all keys.
func (g *following) contact() (time.Time, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.watch == nil {
		return g.heard, errors.Join(g.why, g.denied)
	}
	heard, why := time.Now(), error(nil)
	if w, ok := g.watch.(interface{ Contact() (time.Time, error) }); ok {
		heard, why = w.Contact()
	}
	return heard, errors.Join(why, g.denied)
}

// hear notes that the store has answered, and by what watch it is heard from now on.
func (g *following) hear(watch kv.Watch) {
	g.mu.Lock()
	g.watch, g.heard, g.why = watch, time.Now(), nil
	g.mu.Unlock()
	if g.toldWhy != nil {
		g.log.Info("reading the store again")
	}
	g.toldWhy = nil
}

// silent notes that the watch is over, and when it was heard last.
func (g *following) silent() {
	heard, _ := g.contact()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watch, g.heard = nil, heard
}

// troubled notes why the store cannot be followed. One line tells of the trouble, another of its end.
func (g *following) troubled(reason error) {
	g.mu.Lock()
	g.why = reason
	g.mu.Unlock()
	was := g.toldWhy
	if g.toldWhy = reason; was == nil {
		g.log.Warn("cannot follow the store; files stay as they are until it answers", "reason", reason)
	} else {
		g.log.Debug("the store cannot be followed yet", "reason", reason)
	}
}

// refused notes why some keys are not read, nil if all are.
func (g *following) refused(denied error) {
	g.mu.Lock()
	g.denied = denied
	g.mu.Unlock()
	was := g.toldDenied
	g.toldDenied = denied
	switch {
	case denied != nil && (was == nil || was.Error() != denied.Error()):
		g.log.Error("some keys may not be read; files made of them stay as they are, the others go on", "reason", denied)
	case denied == nil && was != nil:
		g.log.Info("all keys may be read now")
	}
}

// reading is everything at and below some keys, at one index.
type reading struct {
	roots  []string
	from   Origin
	seen   []kv.Index // of kv.Result
	pairs  map[string]string
	denied error // why not all that were to be read are among roots
}

// read reads all roots. Those that may not be read do not stop the others.
func (g *following) read(ctx context.Context) (reading, error) {
	r, err := g.readThese(ctx, g.roots)
	if kvclient.Refused(err) && len(g.roots) > 1 {
		return g.readPermitted(ctx)
	}
	return r, err
}

// readPermitted reads the roots that may be read; all of them together may not.
func (g *following) readPermitted(ctx context.Context) (reading, error) {
	var permitted []string
	var denied []error
	for _, root := range g.roots {
		_, err := g.readThese(ctx, []string{root})
		switch {
		case kv.Is(err, kv.Denied):
			denied = append(denied, err)
		case err != nil:
			return reading{}, err
		default:
			permitted = append(permitted, root)
		}
	}
	if len(permitted) == 0 {
		return reading{}, ofAll(denied[0], g.roots)
	}
	r, err := g.readThese(ctx, permitted)
	r.denied = errors.Join(denied...)
	return r, err
}

// rootsTold is how many keys an error names.
const rootsTold = 8

// ofAll returns err, which is about one of roots, as about all of them.
func ofAll(err error, roots []string) error {
	var e *kv.Error
	if !errors.As(err, &e) {
		return err
	}
	told := *e
	told.Key = strings.Join(roots[:min(len(roots), rootsTold)], " ")
	if more := len(roots) - rootsTold; more > 0 {
		told.Key += fmt.Sprintf(" and %d more", more)
	}
	return &told
}

func (g *following) readThese(ctx context.Context, roots []string) (reading, error) {
	result, err := g.store.Read(ctx, kv.Read{Key: kv.Common(roots), Recursive: true, Quorum: true, Only: roots})
	switch {
	case err != nil:
		return reading{}, err
	case result.Node == nil || !result.Node.Dir:
		return reading{}, fmt.Errorf("cannot read %s: the answer is no directory", strings.Join(roots, " "))
	case result.Index == 0:
		return reading{}, fmt.Errorf("cannot read %s: the answer does not say at which index the store is", strings.Join(roots, " "))
	}
	r := reading{roots: roots, from: Origin{result.Cluster, result.Index}, seen: result.Seen, pairs: map[string]string{}}
	flatten(result.Node, r.pairs)
	return r, nil
}

// replace makes the mirror what was read.
func (g *following) replace(r reading) {
	if g.mirror.Replace(r.roots, r.from, r.pairs) {
		g.log.Warn("the store was replaced by another one: everything was read again", "cluster", r.from.Cluster, "index", r.from.Index)
	}
	g.refused(errors.Join(r.denied, g.over))
}

// round reads everything at index i and watches from i+1, or reads only, until it is time to begin anew; then the
// error is nil. After an error too everything has to be read again. It never watches from "now", so that it
// skips no change. read says that everything was read at least.
func (g *following) round(ctx context.Context) (read bool, err error) {
	r, err := g.read(ctx)
	if err != nil {
		return false, err
	}
	g.replace(r)
	many := len(r.pairs) > manyKeys
	if r.pairs = nil; many {
		debug.FreeOSMemory() // what reading has taken is not needed again for long
	}
	if r.denied != nil {
		short, cancel := context.WithTimeout(ctx, deniedRetry)
		defer cancel()
		ctx = short
	}
	if !g.followed.watch {
		g.hear(nil)
		rest, cancel := context.WithTimeout(ctx, g.interval)
		defer cancel()
		<-rest.Done()
		return true, nil
	}
	return true, g.follow(ctx, r)
}

// follow applies what happens after r until ctx ends, and compares with a fresh read at every interval.
func (g *following) follow(ctx context.Context, r reading) error {
	watch, err := g.store.Watch(ctx, kv.WatchFrom{Key: kv.Common(r.roots), Recursive: true, Index: r.from.Index + 1, Only: r.roots, Seen: r.seen})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	events, failed := make(chan []kv.Event), make(chan error, 1)
	var running sync.WaitGroup
	defer func() {
		g.silent()
		cancel()
		watch.Close()
		running.Wait()
	}()
	g.hear(watch)
	running.Go(func() { failed <- pass(ctx, watch, events) })
	compare := time.NewTicker(g.interval)
	defer compare.Stop()
	var again reconciliation
	level := slog.LevelWarn // of a comparison that fails: one line tells of it
	for {
		select {
		case happened := <-events:
			fresh := slices.DeleteFunc(happened, func(event kv.Event) bool { return again.knows(event, g.mirror.naming) })
			g.mirror.Apply(fresh...)
			again.note(fresh)
		case <-compare.C:
			if again.result == nil {
				again.parts = slices.Collect(slices.Chunk(r.roots, max(1, len(r.roots)/comparedParts)))
				g.reread(ctx, &again, &running)
			}
		case result := <-again.result:
			merged, err := again.merge(result, g.mirror.naming)
			switch {
			case err == nil:
				level = slog.LevelWarn
				g.mirror.Renew(merged.roots, merged.from, merged.pairs)
				again.known = merged.from.Index
			case errors.Is(err, errNotAtOnce):
				again.parts = append(slices.Collect(slices.Chunk(result.roots, 1)), again.parts...)
			case kv.Temporary(err) && ctx.Err() == nil:
				g.log.Log(ctx, level, "everything was to be read again, to compare it with what is known; it is tried again later", "reason", err)
				again, level = reconciliation{}, slog.LevelDebug
			default: // how things stand is found out by a new round
				return nil
			}
			if again.result = nil; len(again.parts) > 0 {
				g.reread(ctx, &again, &running)
			}
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// Everything is compared in parts, so that it is never there twice, and a while after a part was read: by then
// the watch has brought what was read, unless it never does.
const (
	comparedParts = 32
	settled       = 200 * time.Millisecond
)

// reconciliation is a fresh read of everything, part by part, beside a watch that goes on.
type reconciliation struct {
	parts  [][]string    // that are still to be read
	part   []string      // that is being read, or was read last
	result <-chan reread // of part; nil: it is not being read
	from   Origin        // of the mirror, when the reading of part began
	later  []kv.Event    // since then
	known  kv.Index      // the mirror has all events about part up to it from a read; 0: of none
}

type reread struct {
	reading
	err error
}

// errNotAtOnce says that a store has read several keys at several indices.
var errNotAtOnce = errors.New("the keys were not read at one index")

// reread begins to read the next part. running counts the goroutine.
func (g *following) reread(ctx context.Context, r *reconciliation, running *sync.WaitGroup) {
	result := make(chan reread, 1)
	*r = reconciliation{parts: r.parts[1:], part: r.parts[0], result: result, from: g.mirror.View().from}
	part := r.part
	running.Go(func() {
		read, err := g.readThese(ctx, part)
		timer := time.NewTimer(settled)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		result <- reread{read, err}
	})
}

// knows reports whether what event tells has been read.
func (r *reconciliation) knows(event kv.Event, naming Naming) bool {
	return event.Node.ModifiedIndex <= r.known && naming.covers(r.part, event.Node.Key)
}

// note keeps events to be applied to what is being read. When there are too many the read is not waited for.
func (r *reconciliation) note(events []kv.Event) {
	if r.result == nil {
		return
	}
	if r.later = append(r.later, events...); len(r.later) > changesMax {
		*r = reconciliation{}
	}
}

// merge returns what was read with the events that came later: several may be of one index, and those about several
// keys need not come in its order.
func (r *reconciliation) merge(result reread, naming Naming) (reading, error) {
	switch {
	case result.err != nil:
		return reading{}, result.err
	case result.seen != nil:
		return reading{}, errNotAtOnce
	case r.from.replacedBy(result.from):
		return reading{}, errors.New("another store has answered")
	}
	merged := result.reading
	for _, event := range r.later {
		if event.Node.ModifiedIndex > merged.from.Index {
			fold(merged.pairs, event, naming.covers(merged.roots, event.Node.Key))
		}
	}
	return merged, nil
}

// fold brings one event into pairs; wanted says whether its key is one of those that are kept there.
func fold(pairs map[string]string, event kv.Event, wanted bool) {
	key := event.Node.Key
	switch {
	case event.Removes():
		maps.DeleteFunc(pairs, func(at, _ string) bool { return at == key || event.Node.Dir && kv.Below(at, key) })
	case event.Node.Dir:
		delete(pairs, key)
	case wanted:
		pairs[key] = event.Node.Value
	}
}

// pass passes on what watch brings, what belongs together at once, until it fails or ctx ends.
func pass(ctx context.Context, watch kv.Watch, events chan<- []kv.Event) error {
	together, ok := watch.(interface {
		Together(context.Context) ([]kv.Event, error)
	})
	for {
		var happened []kv.Event
		var err error
		if ok {
			happened, err = together.Together(ctx)
		} else {
			happened = make([]kv.Event, 1)
			happened[0], err = watch.Next(ctx)
		}
		if err != nil {
			return err
		}
		select {
		case events <- happened:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flatten collects the values at and below node.
func flatten(node *kv.Node, pairs map[string]string) {
	if !node.Dir {
		pairs[node.Key] = node.Value
		return
	}
	for _, child := range node.Nodes {
		flatten(child, pairs)
	}
}
