package confd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"slices"
	"time"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/confd/report"
)

// output is one file that a target makes: what it should hold, what it holds, and what its reader has
// been told. It belongs to its group's goroutine.
type output struct {
	target *target
	name   string // of the target in status: that of the resource, and of the item
	item   any    // nil, or the render.Item
	file   install.File
	set    *set // that it goes with
	log    *slog.Logger

	refused  error // the item's key cannot name a file
	vanished bool  // the file is to be removed
	removed  bool  // and was

	dirty    bool          // to be rendered
	verify   bool          // what is on disk is to be looked at, whatever is remembered
	reads    *render.Reads // of the last render; nil: there was none
	rendered bool          // want and hash are valid
	want     []byte        // what the file is to hold; given up when it does, unless an applier needs it
	hash     digest        // of want
	onDisk   *digest       // of what the file holds; nil: not known
	live     []byte        // what the program runs, for an applier; nil: not known
	owes     bool          // the reader has not been told of what the file holds
	unheard  bool          // the debt began when the file was the version to go back to, and its reader has been told nothing since
	applied  time.Time     // when live was brought about without a reload, and not yet written to the file; zero: it is
	broken   bool          // what the keys say cannot be rendered, or was refused; want, if rendered, is what runs
	stale    bool          // made from a snapshot
	kept     *install.Staged

	arrived time.Time // of the oldest change that is not live yet; zero: none
	seen    cause     // of changes since the last render
	cause   cause     // of what was rendered and does not run yet
	unfiled cause     // of what runs and is not in the file yet
	failure failure
	status  report.TargetStatus
	told    report.TargetStatus // as it was told last
}

func newOutput(t *target, name, dest string, item any) *output {
	o := &output{target: t, name: name, item: item, file: t.Destination(dest), dirty: true, log: t.log}
	if item != nil {
		o.log = t.deps.Log.With("resource", name, "dest", dest)
	}
	if o.set = t.set; o.set == nil {
		o.set = &set{single: o}
		o.set.limit(t)
	}
	o.status = report.TargetStatus{Name: name, Dest: dest, Keys: t.Keys}
	if t.ForEach != "" {
		o.status.Resource = t.Name
	}
	return o
}

// book is where o's debt is noted: beside the file, or for all items of a resource in one place.
func (o *output) book() install.File {
	if o.target.ForEach != "" {
		return o.target.book
	}
	return o.file
}

// sweep removes what a crash may have left beside the file. What --keep-stage-file has left looks the same, and
// stays while that is asked for.
func (o *output) sweep() error {
	switch cfg := o.target.cfg; {
	case cfg.Noop:
		return nil
	case cfg.KeepStageFile:
		return o.file.Heal()
	}
	return o.file.Sweep()
}

// spoil has o rendered again because of a change that arrived at a time.
func (o *output) spoil(arrived time.Time) {
	o.dirty = true
	if o.arrived.IsZero() || arrived.Before(o.arrived) {
		o.arrived = arrived
	}
}

// goes reports whether the file is to be removed, and that has not been done and noted.
func (o *output) goes() bool {
	return o.vanished && !o.target.isHeld() && !(o.removed && o.owes)
}

// stays reports whether the file is to be removed and could not be.
func (o *output) stays() bool { return o.vanished && !o.removed }

// isSettled reports whether the file is what it should be, as far as it may be changed, and its reader knows.
func (o *output) isSettled() bool {
	return o.target.isHeld() || !o.owes && (o.removed || !o.vanished && o.rendered && o.isOnDisk())
}

// isAhead reports whether the program runs a version that the file does not hold yet.
func (o *output) isAhead() bool { return !o.applied.IsZero() }

// runs reports whether all that is missing of want is the file: the program runs it.
func (o *output) runs() bool { return o.isAhead() && bytes.Equal(o.live, o.want) }

func (o *output) isOnDisk() bool { return o.onDisk != nil && *o.onDisk == o.hash }

