package render_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/confd/render"
	"github.com/kvd-io/kvd/pkg/fuzztest"
	"github.com/kvd-io/kvd/pkg/kv"
)

// FuzzTemplates renders any text over any keys, one "key=value" a line: nothing panics, and no limit is
// exceeded by much; what was not looked at does not matter, and every line can be explained.
func FuzzTemplates(f *testing.F) {
	keys := ""
	for key, value := range nastyKeys {
		keys += key + "=" + strings.ReplaceAll(value, "\n", " ") + "\n"
	}
	for i, text := range nastyTemplates {
		if i%7 == 0 {
			f.Add(text, "/a/b=1\n/a/c=x,y\n/s/web/1="+strings.ReplaceAll(nastyKeys["/json/object"], "\n", " "), "/a/b")
		}
	}
	for _, function := range render.Functions() {
		f.Add(function.Example, "/app/name=shop\n/app/db/host=10.0.0.5", "/app/name")
	}
	f.Add(`{{range lsdir "/odd"}}{{.}}{{end}}{{define "x"}}{{template "x"}}{{end}}{{template "x"}}`, keys, "/odd/q?")
	limits := render.Limits{Time: 100 * time.Millisecond, OutputBytes: 1 << 20, ValueBytes: 1 << 20, MadeBytes: 8 << 20, Depth: 200}
	f.Fuzz(func(t *testing.T, text, keys, changed string) {
		if len(text) > 4<<10 || len(keys) > 4<<10 {
			return
		}
		parsed, err := render.Parse("fuzz", text, render.Env{World: world, Limits: limits, Include: func(name string) (string, error) { return text, nil }})
		if err != nil {
			return
		}
		parsed.Analyze()
		store := map[string]string{}
		for line := range strings.Lines(keys) {
			if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
				store[kv.Clean(key)] = value
			}
		}
		delete(store, "") // the root has no value
		tree := treeOf(pairsIn(store)...)
		var out render.Output
		fuzztest.WantBounded(t, 512<<20, func() { out, err = parsed.Render(context.Background(), tree, nil) })
		if len(out.Content) > limits.OutputBytes || err != nil && out.Content != nil {
			t.Fatalf("%d bytes (%v)", len(out.Content), err)
		}
		if out.Reads.World() || err != nil {
			return
		}
		if changed = kv.Clean(changed); changed != "" && !out.Reads.Touches(changed) {
			store[changed] = "changed"
			again, err := parsed.Render(context.Background(), treeOf(pairsIn(store)...), nil)
			if err == nil && string(again.Content) != string(out.Content) {
				t.Fatalf("%q makes %q of %q, which it has not looked at", again.Content, out.Content, changed)
			}
		}
		if _, err := parsed.Explain(context.Background(), tree, nil, 1); err != nil && !strings.Contains(err.Error(), " after 100ms") {
			t.Fatal(err)
		}
	})
}
