package render

import (
	"path"
	"slices"
	"strings"
)

// Names returns what was looked at, for people: keys and patterns of the store, and directories with "/..."
// behind them, in order.
func (r *Reads) Names() (names []string) {
	outer := func(key string) string {
		if r.scope.Textual {
			return r.scope.Prefix + key
		}
		return path.Join("/", r.scope.Prefix, key)
	}
	if r.all {
		return []string{strings.TrimSuffix(outer("/"), "/") + "/..."}
	}
	for key := range r.keys {
		names = append(names, outer(key))
	}
	for dir := range r.dirs {
		names = append(names, strings.TrimSuffix(outer(dir), "/")+"/...")
	}
	for _, patterns := range r.patterns {
		for pattern := range patterns {
			names = append(names, outer(pattern))
		}
	}
	slices.Sort(names)
	return names
}

// Told returns what of reads may be told of t, and how many names are withheld: everything, or of a Sensitive
// template what stands in it, as other names may have been made of values.
func (t *Template) Told(reads *Reads) (told *Reads, withheld int) {
	if !t.env.Sensitive {
		return reads, 0
	}
	told = newReads(reads.scope)
	told.all, told.world, told.included = reads.all, reads.world, reads.included
	keep := func(to, from map[string]struct{}) {
		for name := range from {
			if t.literal(name) || t.literal(strings.TrimPrefix(name, "/")) || t.literal(name+"/") {
				to[name] = struct{}{}
			} else {
				withheld++
			}
		}
	}
	keep(told.keys, reads.keys)
	keep(told.dirs, reads.dirs)
	for dir, patterns := range reads.patterns {
		told.patterns[dir] = map[string]struct{}{}
		keep(told.patterns[dir], patterns)
	}
	return told, withheld
}
