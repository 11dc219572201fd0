package confd

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/confd/guard"
	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/proxy"
	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/backoff"
)

// templateBytesMax bounds a template file.
const templateBytesMax = 16 << 20

// gather is how long a change that takes a check and a reload waits for others: those that a store sends
// together, as it does of all that was missed, arrive one after the other.
const gather = time.Millisecond

// runtimePause is the least time between two passes that change running programs, so that changes which do not
// stop cost some fifty of them a second. It is longer where rendering takes long, QuietMax at most.
const runtimePause = 20 * time.Millisecond

// itemsMax bounds the files of one resource with for_each.
const itemsMax = 10_000

// target is one resource at work: what is to be rendered, and whether it may be. What becomes of each
// file is the matter of its outputs. It belongs to its group's goroutine.
type target struct {
	task
	*shared
	group   *group
	log     *slog.Logger
	feed    *feed
	set     *set          // of the reload group; nil: each output has one of its own
	applier proxy.Applier // nil: a reload is the only way

	text     string           // of the parsed template
	template *render.Template // the last version that could be parsed; nil if there was none
	broken   string           // why the version on disk is not the parsed one, so that it is told once
	skipped  string           // records left out by the last render, so that each is told once

	outputs  []*output           // in the order of their files; for_each: those of the last listing
	book     install.File        // where debts, and what was applied last, are noted
	manifest *install.Manifest   // of for_each; nil before it is read
	failure  failure             // of the target as a whole: it has for_each, and its items cannot be listed
	retry    backoff.Backoff     // after that
	again    time.Time           // when it is tried again; zero: it has not failed
	whole    report.TargetStatus // what was told last of the target as a whole

	begun   bool            // what was left beside the files has been read
	earlier install.Process // that another kvconfd has begun, which was killed, to tell the reader
	pace    pace            // of what takes a check and a reload
	instant bool            // the running program takes changes as they come
	brisk   pace            // of these; used if instant
	full    bool            // in this pass a file may be written and a reload asked for, not changes at run time alone
	waiting bool            // the keys have not been read yet
	relist  bool            // for_each: there may be other items
	now     int             // keys seen by the last make
	index   kvIndex
	stale   bool // the keys are those of a snapshot
	hold    guard.Hold
	through bool                 // a hold was released, or its grace is over: good until something was applied
	applied install.Good         // what was confirmed last; Keys is guard.Unknown if nobody knows
	peaks   []peak               // how many keys versions were made from that were confirmed lately, the most first
	expired map[string]time.Time // keys that have expired lately, and are not back

	replaced time.Time // when the store was replaced by another one; zero: not lately
	lost     int       // keys that there were before, until they are back
}

func newTarget(r task, g *group) *target {
	s := g.shared
	t := &target{
		task: r, shared: s, group: g, waiting: true, relist: true, retry: retries(r.Resource),
		log:     s.deps.Log.With("resource", r.Name),
		applier: s.applier(r.Resource),
		pace:    pace{quiet: s.cfg.Quiet, longest: s.cfg.QuietMax},
		book:    r.Destination(r.Dest),
		expired: map[string]time.Time{},
		applied: install.Good{Keys: guard.Unknown},
	}
	if s.cfg.Noop || s.cfg.SyncOnly {
		t.applier = nil
	}
	t.instant = t.applier != nil && (r.HAProxy != nil || s.deps.Applier != nil) && r.ForEach == "" && !s.cfg.Onetime && !t.checksInPlace()
	if r.Debounce > 0 {
		t.pace.quiet, t.pace.longest = r.Debounce, max(r.Debounce, r.DebounceMax)
		t.instant = false
	}
	if !t.instant {
		t.pace.gather = gather
	}
	if r.ForEach == "" {
		t.log = t.log.With("dest", r.Dest)
		t.outputs = []*output{newOutput(t, r.Name, r.Dest, nil)}
	}
	return t
}

// begin reads what an earlier run, or whoever had the files before, has left beside them: it is for when
// nobody else has them any more.
func (t *target) begin() {
	if t.begun {
		return
	}
	t.begun = true
	if t.ForEach != "" {
		if t.openManifest() == nil { // otherwise that is tried again, and the error told, when there is something to write
			t.readDebt()
		}
		return
	}
	t.recall()
	t.owe(t.outputs)
	t.earlier = t.outputs[0].book().Teller()
	for _, o := range t.outputs {
		if err := o.sweep(); err != nil {
			t.log.Warn("cannot remove staged files of an earlier run", "reason", err)
		}
	}
}

