package keys

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
)

// readFile returns the keys of a file with this content.
func readFile(t *testing.T, content string) (map[string]string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys.yaml")
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return fileReader([]string{file}, "*")()
}

func TestAliasesOfAFileAreWhatTheyName(t *testing.T) {
	for content, want := range map[string]map[string]string{
		"":                           {},
		"# nothing\n":                {},
		"a: &x {b: 1}\nc: *x\n":      {"/a/b": "1", "/c/b": "1"},
		"a: &x [1, 2]\nc: [*x]\n":    {"/a/0": "1", "/a/1": "2", "/c/0/0": "1", "/c/0/1": "2"},
		"a: &x yes\nc: {d: *x}\n":    {"/a": "true", "/c/d": "true"},
		`{"a": {"b": [true, null]}}`: {"/a/b/0": "true"},
	} {
		if pairs, err := readFile(t, content); err != nil || !maps.Equal(pairs, want) {
			t.Errorf("%q: %v, %v", content, pairs, err)
		}
	}
}

func TestAFewLinesOfAliasesCannotBecomeGigabytes(t *testing.T) {
	var lines strings.Builder
	lines.WriteString("x0: &x0 [" + strings.Repeat("v,", 10) + "]\n")
	for i := range 12 {
		fmt.Fprintf(&lines, "x%d: &x%d [%s]\n", i+1, i+1, strings.Repeat(fmt.Sprintf("*x%d,", i), 10))
	}
	for content, reason := range map[string]string{
		lines.String():      "aliases",
		"a: &x {b: *x}\n":   "contains itself",
		"a: &x [[*x, 1]]\n": "contains itself",
	} {
		if pairs, err := readFile(t, content); err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), "keys.yaml") {
			t.Errorf("%.30q: %d keys, %v", content, len(pairs), err)
		}
	}
}

// FuzzKeysFile reads a file: whatever is in it, it is refused or its names are keys.
func FuzzKeysFile(f *testing.F) {
	for _, content := range []string{"a: &x {b: [1, yes, null]}\nc: *x\n", "a: &x {b: *x}", "a: {<<: &x {b: 1}, c: !!binary aGk=}", `{"/": {"..": 1.5e3}}`, "? [a]\n: 1"} {
		f.Add([]byte(content))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		document, err := parseKeys(content)
		if err != nil {
			return
		}
		pairs := map[string]string{}
		document.flatten("/", pairs)
		for key := range pairs {
			if kv.Clean(key) != key {
				t.Fatalf("it has the key %q", key)
			}
		}
	})
}
