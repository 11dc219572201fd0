package registry

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// memStore is a flat store of keys with true conditions, TTLs, leases and watches. It follows the
// clock of the test's bubble.
type memStore struct {
	mu       sync.Mutex
	index    kv.Index
	nodes    map[string]*kv.Node
	expires  map[string]time.Time
	events   []kv.Event
	grown    chan struct{} // closed and replaced with every event
	writes   []stamped
	down     error // every call fails with it
	lose     int   // so many writes are applied but answered with Unknown
	reads    int
	leases   map[kv.LeaseID]*memLease
	granted  kv.LeaseID // the last one
	noLeases bool       // as an etcd

	// fault, unless nil, is asked before each call, without the lock, and may wait; an error is the answer.
	fault func(ctx context.Context, what, key string) error
	// after, unless nil, is asked after each write: an error is the answer although it was done.
	after func(w kv.Write) error

	authors    map[string]string // of each key, who wrote it last
	violations []string          // of ownership: who has changed what another one had written
	cut        chan struct{}     // closed and replaced to end all watches
}

type memLease struct {
	ttl     time.Duration
	expires time.Time
}

type stamped struct {
	kv.Write
	at time.Time
}

func newMemStore() *memStore {
	return &memStore{index: 1, nodes: map[string]*kv.Node{}, expires: map[string]time.Time{}, grown: make(chan struct{}), leases: map[kv.LeaseID]*memLease{}, authors: map[string]string{}, cut: make(chan struct{})}
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
	for id, lease := range s.leases {
		if !now.Before(lease.expires) {
			s.endLease(id, kv.ActionExpire)
		}
	}
}

func (s *memStore) remove(action kv.Action, key string) {
	delete(s.nodes, key)
	delete(s.expires, key)
	s.index++
	s.emit(action, &kv.Node{Key: key, ModifiedIndex: s.index})
}

// cutWatches ends all watches, which may have missed what comes now.
func (s *memStore) cutWatches() {
	close(s.cut)
	s.cut = make(chan struct{})
}

// wipe replaces the store by an empty one that counts anew.
func (s *memStore) wipe() {
	s.nodes, s.expires, s.leases = map[string]*kv.Node{}, map[string]time.Time{}, map[kv.LeaseID]*memLease{}
	s.index, s.events = 1, nil
	s.cutWatches()
}

// size returns how many keys there are.
func (s *memStore) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	return len(s.nodes)
}

// node returns a copy of what is at a key, nil if nothing is.
func (s *memStore) node(key string) *kv.Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire()
	if s.nodes[key] == nil {
		return nil
	}
	copied := *s.nodes[key]
	return &copied
}

