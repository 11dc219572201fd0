package render

import (
	"path"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Tree is what one template can see of the store: a view of pairs, without a copy. It never
// changes, so any number of goroutines may read it. The zero value is empty.
type Tree struct {
	pairs  Pairs
	ranges ranges // in the names of pairs
	scope  Scope  // as it was given: in the names of the store
}

// NewTree returns what scope shows of pairs. It takes as long as scope has keys.
func NewTree(pairs Pairs, scope Scope) Tree {
	t := Tree{pairs: pairs, scope: scope}
	if scope.Textual && scope.Prefix != "" {
		// /app and /app2 both lose their first four letters, so their order changes.
		t.pairs, t.ranges = renamed(pairs, newRanges(scope)), newRanges(Scope{Keys: []string{""}, Textual: true})
		return t
	}
	t.ranges = newRanges(scope)
	return t
}

// renamed returns a copy of what r covers, under the names that the template sees.
func renamed(pairs Pairs, r ranges) Pairs {
	var list []KVPair
	pairs.Ascend("", func(key, value string) bool {
		if r.covers(key) {
			list = append(list, KVPair{r.Inner(key), value})
		}
		return true
	})
	return PairsOf(list)
}

// Scope returns the scope that the tree was made with.
func (t Tree) Scope() Scope { return t.scope }

// Len returns the number of keys. It counts them.
func (t Tree) Len() int {
	n := 0
	t.ascend("", func(string, string) bool { n++; return true })
	return n
}

// Get returns the pair of exactly this key.
func (t Tree) Get(key string) (KVPair, bool) {
	if t.pairs == nil || !strings.HasPrefix(key, "/") {
		return KVPair{}, false
	}
	outer := t.ranges.Prefix + key
	if key == "/" && t.ranges.Prefix != "" {
		outer = t.ranges.Prefix
	}
	if !t.ranges.covers(outer) {
		return KVPair{}, false
	}
	value, ok := t.pairs.Get(outer)
	if !ok {
		return KVPair{}, false
	}
	return KVPair{key, value}, true
}

// Ascend calls fn for each pair from the key pivot on, in key order, until fn returns false.
func (t Tree) Ascend(pivot string, fn func(key, value string) bool) {
	if pivot == "/" {
		pivot = "" // the key that is the prefix itself is seen as "/"
	}
	t.ascend(pivot, fn)
}

// ascend is Ascend from a position, which need not be a key. It steps over what is not in scope.
func (t Tree) ascend(from string, fn func(key, value string) bool) {
	if t.pairs == nil {
		return
	}
	prefix := t.ranges.Prefix
	for at, more := prefix+from, true; more; {
		more = false
		t.pairs.Ascend(at, func(key, value string) bool {
			if !strings.HasPrefix(key, prefix) {
				return false
			}
			if !t.ranges.covers(key) {
				at, more = t.ranges.after(key)
				return false
			}
			inner := key[len(prefix):]
			if inner == "" {
				inner = "/"
			}
			return fn(inner, value)
		})
	}
}

// Empty reports whether there is no key at all.
func (t Tree) Empty() bool {
	empty := true
	t.ascend("", func(string, string) bool { empty = false; return false })
	return empty
}

// below calls fn for each pair whose key begins with prefix.
func (t Tree) below(prefix string, fn func(key, value string)) {
	t.Ascend(prefix, func(key, value string) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		fn(key, value)
		return true
	})
}

