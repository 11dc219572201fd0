package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/printable"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

// holding is one thing that a snapshot holds: a key, a directory, a lease, a user, a role, or whether access
// control is on. Holdings come in the order of part and id.
type holding struct {
	part  byte
	id    string
	kind  string // of thing, "" for a key
	name  string
	value *string // of a key
	lease uint64  // of a key or directory; of a lease its id
	ttl   time.Duration
	facts []fact
}

// fact is what may differ, beside the value; the same kinds of holdings have the same facts.
type fact struct {
	what, is string
	secret   bool // what it is is not shown
}

// change is a difference between two snapshots.
type change struct {
	Change string            `json:"change"`         // "added", "removed" or "changed"
	Kind   string            `json:"kind,omitempty"` // of what, unless it is a key
	Key    string            `json:"key,omitempty"`  // or path of a directory
	Name   string            `json:"name,omitempty"` // of what has no key
	Before *string           `json:"before,omitempty"`
	After  *string           `json:"after,omitempty"`
	Facts  map[string]differ `json:"facts,omitempty"`

	words []string
}

// differ is a fact that is another one.
type differ struct {
	Before string `json:"before,omitempty"` // both are left out of a password
	After  string `json:"after,omitempty"`
}

var changeMarks = map[string]string{"added": "+", "removed": "-", "changed": "~"}

// errDiffer ends a diff that has printed all there is to say.
var errDiffer = errors.New("they differ")

// diffSnapshots goes through both at once, and holds no more than one thing of each, but for what has a TTL:
// how long that is stands behind all keys.
func diffSnapshots(ctx context.Context, c *session, args []string) error {
	if len(args) == 0 {
		return &usageError{text: "file required", hint: "one file is compared with what a member of --endpoints has, two with each other"}
	}
	if err := tooMany(args, 2); err != nil {
		return err
	}
	if len(args) == 2 && args[0] == "-" && args[1] == "-" {
		return &usageError{text: "only one of two files can be stdin"}
	}
	scan := func(name string) func(snapfile.Visitor) error {
		return func(v snapfile.Visitor) error { _, err := c.scan(ctx, name, v); return err }
	}
	now := func(v snapfile.Visitor) error { _, err := c.receive(ctx, io.Discard, false, v); return err }
	if len(args) == 2 {
		now = scan(args[1])
	}
	d := comparison{tell: c.tellChange}
	if err := d.run(holdings(scan(args[0])), holdings(now)); err != nil {
		return err
	}
	if d.differ {
		return errDiffer
	}
	return nil
}

func (c *session) tellChange(what change) {
	if c.format == asJSON {
		_ = json.NewEncoder(c.out).Encode(what) // a failing output shows in flush
		return
	}
	called := cmp.Or(what.Key, what.Name)
	switch what.Kind {
	case "":
	case kindDir:
		called += "/"
	default:
		called = strings.TrimSpace(what.Kind + " " + called)
	}
	fmt.Fprint(c.out, changeMarks[what.Change], " ", printable.Line(called))
	if len(what.words) > 0 {
		fmt.Fprint(c.out, ": ", printable.Line(strings.Join(what.words, ", ")))
	}
	fmt.Fprintln(c.out)
}

const (
	kindDir    = "directory"
	kindLease  = "lease"
	kindAccess = "access control"
	kindUser   = "user"
	kindRole   = "role"
)

// comparison tells how a snapshot differs from an earlier one.
type comparison struct {
	tell   func(change)
	differ bool
	timed  []timed                     // keys and directories with a TTL in both
	ttls   [2]map[uint64]time.Duration // of the leases that TTLs have made, by side
}

// timed is a key or directory with the lease of its TTL in each of both.
type timed struct {
	what   change
	leases [2]uint64
}

func (d *comparison) run(earlier, later iter.Seq2[holding, error]) error {
	before, stopBefore := iter.Pull2(earlier)
	defer stopBefore()
	after, stopAfter := iter.Pull2(later)
	defer stopAfter()
	d.ttls = [2]map[uint64]time.Duration{{}, {}}
	a, errA, moreA := before()
	b, errB, moreB := after()
	for (moreA || moreB) && errA == nil && errB == nil {
		order := cmp.Or(cmp.Compare(a.part, b.part), strings.Compare(a.id, b.id))
		isA, isB := moreA && (!moreB || order <= 0), moreB && (!moreA || order >= 0)
		switch {
		case isA && isB:
			d.both(a, b)
		case isA:
			d.one("removed", 0, a)
		default:
			d.one("added", 1, b)
		}
		if isA {
			a, errA, moreA = before()
		}
		if isB {
			b, errB, moreB = after()
		}
	}
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	d.compareTTLs()
	return nil
}

// changeOf returns a change of h without what it is.
func changeOf(what string, h holding) change {
	c := change{Change: what, Kind: h.kind}
	if h.kind == "" || h.kind == kindDir {
		c.Key = h.name
	} else {
		c.Name = h.name
	}
	return c
}