// attached returns the keys of a lease, in order.
func (s *memStore) attached(id kv.LeaseID) (keys []string) {
	for key, node := range s.nodes {
		if node.Lease == id {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (s *memStore) endLease(id kv.LeaseID, action kv.Action) {
	for _, key := range s.attached(id) {
		s.remove(action, key)
	}
	delete(s.leases, id)
}

// call takes the lock unless the store does not answer.
func (s *memStore) call(ctx context.Context, what, key string) (unlock func(), err error) {
	if s.fault != nil {
		if err := s.fault(ctx, what, key); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	if s.down != nil {
		defer s.mu.Unlock()
		return nil, s.down
	}
	s.expire()
	return s.mu.Unlock, nil
}

func (s *memStore) lease(ctx context.Context, what string, id kv.LeaseID, do func(*memLease)) (kv.Lease, error) {
	unlock, err := s.call(ctx, what, "")
	if err != nil {
		return kv.Lease{}, err
	}
	defer unlock()
	lease := s.leases[id]
	switch {
	case s.noLeases:
		return kv.Lease{}, &kv.Error{Op: what, Kind: kv.Internal, Cause: "answered 404"}
	case what == "grant":
		s.granted++
		id, lease = s.granted, &memLease{}
		s.leases[id] = lease
	case lease == nil:
		return kv.Lease{}, &kv.Error{Op: what, Kind: kv.NoLease, Cause: id.String(), Index: s.index}
	}
	do(lease)
	keys := s.attached(id)
	return kv.Lease{ID: id, TTL: lease.ttl, Remaining: time.Until(lease.expires), Attached: len(keys), Keys: keys[:min(len(keys), kv.LeaseKeysMax)], Index: s.index}, nil
}

func (s *memStore) Grant(ctx context.Context, ttl time.Duration) (kv.Lease, error) {
	return s.lease(ctx, "grant", 0, func(l *memLease) { l.ttl, l.expires = ttl, time.Now().Add(ttl) })
}

func (s *memStore) KeepAlive(ctx context.Context, id kv.LeaseID) (kv.Lease, error) {
	return s.lease(ctx, "keep-alive", id, func(l *memLease) { l.expires = time.Now().Add(l.ttl) })
}

func (s *memStore) Lease(ctx context.Context, id kv.LeaseID) (kv.Lease, error) {
	return s.lease(ctx, "lease", id, func(*memLease) {})
}

func (s *memStore) Leases(context.Context, kv.LeaseID) ([]kv.Lease, kv.Index, error) {
	panic("no publisher lists all leases")
}

func (s *memStore) Revoke(ctx context.Context, id kv.LeaseID) (kv.Index, error) {
	lease, err := s.lease(ctx, "revoke", id, func(*memLease) { s.endLease(id, kv.ActionDelete) })
	return lease.Index, err
}

func (s *memStore) Read(ctx context.Context, r kv.Read) (kv.Result, error) {
	unlock, err := s.call(ctx, "read", r.Key)
	if err != nil {
		return kv.Result{}, err
	}
	defer unlock()
	s.reads++
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

func (s *memStore) Write(ctx context.Context, w kv.Write) (kv.Result, error) {
	return s.writeAs(ctx, "somebody", w)
}

func (s *memStore) writeAs(ctx context.Context, author string, w kv.Write) (kv.Result, error) {
	unlock, err := s.call(ctx, "write", w.Key)
	if err != nil {
		return kv.Result{}, err
	}
	defer unlock()
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
		if previous.ModifiedIndex != w.PrevIndex || previous.Value != w.PrevValue {
			return refuse(kv.CompareFailed)
		}
	case kv.OpSet, kv.OpDelete:
	default:
		panic(w.Op)
	}
	if w.Lease != 0 && s.leases[w.Lease] == nil {
		return refuse(kv.NoLease)
	}
	if compares := w.Op == kv.OpCompareAndSwap || w.Op == kv.OpCompareAndDelete; compares && s.authors[w.Key] != author {
		s.violations = append(s.violations, fmt.Sprintf("%s made %+v of what %s had written", author, w, s.authors[w.Key]))
	}
	s.authors[w.Key] = author
	if w.Op == kv.OpCompareAndDelete || w.Op == kv.OpDelete {
		s.remove(kv.ActionCompareAndDelete, w.Key)
		if s.after != nil {
			if err := s.after(w); err != nil {
				return kv.Result{}, err
			}
		}
		return kv.Result{Event: s.events[len(s.events)-1], Index: s.index}, nil
	}
	s.index++
	node := &kv.Node{Key: w.Key, Value: w.Value, Dir: w.Dir, ModifiedIndex: s.index, TTL: int64(w.TTL / time.Second), Lease: w.Lease}
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
	if s.after != nil {
		if err := s.after(w); err != nil {
			return kv.Result{}, err
		}
	}
	return kv.Result{Event: kv.Event{Action: kv.ActionSet, Node: node}, Index: s.index}, nil
}

func (s *memStore) Watch(ctx context.Context, from kv.WatchFrom) (kv.Watch, error) {
	unlock, err := s.call(ctx, "watch", from.Key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return &memWatch{store: s, next: len(s.events), index: s.index, below: from.Key, cut: s.cut}, nil
}

type memWatch struct {
	store *memStore
	next  int
	index kv.Index
	below string
	cut   chan struct{}
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
			select {
			case <-w.cut:
				return kv.Event{}, &kv.Error{Op: "watch", Kind: kv.HistoryGone}
			default:
			}
			w.next++
			if event := events[w.next-1]; kv.Below(event.Node.Key, w.below) || event.Node.Key == w.below {
				return event, nil
			}
			continue
		}
		select {
		case <-w.cut:
			return kv.Event{}, &kv.Error{Op: "watch", Kind: kv.HistoryGone}
		case <-grown:
		case <-ctx.Done():
			return kv.Event{}, ctx.Err()
		}
	}
}

func (w *memWatch) Index() kv.Index { return w.index }
func (w *memWatch) Close()          {}
