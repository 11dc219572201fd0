package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// hostileKeys are few, so that operations meet, and sort in ways that trees get wrong.
var hostileKeys = []string{
	"", "/a", "/a/b", "/a/b/c", "/ab", "/a-b", "/a.b", "/a/0", "/a0", "/_h", "/a/_h", "/a/_h/x", "/a/b/_", "/é", "/a/b/c/d", "/a-b/c", "/\xff", "/a/ ",
}

var hostileValues = []string{"", "1", "2", "\x00\xff", "long enough to be packed, long enough to be packed, long enough"}

// trial runs one log on several machines and on the model.
type trial struct {
	model  *model
	whole  *replica // gets the batches as drawn, and knows of renewals
	single *replica // gets every command as an entry of its own
	reborn *replica // is replaced by one restored from its snapshot now and then
	seen   int      // events of the model's history that the machines have told
	stale  []command.LeaseEnd
	mirror mirror

	applied int // commands
}

const trialHistory = 7

// leaseIDs are some to share and some that nobody can have.
var leaseIDs = []uint64{1, 2, 3, 1 << 63, implicitLease - 1, implicitLease | 2, implicitLease | 1<<48, 0}

func newTrial(t *rapid.T) *trial {
	start := func() *replica { return trialReplica(t) }
	tr := &trial{model: newModel(), whole: start(), single: start(), reborn: start(), mirror: mirror{}}
	tr.whole.shortListing = 0 // it keeps every listing
	return tr
}

func trialReplica(t *rapid.T) *replica {
	r := &replica{t: t, Machine: New(trialHistory)}
	r.state.origins.max = modelOrigins
	return r
}

func (tr *trial) drawBody(t *rapid.T) command.Body {
	due := tr.whole.Due(int64(tr.whole.now), 10)
	tr.stale = append(append(tr.stale, due.Ended...), due.Silent...)
	lease := rapid.SampledFrom(leaseIDs)
	switch choice := rapid.IntRange(0, 30).Draw(t, "what"); {
	case choice == 0:
		return command.Tick{}
	case choice == 30:
		return drawCheck(t)
	case choice > 27:
		return drawMember(t)
	case choice > 24:
		return drawAuth(t)
	case choice < 4 && len(tr.stale) > 0:
		return command.Expire{Leases: rapid.SliceOfN(rapid.SampledFrom(tr.stale), 1, 3).Draw(t, "expire")}
	case choice == 4:
		return command.LeaseRevoke{ID: lease.Draw(t, "revoke")}
	case choice == 5:
		told := rapid.Custom(func(t *rapid.T) command.LeaseEnd {
			left := rapid.SampledFrom([]time.Duration{-time.Minute, 0, time.Second, 70 * time.Second, time.Hour}).Draw(t, "left")
			return command.LeaseEnd{Lease: lease.Draw(t, "silent"), Deadline: max(0, int64(tr.whole.now+left))}
		})
		return command.LeaseCheckpoint{Leases: append(rapid.SliceOfN(told, 0, 2).Draw(t, "checkpoint"), due.Silent...)}
	case choice < 9:
		return command.LeaseGrant{ID: lease.Draw(t, "grant"), TTL: rapid.SampledFrom([]time.Duration{
			time.Second, 2 * time.Second, 2 * time.Minute, time.Hour, kv.LeaseTTLMax + time.Second, 1500 * time.Millisecond, 0,
		}).Draw(t, "lease ttl")}
	}
	key := rapid.SampledFrom(hostileKeys).Draw(t, "key")
	if rapid.IntRange(0, 9).Draw(t, "squat") == 0 {
		key = fmt.Sprintf("%s/%020d", key, tr.model.index+rapid.Uint64Range(0, 4).Draw(t, "ahead"))
	}
	var prevIndex kv.Index
	if n := tr.model.nodes[key]; n != nil && rapid.Bool().Draw(t, "right index") {
		prevIndex = n.modified
	} else if rapid.IntRange(0, 3).Draw(t, "wrong index") == 0 {
		prevIndex = 1
	}
	prevValue := rapid.SampledFrom(hostileValues).Draw(t, "prevValue")
	if n := tr.model.nodes[key]; n != nil && rapid.Bool().Draw(t, "right value") {
		prevValue = n.value
	}
	seldom := func(name string) bool { return rapid.IntRange(0, 3).Draw(t, name) == 0 }
	return kv.Write{
		Op: kv.Op(rapid.Uint8Range(1, 7).Draw(t, "op")), Key: key,
		Value: rapid.SampledFrom(hostileValues).Draw(t, "value"), PrevValue: prevValue, PrevIndex: prevIndex,
		TTL:   rapid.SampledFrom([]time.Duration{0, 0, kv.TTLDue, 1, time.Second, 1500 * time.Millisecond, time.Minute}).Draw(t, "ttl"),
		Lease: kv.LeaseID(rapid.SampledFrom(append([]uint64{0, 0, 0, 0, 0}, leaseIDs...)).Draw(t, "lease")),
		Dir:   seldom("dir"), Recursive: seldom("recursive"), Refresh: seldom("refresh"),
	}
}

