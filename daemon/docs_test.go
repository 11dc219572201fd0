package daemon

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/daemon/route"
)

func TestEveryFlagIsInTheReferenceWithItsDefault(t *testing.T) {
	page, err := os.ReadFile("../docs/reference/kvd.md")
	if err != nil {
		t.Fatal(err)
	}
	newCommand().Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		_, row, found := strings.Cut(string(page), "\n| `--"+f.Name+"` |")
		if !found {
			t.Errorf("--%s is not in docs/reference/kvd.md", f.Name)
			return
		}
		row, _, _ = strings.Cut(row, "\n")
		if value := strings.Trim(f.DefValue, "[]"); value != "" && !strings.Contains(row, "`"+value+"`") {
			t.Errorf("--%s: the reference does not show the default %q: %s", f.Name, value, row)
		}
	})
}

var (
	curlMethod = regexp.MustCompile(`\s-X (\w+)\b`)
	curlPath   = regexp.MustCompile(`\$KVD(/[^\s"?]*)`)
)

// calls returns the requests of the curl lines of a page, each as method and path.
func calls(page string) (calls [][2]string) {
	shell := false
	for line := range strings.Lines(strings.ReplaceAll(page, "\\\n", "")) {
		if fence, ok := strings.CutPrefix(line, "```"); ok {
			shell = strings.TrimSpace(fence) == "sh"
			continue
		}
		path := curlPath.FindStringSubmatch(line)
		if !shell || path == nil || !strings.Contains(line, "curl ") {
			continue
		}
		method := "GET"
		switch explicit := curlMethod.FindStringSubmatch(line); {
		case explicit != nil:
			method = explicit[1]
		case strings.Contains(line, " -I "):
			method = "HEAD"
		case strings.Contains(line, " -d "):
			method = "POST"
		}
		calls = append(calls, [2]string{method, path[1]})
	}
	return calls
}

// owner returns the place of the route of path in routes, -1 if it has none: the one of that very
// path, or the one with the longest path that it is below.
func owner(routes []route.Route, path string) int {
	found := -1
	for i, r := range routes {
		switch {
		case !r.Below && r.Path == path:
			return i
		case r.Below && (path == r.Path || strings.HasPrefix(path, r.Path+"/")) && (found < 0 || len(r.Path) > len(routes[found].Path)):
			found = i
		}
	}
	return found
}

// The tests of e2e type those lines in and compare the answers.
func TestEveryMethodOfEveryRouteIsCalledInTheReference(t *testing.T) {
	page, err := os.ReadFile("../docs/reference/http-api.md")
	if err != nil {
		t.Fatal(err)
	}
	cfg := DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.ListenClientURLs, cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	d, err := Open(t.Context(), cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	called := map[string]bool{} // method and place of a route in the table
	for _, call := range calls(string(page)) {
		called[call[0]+" "+strconv.Itoa(owner(d.table.Routes(), call[1]))] = true
	}
	for i, r := range d.table.Routes() {
		for _, m := range r.Methods {
			if !called[m.Name+" "+strconv.Itoa(i)] {
				t.Errorf("docs/reference/http-api.md has no curl line for %s %s (and below: %v)", m.Name, r.Path, r.Below)
			}
		}
	}
}
