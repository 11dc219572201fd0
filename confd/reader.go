package confd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/proxy"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/pkg/backoff"
)

// How often a reader may be reloaded when its resources do not say: a few times at once, and then
// once in each interval.
const (
	reloadBurst    = 3
	reloadInterval = 400 * time.Millisecond
)

// How long it takes between two looks whether a reload has come about.
const (
	confirmMin = 20 * time.Millisecond
	confirmMax = 500 * time.Millisecond
)

// keysPatience is for how long after the start a reload that is due from an earlier run waits for the
// keys to be read, so that it need not be done twice.
const keysPatience = 2 * time.Second

// reader is who reads the files of a group, and is told of their changes by one command. Where there is only a check
// that looks at the files in place, nobody is told once it agrees. It belongs to its group's goroutine.
type reader struct {
	reload  install.Command
	bucket  bucket
	retry   backoff.Backoff
	at      time.Time // when a reload that has failed, or had to wait, is tried; zero: at once
	until   time.Time // a reload that is due from an earlier run waits until then for the keys; zero: none does
	failure failure
}

// newReader returns the reader of targets, nil if there is nobody to be told or asked.
func newReader(targets []*target) *reader {
	r := &reader{bucket: bucket{burst: reloadBurst, interval: reloadInterval}, retry: backoff.Backoff{Min: retryMin, Max: retryMax}}
	found := false
	for _, t := range targets {
		if !t.reloads() && !t.checksInPlace() {
			continue
		}
		found = true
		longest := max(t.Reload.Timeout, r.reload.Timeout)
		if r.reload.IsZero() {
			r.reload = t.Reload
		}
		r.reload.Timeout = longest
		r.reload.Sensitive = r.reload.Sensitive || t.Sensitive
		if t.MinReloadInterval > 0 && (r.bucket.burst > 1 || t.MinReloadInterval > r.bucket.interval) {
			r.bucket = bucket{burst: 1, interval: t.MinReloadInterval}
		}
		if t.RetryMax > 0 {
			r.retry.Max = min(r.retry.Max, t.RetryMax)
		}
	}
	if !found {
		return nil
	}
	return r
}

// settle tells the reader if any file owes it that and the checks of what is in place agree, and sees to it that it took
// the new versions. A failure is logged here.
func (g *group) settle(ctx context.Context) {
	r := g.reader
	if r == nil || ctx.Err() != nil {
		return
	}
	now := time.Now()
	if now.Before(r.at) {
		return
	}
	r.at, r.until = time.Time{}, time.Time{}
	owing := g.owing(now)
	if len(owing) == 0 {
		return
	}
	if at := r.bucket.ready(now); at.After(now) {
		r.at = at
		for _, o := range owing {
			o.postpone(at)
		}
		return
	}
	if !g.awaitEarlier(ctx) {
		return // who comes next waits
	}
	if behind := g.abreast(ctx); behind != nil {
		if r.at = time.Now().Add(r.retry.Next()); ctx.Err() == nil {
			r.failure.tell(g.about(owing), "not reloaded", fmt.Errorf("the file of %s has yet to catch up with what runs", behind.last().Name))
		}
		return
	}
	owing = g.owing(now)
	if len(owing) == 0 {
		return
	}
	owing, ok := g.admit(ctx, owing)
	if !ok || len(owing) == 0 {
		return
	}
	step, err := g.reload(ctx, owing, report.Reloaded)
	r.failure.tell(g.about(owing), "not reloaded", err)
	if err == nil {
		r.retry.Reset()
		g.paid(owing, time.Now())
		return
	}
	r.at = r.bucket.ready(time.Now().Add(r.retry.Next()))
	if ctx.Err() != nil {
		return
	}
	for _, o := range owing {
		if !o.isTakenBack() {
			o.status.Next = r.at
			o.become(report.Failed, step, err)
		}
	}
	g.rollBack(ctx, step, err, owing)
	for _, o := range owing {
		if !o.set.isCheckedInPlace() {
			continue
		}
		if err := g.keepFirst(o); err != nil { // it was checked, which is better than what will be refused
			o.log.Warn("there will be no version to go back to", "reason", err)
		}
	}
}

