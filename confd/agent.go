package confd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/kvd-io/kvd/confd/install"
	"github.com/kvd-io/kvd/confd/keys"
	"github.com/kvd-io/kvd/confd/resource"
)

// Run renders, installs and reloads until ctx ends, or once if cfg.Onetime is set. It returns an
// error if it cannot start, and with Onetime also if any resource could not be brought up to date.
// When it returns, no goroutine or command of its own is left.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	a, err := newAgent(cfg, deps)
	if err != nil {
		return err
	}
	defer a.close()
	if !cfg.Noop {
		if err := install.SweepCheckDirs(); err != nil {
			deps.Log.Warn("cannot remove what checks of an earlier run have left", "reason", err)
		}
	}
	err = a.load()
	switch {
	case cfg.Onetime && err == nil:
		return a.once(ctx)
	case cfg.Onetime || err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	a.forever(ctx) // a directory that is not there yet is waited for
	return nil
}

// ownStore is the name, among an agent's stores, of the one that the program's settings name.
const ownStore = ""

// agent is a running kvconfd. It belongs to the goroutine that called Run, but for what control asks.
type agent struct {
	*shared
	resources []resource.Resource // what is at work
	bad       map[string]string   // by resource file: why it cannot be used as it is now
	told      map[string]string   // by resource file: what has been logged about its present version
	trouble   string              // with the directory as a whole, so that it is told once
	covered   []string            // what was watched after the last look

	stores  map[string]*store // by what their settings say
	groups  map[string]*working
	running sync.WaitGroup // of groups, those that have been told to end included

	mu      sync.Mutex // guards the field below
	present present
}

// working is a group at work.
type working struct {
	*group
	tasks []task
	stop  context.CancelFunc
}

func newAgent(cfg Config, deps Deps) (*agent, error) {
	a := &agent{shared: newShared(cfg, deps), told: map[string]string{}, bad: map[string]string{}, stores: map[string]*store{}, groups: map[string]*working{}}
	own, err := newStore(cfg.source(), keys.Deps{Log: deps.Log, Store: deps.Store, Lookup: deps.Lookup})
	if err != nil {
		return nil, err
	}
	a.stores[ownStore] = own
	return a, nil
}

func (a *agent) close() {
	for _, s := range a.stores {
		s.close()
	}
}

// load reads the configuration directory. A file that cannot be used keeps its last good version
// at work and never disturbs the others. The error is about the directory as a whole.
func (a *agent) load() error {
	loaded, err := a.cfg.resources(a.resources...)
	if err != nil {
		return fmt.Errorf("cannot read the configuration directory: %w", err)
	}
	if len(loaded) == 0 {
		a.deps.Log.Warn("there are no resource files", "in", filepath.Join(a.cfg.ConfDir, "conf.d"))
	}
	told := map[string]string{}
	var resources []resource.Resource
	a.bad = map[string]string{}
	for _, l := range loaded {
		a.tell(l, told)
		if l.Err == nil {
			resources = append(resources, a.mapped(l.Resource))
			continue
		}
		a.bad[l.File] = l.Err.Error()
		if l.Last != nil {
			resources = append(resources, *l.Last) // with the keys it has
		}
	}
	a.resources, a.told = resources, told
	return nil
}

// tell logs what is wrong with a resource file, once for each version of it.
func (a *agent) tell(l resource.Loaded, told map[string]string) {
	text := resource.Problems(l.Warnings).Error()
	if l.Err != nil {
		text = l.Err.Error()
	}
	told[l.File] = text
	switch {
	case text == "" || text == a.told[l.File]:
	case l.Err != nil:
		a.deps.Log.Error("resource file not used; others, and an earlier version of it, go on", "reason", l.Err)
	default:
		a.deps.Log.Warn("resource file", "file", l.File, "warnings", text)
	}
}

// settings returns where the keys of r come from, and the name of that among the stores.
func (a *agent) settings(r resource.Resource) (name string, settings keys.Config) {
	if r.Backend == nil {
		return ownStore, a.cfg.source()
	}
	settings = a.cfg.sourceOf(*r.Backend)
	return fmt.Sprintf("%+v", *r.Backend), settings
}

// mapped returns r with the keys of its backend that stand for its own.
func (a *agent) mapped(r resource.Resource) resource.Resource {
	_, settings := a.settings(r)
	mapped := make([]string, len(r.Keys))
	for i, key := range r.Keys {
		mapped[i] = settings.Key(key)
	}
	r.Keys = resource.Minimal(mapped)
	return r
}

// open returns the tasks that the resources are, and what is to be followed in which store. A store that
// cannot be opened is left out, with its resources, until the next look.
func (a *agent) open() (tasks []task, roots map[string][]string) {
	roots = map[string][]string{ownStore: nil}
	if a.cfg.Moments != "" && !a.cfg.Onetime && (a.deps.MayFollow == nil || a.deps.MayFollow()) {
		roots[ownStore] = []string{a.cfg.Moments}
	}
	for _, r := range a.resources {
		name, settings := a.settings(r)
		if a.stores[name] == nil {
			opened, err := newStore(settings, keys.Deps{Log: a.deps.Log, Lookup: a.deps.Lookup})
			if err != nil {
				a.deps.Log.Error("the backend of a resource cannot be used", "file", r.File, "reason", err)
				a.bad[r.File] = fmt.Sprintf("resource file %s: %v", r.File, err)
				continue
			}
			a.stores[name] = opened
		}
		tasks = append(tasks, task{Resource: r, mirror: a.stores[name].mirror, source: a.stores[name].source})
		roots[name] = append(roots[name], r.Keys...)
	}
	for name := range roots {
		roots[name] = keys.Roots(roots[name])
	}
	return tasks, roots
}

