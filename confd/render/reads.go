package render

import (
	"path"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Reads is everything that a render has looked at, whether it was there or not. As long as nothing
// of it changes, another render makes the same bytes. It does not change after the render.
type Reads struct {
	scope    Scope
	keys     map[string]struct{}            // asked for by name, as the template sees them
	dirs     map[string]struct{}            // read with everything at or below them
	patterns map[string]map[string]struct{} // by the directory that they begin with
	all      bool
	world    bool
	included []string
}

func newReads(scope Scope) *Reads {
	return &Reads{scope: scope, keys: map[string]struct{}{}, dirs: map[string]struct{}{}, patterns: map[string]map[string]struct{}{}}
}

// Touches reports whether another value of key, a key of the store, or its coming or going may
// change the output.
func (r *Reads) Touches(key string) bool {
	return r.scope.Covers(key) && r.touches(r.scope.Inner(key))
}

// World reports whether the template has asked for the time, for names of the network, for
// interfaces or files: things that change without the store.
func (r *Reads) World() bool { return r.world }

// Included returns the names of the templates that were included or asked for, in order, none twice.
func (r *Reads) Included() []string { return r.included }

// touches is Touches for a key as the template sees it.
func (r *Reads) touches(key string) bool {
	if r.all {
		return true
	}
	if _, ok := r.keys[key]; ok {
		return true
	}
	return r.byDirectory(key, func(dir string) bool {
		for pattern := range r.patterns[dir] {
			if ok, _ := path.Match(pattern, key); ok {
				return true
			}
		}
		return false
	})
}

// byDirectory reports whether key lies in a directory that was read as a whole, or also holds for
// one of the directories above key.
func (r *Reads) byDirectory(key string, also func(dir string) bool) bool {
	for dir := key; ; dir = kv.Parent(dir) {
		if _, ok := r.dirs[dir]; ok || also(dir) {
			return true
		}
		if dir == "" {
			return false
		}
	}
}

// known reports whether everything below dir has been noted already.
func (r *Reads) known(dir string) bool {
	return r.all || len(r.dirs) > 0 && r.byDirectory(dir, func(string) bool { return false })
}

func (r *Reads) key(key string) {
	if !r.known(key) {
		r.keys[key] = struct{}{}
	}
}

func (r *Reads) dir(dir string) {
	if !r.known(dir) {
		r.dirs[dir] = struct{}{}
	}
}

func (r *Reads) pattern(pattern string) {
	literal, more := literalPrefix(pattern)
	if !more {
		r.key(pattern)
		return
	}
	dir := kv.Parent(literal + "x") // the directory of any match
	if r.known(dir) {
		return
	}
	if r.patterns[dir] == nil {
		r.patterns[dir] = map[string]struct{}{}
	}
	r.patterns[dir][pattern] = struct{}{}
}

// list notes what ls has looked at.
func (r *Reads) list(dir string) {
	switch clean := kv.Clean(dir); {
	case !strings.HasPrefix(dir, "/"):
	case clean == "":
		r.pattern("/*")
	default:
		r.dir(clean)
	}
}

// listDir notes what lsdir has looked at.
func (r *Reads) listDir(dir string) {
	if kv.Clean(dir) != "" {
		r.list(dir)
	}
}

func (r *Reads) include(name string) {
	if i, found := slices.BinarySearch(r.included, name); !found {
		r.included = slices.Insert(r.included, i, name)
	}
}

// literalPrefix returns the letters that every match of pattern begins with, and whether there is
// more to pattern than those.
func literalPrefix(pattern string) (string, bool) {
	if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
		return pattern[:i], true
	}
	return pattern, false
}
