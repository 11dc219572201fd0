package store

import (
	"sync"

	"github.com/kvd-io/kvd/pkg/kv"
)

const (
	// shortListing is the number of children up to which a directory is listed under the lock; a
	// longer listing reads a copy of the state, so that it holds up nobody.
	shortListing = 256
	// keptChildren bounds the listings that are kept, by their children: some 15 MB.
	keptChildren = 100_000
)

// listing is a long directory with its children, as it is read again and again while nothing in
// it changes. Who asks first builds it, from a copy of the state, and the others wait for that.
type listing struct {
	children uint64

	once sync.Once
	from *state   // dropped once the node is there
	node *kv.Node // nil if a TTL is in it: it reads differently every second
}

// get returns the node, shared by all who ask; nil if the directory has to be read for each of them.
func (l *listing) get(path string) *kv.Node {
	l.once.Do(func() {
		s := l.from
		l.from = nil
		if d, ok := s.dirs.Get(path); ok {
			node := s.dirNode(d, s.clock)
			s.list(node, d.children, false, s.clock)
			if !expires(node) {
				l.node = node
			}
		}
	})
	return l.node
}

// expires reports whether n or a child of it has a TTL or a shared lease, whose time left each
// reading tells anew.
func expires(n *kv.Node) bool {
	if !n.Expiration.IsZero() || n.Lease != 0 {
		return true
	}
	for _, child := range n.Nodes {
		if expires(child) {
			return true
		}
	}
	return false
}

// listings are those directories of a state whose listing is kept, and unchanged since it was built.
// They are derived from the state; a change of the state drops what it makes untrue.
type listings struct {
	at       map[string]*listing
	children uint64
}

// keep puts a listing at path. When there are too many of them all are dropped: which ones are
// read most is not known, and those will be back at once.
func (ls *listings) keep(path string, l *listing) {
	if ls.at == nil || ls.children+l.children > keptChildren {
		ls.at, ls.children = map[string]*listing{}, 0
	}
	ls.at[path] = l
	ls.children += l.children
}

// drop is for a directory that, or something in which, has changed.
func (ls *listings) drop(path string) {
	if l, ok := ls.at[path]; ok {
		delete(ls.at, path)
		ls.children -= l.children
	}
}

// readLong lists a directory that is too long to be listed under the lock.
func (m *Machine) readLong(r kv.Read, key string, now int64) (kv.Result, error) {
	if l, index := m.listing(key); l != nil {
		if node := l.get(key); node != nil {
			return kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: node}, Index: index}, nil
		}
	}
	return m.readCopy(r, key, now)
}

// listing returns the listing of a directory as it is now, and the index of the store; nil if it is
// not to be kept. It builds nothing.
func (m *Machine) listing(key string) (*listing, kv.Index) {
	m.mu.RLock()
	l, index := m.state.listings.at[key], m.state.revision
	m.mu.RUnlock()
	if l != nil {
		return l, index
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	index = m.state.revision
	if l := m.state.listings.at[key]; l != nil {
		return l, index
	}
	d, ok := m.state.dirs.Get(key)
	if !ok || d.children > keptChildren {
		return nil, index
	}
	l = &listing{children: d.children, from: m.copyLocked()}
	m.state.listings.keep(key, l)
	return l, index
}
