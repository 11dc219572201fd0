package confd

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/pkg/kv"
)

// mirror is the one copy of everything in the store that any resource reads. Sources write it,
// groups read it. It is safe for concurrent use.
type mirror struct {
	// textual makes a key stand for every key that begins with the same letters, /app also for
	// /app2, which is what confd's env and file backends do.
	textual bool

	mu            sync.RWMutex // guards the fields below
	pairs         btree.Map[string, string]
	complete      map[string]origin // the roots that have been read at least once, with where they are from
	replaced      time.Time         // when a root was last found in another store than before; zero: never
	subscriptions []*subscription
}

// origin is what a root was read from: which cluster, "" if that is not known, and its index then.
type origin struct {
	cluster string
	index   kv.Index
}

// subscription is one reader's interest in keys and what is below them.
type subscription struct {
	keys []string
	wake chan struct{} // holds one signal: something of interest has changed since the last views
}

// scope is what one template may see: what is at or below keys, without prefix.
type scope struct {
	prefix string
	keys   []string
}

// view is what one template sees. It is not ready while a part of its scope has never been read,
// and while a replaced store has not been read again as a whole: it is never of two stores.
type view struct {
	tree  render.Tree
	ready bool
}

func newMirror(textual bool) *mirror { return &mirror{textual: textual, complete: map[string]origin{}} }

// covers reports whether key is one of keys, or below one and not hidden from there.
func (m *mirror) covers(keys []string, key string) bool {
	return slices.ContainsFunc(keys, func(k string) bool {
		if m.textual {
			return strings.HasPrefix(key, k)
		}
		return key == k || kv.Below(key, k) && !kv.HiddenBelow(key, k)
	})
}

// subscribe returns a subscription that is woken once at the start and then by changes.
func (m *mirror) subscribe(keys []string) *subscription {
	s := &subscription{keys: keys, wake: make(chan struct{}, 1)}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subscriptions = append(m.subscriptions, s)
	s.signal()
	return s
}

func (s *subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wakeAll wakes every reader, whether something changed or not.
func (m *mirror) wakeAll() {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, s := range m.subscriptions {
		s.signal()
	}
}

// replace makes the mirror below root hold exactly pairs, read from where from says, and marks root
// complete. It reports whether this is the first news of another store in the place of the one before.
func (m *mirror) replace(root string, from origin, pairs map[string]string) (another bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, known := m.complete[root]
	wasMixed := m.mixed()
	m.complete[root] = from
	if known && (from.index < before.index || from.cluster != before.cluster && from.cluster != "" && before.cluster != "") {
		m.replaced = time.Now()
		another = !wasMixed
	}
	var changed []string
	for _, key := range m.keysIn(root) {
		if _, kept := pairs[key]; !kept {
			m.pairs.Delete(key)
			changed = append(changed, key)
		}
	}
	for key, value := range pairs {
		if old, had := m.pairs.Set(key, value); !had || old != value {
			changed = append(changed, key)
		}
	}
	m.wake(changed)
	for _, s := range m.subscriptions { // even an empty root is news to who has waited for it
		if wasMixed && !m.mixed() || !known && slices.ContainsFunc(s.keys, func(key string) bool { return m.covers([]string{root}, key) }) {
			s.signal()
		}
	}
	return another
}

// mixed reports whether the roots come from more than one store. The caller holds the lock.
func (m *mirror) mixed() bool {
	seen := ""
	for _, from := range m.complete {
		if seen != "" && from.cluster != "" && from.cluster != seen {
			return true
		}
		seen = cmp.Or(from.cluster, seen)
	}
	return false
}

// whole reports whether all that has been read comes from one store.
func (m *mirror) whole() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return !m.mixed()
}

// replacedAt returns when another store was last found in the place of the one before, zero if never.
func (m *mirror) replacedAt() time.Time {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.replaced
}

// apply brings one event of a watch on root into the mirror. A directory that is removed takes
// everything below it along, and may be root itself or above it.
func (m *mirror) apply(root string, event kv.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := event.Node.Key
	var changed []string
	switch {
	case event.Removes() || event.Node.Dir:
		gone := []string{key}
		if event.Removes() {
			if kv.Below(root, key) {
				key = root
			}
			gone = m.keysIn(key)
		}
		for _, key := range gone {
			if _, had := m.pairs.Delete(key); had {
				changed = append(changed, key)
			}
		}
	default:
		if old, had := m.pairs.Set(key, event.Node.Value); !had || old != event.Node.Value {
			changed = append(changed, key)
		}
	}
	m.wake(changed)
}

// wake wakes those whom any of the keys concerns. The caller holds the lock.
func (m *mirror) wake(changed []string) {
	for _, s := range m.subscriptions {
		if slices.ContainsFunc(changed, func(key string) bool { return m.covers(s.keys, key) }) {
			s.signal()
		}
	}
}

// views returns what templates see, all at the same moment, and takes back the signal of s: what
// it told of is in the views.
func (m *mirror) views(s *subscription, scopes []scope) []view {
	m.mu.RLock()
	defer m.mu.RUnlock()
	select {
	case <-s.wake:
	default:
	}
	views := make([]view, len(scopes))
	if m.mixed() {
		return views
	}
	for i, scope := range scopes {
		views[i] = m.view(scope)
	}
	return views
}

// view returns one view. The caller holds the lock.
func (m *mirror) view(of scope) view {
	var pairs []render.KVPair
	for _, key := range of.keys {
		if !m.known(key) {
			return view{}
		}
		m.scan(key, func(key, value string) {
			if rest, ok := strings.CutPrefix(key, of.prefix); ok {
				key = "/" + strings.TrimPrefix(rest, "/")
			}
			pairs = append(pairs, render.KVPair{Key: key, Value: value})
		})
	}
	return view{tree: render.NewTree(pairs), ready: true}
}

// known reports whether key lies in a root that has been read. The caller holds the lock.
func (m *mirror) known(key string) bool {
	for root := range m.complete {
		if m.covers([]string{root}, key) {
			return true
		}
	}
	return false
}

// scan visits what root covers. The caller holds the lock.
func (m *mirror) scan(root string, visit func(key, value string)) {
	m.pairs.Ascend(root, func(key, value string) bool {
		if m.covers([]string{root}, key) {
			visit(key, value)
		}
		return strings.HasPrefix(key, root)
	})
}

// keysIn returns root and what is below it, as far as they are values. The caller holds the lock.
func (m *mirror) keysIn(root string) (keys []string) {
	m.scan(root, func(key, _ string) { keys = append(keys, key) })
	return keys
}