func (tr *trial) step(t *rapid.T) {
	elapsed := rapid.SampledFrom([]time.Duration{0, 1, time.Second, 700 * time.Millisecond, time.Minute, -time.Second}).Draw(t, "elapsed")
	for _, r := range []*replica{tr.whole, tr.single, tr.reborn} {
		r.now = max(0, r.now+elapsed) // a new leader may be behind, but no clock began below 0
	}
	tr.model.clock = max(tr.model.clock, int64(tr.whole.now))

	var commands []command.Command
	for range rapid.IntRange(1, 5).Draw(t, "commands") {
		commands = append(commands, tr.drawCommand(t))
	}
	if !tr.model.auth.enabled && rapid.IntRange(0, 7).Draw(t, "guard") == 0 {
		commands = append(guards(t), commands...)
	}
	tr.applied += len(commands)
	results := tr.whole.applyAll(commands...)
	tr.reborn.applyAll(commands...)
	for i, c := range commands {
		var alone command.Result
		bodies := parts(c.Body)
		if results[i].Repeated {
			bodies = []command.Body{c.Body}
		}
		for n, part := range bodies {
			before, index := maps.Collect(records(tr.single)), tr.single.Index()
			growth := growthExpected(tr.single, part)
			bytes := tr.single.Bytes()
			cut := c
			if cut.Body = part; n > 0 {
				cut.Origin = 0
			}
			alone = tr.single.applyAll(cut)[0]
			if !isAuth(part) && !alone.Repeated {
				checkGrowth(t, part, alone.Err, tr.single.Bytes()-bytes, growth)
			}
			checkChanges(t, part, before, index, alone, tr.single.Machine)
		}

		want := command.Result{Repeated: true}
		if tr.model.first(c) {
			want.Repeated = false
			want.Result, want.Err = tr.model.execute(c)
		}
		for _, got := range []command.Result{results[i], alone} {
			checkResult(t, c, got, want)
		}
	}
	tr.check(t)
}

func isAuth(body command.Body) bool {
	switch body.(type) {
	case command.AuthEnable, command.AuthUser, command.AuthRole:
		return true
	}
	return false
}

func isMember(body command.Body) bool {
	switch body.(type) {
	case command.Member, command.MemberRemove:
		return true
	}
	return false
}

func checkGrowth(t *rapid.T, body command.Body, err error, grown, expected int64) {
	w, writes := body.(kv.Write)
	switch {
	case writes && !w.Refresh && expected > GrowthAtMost(w):
		t.Fatalf("%+v may make the state grow by %d bytes, and any state by %d", body, expected, GrowthAtMost(w))
	case grown > expected:
		t.Fatalf("%+v made the state grow by %d bytes, at most %d were expected", body, grown, expected)
	case writes && err == nil && w.TTL != 0 && !w.Refresh && expected > 0 && grown != expected:
		// Without a TTL it may be less: the lease of the node before goes.
		t.Fatalf("%+v made the state grow by %d bytes, %d were expected", body, grown, expected)
	}
}

