package keys

import (
	"slices"
	"sync"
	"time"

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/pkg/kv"
)

// changesMax bounds the changes that are kept for readers who have yet to take them. Who is further
// behind learns that everything may have changed.
const changesMax = 1 << 16

// Mirror is the one copy of everything that any reader wants of one source. Sources write it. It is safe for
// concurrent use; no method waits for more than another method.
type Mirror struct {
	naming Naming

	mu       sync.Mutex // guards the fields below
	tree     *btree.Map[string, string]
	shared   bool     // tree is that of view, and is copied before it changes
	view     View     // the present one, if shared
	roots    []string // in order: what has been read, all of it at one moment
	complete bool     // roots have been read, be they none
	from     Origin
	stale    time.Time // when what is here was true, if that was an earlier run; else zero
	version  uint64    // changes with every change, and with every read of everything
	replaced time.Time // when another store was last found in the place of the one before; zero: never
	before   View      // what that one held, until nobody can ask for it any more

	heard func() (time.Time, error) // nil: nobody asks
	bytes func() uint64             // nil: not known

	changes []Change // in order, the last ones; those that nobody waits for may be gone
	first   uint64   // number of changes[0]; they are counted from 1
	waiting int      // subscriptions that have changes to take
	byKey   map[string][]*Subscription
	all     []*Subscription
}

// Origin says where keys were read: in which cluster, "" if that is not known, and its index then.
type Origin struct {
	Cluster string
	Index   kv.Index
}

// Subscription is one reader's interest in keys and what is below them. It is for one goroutine at a time.
type Subscription struct {
	mirror *Mirror
	keys   []string // sorted
	wake   chan struct{}

	// Guarded by the mirror's lock:
	next uint64 // number of the first change of interest that was not taken; 0: none
	all  bool   // everything may have changed
}

// NewMirror returns a mirror that has read nothing yet, for sources with this naming: see Config.Naming.
func NewMirror(naming Naming) *Mirror {
	return &Mirror{naming: naming, tree: &btree.Map[string, string]{}, first: 1, byKey: map[string][]*Subscription{}}
}

// Subscribe returns a subscription to what is at and below keys and not hidden from there. It is woken
// once at the start and then by changes. keys are absolute and clean; the subscription keeps a copy.
func (m *Mirror) Subscribe(keys []string) *Subscription {
	s := &Subscription{mirror: m, keys: slices.Sorted(slices.Values(keys)), wake: make(chan struct{}, 1), all: true}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, s)
	for _, key := range s.keys {
		m.byKey[key] = append(m.byKey[key], s)
	}
	s.signal()
	return s
}

// Close ends the subscription: it is not woken any more.
func (s *Subscription) Close() {
	m := s.mirror
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken(s)
	same := func(other *Subscription) bool { return other == s }
	m.all = slices.DeleteFunc(m.all, same)
	for _, key := range s.keys {
		if m.byKey[key] = slices.DeleteFunc(m.byKey[key], same); len(m.byKey[key]) == 0 {
			delete(m.byKey, key)
		}
	}
}

// Wake holds a signal while something of interest has happened since the last Take: a change, the first
// news of keys that were not read before, or that the mirror is or is no longer stale.
func (s *Subscription) Wake() <-chan struct{} { return s.wake }

func (s *Subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Take returns what is so now, which keys of interest changed since the last Take, and takes back the
// signal: what it told of is in the view. A key that changed several times is there once, as it is now.
// all says that everything may have changed: at first, when keys have been read for the first time, and
// when the changes were too many to list; then there are none. The view and the changes are the
// caller's.
func (s *Subscription) Take() (view View, changes []Change, all bool) {
	m := s.mirror
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-s.wake:
	default:
	}
	if all = s.all; !all && s.next != 0 {
		changes = m.since(s)
	}
	m.taken(s)
	return m.current(), changes, all
}

// Upto returns the index of the mirror, and whether everything of interest up to there has been taken.
func (s *Subscription) Upto() (index kv.Index, all bool) {
	m := s.mirror
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.from.Index, s.next == 0 && !s.all
}

// Keys returns what s is subscribed to, in order. It must not be changed.
func (s *Subscription) Keys() []string { return s.keys }

