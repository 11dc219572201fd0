package resource

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kvd-io/kvd/confd/install"
)

// fileBytesMax bounds a resource file.
const fileBytesMax = 1 << 20

// Loaded is what became of one resource file: a Resource, or the reason why not.
type Loaded struct {
	File     string
	Resource Resource // valid if Err is nil
	Warnings []Problem
	Err      error // names the file; what is wrong in it is a Problems
}

// Load reads every resource file of a configuration directory, in the order of their paths. A
// file that cannot be used does not touch the others. err is about the directory: it has no
// conf.d, or cannot be read; it is an fs.ErrNotExist if the directory itself is not there.
func Load(confDir, globalPrefix string) (loaded []Loaded, err error) {
	if _, err := os.Stat(confDir); errors.Is(err, fs.ErrNotExist) {
		return nil, &missingDirectory{confDir}
	}
	files, err := find(filepath.Join(confDir, "conf.d"))
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, file := range files {
		if real, err := filepath.EvalSymlinks(file); err == nil {
			if seen[real] {
				continue // a link to a file that is here under its own name
			}
			seen[real] = true
		}
		entry := Loaded{File: file}
		data, err := readFile(file)
		if err == nil {
			entry.Resource, entry.Warnings, err = Parse(file, data, confDir, globalPrefix)
		}
		if err == nil {
			if setting, text := conflict(entry.Resource, loaded); text != "" {
				err = Problems{{findLines(data)[setting], text}}
			}
		}
		if err != nil {
			entry.Err = fmt.Errorf("resource file %s: %w", file, err)
		}
		loaded = append(loaded, entry)
	}
	joinGroups(loaded)
	return loaded, nil
}

// conflict says what keeps r from being used beside the resources before it, and which setting that is; ""
// if nothing does.
func conflict(r Resource, before []Loaded) (setting, text string) {
	for _, other := range before {
		switch o := other.Resource; {
		case other.Err != nil:
		case r.Dest == o.Dest:
			return "template.dest", fmt.Sprintf("dest %s is already written by %s; give one of them another dest", r.Dest, o.File)
		case r.mayWrite(o), o.mayWrite(r):
			return "template.dest", fmt.Sprintf("dest %s and dest %s of %s could be one file; give one of them another dest", r.Dest, o.Dest, o.File)
		case r.ReloadGroup != "" && r.ReloadGroup == o.ReloadGroup && !r.Reload.IsZero() && !o.Reload.IsZero() && !r.Reload.Equal(o.Reload):
			return "template.reload_cmd", fmt.Sprintf("reload_group %q has reload_cmd %s here and %s in %s; a group is reloaded once, by one command: make them equal, or leave the group", r.ReloadGroup, r.Reload, o.Reload, o.File)
		}
	}
	return "", ""
}

// mayWrite reports whether a file that r makes for a key could be one that other writes.
func (r Resource) mayWrite(other Resource) bool {
	if r.ForEach == "" {
		return false
	}
	dir, prefix, suffix := r.Files()
	if other.ForEach == "" {
		name := filepath.Base(other.Dest)
		return filepath.Dir(other.Dest) == dir && len(name) > len(prefix)+len(suffix) && strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix)
	}
	otherDir, otherPrefix, otherSuffix := other.Files()
	return dir == otherDir && overlaps(prefix, otherPrefix, strings.HasPrefix) && overlaps(suffix, otherSuffix, strings.HasSuffix)
}

// overlaps reports whether a text can have both ends, each being a prefix or a suffix as has says.
func overlaps(a, b string, has func(text, end string) bool) bool { return has(a, b) || has(b, a) }

// joinGroups gives the members of each reload group the one reload command of the group, the longest of its
// time-outs, and the secrecy of its most secret member: what is checked together is quoted together.
func joinGroups(loaded []Loaded) {
	groups := map[string][]*Resource{}
	for i := range loaded {
		if r := &loaded[i].Resource; loaded[i].Err == nil && r.ReloadGroup != "" {
			groups[r.ReloadGroup] = append(groups[r.ReloadGroup], r)
		}
	}
	for _, members := range groups {
		reload, sensitive := install.Command{}, false
		for _, r := range members {
			timeout := max(reload.Timeout, r.Reload.Timeout)
			if reload.IsZero() {
				reload = r.Reload
			}
			reload.Timeout = timeout
			sensitive = sensitive || r.Sensitive
		}
		for _, r := range members {
			r.Reload = reload
			r.Check.Sensitive, r.Reload.Sensitive, r.Confirm.Sensitive = sensitive, sensitive, sensitive
		}
	}
}

// missingDirectory says that a configuration directory does not exist.
type missingDirectory struct{ path string }

func (m *missingDirectory) Error() string {
	return m.path + " does not exist: create it with conf.d and templates in it, or name another directory with --confdir"
}

func (m *missingDirectory) Is(target error) bool { return target == fs.ErrNotExist }

// find returns the resource files below dir.
func find(dir string) ([]string, error) {
	files, err := Find(dir, "*toml")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: put the resource files (*.toml) there, or name another directory with --confdir", dir)
	}
	return files, err
}

// Find returns the files below dir whose names match pattern, in the order of their paths, or dir
// itself if it is a file. A link to a file counts, a link to a directory is not entered. Names
// that begin with ".." are passed over: they are how Kubernetes keeps the versions of a mounted
// ConfigMap, whose current files are links beside them.
func Find(dir, pattern string) ([]string, error) {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == root && !entry.IsDir():
			files = append(files, dir)
			return nil
		case path != root && strings.HasPrefix(entry.Name(), ".."):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if matches, err := filepath.Match(pattern, entry.Name()); err != nil || !matches {
			return err
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return nil
		}
		files = append(files, filepath.Join(dir, strings.TrimPrefix(path, root)))
		return nil
	})
	slices.Sort(files)
	return files, err
}

// readFile reads a resource file. What is no file, such as a pipe, is not waited for.
func readFile(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("it is not a file"))
	}
	data, err := io.ReadAll(io.LimitReader(file, fileBytesMax+1))
	if err == nil && len(data) > fileBytesMax {
		err = fmt.Errorf("larger than %d bytes", fileBytesMax)
	}
	return data, err
}
