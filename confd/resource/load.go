package resource

import (
	"cmp"
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

	// Last is the version that stays at work in the place of one that cannot be used, nil if there is none, or
	// if another resource has its dest by now.
	Last *Resource
}

// Load reads every resource file of a configuration directory, in the order of their paths. A
// file that cannot be used does not touch the others. err is about the directory: it has no
// conf.d, or cannot be read; it is an fs.ErrNotExist if the directory itself is not there.
//
// working are the resources at work: that of a file that cannot be used stays there, as its Last, and keeps
// its dest.
func Load(confDir, globalPrefix string, working ...Resource) (loaded []Loaded, err error) {
	if _, err := os.Stat(confDir); errors.Is(err, fs.ErrNotExist) {
		return nil, &missingDirectory{confDir}
	}
	files, err := find(filepath.Join(confDir, "conf.d"))
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	lines := map[string]map[string]int{}
	var claimed claims
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
		if entry.fail(err); err != nil {
			claimed.keep(&entry, working)
		}
		lines[file] = findLines(data)
		loaded = append(loaded, entry)
	}
	for i := range loaded {
		entry := &loaded[i]
		if entry.Err != nil {
			continue
		}
		mine := newClaim(entry.Resource)
		if setting, text := claimed.conflict(mine); text != "" {
			entry.fail(Problems{{lines[entry.File][setting], text}})
			claimed.keep(entry, working)
			continue
		}
		claimed = append(claimed, mine)
	}
	joinGroups(loaded)
	return loaded, nil
}

// fail notes why the file cannot be used; nil: it can.
func (l *Loaded) fail(err error) {
	if err != nil {
		l.Err = fmt.Errorf("resource file %s: %w", l.File, err)
	}
}

// claim is a resource, and where its files are.
type claim struct {
	Resource
	place string // Dest, wherever the links on the way to its directory lead
	kept  bool   // it is what stays at work of a file that cannot be used
}

func newClaim(r Resource) claim { return claim{Resource: r, place: r.Place()} }

// Place is Dest without the symbolic links on the way to its directory, as far as that exists, and with
// FollowSymlink without one at Dest: two resources with one Place write one file.
func (r Resource) Place() string {
	dir := filepath.Dir(r.Dest)
	if r.ForEach != "" {
		dir, _, _ = r.Files() // what names the key may have slashes
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(r.Dest, dir), "/")
	if real, err := filepath.EvalSymlinks(r.Dest); err == nil && r.FollowSymlink {
		return real
	}
	for {
		if real, err := filepath.EvalSymlinks(dir); err == nil || dir == filepath.Dir(dir) {
			return strings.TrimSuffix(cmp.Or(real, dir), "/") + "/" + rest
		}
		dir, rest = filepath.Dir(dir), filepath.Base(dir)+"/"+rest
	}
}

// claims are the resources that are to be used so far.
type claims []claim

// keep has the version of an unusable file that is at work stay there, unless something else has its dest.
func (c *claims) keep(l *Loaded, working []Resource) {
	i := slices.IndexFunc(working, func(r Resource) bool { return r.File == l.File })
	if i < 0 {
		return
	}
	last := newClaim(working[i])
	last.kept = true
	if _, text := c.conflict(last); text == "" {
		l.Last = &last.Resource
		*c = append(*c, last)
	}
}

// conflict says what keeps r from being used beside c, and which setting that is; "" if nothing does.
func (c claims) conflict(r claim) (setting, text string) {
	for _, o := range c {
		switch {
		case r.place == o.place:
			return "template.dest", fmt.Sprintf("dest %s is already written by %s%s; give one of them another dest", r.Dest, o.File, o.other(r))
		case r.mayWrite(o), o.mayWrite(r):
			return "template.dest", fmt.Sprintf("dest %s and dest %s of %s could be one file; give one of them another dest", r.Dest, o.Dest, o.File)
		case r.kept || o.kept: // the reload of the others is theirs
		case r.ReloadGroup != "" && r.ReloadGroup == o.ReloadGroup && !r.Reload.IsZero() && !o.Reload.IsZero() && !r.Reload.Equal(o.Reload):
			return "template.reload_cmd", fmt.Sprintf("reload_group %q has reload_cmd %s here and %s in %s; a group is reloaded once, by one command: make them equal, or leave the group", r.ReloadGroup, r.Reload, o.Reload, o.File)
		}
	}
	return "", ""
}

// other says what c has that is not evident beside the dest of r: another name for it, or an earlier version.
func (c claim) other(r claim) (text string) {
	if c.Dest != r.Dest {
		text = fmt.Sprintf(", as %s, which is the same place", c.Dest)
	}
	if c.kept {
		text += ", of which the last good version is at work"
	}
	return text
}

// mayWrite reports whether a file that c makes for a key could be one that other writes.
func (c claim) mayWrite(other claim) bool {
	if c.ForEach == "" {
		return false
	}
	dir, prefix, suffix := c.files()
	if other.ForEach == "" {
		name := filepath.Base(other.Dest)
		return filepath.Dir(other.place) == dir && len(name) > len(prefix)+len(suffix) && strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix)
	}
	otherDir, otherPrefix, otherSuffix := other.files()
	return dir == otherDir && overlaps(prefix, otherPrefix, strings.HasPrefix) && overlaps(suffix, otherSuffix, strings.HasSuffix)
}

// files is Resource.Files of the place.
func (c claim) files() (dir, prefix, suffix string) {
	at := c.Resource
	at.Dest = c.place
	return at.Files()
}

// overlaps reports whether a text can have both ends, each being a prefix or a suffix as has says.
func overlaps(a, b string, has func(text, end string) bool) bool { return has(a, b) || has(b, a) }

// joinGroups gives the members of each reload group the one reload command of the group, the longest of its
// time-outs, and the secrecy of its most secret member: what is checked together is quoted together. The command is
// that of a version that stays at work only if no other member names one.
func joinGroups(loaded []Loaded) {
	groups := map[string][]*Resource{}
	var kept []*Resource
	for i := range loaded {
		switch l := &loaded[i]; {
		case l.Last != nil && l.Last.ReloadGroup != "":
			kept = append(kept, l.Last)
		case l.Err == nil && l.Resource.ReloadGroup != "":
			groups[l.Resource.ReloadGroup] = append(groups[l.Resource.ReloadGroup], &l.Resource)
		}
	}
	for _, r := range kept {
		groups[r.ReloadGroup] = append(groups[r.ReloadGroup], r)
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
