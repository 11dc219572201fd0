package kvclient

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// A read or watch of several keys is one request of their lowest common directory, which names them. A kvd
// narrows its answer to them, at one index and in one order, and says so.
//
// An etcd does not know the names. Its answer to a read is given up at its headers, and each key is read
// by itself; from what the directory's watch brings, what is not about the keys is left out, and what they
// already were when they were read. What is hidden from the directory has a watch of its own.

// errPlain says that a server has not narrowed its answer.
var errPlain = errors.New("the answer is not narrowed")

// plain reports whether an answer to a narrowed request is not.
func plain(r etcdv2.Request, status int, header http.Header) bool {
	return r.Query.Has(etcdv2.ParamOnly) && status == http.StatusOK && !isNarrowed(header)
}

// isNarrowed reports whether an answer is only about the keys that were named.
func isNarrowed(header http.Header) bool { return header.Get(etcdv2.HeaderOnly) != "" }

// readOnly is Read of several keys.
func (c *Client) readOnly(ctx context.Context, r kv.Read) (result kv.Result, err error) {
	if r.Only, err = kv.Only(r.Key, r.Only); err != nil {
		return kv.Result{}, err
	}
	directory := kv.Clean(r.Key)
	if r.Key = kv.Common(r.Only); !c.plain.Load() {
		err = c.exchange(ctx, etcdv2.ReadRequest(r), true, func(a *answer) (err error) {
			c.observe(a.position())
			if a.status == http.StatusOK && !isNarrowed(a.header) {
				return errPlain
			}
			result, err = a.result(false)
			return err
		})
	}
	switch {
	case errors.Is(err, errPlain):
		c.plain.Store(true)
	case kv.Is(err, kv.NotFound), kv.Is(err, kv.NotDir): // no kvd says so of several keys
	case err != nil:
		return kv.Result{}, about(err, "get", nameOf(directory))
	}
	if result.Node == nil {
		if result, err = c.readEach(ctx, r); err != nil {
			return kv.Result{}, err
		}
	}
	result.Node.Key = directory
	return result, nil
}

// readEach reads the keys of r one after the other, what is below another one first: so a directory was
// never read before what is hidden in it.
func (c *Client) readEach(ctx context.Context, r kv.Read) (kv.Result, error) {
	result := kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: &kv.Node{Dir: true}}, Seen: make([]kv.Index, len(r.Only))}
	for i := len(r.Only) - 1; i >= 0; i-- {
		one, err := c.keys(ctx, "get", r.Only[i], etcdv2.ReadRequest(kv.Read{Key: r.Only[i], Recursive: true, Sorted: true, Quorum: r.Quorum}), true, false)
		var missing *kv.Error
		if errors.As(err, &missing) && (missing.Kind == kv.NotFound || missing.Kind == kv.NotDir) {
			one.Index, one.Cluster = missing.Index, missing.Cluster
		} else if err != nil {
			return kv.Result{}, err
		} else {
			result.Node.Nodes = append(result.Node.Nodes, one.Node)
		}
		if one.Index == 0 {
			return kv.Result{}, &kv.Error{Op: "get", Key: nameOf(r.Only[i]), Kind: kv.Unknown, Cause: "the answer does not say at which index the store is"}
		}
		if result.Cluster != "" && one.Cluster != result.Cluster {
			return kv.Result{}, &kv.Error{Op: "get", Key: nameOf(r.Only[i]), Kind: kv.Unavailable, Cause: "the store was replaced by another one while it was read; try again"}
		}
		result.Seen[i], result.Cluster = one.Index, one.Cluster
	}
	slices.Reverse(result.Node.Nodes)
	result.Index = slices.Min(result.Seen)
	if result.Index == slices.Max(result.Seen) {
		result.Seen = nil
	}
	return result, nil
}

// watchOnly is Watch of several keys.
func (c *Client) watchOnly(ctx context.Context, from kv.WatchFrom) (kv.Watch, error) {
	only, err := kv.Only(from.Key, from.Only)
	if err != nil {
		return nil, err
	}
	if from.Seen != nil && len(from.Seen) != len(only) {
		return nil, &kv.Error{Op: "watch", Key: nameOf(from.Key), Kind: kv.Invalid, Cause: "what was seen is not of these keys"}
	}
	from.Key, from.Only, from.Recursive = kv.Common(only), only, true
	all := from
	var apart []string // keys that have watches of their own
	if c.plain.Load() {
		from, apart = without(from, func(key string) bool { return kv.HiddenBelow(key, from.Key) })
	}
	var watches []*watch
	if len(from.Only) > 0 {
		w, err := c.beginOnly(ctx, from)
		switch {
		case kv.Is(err, kv.Denied) && c.plain.Load(): // the directory may not be watched, each key perhaps may
			apart = only
		case err != nil:
			return nil, err
		case !w.narrowed && len(apart) == 0 && slices.ContainsFunc(only, func(key string) bool { return kv.HiddenBelow(key, from.Key) }):
			w.Close() // only now is it known that they are not seen
			return c.watchOnly(ctx, from)
		default:
			watches = append(watches, w)
		}
	}
	if len(apart) == 0 {
		return watches[0], nil
	}
	return c.watchApart(ctx, watches, all, apart)
}

// without returns from without the keys that are apart, and those.
func without(from kv.WatchFrom, isApart func(key string) bool) (kv.WatchFrom, []string) {
	var only, apart []string
	var seen []kv.Index
	for i, key := range from.Only {
		if isApart(key) {
			apart = append(apart, key)
			continue
		}
		only = append(only, key)
		if from.Seen != nil {
			seen = append(seen, from.Seen[i])
		}
	}
	from.Only = only
	if from.Seen != nil {
		from.Seen = seen
	}
	return from, apart
}

