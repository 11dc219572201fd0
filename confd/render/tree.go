package render

import (
	"path"
	"slices"
	"sort"
	"strings"
)

// KVPair is one key and its value, as templates see it: {{.Key}} {{.Value}}.
type KVPair struct {
	Key   string // absolute and clean, without the resource's prefix
	Value string
}

// KVPairs is the result of gets. It is a type of its own because confd's reverse turns around
// lists of type []KVPair only, and templates have come to rely on what it leaves alone.
type KVPairs []KVPair

// Tree is what one template can see of the store: pairs in key order, none twice. It never
// changes, so any number of goroutines may read it. The zero value is empty.
type Tree struct {
	pairs KVPairs
}

// NewTree returns the tree of pairs, which it takes over. The order of pairs is of no importance;
// a key given twice keeps the value that was given last.
func NewTree(pairs []KVPair) Tree {
	slices.SortStableFunc(pairs, func(a, b KVPair) int { return strings.Compare(a.Key, b.Key) })
	kept := pairs[:0]
	for i, pair := range pairs {
		if i+1 < len(pairs) && pairs[i+1].Key == pair.Key {
			continue
		}
		kept = append(kept, pair)
	}
	return Tree{pairs: kept}
}

// Len returns the number of keys.
func (t Tree) Len() int { return len(t.pairs) }

// Get returns the pair of exactly this key.
func (t Tree) Get(key string) (KVPair, bool) {
	if i := t.search(key); i < len(t.pairs) && t.pairs[i].Key == key {
		return t.pairs[i], true
	}
	return KVPair{}, false
}

// Glob returns the pairs whose whole key matches pattern in the sense of path.Match, in key
// order. It visits only the directories that the pattern can lead into. The error is
// path.ErrBadPattern.
func (t Tree) Glob(pattern string) (KVPairs, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, err
	}
	found := KVPairs{}
	if strings.ContainsAny(pattern, `[\`) { // a class may match a slash, so segments say nothing
		for _, pair := range t.pairs {
			if ok, _ := path.Match(pattern, pair.Key); ok {
				found = append(found, pair)
			}
		}
		return found, nil
	}
	if rest, ok := strings.CutPrefix(pattern, "/"); ok {
		t.glob("", strings.Split(rest, "/"), &found)
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
	t.children(dir, func(name string, isDir bool, pair KVPair) {
		if ok, _ := path.Match(segment, name); !ok || isDir == last {
			return
		}
		if isDir {
			t.glob(dir+"/"+name, segments[1:], found)
		} else {
			*found = append(*found, pair)
		}
	})
}

// List returns the names of the keys and directories directly below dir, sorted, and the last
// segment of dir if it is itself a key. The root lists its keys only, as confd's does.
func (t Tree) List(dir string) []string {
	names := map[string]bool{}
	if _, ok := t.Get(dir); ok {
		names[path.Base(dir)] = true
	}
	if strings.HasPrefix(dir, "/") {
		clean := cleanDir(dir)
		t.children(clean, func(name string, isDir bool, _ KVPair) {
			if name != "" && !(isDir && clean == "") {
				names[name] = true
			}
		})
	}
	return sortedNames(names)
}

// ListDir returns the names of the directories directly below dir, sorted. The root has none, as
// in confd.
func (t Tree) ListDir(dir string) []string {
	names := map[string]bool{}
	if clean := cleanDir(dir); clean != "" && strings.HasPrefix(dir, "/") {
		t.children(clean, func(name string, isDir bool, _ KVPair) {
			if isDir {
				names[name] = true
			}
		})
	}
	return sortedNames(names)
}

// children calls visit for each key and each directory directly below dir ("" is the root), in
// key order. Its cost is that of the children, not of everything below them: a directory's
// contents are skipped by search. A name that is both key and directory is visited as both.
func (t Tree) children(dir string, visit func(name string, isDir bool, pair KVPair)) {
	for i := t.search(dir + "/"); i < len(t.pairs); {
		rest, ok := strings.CutPrefix(t.pairs[i].Key, dir+"/")
		if !ok {
			return
		}
		name, _, isDir := strings.Cut(rest, "/")
		visit(name, isDir, t.pairs[i])
		if isDir {
			i = t.search(dir + "/" + name + "0") // "0" follows "/": the first key after name's contents
		} else {
			i++
		}
	}
}

// search returns the position of the first key that is not less than key.
func (t Tree) search(key string) int {
	return sort.Search(len(t.pairs), func(i int) bool { return t.pairs[i].Key >= key })
}

// cleanDir returns the clean form of an absolute path with "" for the root.
func cleanDir(dir string) string {
	return strings.TrimSuffix(path.Clean("/"+dir), "/")
}

func sortedNames(set map[string]bool) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
