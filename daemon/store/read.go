package store

import (
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Read answers r. now is the lease clock as the caller knows it, for the seconds that TTLs have
// left; the replicated clock is used when it is later. Listings are always in key order. The node of
// a long listing is the same one, not only an equal one, while nothing in it has changed.
// Errors by Kind: NotFound, NotDir, with the path at fault as Cause; Invalid for Only.
func (m *Machine) Read(r kv.Read, now int64) (kv.Result, error) {
	result, err := m.read(r, now)
	if err == nil && m.leased.Load() {
		m.showTimeLeft(result.Node, now)
	}
	return result, err
}

func (m *Machine) read(r kv.Read, now int64) (kv.Result, error) {
	if len(r.Only) > 0 {
		return m.readOnly(r, now)
	}
	key := kv.Clean(r.Key)
	m.mu.RLock()
	rec, d, missing := m.state.find(key)
	if missing != nil || d == nil || !r.Recursive && d.children <= m.shortListing {
		defer m.mu.RUnlock()
		return m.state.answer(r, rec, d, missing, now)
	}
	m.mu.RUnlock()
	if r.Recursive {
		return m.readCopy(r, key, now)
	}
	return m.readLong(r, key, now)
}

// readOnly answers a read that is narrowed to several keys, from one copy of the state.
func (m *Machine) readOnly(r kv.Read, now int64) (kv.Result, error) {
	only, err := kv.Only(r.Key, r.Only)
	if err != nil {
		return kv.Result{}, err
	}
	s := m.current()
	top := &kv.Node{Key: kv.Clean(r.Key), Dir: true}
	for _, key := range only {
		rec, d, missing := s.find(key)
		one, err := s.answer(kv.Read{Key: key, Recursive: true}, rec, d, missing, now)
		if err == nil { // what cannot be found is not there
			top.Nodes = append(top.Nodes, one.Node)
		}
	}
	return kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: top}, Index: s.revision}, nil
}

// readCopy answers from a copy of the state.
func (m *Machine) readCopy(r kv.Read, key string, now int64) (kv.Result, error) {
	s := m.current()
	rec, d, missing := s.find(key)
	return s.answer(r, rec, d, missing, now)
}

func (s *state) answer(r kv.Read, rec *record, d *dir, missing *kv.Error, now int64) (kv.Result, error) {
	now = max(now, s.clock)
	switch {
	case missing != nil:
		missing.Op, missing.Key = "get", r.Key
		return kv.Result{}, missing
	case rec != nil:
		return kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: s.recordNode(rec, now)}, Index: s.revision}, nil
	}
	node := s.dirNode(d, now)
	s.list(node, d.children, r.Recursive, now)
	return kv.Result{Event: kv.Event{Action: kv.ActionGet, Node: node}, Index: s.revision}, nil
}

// recordNode returns what clients see of a record.
func (s *state) recordNode(r *record, now int64) *kv.Node {
	n := new(kv.Node)
	s.showRecord(n, r, now)
	return n
}

func (s *state) showRecord(n *kv.Node, r *record, now int64) {
	*n = kv.Node{Key: r.key, Value: r.value, ModifiedIndex: r.modified, CreatedIndex: r.created}
	s.setExpiration(n, r.lease, now)
}

// dirNode returns what clients see of a directory, without its children.
func (s *state) dirNode(d *dir, now int64) *kv.Node {
	n := new(kv.Node)
	s.showDir(n, d, now)
	return n
}

func (s *state) showDir(n *kv.Node, d *dir, now int64) {
	*n = kv.Node{Key: d.path, Dir: true, ModifiedIndex: d.modified, CreatedIndex: d.created}
	s.setExpiration(n, d.lease, now)
}

func (s *state) setExpiration(n *kv.Node, id uint64, now int64) {
	if id == 0 {
		return
	}
	if !implicit(id) {
		n.Lease = kv.LeaseID(id) // how long it lasts is for reads alone to say: see showTimeLeft
		return
	}
	if l, ok := s.leases.Get(id); ok {
		n.Expiration, n.TTL = s.timeLeft(l.deadline, now)
	}
}

// timeLeft returns what is said of a node that ends at end, when the lease clock shows now.
func (s *state) timeLeft(end, now int64) (expiration time.Time, seconds int64) {
	if left := end - now; left > 0 {
		seconds = (left-1)/int64(time.Second) + 1
	}
	return unixNano(saturatingAdd(end, s.wallOffset)), seconds
}

// list fills in the children of a directory that are not hidden, recursively those of each of them
// too. children is how many it has. In key order the subtrees of its directories come in between;
// they are skipped by seeking past them.
func (s *state) list(n *kv.Node, children uint64, recursive bool, now int64) {
	var room []kv.Node // one piece of memory for all of them
	next := func() *kv.Node {
		if len(room) == 0 {
			room = make([]kv.Node, max(children, 1))
			n.Nodes = slices.Grow(n.Nodes, len(room))
			children = 0
		}
		node := &room[0]
		room, n.Nodes = room[1:], append(n.Nodes, node)
		return node
	}
	from, to := subtree(n.Key)
	dirs, records := s.dirs.Iter(), s.records.Iter()
	moreDirs, moreRecords := dirs.Seek(from), records.Seek(from)
	for {
		moreDirs, moreRecords = moreDirs && dirs.Key() < to, moreRecords && records.Key() < to
		switch {
		case !moreDirs && !moreRecords:
			return
		case moreDirs && (!moreRecords || dirs.Key() < records.Key()):
			child, deeper := childOf(from, dirs.Key())
			if deeper {
				_, end := subtree(child)
				moreDirs = dirs.Seek(end)
				continue
			}
			if !hidden(child) {
				node, d := next(), dirs.Value()
				s.showDir(node, d, now)
				if recursive {
					s.list(node, d.children, true, now)
				}
			}
			moreDirs = dirs.Next()
		default:
			child, deeper := childOf(from, records.Key())
			if deeper {
				_, end := subtree(child)
				moreRecords = records.Seek(end)
				continue
			}
			if !hidden(child) {
				s.showRecord(next(), records.Value(), now)
			}
			moreRecords = records.Next()
		}
	}
}

// childOf returns the child below from, which ends in a slash, that key is or is below.
func childOf(from, key string) (child string, deeper bool) {
	if i := strings.IndexByte(key[len(from):], '/'); i >= 0 {
		return key[:len(from)+i], true
	}
	return key, false
}

func hidden(key string) bool { return strings.HasPrefix(kv.Base(key), "_") }

func unixNano(ns int64) time.Time { return time.Unix(0, ns).UTC() }
