package confd

import (
	"cmp"
	"context"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/report"
	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
)

type kvIndex = kv.Index

// shared is what all groups of an agent have in common.
type shared struct {
	cfg     Config
	deps    Deps
	board   *board
	claims  *claims
	renders chan struct{} // one slot for each render that may run at a time
}

func newShared(cfg Config, deps Deps) *shared {
	return &shared{
		cfg: cfg, deps: deps, board: newBoard(deps.Report), claims: newClaims(),
		renders: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
}

// task is a resource, and the mirror of the store that its keys are in.
type task struct {
	resource.Resource
	mirror *keys.Mirror
	source keys.Source // of mirror; may be nil without Config.Present
}

// slot waits until there is room for one more render, and returns how to give it back.
func (s *shared) slot(ctx context.Context) (release func()) {
	select {
	case s.renders <- struct{}{}:
		return func() { <-s.renders }
	case <-ctx.Done():
		return func() {}
	}
}

// step tells the hook of tests that a step is about to be taken.
func (s *shared) step(o *output, step string) {
	if s.deps.Step != nil {
		s.deps.Step(o.name, step)
	}
}

// step is that of shared, and notes that the turn goes on.
func (g *group) step(o *output, step string) {
	g.mu.Lock()
	g.beat = time.Now()
	g.mu.Unlock()
	g.shared.step(o, step)
}

// group is the targets whose reader is told by one command, those of one reload group, or one target.
// All its work is done by one goroutine: that of run, or that of once.
type group struct {
	*shared
	log     *slog.Logger
	began   time.Time
	targets []*target // in the order of their files
	reader  *reader   // nil: there is nobody to be told
	feeds   []*feed
	claimed bool

	reloading time.Duration // how much of the present pass was waiting for reloads

	wake chan struct{} // holds one signal: there is something to look at

	mu        sync.Mutex    // guards the fields below, by which others ask for something
	wanted    []task        // the resources to work on from now on; nil: the same
	look      bool          // templates may have changed
	compare   bool          // files may have changed: everything is compared
	urged     bool          // what has failed is to be tried now
	calm      bool          // nothing is under way: all that was taken from the feeds is done
	beat      time.Time     // when the last step of the present turn began; zero: there is none
	longest   time.Duration // that a step can take
	title     string        // of the group, for people
	dismissed bool          // its resources are there no more
}

// feed is one mirror that a group reads.
type feed struct {
	mirror       *keys.Mirror
	subscription *keys.Subscription
	view         keys.View // of the present turn
	stale        bool
	taken, live  kvIndex // index of the last view, and of the last one that was done; guarded by the group's lock

	mu    sync.Mutex
	since time.Time // when the oldest change arrived that was not taken; zero: none did
	stop  context.CancelFunc
	done  chan struct{}
}

// follow passes on the signals of f's mirror, and notes when they come: a group may be busy.
func (f *feed) follow(ctx context.Context, g *group) {
	defer close(f.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.subscription.Wake():
		}
		f.mu.Lock()
		if f.since.IsZero() {
			f.since = time.Now()
		}
		f.mu.Unlock()
		g.signal()
	}
}

// arrived returns when the oldest change came that was not taken, now if that is not known.
func (f *feed) arrived(now time.Time) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := f.since
	f.since = time.Time{}
	if since.IsZero() {
		return now
	}
	return since
}

// groupKey tells which resources are worked on together.
func groupKey(r resource.Resource) string {
	switch {
	case !r.Reload.IsZero():
		return "command " + r.Reload.String()
	case r.ReloadGroup != "":
		return "group " + r.ReloadGroup
	}
	return "resource " + r.Name
}

// newGroup returns a group that works on tasks, which have one groupKey.
func newGroup(s *shared, tasks []task) *group {
	g := &group{shared: s, wake: make(chan struct{}, 1), began: time.Now(), log: s.deps.Log}
	if !tasks[0].Reload.IsZero() {
		g.log = g.log.With("reload_cmd", tasks[0].Reload.String())
	}
	g.wanted = tasks
	g.signal()
	return g
}