// drawCommand draws who asks and for what. Half of it is a member's own business, which needs no right.
func (tr *trial) drawCommand(t *rapid.T) command.Command {
	c := command.Command{Body: tr.drawBody(t)}
	if rapid.IntRange(0, 1).Draw(t, "somebody asks") > 0 {
		c.User = rapid.SampledFrom([]string{"u", "u", "u", "v", "", "root", "nobody"}).Draw(t, "user")
		c.AuthRevision = rapid.SampledFrom([]uint64{0, 1, 1}).Draw(t, "auth revision")
		c.AsDir = rapid.Bool().Draw(t, "as dir")
	}
	if rapid.IntRange(0, 1).Draw(t, "comes from somewhere") > 0 {
		c.Origin = rapid.Uint64Range(0, modelOrigins+1).Draw(t, "origin")
		c.Sequence = tr.drawSequence(t, c.Origin)
	}
	return c
}

// drawSequence draws one that is near the newest of an origin, or near the end of its window.
func (tr *trial) drawSequence(t *rapid.T, origin uint64) uint64 {
	newest := uint64(0)
	for _, o := range tr.model.origins {
		if o.id == origin {
			newest = o.newest
		}
	}
	return uint64(max(0, int64(newest)+rapid.SampledFrom([]int64{1, 1, 1, 2, 0, -1, -2, 70, -70, window, window - 1, window + 1, -window, 1 - window, -1 - window}).Draw(t, "sequence")))
}

func drawMember(t *rapid.T) command.Body {
	id := rapid.Uint64Range(0, 6).Draw(t, "member")
	if rapid.IntRange(0, 4).Draw(t, "leaves") == 0 {
		return command.MemberRemove{ID: id}
	}
	return command.Member{ID: id, Name: "m", Voter: rapid.Bool().Draw(t, "votes"), Learner: rapid.Bool().Draw(t, "learns")}
}

func drawCheck(t *rapid.T) command.Body {
	return command.Check{Member: rapid.Uint64Range(0, 6).Draw(t, "checked"), Index: rapid.Uint64Range(0, 9).Draw(t, "at entry"), Sum: [16]byte{1}}
}

// guards returns what it takes to turn access control on, with a role that somebody has.
func guards(t *rapid.T) []command.Command {
	var commands []command.Command
	for _, body := range []command.Body{
		command.AuthRole{Op: command.AuthCreate, Name: "r", Rights: drawRights(t, "rights")},
		command.AuthUser{Op: command.AuthPut, Name: "u", Hash: "h1", Roles: []string{"r"}, Grant: []string{"r"}},
		command.AuthUser{Op: command.AuthPut, Name: "root", Hash: "h1", Roles: []string{}},
		command.AuthEnable{Enabled: true},
	} {
		commands = append(commands, command.Command{Body: body})
	}
	return commands
}

func drawSome(t *rapid.T, name string, from []string) []string {
	return append([]string{}, rapid.SliceOfN(rapid.SampledFrom(from), 0, 2).Draw(t, name)...)
}

func drawRights(t *rapid.T, name string) command.Rights {
	ranges := func(patterns []string) []kv.KeyRange {
		list := []kv.KeyRange{}
		for _, pattern := range patterns {
			list = append(list, kv.PatternRange(pattern))
		}
		return list
	}
	return command.Rights{Read: ranges(drawSome(t, name+" to read", modelPatterns)), Write: ranges(drawSome(t, name+" to write", modelPatterns))}
}

func drawAuth(t *rapid.T) command.Body {
	op := command.AuthOp(rapid.IntRange(1, 4).Draw(t, "auth op"))
	switch rapid.IntRange(0, 4).Draw(t, "about") {
	case 0:
		return command.AuthEnable{Enabled: rapid.IntRange(0, 3).Draw(t, "enabled") > 0}
	case 1, 2:
		names := []string{"r", "s", "root", "guest"}
		return command.AuthUser{
			Op: op, Name: rapid.SampledFrom([]string{"u", "v", "root"}).Draw(t, "user"), Hash: rapid.SampledFrom([]command.Secret{"h1", "h2", ""}).Draw(t, "hash"),
			Roles: drawSome(t, "roles", names), Grant: drawSome(t, "granted", names), Revoke: drawSome(t, "revoked", names),
		}
	}
	if op == command.AuthPut {
		op = command.AuthUpdate
	}
	return command.AuthRole{
		Op: op, Name: rapid.SampledFrom([]string{"r", "s", "guest", "root"}).Draw(t, "role"), Rights: drawRights(t, "rights"), Grant: drawRights(t, "granted"), Revoke: drawRights(t, "revoked"),
	}
}

