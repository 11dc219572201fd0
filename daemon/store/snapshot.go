package store

import (
	"encoding/binary"
	"io"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// ErrSnapshot is wrapped by every error about the content of a snapshot.
var ErrSnapshot = snapfile.ErrDamaged

// Snapshot is the state at one log position, to be written while the machine goes on.
type Snapshot struct {
	state   *state
	origins []origin
	label   *snapfile.Label
}

// Snapshot returns the state as it is now. It takes constant time but for the history and
// the origins, which are bounded. It is safe from any goroutine.
func (m *Machine) Snapshot() *Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state.copy()
	s.history = m.state.history
	s.history.events, s.history.start = m.state.history.list(), 0
	return &Snapshot{state: s, origins: m.state.origins.list()}
}

// Label makes WriteTo write l, with the number of records, and returns the snapshot.
func (sn *Snapshot) Label(l snapfile.Label) *Snapshot {
	l.Keys = uint64(sn.state.records.Len())
	sn.label = &l
	return sn
}

// Mark returns the place in the log that the snapshot belongs to.
func (sn *Snapshot) Mark() Mark {
	return Mark{Index: sn.state.revision, RaftIndex: sn.state.applied, Sum: sn.state.sum()}
}

// Size returns the bytes of what is in the snapshot, as Extent counts them.
func (sn *Snapshot) Size() int64 { return sn.state.bytes }

// Release drops the state; the Snapshot cannot be used after it.
func (sn *Snapshot) Release() { sn.state, sn.origins = nil, nil }

// WriteTo writes the snapshot in the form of package snapfile.
func (sn *Snapshot) WriteTo(w io.Writer) (int64, error) {
	out := snapfile.NewWriter(w)
	s := sn.state

	out.Item(snapfile.Header, func(b []byte) []byte {
		for _, n := range [...]uint64{command.Level, s.applied, s.term, s.revision} {
			b = binary.AppendUvarint(b, n)
		}
		b = binary.AppendVarint(b, s.clock)
		return binary.AppendVarint(b, s.wallOffset)
	})
	if sn.label != nil {
		out.Item(snapfile.Labels, sn.label.AppendTo)
	}
	s.records.Scan(func(r *record) bool {
		out.Item(snapfile.Records, r.appendTo)
		return out.Err() == nil
	})
	s.dirs.Scan(func(_ string, d *dir) bool {
		out.Item(snapfile.Dirs, d.appendTo)
		return out.Err() == nil
	})
	s.leases.Scan(func(_ uint64, l lease) bool {
		out.Item(snapfile.Leases, func(b []byte) []byte { return l.appendTo(b) })
		return out.Err() == nil
	})
	for _, member := range s.sortedMembers() {
		entry := command.Batch{Commands: []command.Command{{Body: member}}}
		out.Item(snapfile.Members, entry.Append)
	}
	out.Item(snapfile.History, func(b []byte) []byte { return binary.AppendUvarint(b, s.history.dropped) })
	for _, event := range s.history.events {
		out.Item(snapfile.History, func(b []byte) []byte { return appendEvent(b, event) })
	}
	for _, i := range s.auth.items() {
		out.Item(snapfile.Auth, i.appendTo)
	}
	for _, o := range sn.origins {
		out.Item(snapfile.Origins, o.appendTo)
	}
	for _, id := range s.removed {
		out.Item(snapfile.Removed, func(b []byte) []byte { return binary.AppendUvarint(b, id) })
	}
	for _, i := range s.invited {
		out.Item(snapfile.Invited, i.appendTo)
	}
	out.Item(snapfile.End, func(b []byte) []byte {
		for _, n := range [...]int{s.records.Len(), s.dirs.Len(), s.leases.Len(), len(s.members), len(s.history.events), len(s.auth.users), len(s.auth.roles), len(sn.origins), len(s.removed)} {
			b = binary.AppendUvarint(b, uint64(n))
		}
		for _, sum := range [...]Sum{s.sum(), s.origins.sum} {
			b = binary.LittleEndian.AppendUint64(b, sum.hi)
			b = binary.LittleEndian.AppendUint64(b, sum.lo)
		}
		return b
	})
	return out.Close()
}