func (c *Client) beginOnly(ctx context.Context, from kv.WatchFrom) (*watch, error) {
	w, err := c.newWatch(from)
	if err == nil {
		_, err = w.begin(ctx)
	}
	if err != nil {
		return nil, about(err, "watch", nameOf(from.Key))
	}
	return w, nil
}

// unseen returns what event brings beyond what was read: itself, nothing, or, if it removes keys of which some were
// read after it, the removal of the others.
func unseen(event kv.Event, from kv.WatchFrom) (events []kv.Event) {
	index, key := event.Node.ModifiedIndex, event.Node.Key
	for i, only := range from.Only {
		if index <= from.Seen[i] {
			continue
		}
		if key == only || kv.Below(key, only) && !kv.HiddenBelow(key, only) {
			return []kv.Event{event}
		}
		if event.Removes() && kv.Below(only, key) {
			events = append(events, kv.Event{Action: event.Action, Node: &kv.Node{
				Key: only, Dir: event.Node.Dir, ModifiedIndex: index, CreatedIndex: event.Node.CreatedIndex,
			}})
		}
	}
	return events
}

// several is one watch made of several: in the order in which these bring their events.
type several struct {
	watches []*watch
	keys    []string        // of each watch, "" for one of many
	ctx     context.Context // ends with Close
	end     context.CancelFunc
	brought chan brought
	running sync.WaitGroup

	// These belong to the goroutine of Next.
	latest []kv.Index // of the events of each watch
	err    error      // why no more comes
}

// brought is what a watch has brought.
type brought struct {
	by    int
	event kv.Event
	err   error
}

// watchApart returns a watch made of watches and of one for each of those keys of from that are apart. After an error
// it has closed watches.
func (c *Client) watchApart(ctx context.Context, watches []*watch, from kv.WatchFrom, apart []string) (kv.Watch, error) {
	s := &several{watches: watches, keys: make([]string, len(watches), len(watches)+len(apart)), brought: make(chan brought)}
	if from.Index == 0 && len(watches) > 0 {
		from.Index = watches[0].Index() + 1
	}
	s.ctx, s.end = context.WithCancel(c.lifetime)
	for _, key := range apart {
		index := from.Index
		if from.Seen != nil {
			index = max(index, from.Seen[slices.Index(from.Only, key)]+1)
		}
		w, err := c.beginOnly(ctx, kv.WatchFrom{Key: key, Recursive: true, Index: index})
		if err != nil {
			s.Close()
			return nil, err
		}
		s.watches, s.keys = append(s.watches, w), append(s.keys, key)
		if from.Index == 0 {
			from.Index = w.Index() + 1
		}
	}
	s.latest = make([]kv.Index, len(s.watches))
	for i, w := range s.watches {
		s.running.Go(func() {
			for {
				event, err := w.Next(s.ctx)
				select {
				case s.brought <- brought{i, event, err}:
				case <-s.ctx.Done():
					return
				}
				if err != nil {
					return
				}
			}
		})
	}
	return s, nil
}

// Index returns the store's index when the first of the watches was registered.
func (s *several) Index() kv.Index { return s.watches[0].Index() }

// Close ends the watches and waits for them.
func (s *several) Close() {
	s.end()
	for _, w := range s.watches {
		w.Close()
	}
	s.running.Wait()
}

// Contact returns when the one that has been silent for longest was heard.
func (s *several) Contact() (heard time.Time, why error) {
	heard = time.Now()
	for _, w := range s.watches {
		if at, reason := w.Contact(); reason != nil && at.Before(heard) {
			heard, why = at, reason
		}
	}
	return heard, why
}

// Next returns the next event of any of the watches. If a directory was removed and what comes later of a key in it
// was brought before, that is HistoryGone: who reads everything again is right.
func (s *several) Next(ctx context.Context) (kv.Event, error) {
	if s.err != nil {
		return kv.Event{}, s.err
	}
	select {
	case b := <-s.brought:
		switch {
		case b.err != nil:
			s.err = b.err
		case s.late(b):
			s.err = &kv.Error{Op: "watch", Key: nameOf(b.event.Node.Key), Kind: kv.HistoryGone, Index: b.event.Node.ModifiedIndex, Cause: "the removal of a directory came late"}
		default:
			s.latest[b.by] = b.event.Node.ModifiedIndex
			return s.own(b), nil
		}
		return kv.Event{}, s.err
	case <-s.ctx.Done():
		return kv.Event{}, &kv.Error{Op: "watch", Kind: kv.Closed}
	case <-ctx.Done():
		return kv.Event{}, &kv.Error{Op: "watch", Kind: kv.Timeout, Err: ctx.Err()}
	}
}

// own returns the event of b as far as it is about the key of its watch: that a directory above was removed is for
// each watch to say.
func (s *several) own(b brought) kv.Event {
	key, event := s.keys[b.by], b.event
	if key == "" || !event.Removes() || !kv.Below(key, event.Node.Key) {
		return event
	}
	node := *event.Node
	node.Key = key
	return kv.Event{Action: event.Action, Node: &node}
}

// late reports whether b removes a key of which another watch has brought later events.
func (s *several) late(b brought) bool {
	if !b.event.Removes() {
		return false
	}
	for i, key := range s.keys {
		if i != b.by && key != "" && kv.Below(key, b.event.Node.Key) && s.latest[i] > b.event.Node.ModifiedIndex {
			return true
		}
	}
	return false
}
