package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// An entry is one key: what it should hold and what is known about what it holds. It belongs to
// the loop of its Publisher, which lends it to one goroutine at a time.
//
// Every write carries a condition on what was last seen at the key, so that nothing is ever
// changed or removed that somebody else has written:
//
//	nothing known         create        it exists already -> read
//	held, value as wanted refresh       altered -> read     vanished -> create
//	held, value differs   swap          altered -> read     vanished -> create
//	held, not wanted      delete        altered -> read     vanished -> done
//	read: absent          -> create
//	read: ours            -> carry on from its index: an answer got lost, or somebody edited it
//	read: left by an earlier run on this machine -> take it over, once
//	read: anybody else's  -> yield, look again later
type entry struct {
	key     string
	view    View
	wanted  string    // the value to hold; "" when the key is to go
	written string    // the value that was last seen or written while the key was ours
	index   kv.Index  // ModifiedIndex of the key while it is ours; 0 when it is not
	held    bool      // the key was ours at some time: another run that has it now came later
	unsure  bool      // the store must be read before the next write
	due     time.Time // when to act next
	expires time.Time // while the key is ours it lives at least until then
	problem error     // why the last attempt failed; nil after a success
	logged  string    // the last problem that was logged
	news    string    // what a write has brought about and was not logged yet
}

// removed is the news of a key that was ours and that we have taken away.
const removed = "removed"

// attemptsMax bounds how often one visit to the store starts over because the key keeps changing.
const attemptsMax = 5

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

// inPlace reports whether the last thing known is that the store holds what the entry wants.
func (e *entry) inPlace() bool {
	return e.wanted != "" && e.index != 0 && e.wanted == e.written && !e.unsure
}

// registered reports whether readers find the record at now, as far as can be known: a store that
// does not answer us may still answer them, until the key is due to expire.
func (e *entry) registered(now time.Time) bool {
	return e.wanted != "" && e.index != 0 && e.wanted == e.written && now.Before(e.expires)
}

// gone reports whether there is nothing left to do for an entry that is not wanted.
func (e *entry) gone() bool { return e.wanted == "" && e.index == 0 && !e.unsure }

// reconcile brings the key to what the entry wants, or renews it if it is there.
func (e *entry) reconcile(ctx context.Context, store kv.Store, owner string, ttl time.Duration) error {
	for range attemptsMax {
		if e.unsure {
			if err := e.read(ctx, store, owner); err != nil {
				return err
			}
		}
		if e.gone() {
			return nil
		}
		write := e.write(ttl)
		started := time.Now()
		result, err := store.Write(ctx, write)
		switch {
		case err == nil && write.Op == kv.OpCompareAndDelete:
			e.index, e.news = 0, removed
			return nil
		case err == nil:
			e.news = e.tidings(write)
			e.index, e.written, e.held = result.Node.ModifiedIndex, e.wanted, true
			e.expires = started.Add(ttl)
			return nil
		case kv.Is(err, kv.NotFound):
			e.index = 0
		case kv.Is(err, kv.CompareFailed), kv.Is(err, kv.Exists), kv.Is(err, kv.NotFile):
			e.unsure = true
		default:
			surelyNot := kv.Is(err, kv.Unavailable) || kv.Is(err, kv.NoLeader)
			e.unsure = e.unsure || !surelyNot
			return err
		}
	}
	return fmt.Errorf("%s keeps changing: gave up after %d attempts", e.key, attemptsMax)
}

// write returns the next step towards what is wanted.
func (e *entry) write(ttl time.Duration) kv.Write {
	switch {
	case e.wanted == "":
		return kv.Write{Op: kv.OpCompareAndDelete, Key: e.key, PrevIndex: e.index}
	case e.index == 0:
		return kv.Write{Op: kv.OpCreate, Key: e.key, Value: e.wanted, TTL: ttl}
	case e.wanted != e.written:
		return kv.Write{Op: kv.OpCompareAndSwap, Key: e.key, Value: e.wanted, TTL: ttl, PrevIndex: e.index}
	}
	return kv.Write{Op: kv.OpCompareAndSwap, Key: e.key, TTL: ttl, PrevIndex: e.index, Refresh: true}
}

// tidings is what readers can see of a write that succeeded; "" if they had seen it before.
func (e *entry) tidings(write kv.Write) string {
	switch {
	case !e.held:
		return "registered"
	case write.Op == kv.OpCreate:
		return "registered again"
	case !write.Refresh:
		return "changed"
	}
	return e.news
}

// read learns who has the key. It returns a HeldError when somebody else has a key that is wanted.
func (e *entry) read(ctx context.Context, store kv.Store, owner string) error {
	result, err := store.Read(ctx, kv.Read{Key: e.key, Quorum: true})
	if kv.Is(err, kv.NotFound) {
		e.index, e.unsure = 0, false
		return nil
	}
	if err != nil {
		return err
	}
	found := e.view.ownerOf(result.Node)
	inherited := e.wanted != "" && !e.held && sameMachine(found, owner)
	if found == owner || inherited {
		e.index, e.written, e.unsure = result.Node.ModifiedIndex, result.Node.Value, false
		return nil
	}
	e.index = 0
	e.unsure = e.wanted != "" // look again before the next attempt
	if e.wanted == "" {
		return nil
	}
	return &HeldError{Key: e.key, Owner: found}
}

// ownerOf returns the owner named in a record, "" for anything that is not an owned record.
func (v View) ownerOf(node *kv.Node) string {
	if node.Dir {
		return ""
	}
	return v.owner(node.Value)
}

// isOutage reports whether err is about the store as a whole rather than about one key.
func isOutage(err error) bool {
	return kv.Temporary(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}