// checkResult compares with the model, of a failure about access control or members the kind only.
func checkResult(t *rapid.T, c command.Command, got, want command.Result) {
	got.RaftIndex, got.RaftTerm = 0, 0
	var failed *kv.Error
	if isAuth(c.Body) || isMember(c.Body) {
		got.Changed = nil
		if errors.As(got.Err, &failed) && failed.Kind != kv.Denied {
			got.Err = &kv.Error{Kind: failed.Kind}
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v\n got %s, repeated %v\nwant %s, repeated %v", c, renderOutcome(got.Result, got.Err), got.Repeated, renderOutcome(want.Result, want.Err), want.Repeated)
	}
}

// renderOutcome is render for commands that lead to no node as well.
func renderOutcome(result kv.Result, err error) string {
	if err == nil && result.Node == nil {
		return fmt.Sprintf("done @%d", result.Index)
	}
	return render(result, err)
}

// growthExpected returns how many bytes body may add to the state.
func growthExpected(r *replica, body command.Body) int64 {
	w, ok := body.(kv.Write)
	_, grants := body.(command.LeaseGrant)
	switch {
	case grants:
		return ItemOverhead
	case !ok:
		return 0
	case w.Refresh && r.Growth(w) == 0:
		return ItemOverhead // the lease of a key that had none
	}
	return max(r.Growth(w), 0)
}

// parts cuts a command of several changes into one for each.
func parts(body command.Body) []command.Body {
	expire, ok := body.(command.Expire)
	if !ok {
		return []command.Body{body}
	}
	var bodies []command.Body
	for _, end := range expire.Leases {
		bodies = append(bodies, ends(end))
	}
	return bodies
}

// renew lets one of the machines know of renewals that the others do not know of: all that they
// apply and tell has to stay alike.
func (tr *trial) renew(t *rapid.T) {
	now := tr.model.clock + rapid.SampledFrom([]int64{0, 1, 1e9, 5e9}).Draw(t, "later")
	prolong := func(id uint64, l *modelLease, left int64) {
		if end := now + left; end > l.end(id, tr.model.renewed) {
			tr.model.renewed[id] = end
		}
	}
	switch rapid.IntRange(0, 5).Draw(t, "how") {
	case 0:
		tr.whole.Forget()
		tr.model.renewed = nil
	case 1:
		tr.whole.Resume(now, time.Second)
		if tr.model.renewed == nil {
			tr.model.renewed = map[uint64]int64{}
		}
		for id, l := range tr.model.leases {
			prolong(id, l, min(l.ttl, l.remaining+int64(time.Second)))
		}
	default:
		if tr.model.renewed == nil { // leases are renewed by who leads
			return
		}
		id := rapid.SampledFrom(leaseIDs).Draw(t, "renew")
		got, checkpointed, err := tr.whole.Renew(kv.LeaseID(id), now)
		l := tr.model.leases[id]
		if l == nil {
			if !kv.Is(err, kv.NoLease) {
				t.Fatalf("renewing %x, which does not exist: %v", id, err)
			}
			return
		}
		prolong(id, l, l.ttl)
		want := kv.Lease{ID: kv.LeaseID(id), TTL: time.Duration(l.ttl), Index: tr.model.index, Attached: len(tr.model.attached(id)),
			Remaining: time.Duration(max(0, min(l.ttl, l.end(id, tr.model.renewed)-now)))}
		if err != nil || !reflect.DeepEqual(got, want) || checkpointed != (l.remaining < l.ttl) {
			t.Fatalf("renewed %+v, %v, %v; want %+v", got, checkpointed, err, want)
		}
		if want.Keys = tr.model.attached(id); len(want.Keys) > 2 {
			want.Keys = want.Keys[:2]
		}
		if got, err = tr.whole.Lease(kv.LeaseID(id), now, 2); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("the lease is %+v, %v; want %+v", got, err, want)
		}
	}
	tr.check(t)
}

func records(r *replica) func(func(string, *record) bool) {
	return func(yield func(string, *record) bool) {
		r.state.records.Scan(func(rec *record) bool { return yield(rec.key, rec) })
	}
}