// Glob returns the pairs whose whole key matches pattern in the sense of path.Match, in key
// order. It visits only the directories that the pattern can lead into. The error is
// path.ErrBadPattern; without any key every pattern will do, as in confd.
func (t Tree) Glob(pattern string) (KVPairs, error) {
	found := KVPairs{}
	if _, err := path.Match(pattern, ""); err != nil {
		if t.Empty() {
			return found, nil
		}
		return nil, err
	}
	if strings.ContainsAny(pattern, `[\`) { // a class may match a slash, so segments say nothing
		literal, _ := literalPrefix(pattern)
		t.below(literal, func(key, value string) {
			if ok, _ := path.Match(pattern, key); ok {
				found = append(found, KVPair{key, value})
			}
		})
		return found, nil
	}
	if rest, ok := strings.CutPrefix(pattern, "/"); ok {
		t.glob("", strings.Split(rest, "/"), &found)
		// A directory's contents sort after names such as "a-b" but were found before them.
		slices.SortFunc(found, func(a, b KVPair) int { return strings.Compare(a.Key, b.Key) })
	}
	return found, nil
}

// glob appends the matches below dir, whose remaining pattern is segments.
func (t Tree) glob(dir string, segments []string, found *KVPairs) {
	segment, last := segments[0], len(segments) == 1
	if !strings.ContainsAny(segment, "*?") {
		child := dir + "/" + segment
		if !last {
			t.glob(child, segments[1:], found)
		} else if pair, ok := t.Get(child); ok {
			*found = append(*found, pair)
		}
		return
	}
	for _, e := range t.children(dir) {
		if ok, _ := path.Match(segment, e.name); !ok || e.isDir == last {
			continue
		}
		if last {
			*found = append(*found, e.pair)
		} else {
			t.glob(dir+"/"+e.name, segments[1:], found)
		}
	}
}

// List returns the names of the keys and directories directly below dir, sorted, and the last
// segment of dir if it is itself a key. The root lists its keys only, as confd's does.
func (t Tree) List(dir string) []string {
	names := []string{}
	if _, ok := t.Get(dir); ok {
		names = append(names, path.Base(dir))
	}
	clean := cleanDir(dir)
	switch {
	case !strings.HasPrefix(dir, "/"): // nothing is below a relative path
	case dir == clean || dir == clean+"/":
		for _, e := range t.children(clean) {
			if e.name != "" && !(e.isDir && clean == "") {
				names = append(names, e.name)
			}
		}
	default: // confd takes the letters of dir off the key, and they are not there
		t.below(clean+"/", func(key, _ string) {
			if key == dir || clean == "" && strings.LastIndexByte(key, '/') > 0 {
				return
			}
			rest := strings.TrimPrefix(strings.TrimPrefix(key, dir), "/")
			name, _, _ := strings.Cut(rest, "/")
			names = append(names, name)
		})
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ListDir returns the names of the directories directly below dir, sorted. The root has none, as
// in confd.
func (t Tree) ListDir(dir string) []string {
	names := []string{}
	clean := cleanDir(dir)
	if clean != "" && strings.HasPrefix(dir, "/") {
		canonical := dir == clean || dir == clean+"/"
		for _, e := range t.children(clean) {
			if e.isDir && (canonical || t.anyBelow(dir, clean+"/"+e.name+"/")) {
				names = append(names, e.name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// anyBelow reports whether a key begins with the letters of both.
func (t Tree) anyBelow(a, b string) bool {
	if len(a) < len(b) {
		a, b = b, a
	}
	found := false
	if strings.HasPrefix(a, b) {
		t.ascend(a, func(key, _ string) bool { found = strings.HasPrefix(key, a); return false })
	}
	return found
}

// Item is what one file of a resource with for_each is about: a key or a directory that its
// pattern matches. It is the dot of the template.
type Item struct {
	Key   string // as the template sees it, so that it can be given to getv or ls
	Name  string // its last segment
	Value string // "" if it is only a directory
}

// Items returns the keys and directories that pattern matches in the sense of path.Match, in the
// order of their keys, none twice. The error is path.ErrBadPattern.
func (t Tree) Items(pattern string) ([]Item, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, err
	}
	found := map[string]Item{}
	literal, _ := literalPrefix(pattern)
	t.below(literal, func(key, _ string) {
		for ; len(key) > 1; key = kv.Parent(key) {
			if ok, _ := path.Match(pattern, key); !ok {
				continue
			}
			if _, known := found[key]; known {
				return
			}
			pair, _ := t.Get(key)
			found[key] = Item{Key: key, Name: kv.Base(key), Value: pair.Value}
		}
	})
	items := make([]Item, 0, len(found))
	for _, item := range found {
		items = append(items, item)
	}
	slices.SortFunc(items, func(a, b Item) int { return strings.Compare(a.Key, b.Key) })
	return items, nil
}

// entry is a key or a directory directly below another.
type entry struct {
	name  string
	isDir bool
	pair  KVPair // of the key; of the directory's first
}

// seekAfter is how many keys of a directory are passed one by one before the rest is stepped over.
const seekAfter = 12

// children returns the keys and the directories directly below dir ("" is the root), in key order.
// Its cost is that of the children, not of everything below them. A name that is both key and
// directory is returned as both; a key that is the prefix itself is a child of the root, named "".
func (t Tree) children(dir string) (found []entry) {
	base := dir + "/"
	for at, more := base, true; more; {
		more = false
		inside, passed := "", 0
		t.Ascend(at, func(key, value string) bool {
			rest, ok := strings.CutPrefix(key, base)
			if !ok {
				return false
			}
			if inside != "" && strings.HasPrefix(rest, inside) {
				if passed++; passed > seekAfter {
					at, more = base+inside[:len(inside)-1]+"0", true // "0" follows "/": the first key after the directory
					return false
				}
				return true
			}
			name, _, isDir := strings.Cut(rest, "/")
			if isDir {
				inside, passed = rest[:len(name)+1], 0
			}
			found = append(found, entry{name, isDir, KVPair{key, value}})
			return true
		})
	}
	return found
}

// cleanDir returns the clean form of an absolute path with "" for the root.
func cleanDir(dir string) string { return kv.Clean(dir) }
