package kv

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAKeyHasOneSpelling(t *testing.T) {
	for key, want := range map[string]string{
		"":              "",
		"/":             "",
		"//":            "",
		".":             "",
		"..":            "",
		"a":             "/a",
		"/a/":           "/a",
		"/a//b/./c":     "/a/b/c",
		"/a/../../../b": "/b",
		"/a b/é\x00":    "/a b/é\x00",
		"/..a/b..":      "/..a/b..",
	} {
		if got := Clean(key); got != want {
			t.Errorf("Clean(%q) = %q, want %q", key, got, want)
		}
	}
}

func TestACleanKeyIsMadeOfItsParentAndItsBase(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := Clean(strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "..", ".", "", "_b", "a-b", "é"}), 0, 6).Draw(t, "segments"), "/"))
		if Clean(key) != key {
			t.Fatalf("%q is cleaned again to %q", key, Clean(key))
		}
		if key == "" {
			if Parent(key) != "" || Base(key) != "" {
				t.Fatalf("the root has parent %q and base %q", Parent(key), Base(key))
			}
			return
		}
		if got := Parent(key) + "/" + Base(key); got != key {
			t.Fatalf("%q is made of %q", key, got)
		}
		if !Below(key, Parent(key)) || Below(key, key) || Below(Parent(key), key) {
			t.Fatalf("%q and its parent %q are not above and below", key, Parent(key))
		}
	})
}

func TestBelowGoesByWholeSegments(t *testing.T) {
	for _, c := range []struct {
		key, dir string
		want     bool
	}{
		{"/app/x", "/app", true}, {"/app/x/y", "/app", true}, {"/app", "", true},
		{"/app2", "/app", false}, {"/app", "/app", false}, {"/", "/app", false}, {"", "", false},
	} {
		if got := Below(c.key, c.dir); got != c.want {
			t.Errorf("Below(%q, %q) = %v", c.key, c.dir, got)
		}
	}
}

func TestHiddenIsWhatHasAnUnderscoreBelowTheDirectory(t *testing.T) {
	for _, c := range []struct {
		key, dir string
		want     bool
	}{
		{"/_a", "", true}, {"/a/_b/c", "/a", true}, {"/a/_b/c", "", true},
		{"/_a/b", "/_a", false}, {"/_a", "/_a", false}, {"/a_b", "", false}, {"/a/b", "/a", false},
	} {
		if got := HiddenBelow(c.key, c.dir); got != c.want {
			t.Errorf("HiddenBelow(%q, %q) = %v", c.key, c.dir, got)
		}
	}
}
