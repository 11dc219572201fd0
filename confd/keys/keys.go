// Package keys brings what is in stores, in the environment and in files to who renders from it, and keeps
// it current.
//
// A Source fills a Mirror, the one copy of all keys that anybody reads, and keeps it equal to where the keys
// come from. Readers subscribe to keys: they are woken by a change of these alone, learn which keys changed,
// and take a View, which is everything at one moment and never changes.
//
//	source -> mirror -> subscription -> view
//
// It knows stores and keys. It does not know what values mean, what becomes of them, or when it is time
// to act.
package keys

import (
	"context"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Naming says for which keys of a source a key stands.
type Naming uint8

const (
	// Segments is as in kvd: for itself and for what is below it, but not for what is hidden there.
	Segments Naming = iota
	// Textual is for every key that begins with the same letters, /app also for /app2, as confd's env and file
	// backends have it.
	Textual
	// Unhidden is for itself and all that is below it, as in a v3 store.
	Unhidden
)

// covers reports whether key is one of keys, which are sorted, or stands below one.
func (n Naming) covers(keys []string, key string) bool {
	if n == Textual {
		return slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(key, k) })
	}
	for dir := key; ; dir = kv.Parent(dir) {
		if _, found := slices.BinarySearch(keys, dir); found && n.shows(dir, key) {
			return true
		}
		if dir == "" {
			return false
		}
	}
}

// shows reports whether dir stands for key, which is dir or below it.
func (n Naming) shows(dir, key string) bool { return n == Unhidden || !kv.HiddenBelow(key, dir) }

// Change is what became of one key that holds a value, or held one.
type Change struct {
	Key     string
	Removed bool     // it holds no value any more
	Expired bool     // and that because its time was over
	Index   kv.Index // of the store when it happened, or when it was found to have happened; 0 if the source has none
}

// Source keeps mirrors equal to where keys come from. Its methods may be used at the same time, for mirrors
// of their own.
type Source interface {
	// Load reads everything at or below roots once. After an error the mirror is as it was.
	Load(ctx context.Context, m *Mirror, roots []string) error
	// Run keeps m current until ctx ends, whatever becomes of the source meanwhile. poke, which may be nil,
	// asks it to look again before its time.
	Run(ctx context.Context, m *Mirror, roots []string, poke <-chan struct{})
	// Absent returns those of keys, in their order, that the source had at an index neither as a key nor as a directory; none
	// where there are no directories.
	Absent(ctx context.Context, keys []string, at kv.Index) ([]string, error)
	// Close gives up what the source holds open. Nothing is called after it.
	Close()
}
