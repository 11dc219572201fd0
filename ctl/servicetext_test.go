package ctl

import "testing"

func TestWhoHasRegisteredIsNamedAlsoForOneRun(t *testing.T) {
	for owner, want := range map[string][2]string{
		"m1/kvagent-0123/set": {"m1", "kvagent"}, "m1/0123abcd": {"m1", "run 0123abcd"}, "m1": {"m1", "-"}, "": {"-", "-"},
	} {
		if machine, program := ownerText(owner); machine != want[0] || program != want[1] {
			t.Errorf("%q: %s, %s", owner, machine, program)
		}
	}
}