// since returns the last change of each key of s from s.next on, in the order of these. The caller holds the lock.
func (m *Mirror) since(s *Subscription) (changes []Change) {
	last := map[string]int{}
	for i := int(s.next - m.first); i < len(m.changes); i++ {
		if m.naming.covers(s.keys, m.changes[i].Key) {
			last[m.changes[i].Key] = i
		}
	}
	for _, i := range last {
		changes = append(changes, m.changes[i])
	}
	if len(changes) > 1 {
		slices.SortFunc(changes, func(a, b Change) int { return last[a.Key] - last[b.Key] })
	}
	return changes
}

// taken notes that nothing waits for s, and forgets the changes when nothing waits for anybody. The
// caller holds the lock.
func (m *Mirror) taken(s *Subscription) {
	s.all = false
	if s.next == 0 {
		return
	}
	s.next = 0
	if m.waiting--; m.waiting == 0 {
		m.first += uint64(len(m.changes))
		m.changes = m.changes[:0]
		if cap(m.changes) > changesKept {
			m.changes = nil
		}
	}
}

// changesKept is for how many changes there is always room.
const changesKept = 1 << 10

// View returns what is so now.
func (m *Mirror) View() View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current()
}

// current returns what is so now. The caller holds the lock.
func (m *Mirror) current() View {
	if !m.shared {
		m.shared = true
		m.view = View{tree: m.tree, naming: m.naming, roots: m.roots, complete: m.complete, from: m.from, stale: m.stale}
	}
	return m.view
}

// change makes the tree one that no view has. The caller holds the lock.
func (m *Mirror) change() {
	if m.shared {
		m.tree = m.tree.Copy()
		m.shared, m.view = false, View{}
	}
}

// WakeAll wakes every reader, whether something changed or not.
func (m *Mirror) WakeAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.signalAll()
}

func (m *Mirror) signalAll() {
	for _, s := range m.all {
		s.signal()
	}
}

// Replace makes the mirror hold exactly pairs, which are all there is at and below roots where from says.
// Whatever differs from before is a change of now. It reports whether this is the first news of another
// store in the place of the one before.
func (m *Mirror) Replace(roots []string, from Origin, pairs map[string]string) (another bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.complete && m.from.replacedBy(from) {
		m.replaced, m.before = time.Now(), m.current()
		another = true
	}
	m.version++
	known, wasStale := m.roots, !m.stale.IsZero()
	wasComplete := m.complete
	m.change()
	if from.Cluster == "" {
		from.Cluster = m.from.Cluster
	}
	m.roots, m.complete, m.from, m.stale = slices.Sorted(slices.Values(roots)), true, from, time.Time{}
	for _, s := range m.all { // even an empty root is news to who has waited for it
		if !wasComplete || !m.allCovered(known, s.keys) {
			m.everything(s)
		} else if wasStale {
			s.signal()
		}
	}
	for _, key := range m.without(pairs) {
		m.delete(key, false, from.Index)
	}
	for key, value := range pairs {
		m.set(key, value, from.Index)
	}
	return another
}

// restore makes a mirror that has read nothing yet hold what an earlier run has left, which was true at a time
// before now. It reports whether it did.
func (m *Mirror) restore(s Snapshot) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.complete {
		return false
	}
	m.tree, m.shared, m.view = s.View.tree.Copy(), false, View{}
	m.roots, m.complete, m.from, m.stale = s.View.roots, true, s.View.from, s.Time
	for _, sub := range m.all {
		m.everything(sub)
	}
	return true
}

// toSave returns what is to be saved, and its version; false if that is the one which was saved last, or if
// it is not from a store that was heard.
func (m *Mirror) toSave(saved uint64) (View, uint64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.complete || !m.stale.IsZero() || m.version == saved {
		return View{}, saved, false
	}
	return m.current(), m.version, true
}

// silent reports whether nothing has been read yet.
func (m *Mirror) silent() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.complete
}

// Replaced returns when another store was last found in the place of the one before, and what that one held; zero
// values if that is as long ago as lately says. It is then forgotten.
func (m *Mirror) Replaced(lately time.Duration) (at time.Time, before View) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.replaced.IsZero() || time.Since(m.replaced) >= lately {
		m.replaced, m.before = time.Time{}, View{}
	}
	return m.replaced, m.before
}

// replacedBy reports whether what was read at o cannot be the past of what is read at now.
func (o Origin) replacedBy(now Origin) bool {
	return now.Index < o.Index || now.Cluster != o.Cluster && now.Cluster != "" && o.Cluster != ""
}

