package store

import (
	"fmt"
	"strings"

	"github.com/kvd-io/kvd/pkg/kv"
)

// write executes one operation of the v2 API. Order of the checks, kinds and causes are those of
// etcd's v2 store, since clients see which error comes first.
func (s *state) write(w kv.Write) (kv.Result, error) {
	if kv.Clean(w.Key) != w.Key {
		return s.fail(w, kv.Invalid, fmt.Sprintf("key %q is not clean", w.Key))
	}
	if w.Op == kv.OpDelete || w.Op == kv.OpCompareAndDelete {
		w.Lease = 0
	}
	if w.Lease != 0 {
		if w.TTL != 0 {
			return s.fail(w, kv.Invalid, "a TTL and a lease")
		}
		if _, err := s.shared(w.Op.String(), w.Key, uint64(w.Lease)); err != nil {
			return kv.Result{}, err
		}
	}
	if w.Op == kv.OpCreateInOrder {
		return s.createInOrder(w)
	}
	if w.Key == "" {
		if w.Op == kv.OpCompareAndDelete {
			return s.fail(w, kv.NotFile, "")
		}
		return s.fail(w, kv.RootReadOnly, "/")
	}
	w.Refresh = w.Refresh && w.Op != kv.OpCreate
	rec, d, missing := s.find(w.Key)
	if missing != nil && (missing.Kind == kv.NotDir || w.Refresh || (w.Op != kv.OpSet && w.Op != kv.OpCreate)) {
		return s.fail(w, missing.Kind, missing.Cause)
	}
	switch w.Op {
	case kv.OpSet:
		if d != nil {
			return s.fail(w, kv.NotFile, w.Key)
		}
		return s.put(w, kv.ActionSet, rec), nil
	case kv.OpCreate:
		if rec != nil || d != nil {
			return s.fail(w, kv.Exists, w.Key)
		}
		return s.put(w, kv.ActionCreate, nil), nil
	case kv.OpUpdate:
		if d == nil {
			return s.put(w, kv.ActionUpdate, rec), nil
		}
		if w.Value != "" || w.Refresh {
			return s.fail(w, kv.NotFile, w.Key)
		}
		return s.updateDir(w, d), nil
	case kv.OpCompareAndSwap:
		if err := s.compare(w, rec); err != nil {
			return kv.Result{}, err
		}
		return s.put(w, kv.ActionCompareAndSwap, rec), nil
	case kv.OpCompareAndDelete:
		if err := s.compare(w, rec); err != nil {
			return kv.Result{}, err
		}
		return s.result(s.remove(kv.ActionCompareAndDelete, rec, nil)), nil
	case kv.OpDelete:
		if d != nil && !w.Dir && !w.Recursive {
			return s.fail(w, kv.NotFile, w.Key)
		}
		if d != nil && d.children > 0 && !w.Recursive {
			return s.fail(w, kv.DirNotEmpty, w.Key)
		}
		return s.result(s.remove(kv.ActionDelete, rec, d)), nil
	}
	panic(fmt.Sprintf("no rule for %v", w.Op)) // Decode lets no unknown operation pass
}

func (s *state) fail(w kv.Write, kind kv.Kind, cause string) (kv.Result, error) {
	return kv.Result{}, &kv.Error{Op: w.Op.String(), Key: w.Key, Kind: kind, Cause: cause, Index: s.revision}
}

func (s *state) result(event kv.Event) kv.Result {
	return kv.Result{Event: event, Created: event.PrevNode == nil}
}

// find returns what stands at key: a record, a directory, or the error that nothing does. The
// error's Cause is the first path on the way that is missing or is no directory.
func (s *state) find(key string) (*record, *dir, *kv.Error) {
	if rec, ok := s.records.Get(key); ok {
		return rec, nil, nil
	}
	if d, ok := s.dirs.Get(key); ok {
		return nil, d, nil
	}
	for end := 1; end < len(key); end++ {
		if key[end] != '/' {
			continue
		}
		if _, ok := s.dirs.Get(key[:end]); ok {
			continue
		}
		if _, ok := s.records.Get(key[:end]); ok {
			return nil, nil, &kv.Error{Kind: kv.NotDir, Cause: key[:end], Index: s.revision}
		}
		return nil, nil, &kv.Error{Kind: kv.NotFound, Cause: key[:end], Index: s.revision}
	}
	return nil, nil, &kv.Error{Kind: kv.NotFound, Cause: key, Index: s.revision}
}

// compare returns the error that forbids a compare operation on rec, nil if there is none. A
// record that is nil stands for a directory.
func (s *state) compare(w kv.Write, rec *record) error {
	if rec == nil {
		_, err := s.fail(w, kv.NotFile, w.Key)
		return err
	}
	var failed []string
	if w.PrevValue != "" && w.PrevValue != rec.value {
		failed = append(failed, fmt.Sprintf("[%s != %s]", w.PrevValue, rec.value))
	}
	if w.PrevIndex != 0 && w.PrevIndex != rec.modified {
		failed = append(failed, fmt.Sprintf("[%d != %d]", w.PrevIndex, rec.modified))
	}
	if failed == nil {
		return nil
	}
	_, err := s.fail(w, kv.CompareFailed, strings.Join(failed, " "))
	return err
}

