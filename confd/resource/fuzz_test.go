package resource_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/fuzztest"
)

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "[template]\n", table("/b"), table("/b") + "keys = [\"/\"]\nmode = \"644\"\ncheck_cmd = [\"a\"]\n[haproxy]\nsocket = \"/s\"\n",
		table("/etc/{{.Name}}.x") + "for_each = \"/v/*\"\ndebounce = 5\n", "template = 1\n", "[template]\nsrc = [[[[1]]]]\n", "[[template]]\nsrc=\"a\"",
		table("/b") + "[backend]\nbackend = \"file\"\nfile = [\"/f\"]\n",
	} {
		f.Add([]byte(seed), "/v/a")
	}
	f.Fuzz(func(t *testing.T, data []byte, key string) {
		fuzztest.WantBounded(t, 4096*uint64(len(data)+len(key))+fuzztest.Fixed, func() {
			r, _, err := resource.Parse("/c/conf.d/a.toml", data, "/c", "")
			if err != nil {
				if strings.TrimSpace(err.Error()) == "" {
					t.Fatal("an error without words")
				}
				return
			}
			if r.Src == "" || !filepath.IsAbs(r.Dest) || r.ShrinkGrace < 0 || r.DebounceMax < r.Debounce {
				t.Fatalf("accepted %+v", r)
			}
			if r.ForEach == "" {
				return
			}
			if _, ok := r.Item(key); ok {
				if dest, err := r.DestOf(key); err == nil && (filepath.Clean(dest) != dest || strings.ContainsAny(filepath.Base(key), " ;$`'\"\\\n") && strings.Contains(r.Dest, "{{.Name}}")) {
					t.Fatalf("key %q became %q", key, dest)
				}
			}
		})
	})
}
