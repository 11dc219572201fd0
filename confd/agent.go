package confd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

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
	source, err := keys.Open(cfg.source(), keys.Deps{Log: deps.Log, Store: deps.Store, Lookup: deps.Lookup})
	if err != nil {
		return err
	}
	defer source.Close()
	a := &agent{cfg: cfg, deps: deps, source: source, told: map[string]string{}}
	err = a.load()
	switch {
	case cfg.Onetime && err == nil:
		return a.once(ctx)
	case cfg.Onetime || err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return a.forever(ctx) // a directory that is not there yet is waited for
}

// looksMax bounds how often the directory is read again while ever more of it comes into being.
const looksMax = 8

// agent is a running kvconfd. It belongs to the goroutine that called Run.
type agent struct {
	cfg       Config
	deps      Deps
	source    keys.Source
	resources []resource.Resource // what is at work
	broken    int                 // resource files that cannot be used as they are now
	told      map[string]string   // by resource file: what has been logged about its present version
	trouble   string              // with the directory as a whole, so that it is told once
	covered   []string            // what was watched after the last look
}

// load reads the configuration directory. A file that cannot be used keeps its last good version
// at work and never disturbs the others. The error is about the directory as a whole.
func (a *agent) load() error {
	loaded, err := resource.Load(a.cfg.ConfDir, a.cfg.Prefix)
	if err != nil {
		return fmt.Errorf("cannot read the configuration directory: %w", err)
	}
	if len(loaded) == 0 {
		a.deps.Log.Warn("there are no resource files", "in", filepath.Join(a.cfg.ConfDir, "conf.d"))
	}
	told := map[string]string{}
	var resources, older []resource.Resource
	a.broken = 0
	for _, l := range loaded {
		a.tell(l, told)
		if l.Err == nil {
			resources = append(resources, l.Resource)
			continue
		}
		a.broken++
		if i := slices.IndexFunc(a.resources, func(r resource.Resource) bool { return r.File == l.File }); i >= 0 {
			older = append(older, a.resources[i])
		}
	}
	for _, old := range older {
		if !slices.ContainsFunc(resources, func(r resource.Resource) bool { return r.Dest == old.Dest }) {
			resources = append(resources, old)
		}
	}
	slices.SortStableFunc(resources, func(x, y resource.Resource) int { return cmp.Compare(x.File, y.File) })
	for i, r := range resources {
		resources[i].Keys = a.keysOf(r)
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

// once makes one pass over everything.
func (a *agent) once(ctx context.Context) error {
	m := keys.NewMirror(a.cfg.source().Polls())
	loadErr := a.source.Load(ctx, m, a.roots())
	done := passOnce(ctx, newGroups(a.resources, m, a.cfg, a.deps))
	switch {
	case loadErr != nil:
		return loadErr
	case !done || a.broken > 0:
		return errors.New("not everything is up to date; the log above says what and why")
	}
	return nil
}

// forever runs generations: each works on one set of resources, and a changed set starts the next.
func (a *agent) forever(ctx context.Context) error {
	changes := watchFiles(a.deps.Log)
	defer changes.close()
	tick := time.NewTicker(a.cfg.Interval)
	defer tick.Stop()

	a.look(changes)
	for {
		stop, wake := a.start(ctx)
		same := true
		for same && ctx.Err() == nil {
			select {
			case <-ctx.Done():
				continue
			case <-a.deps.Hangup:
				a.deps.Log.Info("reading the configuration directory again")
			case <-changes.changed:
			case <-tick.C:
			}
			before := a.resources
			a.look(changes)
			if same = reflect.DeepEqual(before, a.resources); same {
				wake()
			}
		}
		stop()
		if ctx.Err() != nil {
			return nil
		}
		a.deps.Log.Info("resources changed", "resources", len(a.resources))
	}
}

// look reads the directory, and again if that has led to more that is to be watched: what changes
// before it is watched is not reported.
func (a *agent) look(changes *files) {
	a.reload()
	for range looksMax {
		before := a.covered
		a.covered = a.watched()
		changes.cover(a.covered)
		if slices.Equal(a.covered, before) {
			return
		}
		a.reload()
	}
}

// reload is load for a running agent: when the directory cannot be read, everything stays.
func (a *agent) reload() {
	err := a.load()
	switch {
	case err == nil:
		a.trouble = ""
		return
	case err.Error() == a.trouble:
	case len(a.resources) == 0 && errors.Is(err, fs.ErrNotExist):
		a.deps.Log.Warn("nothing to do until there is a configuration directory; it is watched for", "reason", err)
	default:
		a.deps.Log.Error("everything stays as it is", "reason", err)
	}
	a.trouble = err.Error()
}

// watched returns the directories and files whose changes matter: those where files are looked
// for, and those where links to files lead.
func (a *agent) watched() []string {
	paths := []string{nearest(a.cfg.ConfDir), filepath.Join(a.cfg.ConfDir, "templates")}
	trees := []string{filepath.Join(a.cfg.ConfDir, "conf.d")}
	if a.cfg.Backend == keys.BackendFile {
		trees = append(trees, a.cfg.Files...)
	}
	for _, tree := range trees {
		paths = append(paths, directories(tree)...)
	}
	files := slices.Collect(maps.Keys(a.told))
	for _, r := range a.resources {
		files = append(files, r.Src)
	}
	for _, file := range files {
		paths = append(paths, filepath.Dir(file))
		if real, err := filepath.EvalSymlinks(file); err == nil {
			paths = append(paths, filepath.Dir(real))
		}
	}
	slices.Sort(paths)
	return slices.DeleteFunc(slices.Compact(paths), func(path string) bool {
		_, err := os.Stat(path)
		return err != nil
	})
}

// nearest returns path, or the lowest directory above it that exists.
func nearest(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// directories returns path, and if it is a directory those below it as far as they can be read.
func directories(path string) []string {
	found := []string{path}
	root, err := filepath.EvalSymlinks(path)
	if err != nil {
		return found
	}
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error { // reports no error
		if err == nil && entry.IsDir() {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// keysOf returns the keys of the backend that stand for those of a resource.
func (a *agent) keysOf(r resource.Resource) []string {
	source := a.cfg.source()
	mapped := make([]string, len(r.Keys))
	for i, key := range r.Keys {
		mapped[i] = source.Key(key)
	}
	return resource.Minimal(mapped)
}

// roots returns what the source is to follow.
func (a *agent) roots() []string {
	var all []string
	for _, r := range a.resources {
		all = append(all, r.Keys...)
	}
	return keys.Roots(all)
}