// checkChanges compares a command's change set with the keys before and after it: each change of
// what v3 would show is there once, in key order, and nothing else; a number is taken by success.
func checkChanges(t *rapid.T, body command.Body, before map[string]*record, index kv.Index, result command.Result, m *Machine) {
	changed := map[string]bool{}
	last := ""
	for _, c := range m.state.changes.Records {
		key := ""
		if c.prev != nil {
			key = c.prev.key
		}
		if c.next != nil {
			key = c.next.key
		}
		now, _ := m.state.records.Get(key)
		if changed[key] || key < last || before[key] != c.prev || now != c.next {
			t.Fatalf("%+v: the change of %q is double, out of order or wrong: %+v to %+v", body, key, c.prev, c.next)
		}
		changed[key], last = true, key
	}
	after := m.state.records
	for key := range before {
		now, ok := after.Get(key)
		if moved := !ok || now.mod != before[key].mod; moved != changed[key] {
			t.Fatalf("%+v: %q changed for v3: %v, in the change set: %v", body, key, moved, changed[key])
		}
	}
	after.Scan(func(r *record) bool {
		key := r.key
		prev := before[key]
		switch {
		case prev == nil && (!changed[key] || r.create != m.state.revision || r.mod != r.create || r.version != 1):
			t.Fatalf("%+v: %q is new at %d: %+v, in the change set: %v", body, key, m.state.revision, r, changed[key])
		case prev != nil && r.create != prev.create:
			t.Fatalf("%+v: create of %q went from %d to %d", body, key, prev.create, r.create)
		case prev != nil && changed[key] && (r.version != prev.version+1 || r.mod != m.state.revision):
			t.Fatalf("%+v: %q went from %+v to %+v at %d", body, key, prev, r, m.state.revision)
		case prev != nil && !changed[key] && (r.version != prev.version || r.value != prev.value || r.lease != prev.lease):
			t.Fatalf("%+v: %q went from %+v to %+v without a change that v3 sees", body, key, prev, r)
		}
		return true
	})
	_, writes := body.(kv.Write)
	writes = writes && !result.Repeated
	switch taken := m.Index() - index; {
	case writes && taken > 1, result.Err != nil && taken != 0, writes && result.Err == nil && taken != 1, !writes && taken != uint64(len(m.state.changes.Events)):
		t.Fatalf("%+v took %d numbers: %v", body, taken, result.Err)
	}
}

func (tr *trial) check(t *rapid.T) {
	fresh := tr.model.history[tr.seen:]
	tr.seen = len(tr.model.history)
	last := kv.Index(0)
	if kept := len(tr.model.history) - len(fresh); kept > 0 {
		last = tr.model.history[kept-1].Node.ModifiedIndex
	}
	wantKept := tr.model.history[max(0, tr.seen-trialHistory):]
	wantDropped := kv.Index(0)
	if n := tr.seen - trialHistory; n > 0 {
		wantDropped = tr.model.history[n-1].Node.ModifiedIndex
	}
	for name, r := range map[string]*replica{"whole": tr.whole, "single": tr.single, "reborn": tr.reborn} {
		events, index := r.TakeEvents()
		if index != tr.model.index || len(events) != len(fresh) || len(fresh) > 0 && !reflect.DeepEqual(events, fresh) {
			t.Fatalf("%s told %v at %d\nwant %v at %d", name, events, index, fresh, tr.model.index)
		}
		after := last
		for _, e := range events {
			if e.Node.ModifiedIndex <= after || e.Node.ModifiedIndex > index {
				t.Fatalf("%s: event %s after index %d, store at %d", name, renderEvent(e), after, index)
			}
			after = e.Node.ModifiedIndex
		}
		kept, dropped, index := r.History()
		if index != tr.model.index || dropped != wantDropped || len(kept) != len(wantKept) || len(kept) > 0 && !reflect.DeepEqual(kept, wantKept) {
			t.Fatalf("%s keeps %v after %d at %d\nwant %v after %d at %d", name, kept, dropped, index, wantKept, wantDropped, tr.model.index)
		}
		if err := audit(r.Machine); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !r.Sum().Equal(tr.whole.Sum()) {
			t.Fatalf("%s has sum %v, whole has %v", name, r.Sum(), tr.whole.Sum())
		}
		if auth := r.Auth(); auth.Enabled != tr.model.auth.enabled || !slices.Equal(showAuth(auth), tr.model.auth.show(tr.model.rolesOf)) || auth.Revision != tr.whole.Auth().Revision {
			t.Fatalf("%s has access control %v, revision %d, %q\nwant %v, %q", name, auth.Enabled, auth.Revision, showAuth(auth), tr.model.auth.enabled, tr.model.auth.show(tr.model.rolesOf))
		}
		tr.checkMembers(t, name, r)
		tr.checkReads(t, r)
	}
	tr.checkMirror(t, fresh)
}

