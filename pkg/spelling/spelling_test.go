package spelling

import "testing"

func TestAMisspeltNameIsGuessedAndAnotherNameIsNot(t *testing.T) {
	names := []string{"reload_cmd", "check_cmd", "timeout", "limit", "keys", "ttl"}
	for written, want := range map[string]string{
		"reload_command": "reload_cmd",
		"reload_comand":  "reload_cmd",
		"chek_cmd":       "check_cmd",
		"timeuot":        "timeout",
		"limmit":         "limit",
		"key":            "keys",
		"tll":            "ttl",
		"owner":          "",
		"":               "",
		"xyzzyx":         "",
		"t":              "",
	} {
		if got := Meant(written, names); got != want {
			t.Errorf("%q: guessed %q, want %q", written, got, want)
		}
	}
}

func TestTheNearestNameIsGuessed(t *testing.T) {
	if got := Meant("nodse", []string{"node", "nodes"}); got != "node" {
		t.Errorf("got %q: node is one letter away, nodes two", got)
	}
}