func (g *group) signal() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// order has the group work on other resources from its next turn on.
func (g *group) order(tasks []task) {
	g.mu.Lock()
	g.wanted = tasks
	g.mu.Unlock()
	g.signal()
}

// poke has the group look at its templates, at its files too if compare is set, and with urge try now what has
// failed.
func (g *group) poke(compare, urge bool) {
	g.mu.Lock()
	g.look = true
	g.compare = g.compare || compare
	g.urged = g.urged || urge
	g.mu.Unlock()
	g.signal()
}

// run works until ctx ends.
func (g *group) run(ctx context.Context) {
	defer g.end()
	defer g.finish()
	again := newStoppedTimer()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		case <-g.wake:
		}
		if ctx.Err() != nil {
			return
		}
		again.Stop()
		if next := g.turn(ctx); !next.IsZero() {
			again.Reset(max(0, time.Until(next)))
		}
	}
}

// dismiss says that no resource is left for g, before it is stopped.
func (g *group) dismiss() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dismissed = true
}

// finish tells the reader of what was written just before the end, so that what runs is what the files say. What has
// failed, or has to wait, stays noted for the next start.
func (g *group) finish() {
	g.mu.Lock()
	dismissed := g.dismissed
	g.mu.Unlock()
	if !g.claimed || dismissed {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), catchUpMax)
	defer cancel()
	g.settle(ctx)
}

// end lets go of everything.
func (g *group) end() {
	g.mu.Lock()
	dismissed := g.dismissed
	g.mu.Unlock()
	if g.claimed {
		g.catchUp()
	}
	for _, t := range g.targets {
		if dismissed {
			t.leave(nil)
		}
	}
	for _, f := range g.feeds {
		f.close()
	}
	g.claims.release(g)
}

// catchUp writes the files of what runs already, so that the next start finds nothing due.
func (g *group) catchUp() {
	ctx, cancel := context.WithTimeout(context.Background(), catchUpMax)
	defer cancel()
	for _, s := range g.allSets() {
		if s.isAhead() {
			s.file.hurry(time.Now())
			g.bring(ctx, s)
		}
	}
}

// catchUpMax bounds what is done after the end.
const catchUpMax = 5 * time.Second

func (f *feed) close() {
	f.stop()
	<-f.done
	f.subscription.Close()
}

func newStoppedTimer() *time.Timer {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return timer
}

// turn does what is due, and returns when the next is to be; zero: when there is a signal.
func (g *group) turn(ctx context.Context) time.Time {
	now := time.Now()
	g.mu.Lock()
	g.calm, g.beat = false, now
	wanted, look, compare, urged := g.wanted, g.look, g.compare, g.urged
	g.wanted, g.look, g.compare, g.urged = nil, false, false, false
	g.mu.Unlock()
	if wanted != nil {
		g.adopt(ctx, wanted)
	}
	if !g.claimed {
		g.claim()
	}
	g.notice(now)
	for _, t := range g.targets {
		if look {
			t.retext(now)
		}
		if compare {
			t.spoil(now)
			for _, o := range t.outputs {
				o.verify = true
			}
			t.pace.hurry(now)
		}
	}
	if urged {
		g.hurry(now)
	}
	if g.claimed {
		g.pass(ctx, now)
	}
	next := g.next()
	g.mu.Lock()
	g.beat = time.Time{}
	if g.calm = g.isCalm(); g.calm {
		for _, f := range g.feeds {
			f.live = f.taken
		}
	}
	g.mu.Unlock()
	return next
}

// hurry has everything that has failed tried now.
func (g *group) hurry(now time.Time) {
	for _, s := range g.allSets() {
		if !s.at.IsZero() {
			s.at = now
		}
	}
	if g.reader != nil && !g.reader.at.IsZero() {
		g.reader.at = now
	}
}

