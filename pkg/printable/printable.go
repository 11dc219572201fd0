// Package printable makes texts fit for a terminal, whoever wrote them: what a terminal would act upon, or would
// not show, is spelled out. It knows letters, not what the texts are about.
package printable

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line returns text as one line: what is not a visible letter or a blank, newlines and tabs among it, is written
// as Go spells it: \n, \x1b, \u202e. A text without such is returned as it is.
func Line(text string) string { return spelled(text, "") }

// Text is Line for several lines: newlines and tabs stay.
func Text(text string) string { return spelled(text, "\n\t") }

func spelled(text, keep string) string {
	shown := func(r rune) bool { return unicode.IsPrint(r) || strings.ContainsRune(keep, r) }
	if utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !shown(r) }) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch letter := text[:size]; {
		case shown(r) && (r != utf8.RuneError || size > 1):
			b.WriteString(letter)
		default:
			quoted := strconv.Quote(letter)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}