// awaitEarlier waits for a reload that a kvconfd which was killed has left behind: who is reloaded twice at once may
// lose the second, as HAProxy does.
func (g *group) awaitEarlier(ctx context.Context) (ended bool) {
	defer g.reloadingSince(time.Now())
	for _, t := range g.targets {
		if t.earlier.Runs() {
			t.log.Info("a reload_cmd that another kvconfd has begun, and did not live to see ended, is waited for")
			if t.earlier.Await(ctx, g.reader.reload.Timeout) {
				t.log.Warn("the reload_cmd that another kvconfd has begun took longer than reload_cmd_timeout, and was killed")
			}
		}
		if ctx.Err() != nil {
			return false
		}
		t.earlier = install.Process{}
	}
	return true
}

func (g *group) reloadingSince(began time.Time) { g.reloading += time.Since(began) }

// owing returns the outputs whose reader is to be told of them now.
func (g *group) owing(now time.Time) (owing []*output) {
	for _, o := range g.outputs() {
		switch {
		case o.set.torn:
			return nil
		case !o.owes, o.isAhead(), o.set.postponed && !o.set.isCheckedInPlace():
		case o.target.waiting && now.Before(g.began.Add(keysPatience)) && !g.cfg.Onetime:
			g.reader.until = g.began.Add(keysPatience)
			return nil
		default:
			owing = append(owing, o)
		}
	}
	return owing
}

// abreast has the files hold what runs ahead of them: after a reload the program runs what its files hold. Where that
// could not be there is one that is behind, and nobody may be told of other files.
func (g *group) abreast(ctx context.Context) (behind *set) {
	for _, s := range g.allSets() {
		for again := range 2 { // a newer version that cannot be had leaves what runs to be written
			if !s.isAhead() {
				break
			}
			if again > 0 {
				s.keepAhead(s.outputs())
			}
			for _, t := range s.of() {
				t.full = true
			}
			s.file.hurry(time.Now())
			g.bring(ctx, s)
		}
		if s.isAhead() {
			return s
		}
	}
	return nil
}

// admit runs the checks of owing that look at what is in place, and takes back what they refuse. left still owe it to
// their reader to be told. If not ok, nobody may be told: a refused version stays, as it cannot be taken back, or what
// was there before is refused as well.
func (g *group) admit(ctx context.Context, owing []*output) (left []*output, ok bool) {
	r := g.reader
	back := map[*output]bool{}
	for {
		refused, err := g.checkInPlace(ctx, owing)
		if err == nil {
			return owing, true
		}
		reason := fmt.Errorf("check_cmd refused the new version: %w", err)
		r.at = r.bucket.ready(time.Now().Add(r.retry.Next()))
		if ctx.Err() == nil {
			refused[0].failure.tell(g.about(refused), "not up to date", reason)
			for _, o := range refused {
				if !o.isTakenBack() {
					o.status.Next = r.at
					o.become(report.Failed, report.StepCheck, reason)
				}
			}
		}
		taken, all := g.goBack(refused, report.StepCheck, reason)
		g.disown(slices.DeleteFunc(slices.Clone(taken), func(o *output) bool { return !o.unheard }))
		if ctx.Err() != nil { // the check was ended, or what it said comes too late
			return nil, false
		}
		again := false
		for _, o := range taken {
			again = again || back[o] // somebody else writes it too
			back[o] = true
			o.status.Next = o.set.at
			o.become(report.Failed, report.StepCheck, fmt.Errorf("%w; the version before is in place again", reason))
		}
		owing = slices.DeleteFunc(owing, func(o *output) bool { return !o.owes })
		switch {
		case len(owing) == 0:
			r.at = time.Time{}
			r.retry.Reset()
			return nil, true
		case len(taken) == 0, !all, again:
			g.refuse(owing, refused, reason)
			return nil, false
		}
		r.at = time.Time{}
	}
}

