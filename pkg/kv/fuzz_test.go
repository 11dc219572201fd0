package kv

import (
	"strings"
	"testing"
)

// FuzzSpellings reads a text as a key, as a lease id and as a pattern. Each has one spelling and
// means what its documentation says, character by character.
func FuzzSpellings(f *testing.F) {
	for _, c := range [][2]string{{"/a/../b//c/.", "/a"}, {"00000000000001f0", ""}, {"/a*", "/ab"}, {"*", ""}, {"\xff*", "\xff\xff"}, {"a\x00", "a"}, {"/a/", "/a/"}, {"", "\x00"}, {"/..a/_b/", "/_b"}} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, text, key string) {
		checkClean(t, text)
		if id, err := ParseLeaseID(text); err == nil && (id == 0 || id.String() != text) {
			t.Fatalf("lease %q is %v", text, id)
		}
		r := PatternRange(text)
		prefix, open := strings.CutSuffix(text, "*")
		matches := key == text && !open || open && strings.HasPrefix(key, prefix)
		if within := key >= r.From && (r.To == "" || key < r.To); within != matches {
			t.Fatalf("pattern %q is %q: with %q it is in the range: %v, it matches: %v", text, r, key, within, matches)
		}
		if spelled, ok := r.Pattern(); !ok || PatternRange(spelled) != r {
			t.Fatalf("pattern %q is %q, and that %q", text, r, spelled)
		}
	})
}

// checkClean takes the key apart segment by segment.
func checkClean(t *testing.T, text string) {
	var way []string
	for _, segment := range strings.Split(text, "/") {
		switch segment {
		case "", ".":
		case "..":
			way = way[:max(0, len(way)-1)]
		default:
			way = append(way, segment)
		}
	}
	want := ""
	for _, segment := range way {
		want += "/" + segment
	}
	if got, asDir := SplitDir(text); got != want || Clean(got) != got || asDir != strings.HasSuffix(text, "/") {
		t.Fatalf("%q becomes %q, want %q", text, got, want)
	}
}
