package keys

import (
	"maps"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
)

// An etcd's transaction changes several keys at one index, and what its ranges bring comes in any order among them.
func TestAComparisonKeepsEveryChangeThatCameWhileItWasRead(t *testing.T) {
	set := func(key string, index kv.Index) kv.Event {
		return kv.Event{Action: kv.ActionSet, Node: &kv.Node{Key: key, Value: "new", ModifiedIndex: index}}
	}
	read := reread{reading: reading{roots: []string{"/a"}, from: Origin{"c", 10}, pairs: map[string]string{"/a/x": "old", "/a/y": "old", "/a/z": "old"}}}
	r := reconciliation{part: []string{"/a"}, from: Origin{"c", 9}, later: []kv.Event{
		set("/a/z", 10), set("/b", 13), set("/a/x", 12), set("/a/y", 12),
	}}
	merged, err := r.merge(read, Segments)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"/a/x": "new", "/a/y": "new", "/a/z": "old"}; !maps.Equal(merged.pairs, want) {
		t.Errorf("it holds %v, want %v", merged.pairs, want)
	}
	r.known = merged.from.Index
	if !r.knows(set("/a/w", 10), Segments) || r.knows(set("/a/w", 11), Segments) || r.knows(set("/b", 10), Segments) {
		t.Errorf("of what comes later about the part, all up to index %d is left out; it was read at 10", r.known)
	}
}