// readDebt makes the files that an earlier run of a resource with for_each has made outputs, if a reload is due for
// them: the keys that say which of them are wanted may take long to come.
func (t *target) readDebt() {
	for _, path := range t.manifest.Gone(nil) {
		o := newOutput(t, t.nameOf(path, nil), path, nil)
		if t.owe([]*output{o}); !o.owes {
			return
		}
		t.outputs = append(t.outputs, o)
	}
}

// recall reads what was applied last.
func (t *target) recall() {
	if good, ok, err := t.book.Good(); err != nil {
		t.log.Warn("what was applied last is not known", "reason", err)
	} else if ok {
		t.applied = good
	}
}

// openManifest reads which files a resource with for_each has made.
func (t *target) openManifest() error {
	if t.manifest != nil {
		return nil
	}
	dir, prefix, suffix := t.Files()
	manifest, err := install.OpenManifest(dir, t.Name, prefix, suffix)
	if err != nil {
		return err
	}
	t.manifest, t.book = manifest, manifest.File()
	t.earlier = t.book.Teller()
	t.recall()
	if !t.cfg.Noop && !t.cfg.KeepStageFile {
		if err := manifest.Sweep(); err != nil {
			t.log.Warn("cannot remove staged files of an earlier run", "reason", err)
		}
	}
	return nil
}

// applier returns what speaks to the program that reads the files of r, nil if there is none, or if
// nobody says how it is to be reloaded where that is needed.
func (s *shared) applier(r resource.Resource) proxy.Applier {
	applier := s.plainApplier(r)
	if applier != nil && r.Sensitive {
		return discreet{applier}
	}
	return applier
}

// plainApplier is applier for a file that may be quoted.
func (s *shared) plainApplier(r resource.Resource) proxy.Applier {
	log := s.deps.Log.With("resource", r.Name)
	if r.Sensitive {
		log = nil
	}
	switch {
	case s.deps.Applier != nil:
		return s.deps.Applier(r)
	case r.Reload.IsZero() && r.Caddy == nil:
		return nil
	case r.HAProxy != nil:
		return proxy.NewHAProxy(proxy.HAProxyConfig{Socket: r.HAProxy.Socket, MasterSocket: r.HAProxy.MasterSocket, Log: log})
	case r.Nginx != nil:
		return proxy.NewNginx(proxy.NginxConfig{PidFile: r.Nginx.PidFile})
	case r.Caddy != nil:
		return proxy.NewCaddy(proxy.CaddyConfig{Admin: r.Caddy.Admin})
	}
	return nil
}

// owe has outputs owe their reader what is noted on disk. With --sync-only nobody is told, and what is noted stays
// for who comes next.
func (t *target) owe(outputs []*output) {
	if t.cfg.SyncOnly {
		return
	}
	for _, o := range outputs {
		owes, err := o.book().Owes()
		if err != nil {
			o.log.Warn("whether a reload is due is not known; it is taken to be", "reason", err)
		}
		o.owes = owes || err != nil
	}
}

// reloads reports whether there is a reader to be told of changes.
func (t *target) reloads() bool {
	return (!t.Reload.IsZero() || t.applier != nil) && !t.cfg.SyncOnly && !t.cfg.Noop
}

// checksInPlace reports whether there is a check that can find a new version in its place alone.
func (t *target) checksInPlace() bool {
	return !t.Check.IsZero() && !t.Check.Uses("src") && !t.Check.Uses("dir") && !t.cfg.SyncOnly && !t.cfg.Noop
}

// goesBack reports whether the files may have to be what they were before.
func (t *target) goesBack() bool {
	if t.set != nil {
		return t.set.goesBack()
	}
	return t.Rollback || t.checksInPlace()
}

// guarded reports whether what was applied last has to be known.
func (t *target) guarded() bool { return t.MaxShrinkPercent > 0 || t.MaxExpiredPercent > 0 }

// keepsGood reports whether the last confirmed version is kept beside the file.
func (t *target) keepsGood() bool {
	return !t.cfg.Noop && (t.goesBack() || t.applier != nil || t.guarded())
}

