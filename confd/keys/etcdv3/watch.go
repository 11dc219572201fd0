package etcdv3

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/pkg/kv"
)

// watch is the changes of several ranges, in one stream of one connection. The changes of each range are in order.
type watch struct {
	of      *Store
	index   kv.Index
	events  chan []kv.Event // what has happened at once
	pending []kv.Event      // of it, what Next has yet to return
	failed  chan error
	ctx     context.Context // ends with Close
	end     context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	heard time.Time
	why   error // why it was not heard since; nil if it is
}

// Watch watches everything at and below Only, or Key, from Index on, which must not be 0: who watches has read, and
// what had to be left out then is left out here. When it is read after all, the watch ends with HistoryGone.
// Whether a key has gone because its lease was over an etcd does not say: of a key with a lease it is
// taken to be so. Errors by Kind: HistoryGone, Denied, Unavailable, Timeout.
func (s *Store) Watch(ctx context.Context, from kv.WatchFrom) (kv.Watch, error) {
	if from.Index == 0 {
		return nil, &kv.Error{Op: "watch", Key: from.Key, Kind: kv.Invalid, Cause: "from no index"}
	}
	client, err := s.connected()
	if err != nil {
		return nil, s.failed("watch", from.Key, err)
	}
	w := &watch{of: s, events: make(chan []kv.Event), failed: make(chan error, 1), heard: time.Now()}
	w.ctx, w.end = context.WithCancel(clientv3.WithRequireLeader(context.Background()))
	first := make(chan clientv3.WatchResponse)
	wanted := s.watched(w, spans(roots(from.Key, from.Only)))
	for _, p := range wanted {
		changes := client.Watch(w.ctx, p.start(), p.options(clientv3.WithRev(int64(from.Index)), clientv3.WithPrevKV(), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())...)
		w.running.Go(func() { w.pass(p.root, changes, first) })
	}
	timer := time.NewTimer(s.timeout)
	defer timer.Stop()
	for range wanted {
		var err error
		select {
		case created := <-first:
			if w.index = kv.Index(created.Header.GetRevision()); created.Err() != nil {
				err = s.failed("watch", from.Key, reasonOf(created))
			}
		case err = <-w.failed:
		case <-timer.C:
			err = s.failed("watch", from.Key, context.DeadlineExceeded)
		case <-ctx.Done():
			err = &kv.Error{Op: "watch", Key: from.Key, Kind: kv.Timeout, Err: ctx.Err()}
		}
		if err != nil {
			w.Close()
			return nil, err
		}
	}
	w.running.Go(func() { w.listen(client) })
	return w, nil
}

// reasonOf says why a watch has ended: a compaction is one whatever else is said.
func reasonOf(r clientv3.WatchResponse) error {
	if r.CompactRevision != 0 {
		return rpctypes.ErrCompacted
	}
	return r.Err()
}

// pass passes on what changes brings about root.
func (w *watch) pass(root string, changes clientv3.WatchChan, first chan<- clientv3.WatchResponse) {
	created := false
	for answer := range changes {
		w.hear(nil)
		if !created {
			created = true
			select {
			case first <- answer:
			case <-w.ctx.Done():
				return
			}
		}
		if answer.Err() != nil {
			w.fail(w.of.failed("watch", root, reasonOf(answer)))
			return
		}
		var events []kv.Event
		for _, change := range answer.Events {
			event, err := eventOf(root, change)
			if err != nil {
				w.fail(err)
				return
			}
			if event.Node != nil {
				events = append(events, event)
			}
		}
		if len(events) == 0 {
			continue
		}
		select {
		case w.events <- events:
		case <-w.ctx.Done():
			return
		}
	}
	w.fail(&kv.Error{Op: "watch", Key: root, Kind: kv.Unavailable, Cause: "the watch has ended"})
}

// eventOf returns what a change is; without a node if it is not about root. What a key that is not spelled clean
// amounts to only a read of all tells: that is HistoryGone.
func eventOf(root string, change *clientv3.Event) (kv.Event, error) {
	key := string(change.Kv.Key)
	clean := kv.Clean(key)
	if !covers(root, clean) || key == "" || key[0] != '/' {
		return kv.Event{}, nil
	}
	if clean != key {
		return kv.Event{}, &kv.Error{Op: "watch", Key: key, Kind: kv.HistoryGone, Index: kv.Index(change.Kv.ModRevision), Cause: "a key with an unusual name has changed"}
	}
	event := kv.Event{Action: kv.ActionSet, Node: &kv.Node{
		Key: key, Value: string(change.Kv.Value), ModifiedIndex: kv.Index(change.Kv.ModRevision), CreatedIndex: kv.Index(change.Kv.CreateRevision),
	}}
	if change.Type == clientv3.EventTypeDelete {
		event.Action, event.Node.Value = kv.ActionDelete, ""
		if change.PrevKv != nil && change.PrevKv.Lease != 0 {
			event.Action = kv.ActionExpire
		}
	}
	return event, nil
}

func (w *watch) fail(err error) {
	select {
	case w.failed <- err:
	default:
	}
}

func (w *watch) hear(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why = why; why == nil {
		w.heard = time.Now()
	}
}

// listen asks the store for a sign of life every now and then: the client reconnects by itself and tells nobody.
func (w *watch) listen(client *clientv3.Client) {
	tick := time.NewTicker(pulse)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(w.ctx, w.of.timeout)
		_, err := client.Get(ctx, "/", clientv3.WithCountOnly())
		cancel()
		if err != nil {
			err = w.of.failed("get", "/", err)
		}
		if kv.Is(err, kv.Denied) { // an answer all the same
			err = nil
		}
		w.hear(err)
	}
}

// Contact returns when the store was heard last, and why it was not heard since.
func (w *watch) Contact() (time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why == nil {
		return time.Now(), nil
	}
	return w.heard, w.why
}

func (w *watch) Index() kv.Index { return w.index }

func (w *watch) Next(ctx context.Context) (event kv.Event, err error) {
	if len(w.pending) == 0 {
		if w.pending, err = w.Together(ctx); err != nil {
			return kv.Event{}, err
		}
	}
	event, w.pending = w.pending[0], w.pending[1:]
	return event, nil
}

// Together is Next for the next changes of one range that belong together, at least one: of a revision, which may be
// a transaction's, it brings all or none. A key itself and what is below it are two ranges: a transaction over both
// arrives in two parts.
func (w *watch) Together(ctx context.Context) ([]kv.Event, error) {
	select {
	case events := <-w.events:
		return events, nil
	case err := <-w.failed:
		w.fail(err)
		return nil, err
	case <-w.ctx.Done():
		return nil, &kv.Error{Op: "watch", Kind: kv.Closed, Err: errors.New("closed")}
	case <-ctx.Done():
		return nil, &kv.Error{Op: "watch", Kind: kv.Timeout, Err: ctx.Err()}
	}
}

func (w *watch) Close() {
	w.of.forget(w)
	w.end()
	w.running.Wait()
}
