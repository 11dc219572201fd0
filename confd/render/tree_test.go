package render_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/confd/render"
)

// keys come from a small alphabet, with the letters around "/" that make order surprising.
var drawKey = rapid.Custom(func(t *rapid.T) string {
	segment := rapid.SampledFrom([]string{"a", "b", "a-b", "a.b", "ab", "0", "x"})
	return "/" + strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(t, "segments"), "/")
})

func drawTree(t *rapid.T) ([]string, render.Tree) {
	keys := rapid.SliceOfN(drawKey, 0, 30).Draw(t, "keys")
	var pairs []render.KVPair
	for _, key := range keys {
		pairs = append(pairs, render.KVPair{Key: key, Value: "value of " + key})
	}
	slices.Sort(keys)
	return slices.Compact(keys), treeOf(pairs...)
}

func TestGlobFindsWhatPathMatchFindsKeyByKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys, tree := drawTree(t)
		segment := rapid.SampledFrom([]string{"a", "*", "?", "a*", "*b", "a-b", "[ab]", "[^x]b", `\a`, "a?b"})
		pattern := "/" + strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(t, "pattern"), "/")
		want := []string{}
		for _, key := range keys {
			if ok, _ := path.Match(pattern, key); ok {
				want = append(want, key)
			}
		}
		pairs, err := tree.Glob(pattern)
		if err != nil {
			t.Fatalf("Glob(%q): %v", pattern, err)
		}
		got := []string{}
		for _, pair := range pairs {
			got = append(got, pair.Key)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("Glob(%q) of %q\n got %q\nwant %q", pattern, keys, got, want)
		}
	})
}

func TestListAndListDirAgreeWithAScanOfAllKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys, tree := drawTree(t)
		dir := rapid.OneOf(drawKey, rapid.Map(drawKey, func(k string) string { return k + "/" }), rapid.Just("/")).Draw(t, "dir")
		clean := strings.TrimSuffix(dir, "/")
		list, listDir := map[string]bool{}, map[string]bool{}
		for _, key := range keys {
			if key == dir {
				list[path.Base(key)] = true
			}
			rest, below := strings.CutPrefix(key, clean+"/")
			if !below {
				continue
			}
			name, _, deeper := strings.Cut(rest, "/")
			if clean != "" || !deeper {
				list[name] = true
			}
			if clean != "" && deeper {
				listDir[name] = true
			}
		}
		check := func(name string, got []string, want map[string]bool) {
			sorted := slices.IsSorted(got)
			for _, item := range got {
				sorted = sorted && want[item]
			}
			if !sorted || len(got) != len(want) {
				t.Fatalf("%s(%q) of %q\n got %q\nwant %v", name, dir, keys, got, want)
			}
		}
		check("ls", tree.List(dir), list)
		check("lsdir", tree.ListDir(dir), listDir)
	})
}

func TestTheLastValueOfARepeatedKeyIsKept(t *testing.T) {
	tree := treeOf([]render.KVPair{{Key: "/b", Value: "1"}, {Key: "/a", Value: "2"}, {Key: "/b", Value: "3"}}...)
	if pair, ok := tree.Get("/b"); !ok || pair.Value != "3" || tree.Len() != 2 {
		t.Errorf("/b is %v (%v) of %d keys, want 3 of 2", pair, ok, tree.Len())
	}
}
