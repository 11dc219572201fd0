package store

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// model is the store again, as slow and as plain as can be: one map of nodes by path, searched
// from end to end for every question. It follows the text of the API, not the code beside it.
type model struct {
	nodes   map[string]*modelNode
	index   kv.Index
	clock   int64
	history []kv.Event // all of it

	leases  map[uint64]*modelLease // the shared ones
	renewed map[uint64]int64       // what one member alone knows while it leads, else nil

	auth modelAuth

	members map[uint64]command.Member
	removed map[uint64]bool

	origins []*modelOrigin // the one used last is the last
}

// modelOrigin is all commands of one origin that were executed.
type modelOrigin struct {
	id       uint64
	newest   uint64
	executed map[uint64]bool
}

const modelOrigins = 3 // that are remembered

// first notes that a command is executed and returns whether it is for the first time.
func (m *model) first(c command.Command) bool {
	if c.Origin == 0 {
		return true
	}
	at := slices.IndexFunc(m.origins, func(o *modelOrigin) bool { return o.id == c.Origin })
	o := &modelOrigin{id: c.Origin, executed: map[uint64]bool{}}
	if at >= 0 {
		o = m.origins[at]
		if o.executed[c.Sequence] || c.Sequence+4096 <= o.newest {
			return false
		}
		m.origins = slices.Delete(m.origins, at, at+1)
	}
	o.executed[c.Sequence], o.newest = true, max(o.newest, c.Sequence)
	m.origins = append(m.origins, o)
	m.origins = m.origins[max(0, len(m.origins)-modelOrigins):]
	return true
}

// modelLease is a shared lease.
type modelLease struct {
	ttl, deadline, remaining int64
}

func (l *modelLease) end(id uint64, renewed map[uint64]int64) int64 {
	return max(l.deadline, renewed[id])
}

// modelNode is a value or a directory.
type modelNode struct {
	value             string
	dir               bool
	created, modified kv.Index
	expires           bool
	deadline          int64
	lease             kv.Index // when its lease began
	shared            uint64
}

func newModel() *model {
	return &model{
		leases: map[uint64]*modelLease{}, index: 1, nodes: map[string]*modelNode{"": {dir: true}},
		members: map[uint64]command.Member{}, removed: map[uint64]bool{},
		auth: modelAuth{users: map[string]modelUser{}, roles: map[string]modelRole{}},
	}
}

// walk goes down from the root, step by step.
func (m *model) walk(key string) (*modelNode, *kv.Error) {
	for i := 1; i <= len(key); i++ {
		if i < len(key) && key[i] != '/' {
			continue
		}
		n := m.nodes[key[:i]]
		if n == nil {
			return nil, m.failure(kv.NotFound, key[:i])
		}
		if i < len(key) && !n.dir {
			return nil, m.failure(kv.NotDir, key[:i])
		}
	}
	return m.nodes[key], nil
}

func (m *model) failure(kind kv.Kind, cause string) *kv.Error {
	return &kv.Error{Kind: kind, Cause: cause, Index: m.index}
}

func (m *model) show(key string, now int64) *kv.Node {
	n := m.nodes[key]
	shown := &kv.Node{Key: key, Value: n.value, Dir: n.dir, ModifiedIndex: n.modified, CreatedIndex: n.created, Lease: kv.LeaseID(n.shared)}
	if n.expires {
		shown.Expiration = time.Unix(0, n.deadline).Add(time.Duration(wallOffset)).UTC()
		for left := n.deadline - now; left > 0; left -= int64(time.Second) {
			shown.TTL++
		}
	}
	return shown
}

// look is what a read shows of a node; renewed is what the member that is asked knows, nil if it does not lead.
func (m *model) look(key string, now int64, renewed map[uint64]int64) *kv.Node {
	shown := m.show(key, now)
	if l := m.leases[m.nodes[key].shared]; l != nil {
		end := now + l.remaining
		if renewed != nil {
			end = min(l.end(m.nodes[key].shared, renewed), now+l.ttl)
		}
		shown.Expiration = time.Unix(0, end).Add(time.Duration(wallOffset)).UTC()
		for left := end - now; left > 0; left -= int64(time.Second) {
			shown.TTL++
		}
	}
	return shown
}