func (tr *trial) checkMembers(t *rapid.T, name string, r *replica) {
	var want []command.Member
	for _, id := range slices.Sorted(maps.Keys(tr.model.members)) {
		want = append(want, tr.model.members[id])
	}
	if got := r.Members(); !reflect.DeepEqual(got, want) {
		t.Fatalf("%s has members %v, want %v", name, got, want)
	}
	for id := range uint64(7) {
		if r.Removed(id) != tr.model.removed[id] {
			t.Fatalf("%s: member %d removed: %v", name, id, r.Removed(id))
		}
	}
	for _, o := range tr.model.origins {
		for _, sequence := range []uint64{o.newest, o.newest + 1, max(o.newest, 1) - 1, max(o.newest, window) - window, max(o.newest, window-1) - (window - 1)} {
			if want := o.executed[sequence] || sequence+window <= o.newest; r.Executed(o.id, sequence) != want {
				t.Fatalf("%s: command %d of origin %d executed: %v, the newest is %d", name, sequence, o.id, !want, o.newest)
			}
		}
	}
}

func (tr *trial) checkReads(t *rapid.T, r *replica) {
	now := tr.model.clock + rapid.Int64Range(-1e9, 2e9).Draw(t, "reader's clock")
	for _, key := range slices.Sorted(maps.Keys(tr.model.nodes)) {
		tr.checkRead(t, r, kv.Read{Key: key}, now)
	}
	for _, key := range hostileKeys {
		tr.checkRead(t, r, kv.Read{Key: key, Recursive: true}, now)
		tr.checkRead(t, r, kv.Read{Key: key + "/absent/x"}, now)
	}
	want := tr.model.due(now, tr.knows(r))
	if due := r.Due(now, 1000); !reflect.DeepEqual(due, want) {
		t.Fatalf("due at %d: %+v\nwant %+v", now, due, want)
	}
	if len(want.Ended) > 1 && len(want.Silent) == 0 {
		if due := r.Due(now, 1); !slices.Equal(due.Ended, want.Ended[:1]) || due.Next > now {
			t.Fatalf("due at %d: first %+v; want of %+v", now, due, want)
		}
	}
	var shared []kv.LeaseID
	listed, _ := r.SharedLeases(0, now, 1000)
	for _, l := range listed {
		shared = append(shared, l.ID)
		if after, _ := r.SharedLeases(l.ID-1, now, 1); len(after) != 1 || after[0].ID != l.ID {
			t.Fatalf("after %x comes %v, want %x", l.ID-1, after, l.ID)
		}
	}
	var wantShared []kv.LeaseID
	for _, id := range slices.Sorted(maps.Keys(tr.model.leases)) {
		wantShared = append(wantShared, kv.LeaseID(id))
	}
	if !slices.Equal(shared, wantShared) {
		t.Fatalf("shared leases %x, want %x", shared, wantShared)
	}
}

// knows is what a machine knows of renewals: nothing, but for one.
func (tr *trial) knows(r *replica) map[uint64]int64 {
	if r == tr.whole {
		return tr.model.renewed
	}
	return nil
}

func (tr *trial) checkRead(t *rapid.T, r *replica, read kv.Read, now int64) {
	got, err := r.Read(read, now)
	want, wantErr := tr.model.read(read, now, tr.knows(r))
	if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(err, wantErr) {
		t.Fatalf("read %+v at %d:\n got %s\nwant %s", read, now, render(got, err), render(want, wantErr))
	}
}

// mirror is what a client of the v2 API believes: paths with their values, "/" for directories.
type mirror map[string]string

