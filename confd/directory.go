package confd

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/kvd-io/kvd/confd/keys"
)

// looksMax bounds how often the directory is read again while ever more of it comes into being.
const looksMax = 8

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