// list is a node with its children, one level or all.
func (m *model) list(key string, recursive bool, now int64, renewed map[uint64]int64) *kv.Node {
	shown := m.look(key, now, renewed)
	var children []string
	for path := range m.nodes {
		if path != "" && path[:strings.LastIndex(path, "/")] == key && path[len(key)+1] != '_' {
			children = append(children, path)
		}
	}
	slices.Sort(children)
	for _, path := range children {
		if recursive {
			shown.Nodes = append(shown.Nodes, m.list(path, true, now, renewed))
		} else {
			shown.Nodes = append(shown.Nodes, m.look(path, now, renewed))
		}
	}
	return shown
}

func (m *model) read(r kv.Read, now int64, renewed map[uint64]int64) (kv.Result, error) {
	n, missing := m.walk(r.Key)
	if missing != nil {
		missing.Op, missing.Key = "get", r.Key
		return kv.Result{}, missing
	}
	event := kv.Event{Action: kv.ActionGet}
	if n.dir {
		event.Node = m.list(r.Key, r.Recursive, max(now, m.clock), renewed)
	} else {
		event.Node = m.look(r.Key, max(now, m.clock), renewed)
	}
	return kv.Result{Event: event, Index: m.index}, nil
}

// execute returns what a command leads to. Of a failure about access control it knows the kind only.
func (m *model) execute(c command.Command) (kv.Result, error) {
	if !m.permits(c) {
		w, _ := c.Body.(kv.Write)
		return kv.Result{}, &kv.Error{Key: w.Key, Kind: kv.Denied, Cause: "Insufficient credentials"}
	}
	var event kv.Event
	switch c := c.Body.(type) {
	case kv.Write:
		key := c.Key
		if c.Op == kv.OpCreateInOrder {
			key = fmt.Sprintf("%s/%020d", c.Key, m.index+1)
		}
		var err *kv.Error
		if event, err = m.write(c, key); err != nil {
			err.Op, err.Key = c.Op.String(), key
			if c.Op == kv.OpCreateInOrder && (err.Kind == kv.NotDir || err.Kind == kv.NoLease || err.Kind == kv.Invalid) {
				err.Key = c.Key
			}
			return kv.Result{}, err
		}
	case command.Expire:
		for _, e := range c.Leases {
			m.expire(e)
		}
	case command.LeaseGrant:
		whole := c.TTL >= time.Second && c.TTL <= 9e9*time.Second && c.TTL%time.Second == 0
		err := m.failure(kv.Exists, kv.LeaseID(c.ID).String())
		switch {
		case !whole:
			err = m.failure(kv.Invalid, "a lease does not last that long")
		case c.ID == 0 || c.ID>>48 == 0x7E76:
			err = m.failure(kv.Invalid, "the id is one that no shared lease can have")
		case m.leases[c.ID] == nil:
			m.leases[c.ID] = &modelLease{int64(c.TTL), m.clock + int64(c.TTL), int64(c.TTL)}
			return kv.Result{Index: m.index}, nil
		}
		err.Op = "lease grant"
		return kv.Result{}, err
	case command.LeaseRevoke:
		if m.leases[c.ID] == nil {
			err := m.failure(kv.NoLease, kv.LeaseID(c.ID).String())
			err.Op = "lease revoke"
			return kv.Result{}, err
		}
		m.end(c.ID, kv.ActionDelete)
	case command.LeaseCheckpoint:
		for _, told := range c.Leases {
			l := m.leases[told.Lease]
			switch {
			case l == nil:
			case told.Deadline == 0:
				l.deadline, l.remaining = m.clock+l.ttl, l.ttl
			default:
				l.deadline, l.remaining = told.Deadline, max(0, min(l.ttl, told.Deadline-m.clock))
			}
		}
	case command.Tick, command.Check:
	case command.Member:
		if m.removed[c.ID] {
			return kv.Result{}, &kv.Error{Kind: kv.Invalid}
		}
		m.members[c.ID] = c
	case command.MemberRemove:
		switch {
		case m.removed[c.ID]:
			return kv.Result{}, &kv.Error{Kind: kv.NotFound}
		case c.ID == 0:
			return kv.Result{}, &kv.Error{Kind: kv.Invalid}
		}
		delete(m.members, c.ID)
		m.removed[c.ID] = true
	default:
		users := len(m.auth.users)
		if kind := m.changeAuth(c); kind != 0 {
			return kv.Result{}, &kv.Error{Kind: kind}
		}
		return kv.Result{Created: len(m.auth.users) > users, Index: m.index}, nil
	}
	return kv.Result{Event: event, Created: event.Action != "" && event.PrevNode == nil, Index: m.index}, nil
}