// claim takes what no other group may touch at the same time, if that is to be had.
func (g *group) claim() {
	if g.claimed = g.claims.take(g, g.names()); !g.claimed {
		return
	}
	for _, t := range g.targets {
		t.begin()
	}
}

// names are what no other group may touch at the same time.
func (g *group) names() (names []string) {
	for _, t := range g.targets {
		names = append(names, "name "+t.Name, "file "+t.Place())
		if t.reloads() {
			names = append(names, groupKey(t.Resource))
		}
	}
	return names
}

// adopt makes tasks those that are worked on. What is the same as before goes on as it is.
func (g *group) adopt(ctx context.Context, tasks []task) {
	slices.SortStableFunc(tasks, func(a, b task) int { return cmp.Compare(a.File, b.File) })
	before := slices.Clone(g.targets)
	g.targets = nil
	groups := map[string]*set{}
	for _, old := range before {
		if old.set != nil && groups[old.ReloadGroup] == nil {
			groups[old.ReloadGroup] = old.set
			old.set.targets = nil
		}
	}
	for _, wanted := range tasks {
		var t *target
		if i := slices.IndexFunc(before, func(old *target) bool { return reflect.DeepEqual(old.task, wanted) }); i >= 0 {
			t = before[i]
			before = slices.Delete(before, i, i+1)
		} else {
			t = newTarget(wanted, g)
		}
		g.join(t, groups)
		g.targets = append(g.targets, t)
	}
	for _, old := range before {
		old.leave(g.targets)
	}
	reader := newReader(g.targets)
	if reader != nil && g.reader != nil {
		longest := reader.retry.Max
		reader.at, reader.retry, reader.failure = g.reader.at, g.reader.retry, g.reader.failure
		reader.retry.Max = longest
		reader.bucket.full = g.reader.bucket.full
	}
	g.reader = reader
	g.claimed = false
	g.subscribe(ctx)
	g.mu.Lock()
	g.longest, g.title = g.bound(), g.targets[0].Name
	g.mu.Unlock()
}

// bound returns how long a step can take at most: as long as its command may, and a minute for all else.
func (g *group) bound() (longest time.Duration) {
	for _, t := range g.targets {
		longest = max(longest, t.Check.Timeout, t.Reload.Timeout, t.Confirm.Timeout)
	}
	return longest + time.Minute
}

// join puts t into the set of its reload group, if it has one.
func (g *group) join(t *target, groups map[string]*set) {
	if t.ReloadGroup == "" {
		return
	}
	s := groups[t.ReloadGroup]
	if s == nil {
		s = &set{}
		groups[t.ReloadGroup] = s
	}
	if len(s.targets) == 0 {
		s.limit(t)
	}
	s.targets = append(s.targets, t)
	t.set = s
	for _, o := range t.outputs {
		o.set = s
	}
}

// leave tells that there are no such targets any more, as far as others do not have their names. Their
// files stay, and what is owed stays noted beside them until there is a resource for the file again.
func (t *target) leave(others []*target) {
	if t.ForEach == "" && slices.ContainsFunc(others, func(other *target) bool { return other.Name == t.Name && other.ForEach == "" }) {
		return
	}
	for _, o := range t.outputs {
		t.board.gone(o.name)
	}
	t.board.gone(t.Name)
}

// subscribe makes the feeds those that the targets need. One whose keys are the same goes on.
func (g *group) subscribe(ctx context.Context) {
	wanted := map[*keys.Mirror][]string{}
	for _, t := range g.targets {
		wanted[t.mirror] = append(wanted[t.mirror], t.Keys...)
	}
	var feeds []*feed
	for _, f := range g.feeds {
		if of, needed := wanted[f.mirror]; needed && slices.Equal(f.subscription.Keys(), resource.Minimal(of)) {
			feeds = append(feeds, f)
			delete(wanted, f.mirror)
			continue
		}
		f.close()
	}
	for m, of := range wanted {
		feeds = append(feeds, g.newFeed(ctx, m, resource.Minimal(of)))
	}
	g.mu.Lock()
	g.feeds = feeds
	g.mu.Unlock()
	for _, t := range g.targets {
		t.feed = feeds[slices.IndexFunc(feeds, func(f *feed) bool { return f.mirror == t.mirror })]
		if t.template == nil {
			t.pace.hurry(time.Now())
		}
	}
}