// Restore replaces the whole state by that of a snapshot. On an error, which wraps ErrSnapshot or
// is r's own, the state is as before. History().dropped and the events tell watchers what they
// can still learn.
func (m *Machine) Restore(r io.Reader) error {
	m.mu.RLock()
	fresh := newState(m.state.history.length)
	fresh.origins.max = m.state.origins.max
	m.mu.RUnlock()
	if err := readSnapshot(r, fresh); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.view.Store(nil)
	m.state = fresh
	m.auth.Store(fresh.auth)
	m.leased.Store(len(fresh.uses) > 0)
	m.events = nil
	m.marks, m.comparisons, m.rotten = marks{}, map[uint64]Comparison{}, nil
	m.marks.note(fresh.applied, fresh.sum())
	return nil
}

func readSnapshot(r io.Reader, s *state) error {
	load := loader{state: s}
	s.dirs.Clear()
	s.items, s.bytes = Sum{}, 0
	return snapfile.Read(r, load.item)
}

// loader puts items into a state that is empty at first.
type loader struct {
	state      *state
	header     bool
	history    bool
	historyLen int
	auth       int    // heads of access control data
	level      uint64 // that the snapshot was written with
}

func (l *loader) item(section byte, data []byte) error {
	item := snapfile.NewItem(data)
	if err := l.load(section, item); err != nil {
		return err
	}
	if section&snapfile.Critical != 0 && !item.Done() {
		return snapfile.Damaged("an item of section %d cannot be read", section&^snapfile.Critical)
	}
	return nil
}

func (l *loader) load(section byte, item *snapfile.Item) error {
	s := l.state
	if !l.header && section != snapfile.Header {
		return snapfile.Damaged("its first section is %d", section&^snapfile.Critical)
	}
	switch section {
	case snapfile.Header:
		l.header = true
		if l.level = item.Uint(); l.level > command.Level {
			return snapfile.Newer("it needs feature level %d, this version has %d", l.level, command.Level)
		}
		s.applied, s.term, s.revision = item.Uint(), item.Uint(), item.Uint()
		s.clock, s.wallOffset = item.Int(), item.Int()
	case snapfile.Records:
		item.Tag(itemRecord)
		r := &record{key: item.Text(), value: item.Text(), create: item.Uint(), mod: item.Uint(), version: item.Uint(),
			lease: item.Uint(), created: item.Uint(), modified: item.Uint()}
		if s.records.Load(r) {
			return snapfile.Damaged("the key %q is there twice", r.key)
		}
		s.include(r)
		s.attach(attachment{path: r.key}, 0, r.lease)
	case snapfile.Dirs:
		item.Tag(itemDir)
		d := &dir{path: item.Text(), created: item.Uint(), modified: item.Uint(), lease: item.Uint(), children: item.Uint()}
		if _, twice := s.dirs.Load(d.path, d); twice {
			return snapfile.Damaged("the directory %q is there twice", d.path)
		}
		s.include(d)
		s.attach(attachment{path: d.path, dir: true}, 0, d.lease)
	case snapfile.Leases:
		item.Tag(itemLease)
		l := &lease{id: item.Uint(), ttl: item.Int(), deadline: item.Int(), remaining: item.Int()}
		if _, twice := s.leases.Get(l.id); twice {
			return snapfile.Damaged("the lease %x is there twice", l.id)
		}
		s.putLease(nil, l)
	case snapfile.Members:
		batch, err := command.Decode(item.Rest())
		if err != nil {
			return snapfile.Damaged("a member cannot be read: %v", err)
		}
		for _, c := range batch.Commands {
			member, ok := c.Body.(command.Member)
			if !ok {
				return snapfile.Damaged("a member is something else")
			}
			s.members[member.ID] = member
		}
	case snapfile.History:
		if !l.history {
			l.history = true
			s.history.dropped = item.Uint()
			return nil
		}
		l.historyLen++
		s.history.append(readEvent(item))
	case snapfile.Auth:
		return l.authItem(item)
	case snapfile.Origins:
		if o := readOrigin(item); !item.Failed() && !s.origins.load(o) {
			return snapfile.Damaged("the origin %x is one too many", o.id)
		}
	case snapfile.Removed:
		id := item.Uint()
		if _, known := s.members[id]; known || id == 0 || s.isRemoved(id) || len(s.removed) >= removedMax {
			return snapfile.Damaged("a member %x cannot have been removed", id)
		}
		s.removed = append(s.removed, id)
	case snapfile.Invited:
		s.invited = append(s.invited, readInvitation(item))
		if len(s.invited) > invitedMax {
			return snapfile.Damaged("it has more than %d invitations", invitedMax)
		}
	case snapfile.End:
		return l.check(item)
	default:
		if section&snapfile.Critical != 0 {
			return snapfile.Newer("it has section %d, which this version does not know but must", section&^snapfile.Critical)
		}
	}
	return nil
}

