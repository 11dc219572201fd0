package daemon

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
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
