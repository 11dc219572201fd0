package render

import (
	"slices"
	"sort"
	"strings"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Scope says which keys of a store a template may see, and by which names.
type Scope struct {
	Prefix string   // taken off the keys that the template sees; "" or a clean key
	Keys   []string // absolute and clean ("" is the root): these keys and what is below them, except what is hidden from there

	// Textual makes a key stand for every key that begins with the same letters, /app also for
	// /app2, and for hidden ones, as confd's env and file backends do.
	Textual bool

	// Unhidden shows names that begin with "_" as all others, as a v3 store does.
	Unhidden bool
}

// Covers reports whether a template with this scope may see key, a key of the store.
func (s Scope) Covers(key string) bool {
	for _, k := range s.Keys {
		if s.Textual && strings.HasPrefix(key, k) || key == k || kv.Below(key, k) && (s.Unhidden || !kv.HiddenBelow(key, k)) {
			return true
		}
	}
	return false
}

// Inner returns the name under which the template sees key. A key that is not below the prefix
// keeps its name.
func (s Scope) Inner(key string) string {
	if s.Prefix == "" {
		return key
	}
	rest, ok := strings.CutPrefix(key, s.Prefix)
	switch {
	case !ok:
		return key
	case strings.HasPrefix(rest, "/"):
		return rest
	}
	return "/" + rest
}

// ranges is a scope made ready for a walk over the keys of a store.
type ranges struct {
	Scope
	one    bool            // there is one key
	given  map[string]bool // Keys, unless there is one
	starts []string        // where something that is covered may begin, in order
}

func newRanges(s Scope) ranges {
	r := ranges{Scope: s, one: len(s.Keys) == 1}
	if !r.one {
		r.given = make(map[string]bool, len(s.Keys))
	}
	for _, key := range s.Keys {
		if !r.one {
			r.given[key] = true
		}
		r.starts = append(r.starts, key)
		if !s.Textual {
			r.starts = append(r.starts, key+"/")
		}
	}
	slices.Sort(r.starts)
	return r
}

// covers is Covers at a cost that does not grow with the number of keys.
func (r *ranges) covers(key string) bool {
	if r.one || r.Textual {
		return r.Covers(key)
	}
	for dir := key; ; dir = kv.Parent(dir) {
		if r.given[dir] && (dir == key || r.Unhidden || !kv.HiddenBelow(key, dir)) {
			return true
		}
		if dir == "" {
			return false
		}
	}
}

// after returns where a walk goes on after key, which is not covered; false: nothing follows.
func (r *ranges) after(key string) (string, bool) {
	next, ok := "", false
	if i := sort.SearchStrings(r.starts, key+"\x00"); i < len(r.starts) {
		next, ok = r.starts[i], true
	}
	if r.Textual {
		return next, ok
	}
	// A hidden directory is stepped over as a whole, unless something in it is in the scope.
	for _, k := range r.Keys {
		if !kv.Below(key, k) {
			continue
		}
		hidden := len(k) + strings.Index(key[len(k):], "/_") + 1
		end := key + "\x00"
		if j := strings.IndexByte(key[hidden:], '/'); j >= 0 {
			end = key[:hidden+j] + "0" // "0" follows "/"
		}
		if !ok || end < next {
			next, ok = end, true
		}
	}
	return next, ok
}
