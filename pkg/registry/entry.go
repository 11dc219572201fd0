package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/kv"
)

// An entry is one key: what it should hold and what is known about what it holds. It belongs to the
// loop of its Publisher; visits to the store work on a copy of what is known.
type entry struct {
	key    string
	view   View
	of     Record // the record that the value was made of; zero for what an earlier run left
	wanted string // the value to hold; "" when the key is to go
	known  holding

	leftover bool      // an earlier run's, until somebody wants it, a sweep takes it, or it would have expired
	busy     bool      // a visit is under way
	queued   bool      // in fresh
	suspect  bool      // was in place, until somebody else changed it
	noted    kv.Index  // of the latest change by somebody during a visit
	haunted  time.Time // until when a write that was not answered may still be done
	due      time.Time // of the next visit, while slot is not noSlot
	slot     int       // in the agenda
	retry    backoff.Backoff

	touched bool    // something has happened to it since the latest report
	counted counted // as it was then

	problem error     // why the last visit failed; nil after a success
	logged  string    // the last problem that was logged
	state   KeyState  // as last reported
	since   time.Time // when state began
}

// holding is what is known about a key in the store.
type holding struct {
	value   string     // of the key, when it was last known to be ours
	index   kv.Index   // its ModifiedIndex while it is ours; 0 when it is not, or not there
	lease   kv.LeaseID // that it is attached to, or was last; 0: it has a TTL of its own
	expires time.Time  // with a TTL of its own it lives at least until then
	seen    kv.Index   // the store's when this was so: events up to it are no news
	held    bool       // it was ours at some time: another run that has it now came later
	unsure  bool       // it must be read before the next write
	tried   string     // the value of a write that was not answered
	foreign bool       // somebody else has it
	owner   string     // who, if the value says so
}

// HeldError says that somebody else has a key that this publisher wants.
type HeldError struct {
	Key   string
	Owner string // "" if the key is not a record of any owner
}

func (e *HeldError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("%s was written by something else and is left alone; remove it, or choose another instance name", e.Key)
	}
	return fmt.Sprintf("%s belongs to another owner (%s) and is left alone until it is gone; choose another instance name if both are meant to run", e.Key, e.Owner)
}

// attemptsMax bounds how often one visit to the store starts over because the key keeps changing.
const attemptsMax = 5

// A visit brings one key to what is wanted, or renews it. Every write carries a condition on what was
// last seen at the key, index and value, so that nothing is ever changed or removed that somebody
// else has written, not even in a store that was replaced and counts anew:
//
//	nothing known          create        it exists already -> read
//	ours, value or lease   swap          altered -> read     vanished -> create
//	ours, own TTL          refresh       altered -> read     vanished -> create
//	ours, not wanted       delete        altered -> read     vanished -> done
//	read: absent           -> create
//	read: ours             -> carry on from its index: an answer got lost, or somebody edited it
//	read: an earlier run's -> take it over, once
//	read: anybody else's   -> yield
type visit struct {
	store  kv.Store
	owner  string
	ttl    time.Duration
	lease  kv.LeaseID // to attach to; 0: a TTL of its own
	view   View
	key    string
	wanted string
	known  holding // goes along with what the visit finds out
}

// outcome is what has come of a visit.
type outcome struct {
	visit
	started    time.Time
	wrote      bool   // a value, or removed the key
	renewed    bool   // the key's own TTL
	unanswered bool   // a write that may be done later, or not at all
	news       string // what readers can see of it; "" if they had seen it before
	before     string // the value that a write has replaced
	err        error
}

// What has become of a key, in the words of the log.
const (
	newsRegistered = "registered"
	newsAgain      = "registered again"
	newsChanged    = "changed"
	newsRemoved    = "removed"
)

func (v visit) run(ctx context.Context) (o outcome) {
	o.started = time.Now()
	o.err = v.reconcile(ctx, &o)
	o.visit = v
	return o
}

func (v *visit) reconcile(ctx context.Context, o *outcome) error {
	for range attemptsMax {
		if v.known.unsure {
			if err := v.read(ctx); err != nil {
				return err
			}
		}
		write, needed := v.next()
		if !needed {
			if v.wanted != "" && !v.known.held {
				o.news, v.known.held = newsRegistered, true
			}
			return nil
		}
		if done, err := v.attempt(ctx, write, o); done || err != nil {
			return err
		}
	}
	return fmt.Errorf("%s keeps changing: gave up after %d attempts", v.key, attemptsMax)
}

// next returns the next step towards what is wanted.
func (v *visit) next() (w kv.Write, needed bool) {
	w = kv.Write{Key: v.key, Value: v.wanted, PrevIndex: v.known.index, PrevValue: v.known.value, Lease: v.lease}
	if v.lease == 0 {
		w.TTL = v.ttl
	}
	switch {
	case v.wanted == "":
		return kv.Write{Op: kv.OpCompareAndDelete, Key: v.key, PrevIndex: v.known.index, PrevValue: v.known.value}, v.known.index != 0
	case v.known.index == 0:
		w.Op, w.PrevIndex, w.PrevValue = kv.OpCreate, 0, ""
	case v.wanted != v.known.value, v.lease != 0 && v.lease != v.known.lease:
		w.Op = kv.OpCompareAndSwap
	case v.lease == 0:
		w.Op, w.Value, w.Refresh = kv.OpCompareAndSwap, "", true
	default:
		return w, false
	}
	return w, true
}

