package render_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/pkg/kv"
)

var drawSegment = rapid.SampledFrom([]string{"a", "b", "a-b", "a.b", "ab", "_h", "0"})

var drawPath = rapid.Custom(func(t *rapid.T) string {
	return "/" + strings.Join(rapid.SliceOfN(drawSegment, 1, 4).Draw(t, "path"), "/")
})

// drawScope returns a scope as resources have them: keys below the prefix, none below another.
func drawScope(t *rapid.T) render.Scope {
	scope := render.Scope{Textual: rapid.Bool().Draw(t, "textual")}
	if rapid.Bool().Draw(t, "has prefix") {
		scope.Prefix = "/" + drawSegment.Draw(t, "prefix")
	}
	below := rapid.SliceOfN(rapid.OneOf(rapid.Just(""), drawPath), 1, 4).Draw(t, "keys")
	for i, key := range below {
		below[i] = kv.Clean(scope.Prefix + key)
	}
	slices.Sort(below)
	scope.Keys = slices.DeleteFunc(slices.Compact(slices.Clone(below)), func(key string) bool {
		return slices.ContainsFunc(below, func(k string) bool { return kv.Below(key, k) && !kv.HiddenBelow(key, k) })
	})
	return scope
}

func drawStore(t *rapid.T) map[string]string {
	store := map[string]string{}
	for _, key := range rapid.SliceOfN(drawPath, 0, 30).Draw(t, "store") {
		store[key] = rapid.SampledFrom([]string{"", "1", "b", `{"a":1}`, "x,y", `{"address":"10.0.0.1","port":80,"state":"up"}`, `{"address":"h","port":81,"state":"up","tags":["t"]}`}).Draw(t, "value")
	}
	return store
}

func TestATreeShowsWhatItsScopeCoversUnderItsInnerName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store, scope := drawStore(t), drawScope(t)
		want := map[string]string{}
		for _, key := range slices.Sorted(maps.Keys(store)) {
			covered := slices.ContainsFunc(scope.Keys, func(k string) bool {
				if scope.Textual {
					return strings.HasPrefix(key, k)
				}
				return key == k || strings.HasPrefix(key, k+"/") && !strings.Contains(key[len(k):], "/_")
			})
			if covered != scope.Covers(key) {
				t.Fatalf("Covers(%s) is %v", key, !covered)
			}
			if covered {
				want["/"+strings.TrimPrefix(strings.TrimPrefix(key, scope.Prefix), "/")] = store[key]
			}
		}
		tree := render.NewTree(render.PairsOf(pairsIn(store)), scope)
		got, last := map[string]string{}, ""
		tree.Ascend("", func(key, value string) bool {
			if key <= last {
				t.Fatalf("%s comes after %s", key, last)
			}
			got[key], last = value, key
			if pair, ok := tree.Get(key); !ok || pair != (render.KVPair{Key: key, Value: value}) {
				t.Fatalf("Get(%s) is %v, %v", key, pair, ok)
			}
			return true
		})
		if !maps.Equal(got, want) || tree.Len() != len(want) {
			t.Fatalf("%+v of %q\n got %q\nwant %q", scope, store, got, want)
		}
		for _, key := range rapid.SliceOfN(drawPath, 0, 5).Draw(t, "asked") {
			if _, ok := tree.Get(key); ok != hasKey(want, key) {
				t.Fatalf("Get(%s) finds it: %v", key, ok)
			}
		}
	})
}

func hasKey(m map[string]string, key string) bool { _, ok := m[key]; return ok }

// drawTemplate returns a template that reads in one of all ways there are.
func drawTemplate(t *rapid.T) string {
	key, dir := drawPath.Draw(t, "key"), rapid.OneOf(rapid.SampledFrom([]string{"/", "", "/a/", "//a", "/a/.", "b"}), drawPath).Draw(t, "dir")
	fixed := []string{
		`{{range lsdir %[2]q}}{{.}}: {{range gets (printf "%%s/%%s/*" %[2]q .)}}{{.Key}}={{.Value}} {{end}}{{end}}`,
		`{{range services %[2]q}}{{.Name}}{{range .Servers}} {{.ID}}{{.HostPort}}{{.Tags}}{{end}}{{.Domains}}{{end}}`,
		`{{range ls %[2]q}}{{getv (printf "%[1]s/%%s" .) "none"}}{{end}}`,
		`{{if exists %[1]q}}{{getv %[1]q}}{{else}}{{ls %[2]q}}{{end}}`,
		`{{with getv %[1]q ""}}{{range gets .}}{{.}}{{end}}{{end}}{{lsdir %[2]q}}`,
		`{{range sortBy "Value" (gets "/*/*")}}{{.Key}}{{end}}{{json (getv %[1]q "{}")}}`,
	}
	i := rapid.IntRange(0, len(fixed)*2).Draw(t, "template")
	if i < len(fixed) {
		return fmt.Sprintf(fixed[i], key, dir)
	}
	return randomTemplate(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)))
}

