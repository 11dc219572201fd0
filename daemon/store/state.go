package store

import (
	"fmt"
	"maps"

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// record is one key with its value. Records are never changed, only replaced.
type record struct {
	key   string
	value string

	// v3 numbers: revision of creation, of the last change, and count of changes since creation.
	create, mod, version uint64
	lease                uint64 // 0 for none

	// v2 numbers. A v2 set restarts created; a refresh moves modified and nothing of v3's.
	created, modified kv.Index
}

// dir is one directory. Like records, dirs are only replaced.
type dir struct {
	path              string // "" is the root
	created, modified kv.Index
	lease             uint64
	children          uint64 // records and directories directly in it
}

// state is everything that is replicated.
type state struct {
	applied, term uint64 // of the last log entry
	revision      uint64

	clock      int64 // lease clock, ns
	wallOffset int64 // unix ns minus clock

	// Copy-on-write maps, so that a copy of the state costs nothing until the next change.
	records *recordTree
	dirs    *btree.Map[string, *dir]
	leases  *btree.Map[uint64, lease]

	deadlines *btree.BTreeG[deadline]   // derived from leases and renewed
	attached  *btree.BTreeG[attachment] // derived from records and dirs
	uses      map[uint64]int            // attachments of each shared lease that has some, derived
	listings  listings                  // derived from records, dirs and leases

	// renewed is what this member knows as the leader and the others do not: until when shared
	// leases were kept alive. It is no part of the replicated state, and no command depends on it.
	renewed map[uint64]int64

	members map[uint64]command.Member
	removed []uint64 // ids of members, the newest last
	invited []invitation
	auth    *Auth // replaced as a whole
	history history
	origins origins
	items   Sum   // of records, directories, leases, users and roles
	bytes   int64 // over the same items

	changes ChangeSet // of the command being executed
	scratch []byte    // for one item's encoding
}

// RecordChange is the change of one key: next is nil for a removal, prev for a creation.
type RecordChange struct{ prev, next *record }

func (c RecordChange) key() string {
	if c.next != nil {
		return c.next.key
	}
	return c.prev.key
}

// ChangeSet is all that one command changed: the keys in order, as v3 will show them, and the
// events that v2 watchers get, each with an index of its own. A refresh has neither; a recursive
// delete has many keys and one event.
type ChangeSet struct {
	Records []RecordChange
	Events  []kv.Event
}

func newState(historyLength int) *state {
	s := &state{
		revision:  firstRevision,
		records:   newRecordTree(),
		dirs:      &btree.Map[string, *dir]{},
		leases:    &btree.Map[uint64, lease]{},
		deadlines: newTree(deadline.less),
		attached:  newTree(attachment.less),
		uses:      map[uint64]int{},
		renewed:   map[uint64]int64{},
		members:   map[uint64]command.Member{},
		auth:      &Auth{Revision: firstAuthRevision, users: map[string]User{}, roles: map[string]Role{}},
		history:   history{length: historyLength},
		origins:   newOrigins(),
	}
	s.include(s.auth)
	s.putDir(nil, &dir{})
	return s
}

func newTree[T any](less func(a, b T) bool) *btree.BTreeG[T] {
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

// copy returns a state to read nodes from: it has no derived tables, no history and no origins.
func (s *state) copy() *state {
	c := *s
	c.records, c.dirs, c.leases = s.records.Copy(), s.dirs.Copy(), s.leases.Copy()
	c.deadlines, c.attached, c.uses, c.renewed = nil, nil, nil, nil
	c.listings = listings{}
	c.members = maps.Clone(s.members)
	c.history, c.changes, c.scratch = history{}, ChangeSet{}, nil
	c.origins.at = nil
	return &c
}

// advance moves the clock to that of a batch. A batch from before never moves it back.
func (s *state) advance(clock, wallOffset int64) {
	if clock >= s.clock {
		s.clock, s.wallOffset = clock, wallOffset
	}
}

// execute runs one command. A command that fails changes nothing and takes no number; neither does one
// that is repeated.
func (s *state) execute(c *command.Command) (ChangeSet, command.Result) {
	s.changes = ChangeSet{}
	if !s.origins.take(c.Origin, c.Sequence) {
		return s.changes, command.Result{Repeated: true}
	}
	if err := s.permit(c); err != nil {
		return s.changes, command.Result{Err: err}
	}
	var result command.Result
	switch c := c.Body.(type) {
	case kv.Write:
		result.Result, result.Err = s.write(c)
	case command.Expire:
		s.expire(c)
	case command.LeaseGrant:
		result.Err = s.grant(c)
	case command.LeaseRevoke:
		result.Err = s.revoke(c)
	case command.LeaseCheckpoint:
		s.checkpoint(c)
	case command.Tick, command.Check:
	case command.Member:
		result.Err = s.putMember(c)
	case command.MemberRemove:
		result.Err = s.removeMember(c)
	case command.Invitation:
		result.Err = s.invite(c)
	case command.AuthEnable:
		result.Err = s.enableAuth(c)
	case command.AuthUser:
		result.Changed, result.Created, result.Err = s.changeUser(c)
	case command.AuthRole:
		result.Changed, result.Err = s.changeRole(c)
	default:
		panic(fmt.Sprintf("no rule for a command of type %T", c))
	}
	if result.Err == nil {
		result.Index = s.revision
	}
	return s.changes, result
}

// allot takes the next number for one change. All numbers of the store come from here, so that a
// change that needs a block of them, as v3 transactions will, has one place to take it.
func (s *state) allot() kv.Index {
	s.revision++
	return s.revision
}

// putRecord is the one place where a record changes: the map, the sum, the leases, the child
// count and the listing of its directory and the change set follow from it.
func (s *state) putRecord(prev, next *record) {
	if prev == nil || next == nil || prev.mod != next.mod { // a refresh is no change to v3
		s.changes.Records = append(s.changes.Records, RecordChange{prev, next})
	}
	var key string
	var before, after uint64
	if prev != nil {
		key, before = prev.key, prev.lease
		s.exclude(prev)
	}
	if next != nil {
		key, after = next.key, next.lease
		s.include(next)
		s.records.Set(next)
	} else {
		s.records.Delete(key)
	}
	s.attach(attachment{path: key}, before, after)
	s.listings.drop(kv.Parent(key))
	if prev == nil {
		s.countChild(key, 1)
	} else if next == nil {
		s.countChild(key, -1)
	}
}

// putDir is the same for a directory.
func (s *state) putDir(prev, next *dir) {
	var path string
	var before, after uint64
	if prev != nil {
		path, before = prev.path, prev.lease
		s.exclude(prev)
	}
	if next != nil {
		path, after = next.path, next.lease
		s.include(next)
		s.dirs.Set(path, next)
	} else {
		s.dirs.Delete(path)
	}
	s.attach(attachment{path: path, dir: true}, before, after)
	if prev == nil || next == nil || prev.created != next.created || prev.modified != next.modified || before != after {
		s.listings.drop(path)
		s.listings.drop(kv.Parent(path))
	}
	if path == "" {
		return
	}
	if prev == nil {
		s.countChild(path, 1)
	} else if next == nil {
		s.countChild(path, -1)
	}
}

// countChild adds delta to the child count of the directory that holds path. The directory may
// already be gone when a whole tree is being removed.
func (s *state) countChild(path string, delta int) {
	if prev, ok := s.dirs.Get(kv.Parent(path)); ok {
		next := *prev
		next.children += uint64(delta)
		s.putDir(prev, &next)
	}
}
