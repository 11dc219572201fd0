package confd

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/proxy"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/backoff"
)

// How long it takes until what failed is tried again.
const (
	retryMin      = 500 * time.Millisecond
	retryMax      = time.Minute
	quarantineMin = 10 * time.Second // a version that the program refused, and that was taken back
	quarantineMax = 5 * time.Minute
)

// set is the outputs that go together: checked together, put in place together, taken back together.
// It is one output, or all those of a reload group. It belongs to its group's goroutine.
type set struct {
	single  *output   // nil: the outputs of targets
	targets []*target // of a reload group

	fresh     bool      // something was rendered in this pass
	torn      bool      // some of a new version is in place, some not: nobody is told of it
	postponed bool      // a version that takes a reload waits for its time
	doubtful  bool      // the check has refused what ran already: it is asked first until it agrees again
	file      pace      // of files that follow what runs
	at        time.Time // when what failed, or had to wait, is tried again; zero: when something changes
	look      time.Time // when the program is asked whether it runs what its file came to hold; zero: at the interval

	retry      backoff.Backoff
	quarantine backoff.Backoff
	refused    digest // what the program refused, and was taken back; zero: nothing
}

// limit gives s the retries that t wants.
func (s *set) limit(t *target) {
	s.file.quiet, s.file.longest = t.cfg.Quiet, t.cfg.QuietMax
	s.retry = retries(t.Resource)
	longest := cmp.Or(t.RetryMax, quarantineMax)
	s.quarantine = backoff.Backoff{Min: min(quarantineMin, longest), Max: longest}
}

// retries says how long what has failed of r waits until it is tried again.
func retries(r resource.Resource) backoff.Backoff {
	return backoff.Backoff{Min: retryMin, Max: cmp.Or(r.RetryMax, retryMax)}
}

func (s *set) outputs() (outputs []*output) {
	if s.single != nil {
		return []*output{s.single}
	}
	for _, t := range s.targets {
		outputs = append(outputs, t.outputs...)
	}
	return outputs
}

// of returns the targets whose outputs s has.
func (s *set) of() []*target {
	if s.single != nil {
		return []*target{s.single.target}
	}
	return s.targets
}

// last returns the last of these, in the order of the resource files.
func (s *set) last() *target {
	of := s.of()
	return of[len(of)-1]
}

// fail notes that o failed at a step, and when s is tried again.
func (s *set) fail(o *output, step string, err error) {
	if now := time.Now(); !s.at.After(now) {
		s.at = now.Add(s.retry.Next())
	}
	o.status.Next = s.at
	o.failure.tell(o.log, "not up to date", err)
	o.become(report.Failed, step, err)
}

// failAll is fail for several outputs with one reason, which is told once.
func (s *set) failAll(outputs []*output, step string, err error) {
	for i, o := range outputs {
		if i > 0 {
			o.failure.reason = report.Lasting(err.Error())
		}
		s.fail(o, step, err)
	}
}

// again makes everything of s dirty when its time has come.
func (s *set) again(now time.Time) (due bool) {
	if s.at.IsZero() || now.Before(s.at) {
		return false
	}
	s.at = time.Time{}
	for _, o := range s.outputs() {
		o.dirty = !o.vanished
		o.set.fresh = true
		o.target.pace.hurry(now)
	}
	return true
}

// succeeded forgets the failures, unless one of the outputs is not what it should be all the same: it could
// not be rendered, or was taken back. That is tried again when it is time.
func (s *set) succeeded() {
	s.torn = false
	if slices.ContainsFunc(s.outputs(), func(o *output) bool { return !o.isSettled() }) {
		return
	}
	s.at, s.doubtful, s.refused = time.Time{}, false, digest{}
	s.retry.Reset()
	s.quarantine.Reset()
}

// fingerprint identifies what is to become of outputs.
func fingerprint(outputs []*output) digest {
	hash := sha256.New()
	for _, o := range outputs {
		fmt.Fprintf(hash, "%q %v %x\n", o.file.Path, o.vanished, o.hash)
	}
	return digest(hash.Sum(nil))
}

