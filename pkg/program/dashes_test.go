package program

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestLongFlagsMayHaveOneDash(t *testing.T) {
	known := pflag.NewFlagSet("tool", pflag.ContinueOnError)
	known.String("ip", "", "")
	known.String("use-label", "", "")
	known.Bool("internal", false, "")
	canonical := func(name string) string { return strings.ReplaceAll(name, "useLabel", "use-label") }
	for _, c := range []struct{ given, want []string }{
		{[]string{"-internal", "-ip", "10.0.0.1", "etcd://h/p"}, []string{"--internal", "--ip", "10.0.0.1", "etcd://h/p"}},
		{[]string{"-ip=10.0.0.1", "--internal", "-u", "x", "-5", "-"}, []string{"--ip=10.0.0.1", "--internal", "-u", "x", "-5", "-"}},
		{[]string{"-useLabel", "-odd-value", "-internal"}, []string{"--useLabel", "-odd-value", "--internal"}},
		{[]string{"-internal", "--", "-internal"}, []string{"--internal", "--", "-internal"}},
		{[]string{"-unknown", "-internal"}, []string{"--unknown", "--internal"}},
	} {
		before := slices.Clone(c.given)
		if got := DoubleDashes(c.given, known, canonical); !slices.Equal(got, c.want) {
			t.Errorf("%q became %q, want %q", c.given, got, c.want)
		}
		if !slices.Equal(c.given, before) {
			t.Errorf("%q was changed", before)
		}
	}
}