// counts returns how many items were loaded of what the writer counts.
func (l *loader) counts() []int {
	s := l.state
	counts := []int{s.records.Len(), s.dirs.Len(), s.leases.Len(), len(s.members), l.historyLen, len(s.auth.users), len(s.auth.roles)}
	if l.level < snapfile.LevelOrigins {
		return counts
	}
	return append(counts, len(s.origins.at), len(s.removed))
}

// check compares what was loaded with what the writer counted and summed.
func (l *loader) check(item *snapfile.Item) error {
	s := l.state
	for _, n := range l.counts() {
		if want := item.Uint(); want != uint64(n) {
			return snapfile.Damaged("a section has %d items instead of %d", n, want)
		}
	}
	if _, ok := s.dirs.Get(""); !ok {
		return snapfile.Damaged("it has no root directory")
	}
	if l.auth != 1 {
		return snapfile.Damaged("it has the head of access control %d times", l.auth)
	}
	s.include(s.auth)
	checkSum := func(what string, got Sum) error {
		if want := (Sum{item.Fixed(), item.Fixed()}); !item.Failed() && !want.Equal(got) {
			return snapfile.Damaged("the sum of its %s is %v instead of %v", what, got, want)
		}
		return nil
	}
	if err := checkSum("items", s.sum()); err != nil || l.level < snapfile.LevelOrigins {
		return err
	}
	return checkSum("origins", s.origins.sum)
}

// appendEvent appends an event: its action and its one or two nodes.
func appendEvent(b []byte, e kv.Event) []byte {
	return appendNode(appendNode(appendText(b, string(e.Action)), e.Node), e.PrevNode)
}

const (
	nodePresent = 1 << iota
	nodeDir
	nodeExpires
	nodeLeased
	nodeFlags = nodePresent | nodeDir | nodeExpires | nodeLeased
)

func appendNode(b []byte, n *kv.Node) []byte {
	if n == nil {
		return append(b, 0)
	}
	flags := byte(nodePresent)
	if n.Dir {
		flags |= nodeDir
	}
	if !n.Expiration.IsZero() {
		flags |= nodeExpires
	}
	if n.Lease != 0 {
		flags |= nodeLeased
	}
	b = appendText(append(b, flags), n.Key)
	b = appendText(b, n.Value)
	if flags&nodeExpires != 0 {
		b = binary.AppendVarint(b, n.Expiration.UnixNano())
		b = binary.AppendVarint(b, n.TTL)
	}
	if flags&nodeLeased != 0 {
		b = binary.AppendUvarint(b, uint64(n.Lease))
	}
	return binary.AppendUvarint(binary.AppendUvarint(b, n.ModifiedIndex), n.CreatedIndex)
}

func readEvent(item *snapfile.Item) kv.Event {
	return kv.Event{Action: kv.Action(item.Text()), Node: readNode(item, true), PrevNode: readNode(item, false)}
}

// readNode reads a node; nil if there is none, which fails where one is required.
func readNode(item *snapfile.Item, required bool) *kv.Node {
	flags := item.Byte()
	if flags&^nodeFlags != 0 || required && flags&nodePresent == 0 {
		item.Fail()
		return &kv.Node{}
	}
	if flags&nodePresent == 0 {
		return nil
	}
	n := &kv.Node{Dir: flags&nodeDir != 0, Key: item.Text(), Value: item.Text()}
	if flags&nodeExpires != 0 {
		n.Expiration = unixNano(item.Int())
		n.TTL = item.Int()
	}
	if flags&nodeLeased != 0 {
		n.Lease = kv.LeaseID(item.Uint())
	}
	n.ModifiedIndex, n.CreatedIndex = item.Uint(), item.Uint()
	return n
}