// bring makes the files of s what was rendered. Whether their reader is to be told is known by what
// they owe. A failure is noted and logged, and leaves the files as they were.
func (g *group) bring(ctx context.Context, s *set) {
	s.fresh = false
	now := time.Now()
	catchUp := s.file.isDue(now)
	if catchUp {
		s.file.taken(now)
		defer func() { s.file.passed(time.Now(), time.Since(now)) }()
	}
	s.postponed = false
	outputs := s.outputs()
	if ctx.Err() != nil || slices.ContainsFunc(outputs, func(o *output) bool { return o.target.waiting }) {
		return
	}
	changed, ok := g.changed(s, outputs)
	if !ok {
		return
	}
	if len(changed) == 0 && !s.keepsStage() {
		s.torn = false
		g.unchanged(ctx, s, outputs)
		return
	}
	if mark := fingerprint(changed); len(changed) > 0 && s.refused == mark && !s.at.IsZero() {
		return // it is tried again at s.at
	}
	if g.cfg.Noop {
		g.rehearse(s, outputs, changed)
		return
	}
	applied, ok := g.introduce(ctx, s, changed)
	switch {
	case !ok:
		return
	case applied && s.isInstant() && !catchUp:
		s.file.later(now)
		return
	case !applied && g.reader != nil && len(changed) > 0:
		if s.postponed = !s.isWhole(); s.postponed {
			return
		}
		if now := time.Now(); g.reader.bucket.ready(now).After(now) {
			s.at = g.reader.bucket.ready(now) // postponed, with whatever comes until then
			for _, o := range changed {
				o.postpone(s.at)
			}
			return
		}
	}
	g.install(ctx, s, outputs, changed, applied)
	if len(changed) > 0 {
		g.stay(ctx, slices.DeleteFunc(slices.Clone(outputs), func(o *output) bool { return slices.Contains(changed, o) }))
	}
}

// introduce has the running programs take what has changed, if they can without a reload: applied, also if they run
// it already. If not ok, that could not be begun.
func (g *group) introduce(ctx context.Context, s *set, changed []*output) (applied, ok bool) {
	if !slices.ContainsFunc(changed, func(o *output) bool { return !o.runs() }) {
		return len(changed) > 0, true
	}
	plans, why := g.plan(ctx, s, changed)
	for _, o := range changed {
		o.status.How, o.status.Why = "", why
		o.become(report.Rendered, "", nil)
	}
	if plans == nil {
		return false, true
	}
	return g.apply(ctx, s, changed, plans)
}

// isInstant reports whether a program that s is for takes changes as they come.
func (s *set) isInstant() bool {
	return slices.ContainsFunc(s.of(), func(t *target) bool { return t.instant })
}

// isWhole reports whether this pass may bring about a reload for s.
func (s *set) isWhole() bool {
	return !s.isInstant() || slices.ContainsFunc(s.of(), func(t *target) bool { return t.full })
}

// isCheckedInPlace reports whether a check of s can find a new version in its place alone.
func (s *set) isCheckedInPlace() bool { return slices.ContainsFunc(s.of(), (*target).checksInPlace) }

// goesBack reports whether files of s may have to be what they were before.
func (s *set) goesBack() bool {
	return s.isCheckedInPlace() || slices.ContainsFunc(s.of(), func(t *target) bool { return t.Rollback })
}

// isAhead reports whether something runs that a file of s does not hold yet.
func (s *set) isAhead() bool { return slices.ContainsFunc(s.outputs(), (*output).isAhead) }

// changed returns those of outputs whose files are not what they should be.
func (g *group) changed(s *set, outputs []*output) (changed []*output, ok bool) {
	for _, o := range outputs {
		switch {
		case o.goes():
			if err := o.mayGo(); err != nil {
				s.fail(o, report.StepWrite, err)
			} else {
				changed = append(changed, o)
			}
			continue
		case o.runs():
			changed = append(changed, o)
			continue
		case !o.rendered || o.target.isHeld() || o.isOnDisk() && !o.verify && !o.isAhead():
			continue
		}
		differs, err := o.file.Differs(o.want)
		if err != nil {
			s.fail(o, report.StepWrite, err)
			return nil, false
		}
		if differs || o.isAhead() {
			changed = append(changed, o)
		} else {
			hash := o.hash
			o.onDisk = &hash
		}
	}
	return changed, true
}

// keepsStage reports whether --keep-stage-file asks for a staged file of what has not changed.
func (s *set) keepsStage() bool {
	return s.single != nil && s.single.target.cfg.KeepStageFile && s.single.rendered && s.single.kept == nil
}

