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
