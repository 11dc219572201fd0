package render

import (
	"slices"
	"sort"
	"strings"
)

// KVPair is one key and its value, as templates see it: {{.Key}} {{.Value}}.
type KVPair struct {
	Key   string // absolute and clean; in a template without the resource's prefix
	Value string
}

// KVPairs is the result of gets. It is a type of its own because confd's reverse turns around
// lists of type []KVPair only, and templates have come to rely on what it leaves alone.
type KVPairs []KVPair

// Pairs is keys and values in the order of the keys' bytes, none twice. It does not change while it
// is read, and may be read by several goroutines, also from within Ascend's fn.
type Pairs interface {
	// Get returns the value of exactly this key.
	Get(key string) (value string, ok bool)
	// Ascend calls fn for each pair whose key is not less than pivot, until fn returns false.
	Ascend(pivot string, fn func(key, value string) bool)
}

// PairsOf returns the pairs of a list, which it takes over. Their order is of no importance; a key
// that is given twice keeps the value that was given last.
func PairsOf(list []KVPair) Pairs {
	slices.SortStableFunc(list, func(a, b KVPair) int { return strings.Compare(a.Key, b.Key) })
	kept := list[:0]
	for i, pair := range list {
		if i+1 < len(list) && list[i+1].Key == pair.Key {
			continue
		}
		kept = append(kept, pair)
	}
	return sortedPairs(kept)
}

type sortedPairs []KVPair

func (p sortedPairs) search(key string) int {
	return sort.Search(len(p), func(i int) bool { return p[i].Key >= key })
}

func (p sortedPairs) Get(key string) (string, bool) {
	if i := p.search(key); i < len(p) && p[i].Key == key {
		return p[i].Value, true
	}
	return "", false
}

func (p sortedPairs) Ascend(pivot string, fn func(key, value string) bool) {
	for _, pair := range p[p.search(pivot):] {
		if !fn(pair.Key, pair.Value) {
			return
		}
	}
}