// unchanged is for a pass that found all files of s to be what they should be.
func (g *group) unchanged(ctx context.Context, s *set, outputs []*output) {
	g.stay(ctx, outputs)
	s.succeeded()
}

// stay notes that files are what they should be, those of outputs that are.
func (g *group) stay(ctx context.Context, outputs []*output) {
	for _, o := range outputs {
		switch {
		case !o.rendered || o.target.isHeld():
			continue
		case o.owes && g.reader == nil && !g.cfg.Noop: // its command was taken out of the resource file
			g.paid([]*output{o}, time.Now())
		case o.owes:
			continue
		case o.target.applier != nil && (o.verify || o.live == nil) && !g.cfg.Onetime:
			g.ask(ctx, o)
		default:
			o.converge(time.Now())
		}
	}
}

// ask has the running program say whether it is as the file has it. If not, it is owed a reload.
func (g *group) ask(ctx context.Context, o *output) {
	err := o.target.applier.Confirm(ctx, o.want, proxy.Mark{})
	if err == nil {
		o.converge(time.Now())
		return
	}
	o.log.Warn("what runs is not what the file says", "reason", err)
	if err := o.book().Owe(); err != nil {
		o.set.fail(o, report.StepWrite, fmt.Errorf("cannot note that a reload is due: %w", err))
		return
	}
	o.owes = true
	o.become(report.Written, "", nil)
}

// lookAfter is how long after its file has caught up the program is asked again. Whoever reloaded it until then may have
// had it read the file of before; reading takes it about as long as the check took.
const lookAfter = time.Second

// lookAgain asks the programs of s, when it is time and nothing else is under way for them.
func (g *group) lookAgain(ctx context.Context, s *set, now time.Time) {
	if s.look.IsZero() || now.Before(s.look) || ctx.Err() != nil {
		return
	}
	if slices.ContainsFunc(s.outputs(), func(o *output) bool { return o.dirty }) {
		s.look = now.Add(lookAfter)
		return
	}
	s.look = time.Time{}
	for _, o := range s.outputs() {
		isHeld := o.target.isHeld() || o.target.waiting
		if o.target.applier != nil && o.rendered && !o.broken && o.isOnDisk() && !o.isAhead() && !o.owes && !o.vanished && !isHeld {
			g.ask(ctx, o)
		}
	}
}

// rehearse tells what would happen.
func (g *group) rehearse(s *set, outputs, changed []*output) {
	for _, o := range changed {
		o.log.Warn("noop: the file would be changed")
		o.become(report.Rendered, "", nil)
	}
	if !g.cfg.KeepStageFile {
		return
	}
	for _, o := range outputs {
		if !o.rendered {
			continue
		}
		if _, err := o.stage(); err != nil {
			s.fail(o, report.StepWrite, err)
		}
	}
}

// stage puts a new version beside the file. With --keep-stage-file it is left there if it is not
// installed, but only the last one, however often it is tried.
func (o *output) stage() (*install.Staged, error) {
	staged, err := o.file.Stage(o.want)
	if err == nil && o.target.cfg.KeepStageFile {
		if o.kept != nil {
			o.kept.Discard()
		}
		o.kept = staged
		o.log.Info("staged", "file", staged.Path)
	}
	return staged, err
}

// plan returns what it takes to bring the running programs to the new versions without a reload; nil
// and the reason why not, if it takes one, or if there is nobody to be told.
func (g *group) plan(ctx context.Context, s *set, changed []*output) (plans []proxy.Plan, why string) {
	if g.reader == nil || !slices.ContainsFunc(changed, func(o *output) bool { return o.target.applier != nil }) {
		return nil, ""
	}
	if s.isCheckedInPlace() {
		return nil, "check_cmd looks at the file in place alone; name {{.src}} in it"
	}
	for _, o := range g.outputs() {
		if o.owes && !o.isAhead() {
			return nil, "a reload is due"
		}
	}
	if s.doubtful {
		return nil, "the last change at run time was refused by the check"
	}
	for _, o := range changed {
		if o.target.applier == nil || o.vanished {
			return nil, "another file of the same program has changed"
		}
		if o.runs() {
			plans = append(plans, proxy.Plan{})
			continue
		}
		if o.live == nil {
			content, ok, err := o.file.Current()
			if err != nil || !ok {
				return nil, "what runs is not known"
			}
			o.live = content
		}
		plan, err := o.target.applier.Plan(ctx, o.live, o.want)
		switch {
		case err != nil:
			return nil, err.Error()
		case plan.Kind == proxy.Reload:
			return nil, plan.Reason
		}
		plans = append(plans, plan)
	}
	return plans, ""
}