// notice takes in what has changed at arrived; all: everything may have. It makes what has to be rendered
// again dirty.
func (t *target) notice(now, arrived time.Time, view keys.View, changes []keys.Change, all bool) {
	touched := all
	if all {
		t.spoil(arrived)
	}
	scope := t.scope(view)
	for _, change := range changes {
		if !scope.Covers(change.Key) {
			continue
		}
		if t.MaxExpiredPercent > 0 && change.Expired {
			t.expired[change.Key] = now
		} else if !change.Removed {
			delete(t.expired, change.Key)
		}
		if t.ForEach != "" {
			if _, is := t.Item(scope.Inner(change.Key)); is {
				t.relist, touched = true, true
			}
		}
		if t.isHeld() || t.template == nil || t.waiting {
			touched = true
		}
		for _, o := range t.outputs {
			if o.reads == nil || o.reads.Touches(change.Key) {
				o.spoil(arrived)
				o.seen.add(change.Key)
				touched = true
			}
		}
	}
	if !touched {
		return
	}
	t.pace.changed(now)
	if t.instant {
		t.brisk.changed(now)
	}
}

// isPostponed reports whether a version of t waits for the time of a reload. What comes until then is
// reloaded with it.
func (t *target) isPostponed() bool {
	return slices.ContainsFunc(t.outputs, func(o *output) bool { return o.set.postponed })
}

// due returns when t is to be made, unless more changes come; zero: nothing has.
func (t *target) due() time.Time {
	if t.instant && t.brisk.waits() && !t.isPostponed() {
		return t.brisk.due
	}
	return t.pace.due
}

// isDue reports whether t is to be made now.
func (t *target) isDue(now time.Time) bool {
	at := t.due()
	return !at.IsZero() && !now.Before(at)
}

// hasNews reports whether changes have come that t was not made with.
func (t *target) hasNews() bool {
	if t.instant {
		return t.brisk.waits() || t.isPostponed()
	}
	return t.pace.waits()
}

// made notes that t was made in a pass that has ended, which was busy for some time, without its reloads, and for a
// part of it with the rendering of all targets.
func (t *target) made(ended time.Time, busy, rendering time.Duration) {
	switch {
	case t.waiting:
	case t.full:
		t.pace.passed(ended, busy)
	case !t.isPostponed():
		t.pace.drop()
	}
	if t.instant {
		pause := max(runtimePause, min(2*rendering, t.cfg.QuietMax)) // it seems to take long if kvconfd, or the machine, is suspended
		t.brisk.rest(pause)
		t.brisk.passed(ended, 0)
	}
}

// spoil has everything made again.
func (t *target) spoil(arrived time.Time) {
	t.relist = true
	for _, o := range t.outputs {
		o.spoil(arrived)
		o.seen.other = true
	}
}

// retext reads the template again, and has everything made again if there is a new version of it or of
// what it includes.
func (t *target) retext(now time.Time) {
	before := t.text
	if err := t.parse(); err != nil {
		return // told when it is rendered
	}
	includes := slices.ContainsFunc(t.outputs, func(o *output) bool { return o.reads != nil && len(o.reads.Included()) > 0 })
	if t.text != before || includes {
		t.spoil(now)
		t.pace.hurry(now)
	}
}

// make renders what is dirty, unless the keys are not there yet or a guard holds the files.
func (t *target) make(ctx context.Context, view keys.View, now time.Time) {
	if t.waiting = !view.Ready(t.Keys); t.waiting {
		for _, o := range t.outputs {
			if o.reads == nil && o.status.State != report.Failed { // by a debt of an earlier run
				o.become(report.Waiting, "", nil)
			}
		}
		return
	}
	tree := t.tree(view)
	err := t.parse()
	if err == nil && t.cfg.Present && t.ForEach == "" {
		err = t.absent(ctx, view)
	}
	if err == nil && t.ForEach != "" && t.relist {
		err = t.list(tree)
	}
	if err == nil && t.held(ctx, view, tree, now) {
		return
	}
	if t.fail(err); err != nil && t.ForEach != "" {
		return
	}
	t.index, t.stale = view.Index(), !view.Stale().IsZero()
	for _, o := range t.outputs {
		if ctx.Err() != nil {
			return
		}
		if o.dirty && err != nil {
			o.unrendered(err)
		} else if o.dirty && !o.vanished {
			o.render(ctx, tree)
		}
	}
	if err == nil {
		t.note()
	}
}

// absentMax is how long it is waited for the store to say whether keys are there.
const absentMax = 2 * time.Second