// once makes one pass over everything. It goes by the order of the resource files, as one may be
// checked against the file or the reload of another before it; a reader is reloaded once, when the last
// of its files is in place.
func (a *agent) once(ctx context.Context) error {
	tasks, roots := a.open()
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(roots)) {
		if s := a.stores[name]; name != ownStore || len(roots[name]) > 0 || s.settings.Polls() {
			problems = append(problems, s.source.Load(ctx, s.mirror, roots[name]))
		}
	}
	loadErr := errors.Join(problems...)
	done := a.passOnce(ctx, tasks)
	switch {
	case loadErr != nil:
		return loadErr
	case !done || len(a.bad) > 0:
		return errors.New("not everything is up to date; the log above says what and why")
	}
	return nil
}

// passOnce does the work of once, and reports whether everything is up to date.
func (a *agent) passOnce(ctx context.Context, tasks []task) (done bool) {
	type place struct {
		*set
		*group
		file string
	}
	var places []place
	var groups []*group
	for _, tasks := range byGroup(tasks) {
		g := newGroup(a.shared, tasks)
		g.adopt(ctx, tasks)
		g.claim()
		defer g.end()
		g.notice(time.Now())
		groups = append(groups, g)
		for _, t := range g.targets {
			if t.ForEach != "" {
				t.make(ctx, t.feed.view, time.Now())
			}
		}
		for _, s := range g.allSets() {
			places = append(places, place{s, g, s.last().File})
		}
	}
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.file, b.file) })
	left := map[*group]int{}
	for _, p := range places {
		left[p.group]++
	}
	for _, p := range places {
		for _, t := range p.set.of() {
			if t.ForEach == "" {
				t.make(ctx, t.feed.view, time.Now())
			}
		}
		p.group.bring(ctx, p.set)
		if left[p.group]--; left[p.group] == 0 {
			p.group.settle(ctx)
		}
	}
	for _, g := range groups {
		g.tellWholes()
	}
	done = ctx.Err() == nil
	for _, g := range groups {
		done = done && g.isDone()
	}
	return done
}

// byGroup returns tasks by their groups, in the order of the first of each.
func byGroup(tasks []task) (groups [][]task) {
	at := map[string]int{}
	for _, t := range tasks {
		key := groupKey(t.Resource)
		if _, there := at[key]; !there {
			at[key] = len(groups)
			groups = append(groups, nil)
		}
		groups[at[key]] = append(groups[at[key]], t)
	}
	return groups
}

// forever works until ctx ends.
func (a *agent) forever(ctx context.Context) {
	changes := watchFiles(a.deps.Log)
	defer changes.close()
	tick := time.NewTicker(a.cfg.Interval)
	defer tick.Stop()
	defer a.stopAll()
	defer a.moments(ctx)()
	poke := make(chan struct{}, 1)

	a.look(changes)
	a.apply(ctx)
	if a.deps.Running != nil {
		a.deps.Running(&control{a, poke})
	}
	for {
		compare, urge := true, false
		select {
		case <-ctx.Done():
			return
		case <-a.deps.Hangup:
			a.deps.Log.Info("reading the configuration directory again")
			urge = true
		case <-changes.changed:
			compare = false
		case <-tick.C:
		case <-poke:
		}
		before := a.resources
		a.look(changes)
		if !reflect.DeepEqual(before, a.resources) {
			a.deps.Log.Info("resources changed", "resources", len(a.resources))
		}
		a.apply(ctx)
		for _, g := range a.groups {
			g.poke(compare, urge)
		}
		for _, s := range a.stores {
			s.look()
			if urge {
				s.urge(ctx)
			}
		}
	}
}

// apply puts the resources to work. What has not changed is not disturbed.
func (a *agent) apply(ctx context.Context) {
	tasks, roots := a.open()
	a.board.expect(tasks)
	wanted := map[string][]task{}
	for _, t := range tasks {
		key := groupKey(t.Resource)
		wanted[key] = append(wanted[key], t)
	}
	for key, g := range a.groups {
		if wanted[key] == nil {
			g.dismiss()
			g.stop()
			delete(a.groups, key)
		}
	}
	for key, tasks := range wanted {
		g := a.groups[key]
		switch {
		case g == nil:
			a.groups[key] = a.begin(ctx, tasks)
		case !reflect.DeepEqual(g.tasks, tasks):
			g.tasks = tasks
			g.order(slices.Clone(tasks))
		}
	}
	for name, s := range a.stores {
		if of, needed := roots[name]; needed {
			s.follow(ctx, of)
		} else {
			s.close()
			delete(a.stores, name)
		}
	}
	a.publish()
}

// begin puts a new group to work.
func (a *agent) begin(ctx context.Context, tasks []task) *working {
	ctx, stop := context.WithCancel(ctx)
	w := &working{group: newGroup(a.shared, slices.Clone(tasks)), tasks: tasks, stop: stop}
	a.running.Go(func() { w.run(ctx) })
	return w
}

// stopAll ends the groups and waits for them, running commands included.
func (a *agent) stopAll() {
	for _, g := range a.groups {
		g.stop()
	}
	a.running.Wait()
	for _, s := range a.stores {
		s.pause()
	}
}

// moments calls Deps.Moment when something is written below Config.Moments, until ctx ends. It returns
// what waits for the end of that.
func (a *agent) moments(ctx context.Context) (wait func()) {
	if a.cfg.Moments == "" || a.deps.Moment == nil {
		return func() {}
	}
	subscription := a.stores[ownStore].mirror.Subscribe([]string{a.cfg.Moments})
	var following sync.WaitGroup
	following.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-subscription.Wake():
			}
			if _, changes, all := subscription.Take(); all || len(changes) > 0 {
				a.deps.Moment()
			}
		}
	})
	return func() {
		following.Wait()
		subscription.Close()
	}
}
