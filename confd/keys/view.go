package keys

import (
	"strings"
	"time"

	"github.com/tidwall/btree"

	"github.com/kvd-io/kvd/pkg/kv"
)

// View is everything that a mirror held at one moment, at one index of the store. It never changes and may be
// used by any number of goroutines; the zero value is empty and not ready.
type View struct {
	tree     *btree.Map[string, string] // read only
	naming   Naming
	roots    []string
	complete bool
	from     Origin
	stale    time.Time
}

// Get returns the value of key, which is absolute and clean.
func (v View) Get(key string) (value string, ok bool) {
	if v.tree == nil {
		return "", false
	}
	return v.tree.Get(key)
}

// Ascend calls fn with each key from pivot on and its value, in the order of the keys' bytes, until fn returns
// false.
func (v View) Ascend(pivot string, fn func(key, value string) bool) {
	if v.tree != nil {
		v.tree.Ascend(pivot, fn)
	}
}

// Each calls fn with each key that is at or below key, or, if its naming is Textual, that begins with it, and
// its value, in order; those that are hidden from there are left out.
func (v View) Each(key string, fn func(key, value string)) {
	v.Ascend(key, func(found, value string) bool {
		if !strings.HasPrefix(found, key) {
			return false
		}
		if v.naming == Textual || found == key || kv.Below(found, key) && v.naming.shows(key, found) {
			fn(found, value)
		}
		return true
	})
}

// Holds reports whether there is any key at or below key.
func (v View) Holds(key string) (found bool) {
	v.Ascend(key, func(next, _ string) bool {
		if found = next == key || kv.Below(next, key); found || !strings.HasPrefix(next, key) {
			return false
		}
		return true
	})
	return found
}

// Len returns the number of keys.
func (v View) Len() int {
	if v.tree == nil {
		return 0
	}
	return v.tree.Len()
}

// Index returns the store's index at that moment, 0 if the source has none.
func (v View) Index() kv.Index { return v.from.Index }

// Cluster returns which cluster the keys are from, "" if that is not known.
func (v View) Cluster() string { return v.from.Cluster }

// Naming says for which keys a key stands.
func (v View) Naming() Naming { return v.naming }

// Ready reports whether all of keys have been read: what is absent then is absent in the store.
func (v View) Ready(keys []string) bool {
	for _, key := range keys {
		if !v.complete || !v.naming.covers(v.roots, key) {
			return false
		}
	}
	return true
}

// Stale returns when the view was true, if it is what an earlier run has left and the store has not been heard
// since; the zero time if it is current as far as the store was heard.
func (v View) Stale() time.Time { return v.stale }