// render makes what the file is to hold.
func (o *output) render(ctx context.Context, tree render.Tree) {
	t := o.target
	if o.refused != nil {
		o.set.fail(o, report.StepRender, o.refused)
		o.dirty = false
		return
	}
	release := t.slot(ctx)
	defer release()
	t.group.step(o, report.StepRender)
	began := time.Now()
	out, err := t.template.Render(ctx, tree, o.item)
	if err == nil {
		err = install.CheckFormat(t.OutputFormat, out.Content, t.Sensitive)
	}
	t.board.step(o.name, report.StepRender, began, err)
	if ctx.Err() != nil {
		return
	}
	o.reads, o.dirty, o.broken = out.Reads, false, false
	o.cause.take(&o.seen)
	if err != nil {
		o.unrendered(err)
		return
	}
	t.tellSkipped(out.Skipped)
	o.rendered, o.stale = true, t.stale
	o.want, o.hash = out.Content, sha256.Sum256(out.Content)
	o.status.Index = t.index
	o.set.fresh = true
}

// unrendered notes that there is no new version, for a reason. What runs ahead of the file is still to be written.
func (o *output) unrendered(err error) {
	o.broken = true
	if o.rendered = o.runs(); !o.rendered {
		o.want = nil
	}
	o.set.fail(o, report.StepRender, err)
}

// become notes where o stands, and tells it if that is news.
func (o *output) become(state report.State, step string, err error) {
	before := o.status
	s := &o.status
	s.State, s.Step, s.Err = state, step, ""
	if err != nil {
		s.Err = err.Error()
	}
	other := before.State != state || before.Step != step
	if state != report.Failed && state != report.Held && other {
		s.Next = time.Time{}
	}
	s.Hash = ""
	if o.rendered && !o.target.Sensitive {
		s.Hash = hex.EncodeToString(o.hash[:])
	}
	if state != report.Converged && state != report.Applied {
		s.LiveAfter = 0
	}
	if other {
		s.Since = time.Now()
	}
	if told := o.told; other || s.Err != told.Err || s.Hash != told.Hash || s.Index != told.Index || !s.Next.Equal(told.Next) || s.LiveAfter != told.LiveAfter || !slices.Equal(s.Changed, told.Changed) {
		o.told = *s
		o.target.board.set(*s)
	}
}

// postpone notes when the reload that o is to have may begin.
func (o *output) postpone(until time.Time) {
	if o.status.State == report.Rendered || o.status.State == report.Written {
		o.status.Next = until
		o.become(o.status.State, o.status.Step, nil)
	}
}

// hold notes that a guard keeps the file as it is.
func (o *output) hold(state report.State, why error, until time.Time) {
	o.status.Next = until
	if o.status.Index == 0 && o.status.State != state { // it was made by an earlier run
		if good, ok, err := o.file.Good(); ok && err == nil {
			o.status.Index = kvIndex(good.Index)
		}
	}
	o.become(state, "", why)
}

// runsAhead notes that the program runs what was rendered, as seen at a time, and that the file is to follow.
func (o *output) runsAhead(at time.Time) {
	o.live, o.applied = o.want, at
	o.status.Changed = o.cause.names()
	o.unfiled.take(&o.cause)
	if o.status.LiveAfter = 0; !o.arrived.IsZero() {
		o.status.LiveAfter = max(at.Sub(o.arrived), 1)
	}
	o.arrived = time.Time{}
	o.become(report.Applied, "", nil)
}

// converge notes that what runs is what was rendered, and the file says so. at is when that was seen.
func (o *output) converge(at time.Time) {
	o.applied, o.verify = time.Time{}, false
	if o.broken || o.target.isHeld() { // the file has caught up with what runs; the keys say something else
		o.live, o.rendered = o.want, !o.broken
		return
	}
	state := report.Converged
	if o.stale {
		state = report.Stale
	}
	if o.status.State != report.Applied {
		o.status.LiveAfter = 0
		if !o.arrived.IsZero() && o.status.State != report.Converged {
			o.status.LiveAfter = max(at.Sub(o.arrived), 1)
		}
	}
	o.arrived, o.cause, o.unfiled = time.Time{}, cause{}, cause{}
	if o.target.applier != nil {
		o.live = o.want
	} else {
		o.want = nil
	}
	o.become(state, "", nil)
	o.failure.reason = ""
}
