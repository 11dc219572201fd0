package registry

import (
	"context"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// memStore is a flat store of keys with true conditions, TTLs and watches. It follows the clock
// of the test's bubble.
type memStore struct {
	mu      sync.Mutex
	index   kv.Index
	nodes   map[string]*kv.Node
	expires map[string]time.Time
	events  []kv.Event
	grown   chan struct{} // closed and replaced with every event
	writes  []stamped
	down    error // every call fails with it
	lose    int   // so many writes are applied but answered with Unknown
}

type stamped struct {
	kv.Write
	at time.Time
}

func newMemStore() *memStore {
	return &memStore{index: 1, nodes: map[string]*kv.Node{}, expires: map[string]time.Time{}, grown: make(chan struct{})}
}

func (s *memStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
}

func (s *memStore) emit(action kv.Action, node *kv.Node) {
	s.events = append(s.events, kv.Event{Action: action, Node: node})
	close(s.grown)
	s.grown = make(chan struct{})
}

func (s *memStore) expire() {
	now := time.Now()
	for key, at := range s.expires {
		if !now.Before(at) {
			s.remove(kv.ActionExpire, key)
		}
	}
}

func (s *memStore) remove(action kv.Action, key string) {
	delete(s.nodes, key)
	delete(s.expires, key)
	s.index++
	s.emit(action, &kv.Node{Key: key, ModifiedIndex: s.index})
}

func (s *memStore) Read(_ context.Context, r kv.Read) (kv.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return kv.Result{}, s.down
	}
	s.expire()
	node := s.nodes[r.Key]
	if node == nil {
		node = s.list(r.Key)
	}
	if node == nil {
		return kv.Result{}, &kv.Error{Key: r.Key, Kind: kv.NotFound, Index: s.index}
	}
	return kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: node}, Index: s.index}, nil
}

// list returns a directory two levels deep, nil if there is nothing below it.
func (s *memStore) list(key string) *kv.Node {
	services := map[string]*kv.Node{}
	dir := &kv.Node{Key: key, Dir: true}
	for path, node := range s.nodes {
		if parent := kv.Parent(path); kv.Parent(parent) == key {
			if services[parent] == nil {
				services[parent] = &kv.Node{Key: parent, Dir: true}
				dir.Nodes = append(dir.Nodes, services[parent])
			}
			services[parent].Nodes = append(services[parent].Nodes, node)
		}
	}
	if len(dir.Nodes) == 0 {
		return nil
	}
	return dir
}

func (s *memStore) Write(_ context.Context, w kv.Write) (kv.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return kv.Result{}, s.down
	}
	s.expire()
	s.writes = append(s.writes, stamped{w, time.Now()})
	previous := s.nodes[w.Key]
	refuse := func(kind kv.Kind) (kv.Result, error) {
		return kv.Result{}, &kv.Error{Op: w.Op.String(), Key: w.Key, Kind: kind, Index: s.index}
	}
	switch w.Op {
	case kv.OpCreate:
		if previous != nil {
			return refuse(kv.Exists)
		}
	case kv.OpCompareAndSwap, kv.OpCompareAndDelete:
		if previous == nil {
			return refuse(kv.NotFound)
		}
		if previous.ModifiedIndex != w.PrevIndex {
			return refuse(kv.CompareFailed)
		}
	case kv.OpSet, kv.OpDelete:
	default:
		panic(w.Op)
	}
	if w.Op == kv.OpCompareAndDelete || w.Op == kv.OpDelete {
		s.remove(kv.ActionCompareAndDelete, w.Key)
		return kv.Result{Event: s.events[len(s.events)-1], Index: s.index}, nil
	}
	s.index++
	node := &kv.Node{Key: w.Key, Value: w.Value, Dir: w.Dir, ModifiedIndex: s.index, TTL: int64(w.TTL / time.Second)}
	if w.Refresh {
		node.Value = previous.Value
	}
	s.nodes[w.Key] = node
	delete(s.expires, w.Key)
	if w.TTL > 0 {
		s.expires[w.Key] = time.Now().Add(w.TTL)
	}
	if !w.Refresh {
		s.emit(kv.ActionSet, node)
	}
	if s.lose > 0 {
		s.lose--
		return refuse(kv.Unknown)
	}
	return kv.Result{Event: kv.Event{Action: kv.ActionSet, Node: node}, Index: s.index}, nil
}

func (s *memStore) Watch(_ context.Context, from kv.WatchFrom) (kv.Watch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, s.down
	}
	return &memWatch{store: s, next: len(s.events), index: s.index, below: from.Key}, nil
}

type memWatch struct {
	store *memStore
	next  int
	index kv.Index
	below string
}

func (w *memWatch) Next(ctx context.Context) (kv.Event, error) {
	for {
		w.store.mu.Lock()
		events, grown, down := w.store.events, w.store.grown, w.store.down
		w.store.mu.Unlock()
		if down != nil {
			return kv.Event{}, down
		}
		if w.next < len(events) {
			w.next++
			if event := events[w.next-1]; kv.Below(event.Node.Key, w.below) {
				return event, nil
			}
			continue
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return kv.Event{}, ctx.Err()
		}
	}
}

func (w *memWatch) Index() kv.Index { return w.index }
func (w *memWatch) Close()          {}