// absent returns an error if one of the keys of the resource file is not in the store. It may be an empty directory, so
// that the store is asked for those of which there is nothing in view.
func (t *target) absent(ctx context.Context, view keys.View) error {
	unseen := slices.DeleteFunc(slices.Clone(t.Named), view.Holds)
	if len(unseen) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, absentMax)
	defer cancel()
	absent, err := t.source.Absent(ctx, unseen, view.Index())
	switch {
	case err != nil:
		return fmt.Errorf("it is not known whether these keys are in the store: %s: %w", strings.Join(unseen, " "), err)
	case len(absent) > 0:
		return fmt.Errorf("keys that are not in the store: %s", strings.Join(absent, " "))
	}
	return nil
}

// fail notes what keeps the items of a resource with for_each from being known; nil: nothing does. Their files
// stay as they are, and it is tried again.
func (t *target) fail(err error) {
	switch {
	case t.ForEach == "":
		return
	case err != nil:
		t.again = time.Now().Add(t.retry.Next())
	default:
		t.again = time.Time{}
		t.retry.Reset()
	}
	t.failure.tell(t.log, "not up to date", err)
}

// tellWhole tells where a resource with for_each stands that has no items, or whose items cannot be listed.
func (t *target) tellWhole() {
	if t.ForEach == "" {
		return
	}
	now := report.TargetStatus{Name: t.Name, Dest: t.Dest, Index: t.index, Keys: t.Keys}
	switch {
	case t.failure.reason != "":
		now.State, now.Step, now.Err, now.Next = report.Failed, report.StepRender, t.failure.reason, t.again
	case len(t.outputs) > 0:
		t.board.gone(t.Name)
		t.whole = report.TargetStatus{}
		return
	case t.waiting:
		now.State = report.Waiting
	case t.isHeld():
		now.State, now.Err, now.Next = t.heldAs(), t.hold.Text, t.hold.Until
	case t.stale:
		now.State = report.Stale
	default:
		now.State = report.Converged
	}
	if now.Since = t.whole.Since; now.State != t.whole.State {
		now.Since = time.Now()
	}
	if !reflect.DeepEqual(now, t.whole) {
		t.whole = now
		t.board.set(now)
	}
}

// at returns when t is due without a change: when what failed is tried again, or a hold ends. Zero: never.
func (t *target) at() time.Time {
	if !t.again.IsZero() {
		return t.again // whether it is held is decided then
	}
	return t.hold.Until
}

// isHeld reports whether a guard keeps the files as they are.
func (t *target) isHeld() bool { return t.hold.Reason != "" }

// heldAs is the state of what is held.
func (t *target) heldAs() report.State {
	if t.hold.Reason == guard.Stale {
		return report.Stale
	}
	return report.Held
}

// held decides whether the files are to stay as they are.
func (t *target) held(ctx context.Context, view keys.View, tree render.Tree, now time.Time) bool {
	t.lookBack()
	t.now = t.count(tree)
	if t.now >= t.lost {
		t.lost = 0 // they are back
	}
	seen := guard.Seen{
		Keys: t.now, Applied: t.before(now), Expired: t.expiredLately(now),
		Exists: t.exists(), Stale: !view.Stale().IsZero(), Older: uint64(view.Index()) < t.applied.Index,
		ReplacedAt: t.replaced, Lost: t.lost,
		Released: t.through || t.board.isReleased(t.Name),
	}
	before := t.hold
	t.hold = guard.Decide(now, guard.Limits{
		MinKeys: t.MinKeys, MaxShrinkPercent: t.MaxShrinkPercent, ShrinkGrace: t.ShrinkGrace,
		MaxExpiredPercent: t.MaxExpiredPercent, ExpiryGrace: t.ExpiryGrace, ReplacedGrace: replacedGrace,
	}, seen, before)
	if !t.isHeld() {
		t.through = t.through || before.Reason != "" && (seen.Released || !before.Until.IsZero() && !now.Before(before.Until))
		return false
	}
	if t.hold.Reason != guard.Stale && t.isInPlace(ctx, tree) {
		t.hold = guard.Hold{}
		return false
	}
	if t.hold.Reason != before.Reason {
		t.log.Warn("the file is held as it is", filled("reason", t.hold.Text, "until", t.hold.Until)...)
	}
	for _, o := range t.outputs {
		o.hold(t.heldAs(), errors.New(t.hold.Text), t.hold.Until)
	}
	return true
}

// lookBack takes in whether the store was replaced by another one lately, and how many keys were lost by that.
// If that has happened twice, the most counts: those of before the first time may not have been back.
func (t *target) lookBack() {
	at, before := t.feed.mirror.Replaced(replacedGrace)
	switch {
	case at.IsZero():
		t.lost = 0
	case !at.Equal(t.replaced):
		t.lost = max(t.lost, t.tree(before).Len())
	}
	t.replaced = at
}