// attempt makes one write. Neither done nor an error means that the next step is another one.
func (v *visit) attempt(ctx context.Context, w kv.Write, o *outcome) (done bool, err error) {
	started := time.Now()
	result, err := v.store.Write(ctx, w)
	switch {
	case err == nil:
		o.tell(w, v.known.held)
		o.before = v.known.value
		v.wrote(w, result, started)
		return true, nil
	case kv.Is(err, kv.NotFound):
		v.absent(indexOf(err))
		return false, nil
	case kv.Is(err, kv.CompareFailed), kv.Is(err, kv.Exists), kv.Is(err, kv.NotFile):
		v.known.unsure = true
		return false, nil
	case kv.Is(err, kv.Timeout), kv.Is(err, kv.Unknown), kv.KindOf(err) == kv.Internal:
		v.known.unsure, v.known.tried, o.unanswered = true, v.wanted, true
	}
	return false, err
}

// wrote notes what is so after a write that has succeeded.
func (v *visit) wrote(w kv.Write, result kv.Result, started time.Time) {
	k := &v.known
	k.unsure, k.tried, k.foreign, k.owner = false, "", false, ""
	if w.Op == kv.OpCompareAndDelete {
		k.index, k.seen = 0, max(k.seen, result.Index)
		return
	}
	k.index, k.value, k.lease, k.held = result.Node.ModifiedIndex, v.wanted, v.lease, true
	k.seen = k.index
	k.expires = started.Add(v.ttl)
}

// tell notes what readers can see of a write.
func (o *outcome) tell(w kv.Write, held bool) {
	o.wrote, o.renewed = !w.Refresh, w.Refresh
	switch {
	case w.Op == kv.OpCompareAndDelete:
		o.news = newsRemoved
	case !held:
		o.news = newsRegistered
	case w.Op == kv.OpCreate:
		o.news = newsAgain
	case !w.Refresh:
		o.news = newsChanged
	}
}

// absent notes that there was nothing at the key when the store stood at index.
func (v *visit) absent(index kv.Index) { v.known.absent(index) }

func (k *holding) absent(index kv.Index) {
	k.index, k.unsure, k.tried, k.foreign, k.owner = 0, false, "", false, ""
	k.seen = max(k.seen, index)
}

// read learns who has the key. It returns a HeldError when somebody else has a key that is wanted.
func (v *visit) read(ctx context.Context) error {
	result, err := v.store.Read(ctx, kv.Read{Key: v.key, Quorum: true})
	if kv.Is(err, kv.NotFound) {
		v.known.seen = 0 // a store that was replaced counts anew
		v.absent(indexOf(err))
		return nil
	}
	if err != nil {
		return err
	}
	v.known.seen = result.Index
	return v.judge(result.Node)
}

// judge notes what node, which is at the key now, means for us.
func (v *visit) judge(node *kv.Node) error {
	k := &v.known
	owner := v.view.ownerOf(node)
	if !v.isOurs(node, owner) {
		k.index, k.tried, k.foreign, k.owner = 0, "", v.wanted != "", owner
		k.unsure = k.foreign // look again before the next attempt
		if k.foreign {
			return &HeldError{Key: v.key, Owner: owner}
		}
		return nil
	}
	k.index, k.value, k.lease = node.ModifiedIndex, node.Value, node.Lease
	k.unsure, k.tried, k.foreign, k.owner = false, "", false, ""
	return nil
}

// isOurs reports whether node is ours to change and to remove. A value that names its owner is the
// owner's. One that names nobody is ours by the lease that it is attached to, as the result of a
// write of ours, or because it says just what is wanted: if it was there before us, that is what an
// earlier run on this host has left, and if it lives for ever, nobody else takes care of it.
func (v *visit) isOurs(node *kv.Node, owner string) bool {
	k := v.known
	switch {
	case node.Dir:
		return false
	case k.index != 0 && node.ModifiedIndex == k.index && node.Value == k.value:
		return true // as we have left it, or found it
	case v.view.namesOwner():
		return owner == v.owner || v.wanted != "" && !k.held && inherits(v.owner, owner)
	case node.Lease != 0 && (node.Lease == v.lease || node.Lease == k.lease):
		return true
	case k.tried != "" && node.Value == k.tried:
		return true
	}
	lasts := node.Lease == 0 && node.TTL == 0 && node.Expiration.IsZero()
	return v.wanted != "" && node.Value == v.wanted && (!k.held || lasts)
}

func (v View) ownerOf(node *kv.Node) string {
	if node.Dir {
		return ""
	}
	return v.owner(node.Value)
}

// indexOf returns the store's index that an error tells, 0 if it does not.
func indexOf(err error) kv.Index {
	var e *kv.Error
	if errors.As(err, &e) {
		return e.Index
	}
	return 0
}

// isOutage reports whether err is about the store as a whole rather than about one key.
func isOutage(err error) bool {
	return kv.Temporary(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