// install checks and writes what has changed. If that is not applied, a reload is to follow.
func (g *group) install(ctx context.Context, s *set, outputs, changed []*output, applied bool) {
	if ctx.Err() != nil {
		return
	}
	began := time.Now()
	change := install.Change{}
	staged := map[*output]*install.Staged{}
	defer func() {
		for o, file := range staged {
			if o.kept != file {
				file.Discard() // finds nothing once it is installed
			}
		}
	}()
	stage := changed
	if s.keepsStage() && len(changed) == 0 {
		stage = outputs
	}
	for _, o := range stage {
		if o.vanished {
			change.Removed = append(change.Removed, o.file.Path)
			continue
		}
		file, err := o.stage()
		if err != nil {
			g.giveUp(ctx, s, changed, applied)
			s.fail(o, report.StepWrite, err)
			return
		}
		staged[o] = file
		change.Staged = append(change.Staged, file)
	}
	if len(changed) == 0 {
		g.unchanged(ctx, s, outputs)
		return
	}
	checks := g.checks(outputs, change, staged)
	err := g.check(ctx, s, outputs, change, staged, checks)
	if ctx.Err() != nil {
		return // nothing is written that nobody might be told of
	}
	if err != nil {
		g.giveUp(ctx, s, changed, applied)
		s.failAll(changed, report.StepCheck, err)
		s.keepAhead(changed)
		return
	}
	if len(checks) > 0 {
		for _, o := range changed {
			if !o.runs() {
				o.become(report.Checked, "", nil)
			}
		}
	}
	if !g.write(ctx, s, changed, staged, applied) {
		return
	}
	switch {
	case applied:
		g.paid(changed, time.Now())
		s.look = time.Now().Add(lookAfter + 2*time.Since(began))
	case g.reader == nil:
		for _, o := range changed {
			o.converge(time.Now())
		}
		g.forget(changed)
		s.succeeded()
	}
}

// apply changes the running programs. Where they do not end up as they should, a reload has to do it. Not ok:
// that they are about to be changed could not be noted, and they were not.
func (g *group) apply(ctx context.Context, s *set, changed []*output, plans []proxy.Plan) (applied, ok bool) {
	if err := g.owe(s, changed, install.File.OweInPassing); err != nil {
		return false, false
	}
	for i, o := range changed {
		if o.runs() {
			continue
		}
		g.step(o, report.StepApply)
		began := time.Now()
		err := o.target.applier.Apply(ctx, plans[i])
		if err == nil {
			g.step(o, report.StepConfirm)
			err = o.target.applier.Confirm(ctx, o.want, proxy.Mark{})
		}
		g.board.step(o.name, report.StepApply, began, err)
		if err != nil {
			o.log.Warn("the running program could not be changed; it is reloaded", "reason", err)
			o.status.Why = err.Error()
			for _, o := range changed {
				o.applied = time.Time{}
			}
			return false, true
		}
		o.log.Info("changed the running program", o.cause.attributes("plan", o.target.told(plans[i]))...)
	}
	at := time.Now()
	for _, o := range changed {
		o.status.How = "runtime"
		o.runsAhead(at)
	}
	return true, true
}

// giveUp takes back what was applied of a version that was refused afterwards, so that what runs is
// again what the files say. If that fails, the debt that was noted brings about a reload.
func (g *group) giveUp(ctx context.Context, s *set, changed []*output, applied bool) {
	if !applied {
		return
	}
	s.doubtful = true
	for _, o := range changed {
		err := o.takeBack(ctx)
		o.applied, o.live = time.Time{}, nil // what runs is, or will be, what the file holds
		o.status.Changed = nil
		if err == nil {
			err = o.book().Paid()
		}
		if err != nil {
			o.log.Warn("the running program is brought back to the file by a reload", "reason", err)
			continue
		}
		o.log.Info("took back what was changed in the running program")
		o.owes = false
	}
}