// isInPlace reports whether the files are what the keys say already, and their reader knows: then there is nothing
// to hold, as after the restart of a kvconfd that was told to let this version through.
func (t *target) isInPlace(ctx context.Context, tree render.Tree) bool {
	release := t.slot(ctx)
	defer release()
	for _, o := range t.outputs {
		if o.vanished || o.owes || o.refused != nil || o.isAhead() {
			return false
		}
		out, err := t.template.Render(ctx, tree, o.item)
		if err != nil {
			return false
		}
		if differs, err := o.file.Differs(out.Content); err != nil || differs {
			return false
		}
	}
	return len(t.outputs) > 0
}

// count returns how many keys there are, as exactly as the guards of t have to know it.
func (t *target) count(tree render.Tree) int {
	if t.guarded() || t.MinKeys > 1 || t.lost > 0 {
		return tree.Len()
	}
	if tree.Empty() {
		return 0
	}
	return max(1, t.applied.Keys)
}

// exists reports whether there is a file that could be held.
func (t *target) exists() bool {
	return slices.ContainsFunc(t.outputs, func(o *output) bool {
		_, err := os.Lstat(o.file.Path)
		return err == nil
	})
}

// list makes the outputs those of the items that there are now.
func (t *target) list(tree render.Tree) error {
	if err := t.openManifest(); err != nil {
		return err
	}
	items, err := tree.Items(t.ForEach)
	if err != nil {
		return err
	}
	if len(items) > itemsMax {
		return fmt.Errorf("for_each = %q matches %d keys, which is more than %d", t.ForEach, len(items), itemsMax)
	}
	byName := map[string]*output{}
	for _, o := range t.outputs {
		byName[o.name] = o
	}
	var outputs []*output
	taken := map[string]bool{}
	var paths []string
	for _, item := range items {
		name := t.Name + "/" + item.Name
		if taken[name] {
			name = t.Name + item.Key
		}
		dest, err := t.DestOf(item.Key)
		if err == nil && taken[dest] {
			err = fmt.Errorf("the key %s names the same file as another key", item.Key)
		}
		o := byName[name]
		if o == nil || o.vanished || o.file.Path != dest && err == nil {
			o = newOutput(t, name, dest, item)
			t.owe([]*output{o})
		}
		taken[name] = true
		delete(byName, name)
		if o.item != any(item) {
			o.dirty = true
		}
		o.item, o.refused = item, err
		if err == nil {
			taken[dest] = true
			paths = append(paths, dest)
		}
		outputs = append(outputs, o)
	}
	for _, path := range t.manifest.Gone(paths) {
		o := newOutput(t, t.nameOf(path, taken), path, nil)
		o.vanished, o.dirty = true, false
		for _, old := range byName {
			switch {
			case old.file.Path != path:
			case old.stays():
				o = old // it is tried again when it is time
			default:
				o.name, o.arrived, o.status = old.name, old.arrived, old.status
			}
		}
		o.log = t.deps.Log.With("resource", o.name, "dest", path)
		o.set.fresh = true // what has changed may be what needed the file
		delete(byName, o.name)
		outputs = append(outputs, o)
	}
	for name, old := range byName {
		if old.removed && old.owes {
			outputs = append(outputs, old) // its reader does not know yet
			continue
		}
		t.board.gone(name)
	}
	t.outputs, t.relist = outputs, false
	return nil
}

// nameOf returns the name of the target whose file is at path, of which nothing but that is known; it is none of taken.
func (t *target) nameOf(path string, taken map[string]bool) string {
	_, prefix, suffix := t.Files()
	base := filepath.Base(path)
	if name := t.Name + "/" + strings.TrimSuffix(strings.TrimPrefix(base, prefix), suffix); !taken[name] {
		return name
	}
	return t.Name + "/" + base
}

// note remembers which files are about to be written, so that they can be removed some day.
func (t *target) note() {
	if t.manifest == nil || t.cfg.Noop {
		return
	}
	contents := map[string][]byte{}
	for _, o := range t.outputs {
		if o.rendered && !o.isOnDisk() {
			contents[o.file.Path] = o.want
		}
	}
	if len(contents) == 0 {
		return
	}
	if err := t.manifest.Note(contents); err != nil {
		for _, o := range t.outputs {
			if o.rendered && !o.isOnDisk() {
				o.rendered, o.want = false, nil // it must not be written
				o.set.fail(o, report.StepWrite, fmt.Errorf("cannot note which files are written: %w", err))
			}
		}
	}
}

