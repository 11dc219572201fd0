package kv

import "testing"

func TestAPatternStandsForTheKeysThatBeginAsItDoesAndNoOthers(t *testing.T) {
	for pattern, want := range map[string]KeyRange{
		"*": {"", ""}, "/a*": {"/a", "/b"}, "/a": {"/a", "/a\x00"}, "\xff*": {"\xff", ""}, "/\xff\xff*": {"/\xff\xff", "0"},
		"/a\xa9*": {"/a\xa9", "/a\xaa"}, "/\ufffd*": {"/\ufffd", "/\xef\xbf\xbe"}, "/a\xa9\xff*": {"/a\xa9\xff", "/a\xaa"},
	} {
		if got := PatternRange(pattern); got != want {
			t.Errorf("%q is %q, want %q", pattern, got, want)
		}
	}
}