// keepAhead has the files of what runs written after all, as the version after it was refused.
func (s *set) keepAhead(outputs []*output) {
	for _, o := range outputs {
		if o.isAhead() {
			o.want, o.hash, o.rendered, o.broken = o.live, sha256.Sum256(o.live), true, true
			s.file.later(time.Now())
		}
	}
}

// takeBack has the program run what the file holds.
func (o *output) takeBack(ctx context.Context) error {
	content, ok, err := o.file.Current()
	if err != nil || !ok {
		return errors.Join(err, fmt.Errorf("there is nothing at %s", o.file.Path))
	}
	back, err := o.target.applier.Plan(ctx, o.live, content)
	if err == nil && back.Kind == proxy.Reload {
		err = errors.New(back.Reason)
	}
	if err == nil {
		err = o.target.applier.Apply(ctx, back)
	}
	if err == nil {
		err = o.target.applier.Confirm(ctx, content, proxy.Mark{})
	}
	return err
}

// owe notes on disk that the reader of outputs has to be told.
func (g *group) owe(s *set, outputs []*output, note func(install.File) error) error {
	noted := map[string]bool{}
	for _, o := range outputs {
		if o.owes {
			continue
		}
		g.step(o, "owe")
		err := g.keepFirst(o)
		if book := o.book(); err == nil && !noted[book.Path] {
			err = note(book)
			noted[book.Path] = true
		}
		if err != nil {
			s.failAll(outputs, report.StepWrite, fmt.Errorf("cannot note that a reload is due: %w", err))
			return err
		}
		o.owes, o.unheard = true, s.isCheckedInPlace() && o.isGood()
	}
	return nil
}

// disown takes back what was noted of outputs: their reader has nothing to be told of.
func (g *group) disown(outputs []*output) {
	for _, o := range outputs {
		o.owes = false
	}
	done := map[string]bool{}
	for _, o := range g.outputs() {
		if o.owes {
			done[o.book().Path] = true
		}
	}
	for _, o := range outputs {
		book := o.book()
		if done[book.Path] {
			continue
		}
		done[book.Path] = true
		if err := book.Paid(); err != nil {
			o.log.Warn("a reload that is not needed is still noted as due", "reason", err)
		}
	}
}

// keepFirst keeps the file that is there as the one to go back to, unless there is one.
func (g *group) keepFirst(o *output) error {
	if !o.set.goesBack() || o.vanished {
		return nil
	}
	if _, ok, err := o.file.Good(); ok || err != nil {
		return nil // one that cannot be read is replaced by the next that is confirmed
	}
	content, ok, err := o.file.Current()
	if err != nil || !ok {
		return err
	}
	if err := o.file.KeepGood(install.Good{Content: content, Keys: -1}); err != nil {
		return fmt.Errorf("cannot keep the version to go back to: %w", err)
	}
	return nil
}

// write puts the new versions in place, after it was noted that a reload is due.
func (g *group) write(ctx context.Context, s *set, changed []*output, staged map[*output]*install.Staged, applied bool) bool {
	if !applied {
		for _, o := range changed {
			o.applied = time.Time{} // by the reload it comes to be what the file says
		}
	}
	noted := slices.DeleteFunc(slices.Clone(changed), func(o *output) bool { return o.owes })
	if g.reader != nil && !applied && g.owe(s, changed, install.File.Owe) != nil {
		return false
	}
	for i, o := range changed {
		g.step(o, report.StepWrite)
		began := time.Now()
		var err error
		var inPlace bool // something of it
		if o.vanished {
			inPlace, err = o.target.remove(o)
		} else {
			err = staged[o].Commit()
			inPlace = err == nil || !staged[o].IsWaiting()
		}
		g.board.step(o.name, report.StepWrite, began, err)
		if err != nil {
			untouched := i == 0 && !applied && !inPlace
			if untouched && g.reader != nil {
				g.disown(noted)
			}
			s.torn = !untouched && (len(changed) > 1 || applied)
			s.fail(o, report.StepWrite, err)
			return false
		}
		if o.kept == staged[o] {
			o.kept = nil
		}
		hash := o.hash
		o.onDisk = &hash
		if !o.vanished {
			o.unfiled.take(&o.cause)
			if !applied {
				o.status.Changed = o.unfiled.names()
			}
			o.log.Info("file updated", o.unfiled.attributes("file", o.file.Path, "bytes", len(o.want))...)
		}
		if g.reader != nil && !applied {
			o.become(report.Written, "", nil)
			g.reader.at = time.Time{} // news: whatever failed before, this may not
		}
	}
	s.torn = false
	return true
}

