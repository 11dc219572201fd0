package printable

import "testing"

func TestWhatATerminalWouldActUponIsSpelledOut(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"web/1 ä €":               "web/1 ä €",
		`a\nb "c"`:                `a\nb "c"`,
		"a\nb\tc":                 `a\nb\tc`,
		"\x1b[2Jgone\r":           `\x1b[2Jgone\r`,
		"\u009b2J":                `\u009b2J`,
		"\u202egnp.exe":           `\u202egnp.exe`,
		"\xff\xfe and \uFFFD":     `\xff\xfe and ` + "\uFFFD",
		"\x1b]0;title\x07\x00end": `\x1b]0;title\a\x00end`,
	} {
		if got := Line(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
	if got := Text("a\x1b[2Jb\nc\td"); got != "a\\x1b[2Jb\nc\td" {
		t.Errorf("%q", got)
	}
}