// put makes w's value or directory stand at w.Key, in place of rec unless that is nil.
func (s *state) put(w kv.Write, action kv.Action, rec *record) kv.Result {
	index := s.allot()
	s.makeParents(w.Key, index)
	event := kv.Event{Action: action}
	if rec != nil {
		event.PrevNode = s.recordNode(rec, s.clock)
	}
	replaces := action == kv.ActionSet || action == kv.ActionCreate
	switch {
	case w.Dir && replaces && !w.Refresh:
		if rec != nil {
			s.putRecord(rec, nil)
		}
		d := &dir{path: w.Key, created: index, modified: index, lease: s.leaseFor(w, 0, index)}
		s.putDir(nil, d)
		event.Node = s.dirNode(d, s.clock)
	default:
		next := s.successor(w, rec, index)
		if rec != nil && !replaces {
			next.created = rec.created
		}
		s.putRecord(rec, next)
		event.Node = s.recordNode(next, s.clock)
	}
	if !w.Refresh {
		s.changes.Events = append(s.changes.Events, event)
	}
	return s.result(event)
}

// successor returns the record that follows rec, or that begins a key when rec is nil.
func (s *state) successor(w kv.Write, rec *record, index kv.Index) *record {
	next := &record{key: w.Key, value: w.Value, create: index, mod: index, version: 1, created: index, modified: index}
	if rec == nil {
		next.lease = s.leaseFor(w, 0, index)
		return next
	}
	next.lease = s.leaseFor(w, rec.lease, index)
	next.create, next.version = rec.create, rec.version+1
	if w.Refresh {
		next.value = rec.value
		if next.lease == rec.lease {
			next.mod, next.version = rec.mod, rec.version // to v3 a renewed lease is no change of the key
		}
	}
	return next
}

// updateDir gives a directory a new TTL or makes it permanent. Its own modified index stays, only
// the event has the new one: so did etcd up to 3.4, where this last worked.
func (s *state) updateDir(w kv.Write, d *dir) kv.Result {
	index := s.allot()
	event := kv.Event{Action: kv.ActionUpdate, PrevNode: s.dirNode(d, s.clock)}
	next := *d
	next.lease = s.leaseFor(w, d.lease, index)
	s.putDir(d, &next)
	event.Node = s.dirNode(&next, s.clock)
	event.Node.ModifiedIndex = index
	s.changes.Events = append(s.changes.Events, event)
	return s.result(event)
}

// createInOrder creates a child of the directory w.Key whose name is the index in 20 digits.
func (s *state) createInOrder(w kv.Write) (kv.Result, error) {
	rec, _, missing := s.find(w.Key)
	if rec != nil {
		return s.fail(w, kv.NotDir, w.Key)
	}
	if missing != nil && missing.Kind == kv.NotDir {
		return s.fail(w, kv.NotDir, missing.Cause)
	}
	w.Key = fmt.Sprintf("%s/%020d", w.Key, s.revision+1)
	w.Refresh = false
	if rec, d, _ := s.find(w.Key); rec != nil || d != nil {
		return s.fail(w, kv.Exists, w.Key)
	}
	return s.put(w, kv.ActionCreate, nil), nil
}

// makeParents creates the directories above key that are missing, permanent and without events.
func (s *state) makeParents(key string, index kv.Index) {
	parent := kv.Parent(key)
	if _, ok := s.dirs.Get(parent); ok {
		return
	}
	s.makeParents(parent, index)
	s.putDir(nil, &dir{path: parent, created: index, modified: index})
}

// remove takes away a record, or a directory and everything below it: one number, one event.
func (s *state) remove(action kv.Action, rec *record, d *dir) kv.Event {
	index := s.allot()
	event := kv.Event{Action: action}
	if rec != nil {
		event.PrevNode = s.recordNode(rec, s.clock)
		event.Node = &kv.Node{Key: rec.key, ModifiedIndex: index, CreatedIndex: rec.created}
		s.putRecord(rec, nil)
	} else {
		event.PrevNode = s.dirNode(d, s.clock)
		event.Node = &kv.Node{Key: d.path, Dir: true, ModifiedIndex: index, CreatedIndex: d.created}
		s.removeBelow(d.path)
		d, _ = s.dirs.Get(d.path) // its child count has changed
		s.putDir(d, nil)
	}
	s.changes.Events = append(s.changes.Events, event)
	return event
}

// removeBelow empties a directory. Directories go first, so that the child counts of what is
// going anyway are not kept up to date.
func (s *state) removeBelow(path string) {
	from, to := subtree(path)
	var dirs []*dir
	s.dirs.Ascend(from, func(p string, d *dir) bool {
		if p < to {
			dirs = append(dirs, d)
		}
		return p < to
	})
	var records []*record
	s.records.Ascend(from, func(r *record) bool {
		if r.key < to {
			records = append(records, r)
		}
		return r.key < to
	})
	for _, d := range dirs {
		if now, ok := s.dirs.Get(d.path); ok {
			s.putDir(now, nil)
		}
	}
	for _, r := range records {
		s.putRecord(r, nil)
	}
}

// subtree returns the range [from, to) of everything strictly below path.
func subtree(path string) (from, to string) { return path + "/", path + "0" }