func TestAKeyThatChangesTheOutputIsOneThatWasLookedAt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, scope, text := drawStore(t), drawScope(t), drawTemplate(t)
		parsed, err := render.Parse("test", text, render.Env{World: world})
		if err != nil {
			t.Skip(err)
		}
		show := func(store map[string]string) (string, *render.Reads) {
			out, err := parsed.Render(context.Background(), render.NewTree(render.PairsOf(pairsIn(store)), scope), nil)
			return fmt.Sprintf("%s %q %v", out.Content, out.Skipped, err), out.Reads
		}
		output, reads := show(before)
		after, touched := maps.Clone(before), false
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			key := rapid.OneOf(drawPath, rapid.SampledFrom(append(slices.Sorted(maps.Keys(before)), "/a"))).Draw(t, "changed")
			if rapid.Bool().Draw(t, "removed") {
				delete(after, key)
			} else {
				after[key] = "changed"
			}
			touched = touched || reads.Touches(key)
		}
		if now, _ := show(after); now != output && !touched {
			t.Fatalf("%s\n%+v of %q\n was %s\n is %s of %q", text, scope, before, output, now, after)
		}
	})
}

func TestKeysThatWereNotLookedAtDoNotTouch(t *testing.T) {
	for text, cases := range map[string]map[string]bool{
		`{{getv "/a/x" ""}}{{exists "/none"}}`: {"/p/a/x": true, "/p/none": true, "/p/a/y": false, "/p/a": false, "/p/a/x/y": false, "/q/a/x": false, "/a/x": false},
		`{{gets "/a/*/name"}}`:                 {"/p/a/b/name": true, "/p/a/new/name": true, "/p/a/b/port": false, "/p/a/name": false, "/p/b/b/name": false},
		`{{gets "/a/b"}}`:                      {"/p/a/b": true, "/p/a/c": false},
		`{{ls "/"}}`:                           {"/p/a": true, "/p/a/b": false},
		`{{lsdir "/"}}{{ls "a"}}`:              {"/p/a": false, "/p/a/b": false},
		`{{ls "/a"}}`:                          {"/p/a": true, "/p/a/b": true, "/p/a/b/c": true, "/p/ab": false, "/p/a-b/c": false},
		`{{services "/s"}}`:                    {"/p/s/web/1": true, "/p/s": true, "/p/t/web/1": false, "/p/s/_hidden/x": false},
		`{{range lsdir "/a"}}{{gets (printf "/a/%s/*" .)}}{{end}}static`: {"/p/a/x/y": true, "/p/b/x": false},
		`static`: {"/p/a": false},
	} {
		parsed, err := render.Parse("test", text, render.Env{World: world})
		if err != nil {
			t.Fatal(err)
		}
		tree := render.NewTree(render.PairsOf(pairsIn(map[string]string{"/p/a/b/name": "x", "/p/a/b/port": "1", "/q/a/x": "y"})), render.Scope{Prefix: "/p", Keys: []string{"/p"}})
		out, err := parsed.Render(context.Background(), tree, nil)
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range cases {
			if got := out.Reads.Touches(key); got != want {
				t.Errorf("%s: Touches(%s) is %v", text, key, got)
			}
		}
		if out.Reads.World() {
			t.Errorf("%s: asks for the world", text)
		}
	}
}

func TestTimeNamesInterfacesAndFilesAreTheWorldAndTheEnvironmentIsNot(t *testing.T) {
	for text, want := range map[string]bool{
		`{{datetime.Year}}`: true, `{{lookupIP "both.example"}}`: true, `{{lookupSRV "a" "b" "c"}}`: true, `{{fileExists "/x"}}`: true,
		`{{lookupIfaceIPV4 "lo"}}`: true, `{{lookupIfaceIPV6 "none"}}`: true, `{{getenv "HOME"}}{{hostname}}`: false,
	} {
		parsed, err := render.Parse("test", text, render.Env{World: world})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := parsed.Render(context.Background(), treeOf(), nil); err != nil || out.Reads.World() != want {
			t.Errorf("%s: World is %v (%v)", text, !want, err)
		}
	}
}

func TestTheItemOfAFileIsItsDotAndIsLookedAt(t *testing.T) {
	tree := treeOf(render.KVPair{Key: "/vhosts/a.example", Value: "x"}, render.KVPair{Key: "/vhosts/b/root", Value: "/srv"}, render.KVPair{Key: "/vhosts/b/port", Value: "80"}, render.KVPair{Key: "/other", Value: ""})
	items, err := tree.Items("/vhosts/*")
	want := []render.Item{{Key: "/vhosts/a.example", Name: "a.example", Value: "x"}, {Key: "/vhosts/b", Name: "b"}}
	if err != nil || !slices.Equal(items, want) {
		t.Fatalf("items are %q (%v), want %q", items, err, want)
	}
	parsed, err := render.Parse("test", `{{.Name}}={{.Value}} {{.Key}}`, render.Env{World: world})
	if err != nil {
		t.Fatal(err)
	}
	out, err := parsed.Render(context.Background(), tree, items[0])
	if err != nil || string(out.Content) != "a.example=x /vhosts/a.example" || !out.Reads.Touches("/vhosts/a.example") {
		t.Errorf("%s (%v)", out.Content, err)
	}
	if _, err := tree.Items("/["); err == nil {
		t.Error("a bad pattern is taken")
	}
}