func (c mirror) load(n *kv.Node) {
	if n.Dir {
		c[n.Key] = "/"
	} else {
		c[n.Key] = "=" + n.Value
	}
	for _, child := range n.Nodes {
		c.load(child)
	}
}

func (c mirror) follow(e kv.Event) {
	key := e.Node.Key
	if e.Removes() {
		delete(c, key)
		for path := range c {
			if e.Node.Dir && strings.HasPrefix(path, key+"/") {
				delete(c, path)
			}
		}
		return
	}
	c[key] = "=" + e.Node.Value
	if e.Node.Dir {
		c[key] = "/"
	}
	for parent := kv.Parent(key); parent != ""; parent = kv.Parent(parent) {
		c[parent] = "/"
	}
}

// checkMirror follows the events on top of the last reading and compares with a reading now. What
// is hidden was not read at first; its events bring only more of the hidden, and their parents.
func (tr *trial) checkMirror(t *rapid.T, events []kv.Event) {
	now := mirror{}
	root, err := tr.whole.Read(kv.Read{Recursive: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	now.load(root.Node)
	for _, e := range events {
		tr.mirror.follow(e)
	}
	shown := maps.Clone(tr.mirror)
	maps.DeleteFunc(shown, func(path, _ string) bool { return kv.HiddenBelow(path, "") })
	shown[""] = "/"
	if !maps.Equal(shown, now) {
		t.Fatalf("a client that follows the events believes in %q\nthe store has %q", shown, now)
	}
	if rapid.IntRange(0, 4).Draw(t, "read afresh") == 0 {
		tr.mirror = now
	}
}

// restore replaces one machine by another that gets its snapshot.
func (tr *trial) restore(t *rapid.T) {
	written := tr.reborn.snapshot()
	fresh := trialReplica(t)
	fresh.index, fresh.now = tr.reborn.index, tr.reborn.now
	if rapid.Bool().Draw(t, "into a used one") {
		fresh.Apply(1, 1, &command.Batch{Clock: 1 << 60, Commands: []command.Command{
			{Body: lasting(5, set("/a/gone", "1"))}, {Body: asDir(set("/gone", ""))}, {Body: command.LeaseGrant{ID: 1, TTL: time.Hour}}, {Body: attached(1, set("/gone/l", ""))}, {Body: command.Member{ID: 99}},
			{Origin: 99, Sequence: 1, Body: command.MemberRemove{ID: 98}},
		}})
	}
	if err := fresh.Restore(bytes.NewReader(written)); err != nil {
		t.Fatalf("restoring: %v", err)
	}
	if again := fresh.snapshot(); !bytes.Equal(again, written) {
		t.Fatalf("the snapshot of what was restored differs: %d and %d bytes", len(written), len(again))
	}
	if !reflect.DeepEqual(fresh.Members(), tr.reborn.Members()) {
		t.Fatalf("members %v became %v", tr.reborn.Members(), fresh.Members())
	}
	index, term := fresh.Applied()
	clock, offset := fresh.LeaseClock()
	if wantClock, wantOffset := tr.whole.LeaseClock(); index != tr.reborn.index || term != 7 && index > 0 || clock != wantClock || offset != wantOffset {
		t.Fatalf("restored to entry %d of term %d, clock %d+%d", index, term, clock, offset)
	}
	tr.reborn = fresh
}

// operationsVariable says how many operations the model is compared over at least; the default is
// one round of rapid's checks.
const operationsVariable = "KVD_MODEL_OPERATIONS"

func TestMachineBehavesLikeThePlainModelOnAnyLog(t *testing.T) {
	wanted := 0
	if text := os.Getenv(operationsVariable); text != "" {
		var err error
		if wanted, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", operationsVariable, err)
		}
	}
	operations, start := 0, time.Now()
	for again := true; again; again = operations < wanted {
		rapid.Check(t, func(t *rapid.T) {
			tr := newTrial(t)
			t.Repeat(map[string]func(*rapid.T){
				"apply":   tr.step,
				"apply 2": tr.step,
				"apply 3": tr.step,
				"renew":   tr.renew,
				"restore": tr.restore,
			})
			operations += tr.applied
		})
	}
	t.Logf("%d operations in %v", operations, time.Since(start).Round(time.Second))
}