// one tells of what only one side has.
func (d *comparison) one(what string, side int, h holding) {
	if d.ofTTL(side, h) {
		return
	}
	c := changeOf(what, h)
	if side == 0 {
		c.Before = h.value
	} else {
		c.After = h.value
	}
	d.note(c)
}

// both compares what both sides have.
func (d *comparison) both(a, b holding) {
	if isTTL := d.ofTTL(0, a); d.ofTTL(1, b) || isTTL {
		return
	}
	c := changeOf("changed", a)
	if a.value != nil && *a.value != *b.value {
		c.Before, c.After = a.value, b.value
	}
	for i, was := range a.facts {
		if is := b.facts[i]; was != is {
			c.fact(was.what, was, is)
		}
	}
	if a.kind != kindLease && implicit(a.lease) && implicit(b.lease) {
		d.timed = append(d.timed, timed{changeOf("changed", a), [2]uint64{a.lease, b.lease}})
	}
	if c.Before != nil || c.Facts != nil {
		if c.Before != nil && c.Facts != nil {
			c.words = append([]string{"value"}, c.words...)
		}
		d.note(c)
	}
}

// ofTTL keeps a lease that belongs to one key or directory: it shows with that.
func (d *comparison) ofTTL(side int, h holding) bool {
	if h.kind != kindLease || !implicit(h.lease) {
		return false
	}
	d.ttls[side][h.lease] = h.ttl
	return true
}

func (d *comparison) compareTTLs() {
	for _, t := range d.timed {
		was, is := d.ttls[0][t.leases[0]], d.ttls[1][t.leases[1]]
		if was != is {
			t.what.fact("ttl", fact{is: was.String()}, fact{is: is.String()})
			d.note(t.what)
		}
	}
}

func (d *comparison) note(c change) {
	d.differ = true
	d.tell(c)
}

// fact notes that what was another one before.
func (c *change) fact(what string, was, is fact) {
	if c.Facts == nil {
		c.Facts = map[string]differ{}
	}
	if was.secret {
		c.Facts[what] = differ{}
		c.words = append(c.words, what)
		return
	}
	c.Facts[what] = differ{was.is, is.is}
	c.words = append(c.words, fmt.Sprintf("%s %s -> %s", what, was.is, is.is))
}

func implicit(lease uint64) bool { return snapfile.Lease{ID: lease}.Implicit() }

// holdings returns what a snapshot holds, and its damage as the last.
func holdings(scan func(snapfile.Visitor) error) iter.Seq2[holding, error] {
	return func(yield func(holding, error) bool) {
		stopped := errors.New("enough")
		show := func(h holding) error {
			if !yield(h, nil) {
				return stopped
			}
			return nil
		}
		err := scan(snapfile.Visitor{
			Record: func(r snapfile.Record) error {
				return show(holding{part: 1, id: r.Key, name: r.Key, value: &r.Value, lease: r.Lease, facts: []fact{endsWith(r.Lease)}})
			},
			Dir: func(dir snapfile.Dir) error {
				return show(holding{part: 2, id: dir.Path, kind: kindDir, name: dir.Path, lease: dir.Lease, facts: []fact{endsWith(dir.Lease)}})
			},
			Lease: func(l snapfile.Lease) error {
				return show(holding{part: 3, id: fmt.Sprintf("%016x", l.ID), kind: kindLease, name: kv.LeaseID(l.ID).String(), lease: l.ID, ttl: l.TTL,
					facts: []fact{{what: "ttl", is: l.TTL.String()}}})
			},
			Access: func(a snapfile.Access) error { return show(holdingOf(a)) },
		})
		if err != nil && err != stopped {
			yield(holding{}, err)
		}
	}
}

// endsWith says with what a key or directory goes.
func endsWith(lease uint64) fact {
	switch {
	case lease == 0:
		return fact{what: "ends", is: "never"}
	case implicit(lease):
		return fact{what: "ends", is: "by its ttl"}
	}
	return fact{what: "ends", is: "with lease " + kv.LeaseID(lease).String()}
}

func holdingOf(a snapfile.Access) holding {
	switch a.Tag {
	case snapfile.ItemUser:
		return holding{part: 5, id: a.Name, kind: kindUser, name: a.Name, facts: []fact{{what: "roles", is: list(a.Roles)}, {what: "password", is: a.Hash, secret: true}}}
	case snapfile.ItemRole:
		return holding{part: 6, id: a.Name, kind: kindRole, name: a.Name, facts: []fact{{what: "reads", is: patterns(a.Read)}, {what: "writes", is: patterns(a.Write)}}}
	}
	state := "off"
	if a.Enabled {
		state = "on"
	}
	return holding{part: 4, kind: kindAccess, facts: []fact{{what: "is", is: state}}}
}

func list(names []string) string { return cmp.Or(strings.Join(names, " "), "none") }

// patterns returns the patterns of the v2 API that stand for ranges of keys, where there is one.
func patterns(spans [][2]string) string {
	var all []string
	for _, span := range spans {
		r := kv.KeyRange{From: span[0], To: span[1]}
		text, ok := r.Pattern()
		if !ok {
			text = fmt.Sprintf("%q..%q", r.From, r.To)
		}
		all = append(all, text)
	}
	return list(all)
}