// Renew makes the mirror hold exactly pairs at and below part, which is among its roots and was read where from
// says, in the store that everything else is of.
func (m *Mirror) Renew(part []string, from Origin, pairs map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change()
	m.from.Index = max(m.from.Index, from.Index)
	for _, root := range part {
		var gone []string
		View{tree: m.tree, naming: m.naming}.Each(root, func(key, _ string) {
			if _, kept := pairs[key]; !kept {
				gone = append(gone, key)
			}
		})
		for _, key := range gone {
			m.delete(key, false, from.Index)
		}
	}
	for key, value := range pairs {
		m.set(key, value, from.Index)
	}
}

// without returns the keys that are not in pairs. The caller holds the lock.
func (m *Mirror) without(pairs map[string]string) (keys []string) {
	m.tree.Scan(func(key, _ string) bool {
		if _, kept := pairs[key]; !kept {
			keys = append(keys, key)
		}
		return true
	})
	return keys
}

// Apply brings events of the store into the mirror, in their order: no view shows some of them and not the others. A
// directory that is removed takes everything below it along; one that is made in the place of a key, that key. What is
// outside the roots is left out.
func (m *Mirror) Apply(events ...kv.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, event := range events {
		m.apply(event)
	}
}

func (m *Mirror) apply(event kv.Event) {
	key, index := event.Node.Key, event.Node.ModifiedIndex
	m.change()
	m.from.Index = max(m.from.Index, index)
	switch {
	case event.Removes():
		expired := event.Action == kv.ActionExpire
		m.delete(key, expired, index)
		if event.Node.Dir {
			for _, below := range m.below(key) {
				m.delete(below, expired, index)
			}
		}
	case event.Node.Dir:
		m.delete(key, false, index)
	case m.naming.covers(m.roots, key):
		m.set(key, event.Node.Value, index)
	}
}

// below returns the keys strictly below dir. The caller holds the lock.
func (m *Mirror) below(dir string) (keys []string) {
	m.tree.Ascend(dir+"/", func(key, _ string) bool {
		if !kv.Below(key, dir) {
			return false
		}
		keys = append(keys, key)
		return true
	})
	return keys
}

func (m *Mirror) set(key, value string, index kv.Index) {
	if old, had := m.tree.Set(key, value); !had || old != value {
		m.note(Change{Key: key, Index: index})
	}
}

func (m *Mirror) delete(key string, expired bool, index kv.Index) {
	if _, had := m.tree.Delete(key); had {
		m.note(Change{Key: key, Removed: true, Expired: expired, Index: index})
	}
}

// note keeps a change for those whom it concerns and wakes them. What it costs grows with the depth of the
// key and with those woken. The caller holds the lock.
func (m *Mirror) note(change Change) {
	m.version++
	number := m.first + uint64(len(m.changes))
	if m.naming == Textual {
		for _, s := range m.all {
			if m.naming.covers(s.keys, change.Key) {
				m.waken(s, number)
			}
		}
	} else {
		for dir := change.Key; ; dir = kv.Parent(dir) {
			if m.naming.shows(dir, change.Key) {
				for _, s := range m.byKey[dir] {
					m.waken(s, number)
				}
			}
			if dir == "" {
				break
			}
		}
	}
	if m.waiting == 0 {
		return
	}
	if len(m.changes) >= changesMax {
		m.drop(changesMax / 4)
	}
	m.changes = append(m.changes, change)
}

// waken tells s of the change of this number. The caller holds the lock.
func (m *Mirror) waken(s *Subscription, number uint64) {
	if s.next == 0 && !s.all {
		s.next = number
		m.waiting++
	}
	s.signal()
}

// everything tells s that everything may have changed. The caller holds the lock.
func (m *Mirror) everything(s *Subscription) {
	m.taken(s)
	s.all = true
	s.signal()
}

// drop forgets the oldest n changes. The caller holds the lock.
func (m *Mirror) drop(n int) {
	m.changes = slices.Delete(m.changes, 0, n)
	m.first += uint64(n)
	for _, s := range m.all {
		if s.next != 0 && s.next < m.first {
			m.everything(s)
		}
	}
}

// allCovered reports whether each of keys is covered by roots, which are sorted.
func (m *Mirror) allCovered(roots, keys []string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool { return !m.naming.covers(roots, key) })
}
