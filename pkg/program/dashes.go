package program

import (
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

var singleDash = regexp.MustCompile(`^-[a-zA-Z][a-zA-Z0-9_-]+(=|$)`)

// DoubleDashes returns args with the long flags that are written with one dash, as Go's own flag
// package has them, written with two. A Program that takes the place of one whose users write so
// calls it in Args. known are its flags by their names in our spelling, which canonical finds; nil
// means that names are spelt as they are. The value of a flag stays as it is, even one that begins
// with a dash. args is not changed.
func DoubleDashes(args []string, known *pflag.FlagSet, canonical func(string) string) []string {
	if canonical == nil {
		canonical = func(name string) string { return name }
	}
	spelled := slices.Clone(args)
	for i := 0; i < len(spelled) && spelled[i] != "--"; i++ {
		if singleDash.MatchString(spelled[i]) {
			spelled[i] = "-" + spelled[i]
		}
		name, isLong := strings.CutPrefix(spelled[i], "--")
		if flag := known.Lookup(canonical(name)); isLong && flag != nil && flag.NoOptDefVal == "" {
			i++
		}
	}
	return spelled
}