// settled notes what was applied, once everything is.
func (t *target) settled() {
	if t.waiting || t.isHeld() || t.failure.reason != "" {
		return
	}
	for _, o := range t.outputs {
		if o.status.State != report.Converged {
			return
		}
	}
	t.board.spent(t.Name)
	if now := time.Now(); t.through {
		t.peaks, t.lost = nil, 0
		clear(t.expired)
	} else if n := len(t.peaks); n > 0 && t.peaks[n-1].keys > t.now {
		t.peaks[n-1].until = now
	}
	t.peaks = slices.DeleteFunc(t.peaks, func(p peak) bool { return p.keys <= t.now })
	t.peaks = append(t.peaks, peak{keys: t.now})
	t.through = false
	changed := t.applied.Keys != t.now
	t.applied.Keys, t.applied.Index = t.now, uint64(t.index)
	if changed && t.guarded() && !t.cfg.Noop {
		if err := t.book.KeepGood(t.good()); err != nil {
			t.log.Warn("cannot note how many keys there were", "reason", err)
		}
	}
}

// peak is a number of keys, and until when that many were there; zero: they still are.
type peak struct {
	keys  int
	until time.Time
}

// before returns how many keys the file was made from at the most, as long ago as a guard looks back: keys
// that go one by one, a few in each pass, are as gone as those that go at once. guard.Unknown if nobody knows.
func (t *target) before(now time.Time) int {
	forever := t.ShrinkGrace == 0 && t.hold.Reason == guard.MassRemoval
	back := cmp.Or(t.ShrinkGrace, resource.DefaultShrinkGrace)
	t.peaks = slices.DeleteFunc(t.peaks, func(p peak) bool { return !forever && !p.until.IsZero() && now.Sub(p.until) >= back })
	if len(t.peaks) == 0 {
		return t.applied.Keys
	}
	return t.peaks[0].keys
}

// expiredLately returns how many keys have expired that are not back, as long ago as a guard looks back.
func (t *target) expiredLately(now time.Time) int {
	forever := t.ExpiryGrace == 0 && t.hold.Reason == guard.MassExpiry
	back := cmp.Or(t.ExpiryGrace, resource.DefaultExpiryGrace)
	for key, at := range t.expired {
		if !forever && now.Sub(at) >= back {
			delete(t.expired, key)
		}
	}
	return len(t.expired)
}

// good is what was confirmed: with the content of the file, if there is one file.
func (t *target) good() install.Good {
	good := install.Good{Index: uint64(t.index), Keys: t.now}
	if t.ForEach == "" {
		if content, ok, err := t.outputs[0].file.Current(); err == nil && ok {
			good.Content = content
		}
	}
	return good
}

// parse reads the template again. A version that cannot be parsed is reported once and leaves the
// one before at work.
func (t *target) parse() error {
	text, err := readTemplate(t.Src)
	if err == nil && t.template != nil && text == t.text {
		t.broken = ""
		return nil
	}
	var parsed *render.Template
	if err == nil {
		parsed, err = newTemplate(t.cfg, t.deps, t.Resource, text)
	}
	switch {
	case err == nil:
		t.text, t.template, t.broken = text, parsed, ""
		return nil
	case t.template == nil:
		return err
	}
	if problem := err.Error(); problem != t.broken {
		t.log.Error("the new version of the template cannot be used; the one before stays", "src", t.Src, "reason", problem)
		t.broken = problem
	}
	return nil
}

func readTemplate(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe is not waited for
	if err != nil {
		return "", fmt.Errorf("cannot read the template: %w", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && !info.Mode().IsRegular() {
		return "", fmt.Errorf("cannot read the template: %s is not a file", path)
	}
	text, err := io.ReadAll(io.LimitReader(file, templateBytesMax+1))
	if err != nil {
		return "", fmt.Errorf("cannot read the template: %w", err)
	}
	if len(text) > templateBytesMax {
		return "", fmt.Errorf("template %s is larger than %d MiB", path, templateBytesMax>>20)
	}
	return string(text), nil
}

// tellSkipped logs which records were left out, when they are others than the last time.
func (t *target) tellSkipped(records []string) {
	skipped := strings.Join(records, "; ")
	if skipped != t.skipped && skipped != "" {
		t.log.Warn("records left out", "records", skipped)
	}
	t.skipped = skipped
}

// digest identifies contents.
type digest = [sha256.Size]byte
