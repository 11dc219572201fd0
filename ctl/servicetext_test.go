package ctl

import (
	"strings"
	"testing"
)

func TestWhoHasRegisteredIsNamedAlsoForOneRun(t *testing.T) {
	for owner, want := range map[string][2]string{
		"m1/kvagent-0123/set": {"m1", "kvagent"}, "m1/0123abcd": {"m1", "run 0123abcd"}, "m1": {"m1", "-"}, "": {"-", "-"},
	} {
		if machine, program := ownerText(owner); machine != want[0] || program != want[1] {
			t.Errorf("%q: %s, %s", owner, machine, program)
		}
	}
}

func TestWhatATerminalWouldActUponIsSpelledOutInWhatPeopleRead(t *testing.T) {
	hostile := "a\x1b[2J\nb"
	var strange strings.Builder
	known{strange: []string{hostile}}.tellStrange(&strange)
	for _, text := range []string{
		table([][]string{{"HOST"}, {hostile}}), tableOf([]row{{Host: hostile, Why: hostile}}), strange.String(),
	} {
		if strings.ContainsRune(text, '\x1b') || !strings.Contains(text, `a\x1b[2J\nb`) {
			t.Errorf("%q", text)
		}
	}
}