// mayGo reports why the file, which is to be removed, is not.
func (o *output) mayGo() error {
	if o.removed {
		return nil
	}
	return o.target.manifest.Check(o.file.Path)
}

// remove removes the file of an item that is gone, and with it those of all other items that are, as they are forgotten
// in one write, unless each is to be checked. done: some file was removed. The error is that of o's file.
func (t *target) remove(o *output) (done bool, err error) {
	if o.removed {
		return true, nil
	}
	paths := []string{o.file.Path}
	for _, other := range t.outputs {
		if other != o && other.stays() && (other.set == o.set || !t.checksRemovals() && other.failure.reason == "") {
			paths = append(paths, other.file.Path)
		}
	}
	err = t.manifest.Remove(paths)
	kept := t.manifest.Gone(nil)
	for _, o := range t.outputs {
		if path := o.file.Path; o.stays() && !slices.Contains(kept, path) {
			o.log.Info("file removed", "file", path)
			o.removed, done = true, true
		}
	}
	if o.removed {
		err = nil
	}
	return done, err
}

// checksRemovals reports whether the check can look at what is left when a file of t is gone.
func (t *target) checksRemovals() bool {
	return !t.cfg.SyncOnly && !t.Check.IsZero() && t.Check.Uses("dir") && !t.Check.Uses("src")
}

// checks returns the outputs whose checks are to be run before anything is put in place.
func (g *group) checks(outputs []*output, change install.Change, staged map[*output]*install.Staged) (checks []*output) {
	if g.cfg.SyncOnly {
		return nil
	}
	for _, o := range outputs {
		switch t := o.target; {
		case t.Check.IsZero(), t.checksInPlace():
		case o.vanished:
			if t.checksRemovals() && slices.Contains(change.Removed, o.file.Path) {
				checks = append(checks, o)
			}
		case staged[o] != nil, t.ForEach == "" && isThere(o.file.Path):
			checks = append(checks, o)
		}
	}
	return checks
}

// check runs the checks of some of outputs on the new versions before they are in place.
func (g *group) check(ctx context.Context, s *set, outputs []*output, change install.Change, staged map[*output]*install.Staged, checks []*output) error {
	if len(checks) == 0 {
		return nil
	}
	together := s.single == nil
	var dirs []string
	for _, o := range outputs {
		if !o.goes() && staged[o] == nil {
			change.Kept = append(change.Kept, o.file.Path)
		}
		if (!o.vanished || slices.Contains(checks, o)) && (together || !o.target.Check.IsZero()) {
			dirs = append(dirs, o.target.CheckDirs...)
			together = together || len(o.target.CheckDirs) > 0 || o.target.Check.Uses("dir")
		}
	}
	vars := func(o *output) install.Vars { return install.Vars{Src: staged[o].Path, Dest: o.file.Path} }
	if together {
		slices.Sort(dirs)
		dir, err := install.NewCheckDir(change, slices.Compact(dirs))
		if err != nil {
			return fmt.Errorf("cannot make a directory for the check: %w", err)
		}
		defer func() {
			if err := dir.Remove(); err != nil {
				checks[0].log.Warn("cannot remove the directory of a check", "reason", err)
			}
		}()
		vars = func(o *output) install.Vars { return dir.Vars(o.file.Path) }
	}
	if _, err := g.runChecks(ctx, checks, vars); err != nil {
		return fmt.Errorf("check_cmd refused the new version, the file is kept: %w", err)
	}
	return nil
}

// runChecks runs the checks of outputs, each command once. line is the command that failed.
func (g *group) runChecks(ctx context.Context, outputs []*output, vars func(*output) install.Vars) (line string, err error) {
	ran := map[string]bool{}
	for _, o := range outputs {
		given := vars(o)
		line := o.target.Check.With(given).String()
		if ran[line] {
			continue
		}
		ran[line] = true
		g.step(o, report.StepCheck)
		began := time.Now()
		output, err := install.Run(ctx, o.target.Check, given)
		g.board.step(o.name, report.StepCheck, began, err)
		if err != nil {
			return line, err
		}
		o.log.Debug("checked", filled("output", output)...)
	}
	return "", nil
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
