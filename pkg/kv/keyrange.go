package kv

import (
	"cmp"
	"strings"
)

// KeyRange is the keys from From on that are less than To, by their bytes. A To of "" is no end.
type KeyRange struct{ From, To string }

// PatternRange returns the keys that a pattern of the v2 API stands for: one that ends in '*' for all
// that begin with what is before it, any other for the one key that it spells.
func PatternRange(pattern string) KeyRange {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return KeyRange{prefix, successor(prefix)}
	}
	return KeyRange{pattern, pattern + "\x00"}
}

// Pattern returns the pattern that stands for r; false if there is none.
func (r KeyRange) Pattern() (string, bool) {
	switch r.To {
	case r.From + "\x00":
		return r.From, true
	case successor(r.From):
		return r.From + "*", true
	}
	return "", false
}

// Compare orders ranges by their patterns as text, and those that have none by where they begin.
func (r KeyRange) Compare(other KeyRange) int {
	text := func(r KeyRange) string {
		if pattern, ok := r.Pattern(); ok {
			return pattern
		}
		return r.From
	}
	return cmp.Or(cmp.Compare(text(r), text(other)), cmp.Compare(r.From, other.From), cmp.Compare(r.To, other.To))
}

// successor returns the least key that is greater than all keys with this prefix, "" for none.
func successor(prefix string) string {
	end := len(prefix) // byte by byte: to package strings, every byte that is no UTF-8 is the same
	for end > 0 && prefix[end-1] == 0xff {
		end--
	}
	if end == 0 {
		return ""
	}
	return prefix[:end-1] + string([]byte{prefix[end-1] + 1})
}