func (g *group) newFeed(ctx context.Context, m *keys.Mirror, of []string) *feed {
	ctx, stop := context.WithCancel(ctx)
	f := &feed{mirror: m, subscription: m.Subscribe(of), stop: stop, done: make(chan struct{})}
	go f.follow(ctx, g)
	return f
}

// notice takes in what has changed since the last turn.
func (g *group) notice(now time.Time) {
	for _, f := range g.feeds {
		arrived := f.arrived(now)
		view, changes, all := f.subscription.Take()
		if stale := !view.Stale().IsZero(); stale != f.stale {
			f.stale, all = stale, true
		}
		f.view = view
		g.mu.Lock()
		f.taken = view.Index()
		g.mu.Unlock()
		for _, t := range g.targets {
			if t.feed != f {
				continue
			}
			if all || len(changes) > 0 || t.waiting {
				t.notice(now, arrived, view, changes, all || t.waiting)
			}
		}
	}
}

// pass brings what is due up to date, and then, once, tells the reader if any file owes it that. A
// target that fails does not stop the others.
func (g *group) pass(ctx context.Context, now time.Time) {
	for _, s := range g.allSets() {
		s.again(now)
	}
	due := g.due(now)
	g.reloading = 0
	for _, t := range due {
		t.brisk.drop()
		if t.full {
			t.pace.taken(now)
		}
		t.make(ctx, t.feed.view, now)
	}
	rendering := time.Since(now)
	for _, s := range g.allSets() {
		if s.fresh || s.hasVanished() || s.postponed && s.isWhole() || s.file.isDue(now) {
			g.bring(ctx, s)
		}
		g.lookAgain(ctx, s, now)
	}
	g.settle(ctx)
	end := time.Now()
	for _, t := range due {
		t.made(end, end.Sub(now)-g.reloading, rendering)
	}
	for _, t := range g.targets {
		t.full = false
		t.settled()
	}
	g.tellWholes()
	for _, f := range g.feeds {
		f.view = keys.View{}
	}
}

// due returns the targets whose time has come, and with them those of their reload groups that have
// changed too.
func (g *group) due(now time.Time) (due []*target) {
	groups, whole := map[*set]bool{}, map[*set]bool{}
	reloads := g.reader != nil && !g.reader.at.IsZero() && !now.Before(g.reader.at)
	for _, t := range g.targets {
		if reloads && t.pace.waits() && t.Debounce == 0 {
			t.pace.hurry(now) // it is part of the reload that is to come now
		}
		if at := t.at(); !at.IsZero() && !now.Before(at) {
			if t.again.IsZero() {
				t.spoil(now)
			}
			t.pace.hurry(now)
		}
		if t.set != nil {
			groups[t.set] = groups[t.set] || t.isDue(now)
			whole[t.set] = whole[t.set] || t.pace.isDue(now)
		}
	}
	for _, t := range g.targets {
		if t.isDue(now) || groups[t.set] && t.pace.waits() {
			t.full = t.pace.isDue(now) || whole[t.set]
			due = append(due, t)
		}
	}
	return due
}

// outputs returns the outputs of all targets, in the order of the resource files.
func (g *group) outputs() (outputs []*output) {
	for _, t := range g.targets {
		outputs = append(outputs, t.outputs...)
	}
	return outputs
}