// checkInPlace runs the checks that look at what is in place, of everything that goes together with one of owing.
// refused are those of owing that go with what a command has refused.
func (g *group) checkInPlace(ctx context.Context, owing []*output) (refused []*output, err error) {
	due := map[*set]bool{}
	for _, o := range owing {
		due[o.set] = true
	}
	var checks []*output
	for _, o := range g.outputs() {
		if due[o.set] && o.isCheckedInPlace() {
			checks = append(checks, o)
		}
	}
	vars := func(o *output) install.Vars { return install.Vars{Dest: o.file.Path} }
	line, err := g.runChecks(ctx, checks, vars)
	if err == nil {
		for _, o := range owing {
			if o.set.isCheckedInPlace() && o.status.State == report.Written {
				o.become(report.Checked, "", nil)
			}
		}
		return nil, nil
	}
	guilty := map[*set]bool{}
	for _, o := range checks {
		if o.target.Check.With(vars(o)).String() == line {
			guilty[o.set] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(owing), func(o *output) bool { return !guilty[o.set] }), err
}

// isCheckedInPlace reports whether there is something that the check of o looks at in its place.
func (o *output) isCheckedInPlace() bool {
	t := o.target
	switch {
	case !t.checksInPlace():
		return false
	case t.Check.Uses("dest"):
		return (o.owes || t.ForEach == "") && isThere(o.file.Path)
	}
	return t.ForEach != "" || isThere(o.file.Path)
}

// refuse notes that nobody is told of owing, as some of them are refused for a reason.
func (g *group) refuse(owing, refused []*output, reason error) {
	guilty := map[*output]bool{}
	for _, o := range refused {
		guilty[o] = true
	}
	for _, o := range owing {
		if !guilty[o] {
			o.status.Next = g.reader.at
			o.become(report.Failed, report.StepCheck, fmt.Errorf("not reloaded, as %s is not as it should be: %w", refused[0].name, reason))
		}
	}
}

// about returns a log that names the first of outputs, and how many others there are.
func (g *group) about(outputs []*output) *slog.Logger {
	log := g.log.With("resource", outputs[0].name, "dest", outputs[0].file.Path)
	if others := len(outputs) - 1; others > 0 {
		log = log.With("others", others)
	}
	return log
}

// reload runs the command and sees to it that the new versions run. The error is of the step. state is
// what the outputs are when the command is done; those that have failed stay as they are.
func (g *group) reload(ctx context.Context, owing []*output, state report.State) (step string, err error) {
	r := g.reader
	if !slices.ContainsFunc(g.targets, (*target).reloads) {
		return "", nil
	}
	for _, o := range g.outputs() {
		o.unheard = false
	}
	r.bucket.take(time.Now())
	defer g.reloadingSince(time.Now())
	marks := map[proxy.Applier]proxy.Mark{}
	for _, t := range g.targets {
		if t.applier == nil {
			continue
		}
		mark, err := t.applier.Mark(ctx)
		if err != nil {
			t.log.Warn("what runs before the reload is not known", "reason", err)
		}
		marks[t.applier] = mark
	}
	g.step(owing[0], report.StepReload)
	began := time.Now()
	output, err := g.tell(ctx, owing)
	for _, o := range owing {
		g.board.step(o.name, report.StepReload, began, err)
	}
	if err != nil {
		return report.StepReload, err
	}
	for _, o := range owing {
		if o.status.How = "reload"; state != report.Failed && !o.isTakenBack() && !o.stays() {
			o.become(state, "", nil)
		}
	}
	g.step(owing[0], report.StepConfirm)
	began = time.Now()
	err = g.confirm(ctx, marks)
	for _, o := range owing {
		g.board.step(o.name, report.StepConfirm, began, err)
	}
	if err == nil {
		why := ""
		for _, o := range owing {
			why = cmp.Or(why, o.status.Why)
		}
		g.about(owing).Info("reloaded", filled("why", why, "output", output)...)
	}
	return report.StepConfirm, err
}

// tell runs the command, or where there is none has the appliers load the files.
func (g *group) tell(ctx context.Context, owing []*output) (output string, err error) {
	if !g.reader.reload.IsZero() {
		return owing[0].book().Tell(ctx, g.reader.reload)
	}
	for _, o := range owing {
		if o.target.applier == nil {
			continue
		}
		content, ok, err := o.file.Current()
		if err != nil || !ok {
			return "", errors.Join(err, fmt.Errorf("there is nothing to load at %s", o.file.Path))
		}
		plan, err := o.target.applier.Plan(ctx, nil, content)
		if err != nil {
			return "", err
		}
		if plan.Kind == proxy.Reload {
			return "", fmt.Errorf("a reload is needed, and there is no reload_cmd: %s", plan.Reason)
		}
		if err := o.target.applier.Apply(ctx, plan); err != nil {
			return "", err
		}
	}
	return "", nil
}

// confirm returns nil when all programs of the group run what their files say.
func (g *group) confirm(ctx context.Context, marks map[proxy.Applier]proxy.Mark) error {
	for _, t := range g.targets {
		if t.applier == nil {
			continue
		}
		for _, o := range t.outputs {
			content, ok, err := o.file.Current()
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if err := t.applier.Confirm(ctx, content, marks[t.applier]); err != nil {
				return err
			}
		}
	}
	ran := map[string]bool{}
	for _, t := range g.targets {
		if t.Confirm.IsZero() || ran[t.Confirm.String()] {
			continue
		}
		ran[t.Confirm.String()] = true
		if err := confirmBy(ctx, t.Confirm); err != nil {
			return fmt.Errorf("confirm_cmd does not see the new version: %w", err)
		}
	}
	return nil
}

// confirmBy runs a command until it succeeds, for as long as it may take.
func confirmBy(ctx context.Context, command install.Command) error {
	deadline := time.Now().Add(command.Timeout)
	pause := confirmMin
	for {
		command.Timeout = max(time.Until(deadline), time.Second)
		_, err := install.Run(ctx, command, install.Vars{})
		if err == nil || ctx.Err() != nil || time.Now().Add(pause).After(deadline) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		pause = min(2*pause, confirmMax)
	}
}

// paid notes that what the files of outputs hold is what runs, as seen at a time.
func (g *group) paid(outputs []*output, at time.Time) {
	noted := map[string]bool{}
	for _, o := range outputs {
		g.step(o, "paid")
		err := o.keepGood()
		if book := o.book(); err == nil && !noted[book.Path] {
			err = book.Paid()
			noted[book.Path] = true
		}
		if err != nil {
			o.set.fail(o, report.StepWrite, fmt.Errorf("reloaded, but that cannot be noted: %w", err))
			continue
		}
		o.owes, o.applied = false, time.Time{}
		if o.stays() {
			continue
		}
		if o.vanished || o.rendered && o.isOnDisk() {
			if !o.broken {
				o.set.succeeded()
			}
			o.converge(at)
		} else {
			o.live = nil // it is what the file holds
		}
	}
	g.forget(outputs)
}

// keepGood keeps what the file holds as the version to go back to.
func (o *output) keepGood() error {
	t := o.target
	unknown := !o.rendered && o.onDisk == nil && !o.isTakenBack() // it was reloaded before there were keys to make it of
	if o.vanished || !o.isOnDisk() && !unknown || !t.keepsGood() || t.ForEach != "" && !t.goesBack() && t.applier == nil {
		return nil
	}
	content := o.want
	if content == nil {
		current, ok, err := o.file.Current()
		if err != nil || !ok {
			return err
		}
		content = current
	}
	if unknown {
		return o.file.KeepGood(install.Good{Content: content, Index: t.applied.Index, Keys: t.applied.Keys})
	}
	return o.file.KeepGood(install.Good{Content: content, Index: uint64(o.status.Index), Keys: t.now})
}

// forget lets go of the outputs whose files are gone.
func (g *group) forget(outputs []*output) {
	for _, o := range outputs {
		if !o.removed {
			continue
		}
		g.board.gone(o.name)
		o.target.outputs = slices.DeleteFunc(o.target.outputs, func(other *output) bool { return other == o })
	}
}

// rollBack puts back what is wanted back after a failed reload, and reloads that.
func (g *group) rollBack(ctx context.Context, step string, reason error, owing []*output) {
	wanted := map[*set]bool{}
	for _, o := range owing {
		wanted[o.set] = wanted[o.set] || o.target.Rollback
	}
	back, _ := g.goBack(slices.DeleteFunc(slices.Clone(owing), func(o *output) bool { return !wanted[o.set] }), step, reason)
	if len(back) == 0 {
		return
	}
	if _, err := g.reload(ctx, owing, report.Failed); err != nil {
		g.about(owing).Error("the version before could not be reloaded either", "reason", err)
		return
	}
	g.reader.at = time.Time{}
	g.paid(owing, time.Now())
	for _, o := range back {
		o.status.Next = o.set.at
		o.become(report.Failed, step, reason)
	}
}

// goBack puts the last confirmed versions of outputs in place, after what has failed at a step for a reason. They are
// not tried again before their inputs change, or some time has passed. back are those whose files were others; all:
// none could not be written.
func (g *group) goBack(outputs []*output, step string, reason error) (back []*output, all bool) {
	all = true
	tried := map[*set][]*output{}
	for _, o := range outputs {
		if o.vanished {
			continue
		}
		g.step(o, report.StepRollback)
		began := time.Now()
		done, err := o.rollBack()
		if errors.Is(err, errFirst) {
			o.become(report.Failed, step, fmt.Errorf("%w; %w", reason, err))
			continue
		}
		if !done && err == nil {
			continue
		}
		g.board.step(o.name, report.StepRollback, began, err)
		tried[o.set] = append(tried[o.set], o)
		switch {
		case err != nil:
			all = false
			o.log.Error("not rolled back", "reason", err)
			o.become(report.Failed, step, fmt.Errorf("%w; it cannot be taken back: %w", reason, err))
		case done:
			o.log.Warn("rolled back to the version before")
			o.status.Changed = nil // that made another
			back = append(back, o)
		}
	}
	for s, outputs := range tried {
		s.refused = fingerprint(outputs)
		s.at = time.Now().Add(max(s.quarantine.Next(), s.quarantine.Min/2)) // not at once, as chance may have it
	}
	return back, all
}

// errFirst says that there is nothing to go back to. The file stays, as a program that was never configured may not
// run for want of it.
var errFirst = errors.New("the file is new: there is no version to go back to, and it stays")

// rollBack puts the last confirmed version in place, if there is one and it is another.
func (o *output) rollBack() (done bool, err error) {
	good, ok, err := o.file.Good()
	if err == nil && !ok {
		err = errFirst
	}
	if err != nil {
		return false, err
	}
	if differs, err := o.file.Differs(good.Content); err != nil || !differs {
		return false, err
	}
	staged, err := o.file.Stage(good.Content)
	if err != nil {
		return false, err
	}
	defer staged.Discard()
	o.onDisk = nil
	err = staged.Commit()
	return err == nil, err
}

// isTakenBack reports whether the file is what it was before, as what it should be was refused.
func (o *output) isTakenBack() bool {
	return o.set.refused != digest{} && !(o.rendered && o.isOnDisk()) && !o.vanished
}

// isGood reports whether the file is the version to go back to.
func (o *output) isGood() bool {
	good, ok, err := o.file.Good()
	if err != nil || !ok {
		return false
	}
	differs, err := o.file.Differs(good.Content)
	return err == nil && !differs
}
