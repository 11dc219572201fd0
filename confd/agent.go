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
	"strings"
	"time"

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
	source, closeSource, err := openSource(cfg, deps)
	if err != nil {
		return err
	}
	defer closeSource()
	a := &agent{cfg: cfg, deps: deps, source: source, told: map[string]string{}}
	if err := a.load(); err != nil {
		return err
	}
	if cfg.Onetime {
		return a.once(ctx)
	}
	return a.forever(ctx)
}

// agent is a running kvconfd. It belongs to the goroutine that called Run.
type agent struct {
	cfg       Config
	deps      Deps
	source    source
	resources []resource.Resource // what is at work
	broken    int                 // resource files that cannot be used as they are now
	told      map[string]string   // by resource file: what has been logged about its present version
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
	if a.cfg.Backend == backendEnv {
		for i, r := range resources {
			resources[i].Keys = environmentKeys(r.Keys)
		}
	}
	a.resources, a.told = resources, told
	return nil
}

// tell logs what is wrong with a resource file, once for each version of it.
func (a *agent) tell(l resource.Loaded, told map[string]string) {
	text := strings.Join(l.Warnings, "; ")
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
	m := newMirror(a.cfg.polls())
	loadErr := a.source.load(ctx, m, topRoots(a.resources))
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

	// Only now that changes would be noticed, read again: nothing falls between.
	changes.cover(a.watched())
	a.reload()
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
			a.reload()
			changes.cover(a.watched())
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

// reload is load for a running agent: when the directory cannot be read, everything stays.
func (a *agent) reload() {
	if err := a.load(); err != nil {
		a.deps.Log.Error("everything stays as it is", "reason", err)
	}
}

// watched returns the directories and files whose changes matter: those where files are looked
// for, and those where links to files lead.
func (a *agent) watched() []string {
	paths := []string{a.cfg.ConfDir, filepath.Join(a.cfg.ConfDir, "templates")}
	trees := []string{filepath.Join(a.cfg.ConfDir, "conf.d")}
	if a.cfg.Backend == backendFile {
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

func environmentKeys(keys []string) []string {
	mapped := make([]string, len(keys))
	for i, key := range keys {
		mapped[i] = environmentKey(key)
	}
	return resource.Minimal(mapped)
}