// allSets returns the sets in the order of the resource files: a reload group has the place of its last.
func (g *group) allSets() (sets []*set) {
	for _, t := range g.targets {
		switch {
		case t.set == nil:
			for _, o := range t.outputs {
				sets = append(sets, o.set)
			}
		case t.set.targets[len(t.set.targets)-1] == t:
			sets = append(sets, t.set)
		}
	}
	return sets
}

// hasVanished reports whether files are to be removed.
func (s *set) hasVanished() bool {
	return s.at.IsZero() && slices.ContainsFunc(s.outputs(), (*output).goes)
}

// tellWholes has the targets tell what there is to be told of them as a whole.
func (g *group) tellWholes() {
	for _, t := range g.targets {
		t.tellWhole()
	}
}

// next returns when something is due without a signal; zero: nothing is.
func (g *group) next() (next time.Time) {
	sooner := func(at time.Time) {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if !g.claimed {
		return time.Time{} // woken by the claims
	}
	for _, t := range g.targets {
		sooner(t.due())
		sooner(t.at())
	}
	for _, s := range g.allSets() {
		sooner(s.at)
		sooner(s.file.due)
		sooner(s.look)
	}
	if g.reader != nil {
		sooner(g.reader.at)
		sooner(g.reader.until)
	}
	return next
}

// isDone reports whether everything is up to date, after the one pass of Onetime.
func (g *group) isDone() bool {
	for _, t := range g.targets {
		if t.waiting || t.failure.reason != "" {
			return false
		}
		for _, o := range t.outputs {
			if o.status.State != report.Converged && !(g.cfg.Noop && o.status.State == report.Rendered) {
				return false
			}
		}
	}
	return true
}

// isCalm reports whether nothing is under way that the keys taken so far have asked for: each target runs
// as they say, or is held, or has failed. A file that follows what runs already is nothing to wait for.
func (g *group) isCalm() bool {
	if !g.claimed {
		return false
	}
	for _, t := range g.targets {
		if t.waiting || t.hasNews() {
			return false
		}
		for _, o := range t.outputs {
			switch o.status.State {
			case report.Applied, report.Converged, report.Held, report.Failed, report.Stale:
				if o.goes() && o.failure.reason == "" { // its file waits to be removed
					return g.cfg.Noop
				}
			default:
				return g.cfg.Noop
			}
		}
	}
	return true
}

// live returns the index up to which everything read from m was brought up to date, or has failed; ok is
// false if nothing is read from there.
func (g *group) live(m *keys.Mirror) (index kvIndex, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.wanted != nil && len(g.feeds) == 0 {
		return 0, true // it has not begun
	}
	for _, f := range g.feeds {
		if f.mirror != m {
			continue
		}
		// What was taken by now is done if nothing is under way, and the lock is held: no turn can begin.
		if now, all := f.subscription.Upto(); all && g.calm {
			f.live = now
		}
		return f.live, true
	}
	return 0, false
}

// stuck reports whether the present turn takes longer than it can.
func (g *group) stuck(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.beat.IsZero() && now.Sub(g.beat) > g.longest
}

// filled returns those of the attributes of a log line, pairs of a name and a value, whose value is not empty.
func filled(pairs ...any) (attributes []any) {
	for i := 0; i+1 < len(pairs); i += 2 {
		if !reflect.ValueOf(pairs[i+1]).IsZero() {
			attributes = append(attributes, pairs[i], pairs[i+1])
		}
	}
	return attributes
}

// failure is what went wrong last, so that a retry which fails for the same reason is not told as
// if it were news.
type failure struct{ reason string }

// tell logs err as an error, or at debug if it is the one of the last time. nil is a success.
func (f *failure) tell(log *slog.Logger, message string, err error) {
	if err == nil {
		f.reason = ""
		return
	}
	reason := report.Lasting(err.Error())
	level := slog.LevelError
	if reason == f.reason {
		level = slog.LevelDebug
	}
	log.Log(context.Background(), level, message, "reason", err)
	f.reason = reason
}
