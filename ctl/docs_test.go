package ctl_test

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/ctl"
)

func TestReferenceNamesEveryCommandAndFlag(t *testing.T) {
	reference, err := os.ReadFile("../docs/reference/kvctl.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(reference)
	want := func(what string) {
		t.Helper()
		if !strings.Contains(text, what) {
			t.Errorf("docs/reference/kvctl.md does not name %s", what)
		}
	}
	root := ctl.Program().Command()
	name := func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		want("`--" + f.Name)
		if f.Shorthand != "" {
			want("`-" + f.Shorthand + "`")
		}
	}
	root.PersistentFlags().VisitAll(name)
	for _, cmd := range root.Commands() {
		if !cmd.IsAvailableCommand() || cmd.Name() == "demo" { // demo has its own help and no flags of etcdctl's
			continue
		}
		if len(cmd.Commands()) == 0 {
			want("| `" + cmd.Use)
		}
		cmd.LocalNonPersistentFlags().VisitAll(name)
		for _, below := range cmd.Commands() {
			want("`" + cmd.Name() + " " + below.Use + "`")
			below.LocalNonPersistentFlags().VisitAll(name)
		}
	}
	for _, line := range strings.Split(exitCodes(root), "\n") {
		if code, _, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			want("| " + code + " |")
		}
	}
}

// exitCodes returns the lines of the help topic that begin with a code.
func exitCodes(root *cobra.Command) string {
	topic, _, err := root.Find([]string{"exit-codes"})
	if err != nil {
		return ""
	}
	var lines []string
	for _, line := range strings.Split(topic.Long, "\n") {
		if len(line) > 2 && line[0] == ' ' && line[2] >= '0' && line[2] <= '9' {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