func (m *model) write(w kv.Write, key string) (kv.Event, *kv.Error) {
	none := kv.Event{}
	removes := w.Op == kv.OpDelete || w.Op == kv.OpCompareAndDelete
	if !removes && w.Lease != 0 && w.TTL != 0 {
		return none, m.failure(kv.Invalid, "a TTL and a lease")
	}
	if !removes && w.Lease != 0 && m.leases[uint64(w.Lease)] == nil {
		return none, m.failure(kv.NoLease, w.Lease.String())
	}
	if key == "" {
		if w.Op == kv.OpCompareAndDelete {
			return none, m.failure(kv.NotFile, "")
		}
		return none, m.failure(kv.RootReadOnly, "/")
	}
	n, missing := m.walk(key)
	if missing != nil && missing.Kind == kv.NotDir {
		return none, missing
	}
	compares := w.Op == kv.OpCompareAndSwap || w.Op == kv.OpCompareAndDelete
	refreshes := w.Refresh && (w.Op == kv.OpSet || w.Op == kv.OpUpdate || w.Op == kv.OpCompareAndSwap)
	mustExist := compares || refreshes || w.Op == kv.OpUpdate || w.Op == kv.OpDelete
	mustNotExist := w.Op == kv.OpCreate || w.Op == kv.OpCreateInOrder

	if mustExist && n == nil {
		return none, missing
	}
	if mustNotExist && n != nil {
		return none, m.failure(kv.Exists, key)
	}
	if n != nil && n.dir {
		allowed := w.Op == kv.OpUpdate && w.Value == "" && !refreshes || w.Op == kv.OpDelete && (w.Dir || w.Recursive)
		if !allowed {
			return none, m.failure(kv.NotFile, key)
		}
		if w.Op == kv.OpDelete && !w.Recursive && len(m.below(key)) > 0 {
			return none, m.failure(kv.DirNotEmpty, key)
		}
	}
	if compares {
		cause := ""
		if w.PrevValue != "" && w.PrevValue != n.value {
			cause += " [" + w.PrevValue + " != " + n.value + "]"
		}
		if w.PrevIndex > 0 && w.PrevIndex != n.modified {
			cause += fmt.Sprintf(" [%d != %d]", w.PrevIndex, n.modified)
		}
		if cause != "" {
			return none, m.failure(kv.CompareFailed, cause[1:])
		}
	}

	action := map[kv.Op]kv.Action{
		kv.OpSet: kv.ActionSet, kv.OpCreate: kv.ActionCreate, kv.OpCreateInOrder: kv.ActionCreate, kv.OpUpdate: kv.ActionUpdate,
		kv.OpCompareAndSwap: kv.ActionCompareAndSwap, kv.OpDelete: kv.ActionDelete, kv.OpCompareAndDelete: kv.ActionCompareAndDelete,
	}[w.Op]
	if removes {
		return m.remove(key, action), nil
	}
	m.index++
	event := kv.Event{Action: action}
	next := &modelNode{shared: uint64(w.Lease), value: w.Value, created: m.index, modified: m.index}
	makesDir := w.Dir && !refreshes && (w.Op == kv.OpSet || mustNotExist)
	if makesDir {
		next.dir, next.value = true, ""
	}
	if n != nil {
		event.PrevNode = m.show(key, m.clock)
		if refreshes {
			next.value = n.value
		}
		if w.Op == kv.OpUpdate || w.Op == kv.OpCompareAndSwap {
			next.created, next.dir = n.created, n.dir
		}
	}
	if w.TTL != 0 {
		next.expires, next.lease = true, m.index
		if n != nil && n.expires && !makesDir {
			next.lease = n.lease
		}
		next.deadline = m.clock + int64(w.TTL)
		if w.TTL < 0 {
			next.deadline = m.clock
		}
	}
	for parent := kv.Parent(key); m.nodes[parent] == nil; parent = kv.Parent(parent) {
		m.nodes[parent] = &modelNode{dir: true, created: m.index, modified: m.index}
	}
	m.nodes[key] = next
	event.Node = m.show(key, m.clock)
	if n != nil && n.dir {
		next.modified = n.modified
	}
	if !refreshes {
		m.history = append(m.history, event)
	}
	return event, nil
}

