package keys

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

// How long a source waits before it tries again after a failure.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
)

// followed is a kv.Store as a source.
type followed struct {
	store    kv.Store
	close    func() // nil: the store is not this source's
	watch    bool
	interval time.Duration
	log      *slog.Logger
}

func (f *followed) Close() {
	if f.close != nil {
		f.close()
	}
}

func (f *followed) Load(ctx context.Context, m *Mirror, roots []string) error {
	return f.newFollowing(m, roots).load(ctx)
}

func (f *followed) Run(ctx context.Context, m *Mirror, roots []string, _ <-chan struct{}) {
	g := f.newFollowing(m, roots)
	retry := backoff.Backoff{Min: retryMin, Max: retryMax}
	var historyGone bool // since the last good round
	for ctx.Err() == nil {
		began := time.Now()
		err := g.round(ctx)
		// A store that can be listed and not watched must not be listed over and over.
		if err == nil || time.Since(began) >= retryMax {
			retry.Reset()
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
		retry.Wait(ctx)
	}
}

// following is one mirror that is kept equal to a store. It belongs to one goroutine, except contact.
type following struct {
	*followed
	mirror *Mirror
	roots  []string

	mu    sync.Mutex // guards the fields below for contact
	watch kv.Watch   // nil while there is none
	heard time.Time  // without a watch: when the store was heard last
	why   error      // why it is not heard any more
}

func (f *followed) newFollowing(m *Mirror, roots []string) *following {
	g := &following{followed: f, mirror: m, roots: roots}
	var bytes func() uint64
	if counts, ok := f.store.(interface{ BytesRead() uint64 }); ok {
		bytes = counts.BytesRead
	}
	m.report(g.contact, bytes)
	return g
}

// contact returns when the store was heard last, and why it is not heard any more.
func (g *following) contact() (time.Time, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.watch == nil {
		return g.heard, g.why
	}
	if w, ok := g.watch.(interface{ Contact() (time.Time, error) }); ok {
		return w.Contact()
	}
	return time.Now(), nil
}

// hear notes that the store has answered, and by what watch it is heard from now on.
func (g *following) hear(watch kv.Watch) {
	g.mu.Lock()
	was := g.why
	g.watch, g.heard, g.why = watch, time.Now(), nil
	g.mu.Unlock()
	if was != nil {
		g.log.Info("reading the store again")
	}
}

// troubled notes why the store cannot be followed. One line tells of the trouble, another of its end.
func (g *following) troubled(reason error) {
	g.mu.Lock()
	was := g.why
	g.why = reason
	g.mu.Unlock()
	if was == nil {
		g.log.Warn("cannot follow the store; files stay as they are until it answers", "reason", reason)
	} else {
		g.log.Debug("the store cannot be followed yet", "reason", reason)
	}
}

// load reads all roots into the mirror.
func (g *following) load(ctx context.Context) error {
	pairs := map[string]string{}
	var from Origin
	for i, root := range g.roots {
		at, err := g.list(ctx, root, pairs)
		switch {
		case err != nil:
			return err
		case i > 0 && from.Cluster != at.Cluster && from.Cluster != "" && at.Cluster != "":
			return errors.New("the store was replaced by another one while it was read; try again")
		case i == 0 || at.Index < from.Index:
			from = at
		}
	}
	if g.mirror.Replace(g.roots, from, pairs) {
		g.log.Warn("the store was replaced by another one: everything was read again", "cluster", from.Cluster, "index", from.Index)
	}
	return nil
}

// list adds what is at and below root to pairs, and returns where that was read. A root that is absent is
// empty.
func (g *following) list(ctx context.Context, root string, pairs map[string]string) (Origin, error) {
	result, err := g.store.Read(ctx, kv.Read{Key: root, Recursive: true, Quorum: true})
	from := Origin{result.Cluster, result.Index}
	switch {
	case err == nil:
		flatten(result.Node, pairs)
	case kv.Is(err, kv.NotFound):
		from = originOf(err)
	default:
		return from, err
	}
	if from.Index == 0 {
		return from, fmt.Errorf("cannot read %s: the answer does not say at which index the store is", keyName(root))
	}
	return from, nil
}

// round reads everything at index i and watches from i+1, or reads only, until the interval is over; then it
// returns nil. After an error it is time to read again. It never watches from "now", so that it skips no
// change.
func (g *following) round(ctx context.Context) error {
	if err := g.load(ctx); err != nil {
		return err
	}
	timed, cancel := context.WithTimeout(ctx, g.interval)
	defer cancel()
	if !g.followed.watch {
		g.hear(nil)
		<-timed.Done()
		return nil
	}
	index := g.mirror.View().Index()
	events, failed := make(chan kv.Event), make(chan error, len(g.roots))
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer cancel()
	for _, root := range g.roots {
		watch, err := g.store.Watch(timed, kv.WatchFrom{Key: root, Recursive: true, Index: index + 1})
		if err != nil {
			return err
		}
		g.hear(watch)
		watchers.Go(func() {
			defer watch.Close()
			for {
				event, err := watch.Next(timed)
				if err != nil {
					failed <- err
					return
				}
				select {
				case events <- event:
				case <-timed.Done():
					return
				}
			}
		})
	}
	defer g.hear(nil)
	for {
		select {
		case event := <-events:
			g.mirror.Apply(event)
		case err := <-failed:
			if timed.Err() != nil {
				return nil
			}
			return err
		case <-timed.Done():
			return nil
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

// keyName is key as a person writes it.
func keyName(key string) string {
	if key == "" {
		return "/"
	}
	return key
}

// originOf returns where err says that it comes from.
func originOf(err error) Origin {
	var e *kv.Error
	if errors.As(err, &e) {
		return Origin{e.Cluster, e.Index}
	}
	return Origin{}
}