func (m *model) below(dir string) []string {
	var paths []string
	for path := range m.nodes {
		if strings.HasPrefix(path, dir+"/") {
			paths = append(paths, path)
		}
	}
	return paths
}

func (m *model) remove(key string, action kv.Action) kv.Event {
	m.index++
	n := m.nodes[key]
	event := kv.Event{
		Action:   action,
		Node:     &kv.Node{Key: key, Dir: n.dir, ModifiedIndex: m.index, CreatedIndex: n.created},
		PrevNode: m.show(key, m.clock),
	}
	for _, path := range m.below(key) {
		delete(m.nodes, path)
	}
	delete(m.nodes, key)
	m.history = append(m.history, event)
	return event
}

func (m *model) expire(e command.LeaseEnd) {
	if l := m.leases[e.Lease]; l != nil && l.deadline == e.Deadline && l.deadline <= m.clock {
		m.end(e.Lease, kv.ActionExpire)
		return
	}
	for path, n := range m.nodes {
		if n.expires && e.Lease == 0x7E76<<48|n.lease && n.deadline == e.Deadline && n.deadline <= m.clock {
			m.remove(path, kv.ActionExpire)
			return
		}
	}
}

// attached lists what goes with a shared lease, in key order.
func (m *model) attached(id uint64) []string {
	paths := []string{}
	for path, n := range m.nodes {
		if n.shared == id && id != 0 {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

func (m *model) end(id uint64, action kv.Action) {
	for _, path := range m.attached(id) {
		if m.nodes[path] != nil {
			m.remove(path, action)
		}
	}
	delete(m.leases, id)
	delete(m.renewed, id)
}

// due is what a leader has to do by now: leases that have ended and shared ones that were silent
// for long, the earliest first, and when the next one comes.
func (m *model) due(now int64, renewed map[uint64]int64) Due {
	type item struct {
		at      int64
		id      uint64
		end     int64
		command command.LeaseEnd
		nodes   int
	}
	var items []item
	for _, n := range m.nodes {
		if n.expires {
			id := 0x7E76<<48 | n.lease
			items = append(items, item{n.deadline, id, n.deadline, command.LeaseEnd{Lease: id, Deadline: n.deadline}, 1})
		}
	}
	for id, l := range m.leases {
		end := l.end(id, renewed)
		at := end
		if l.remaining > int64(time.Minute) {
			at -= l.remaining / 2
		}
		items = append(items, item{at, id, end, command.LeaseEnd{Lease: id, Deadline: l.deadline}, max(1, len(m.attached(id)))})
	}
	slices.SortFunc(items, func(a, b item) int {
		if a.at != b.at {
			return order(a.at < b.at)
		}
		return order(a.id < b.id)
	})
	due := Due{Next: int64(^uint64(0) >> 1)}
	for _, i := range items {
		switch {
		case i.at > now:
			due.Next = min(due.Next, i.at)
		case i.end > now:
			due.Silent = append(due.Silent, command.LeaseEnd{Lease: i.id, Deadline: i.end})
		default:
			due.Ended = append(due.Ended, i.command)
			due.Changes += i.nodes
		}
	}
	return due
}
