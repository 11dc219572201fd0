package kv

import (
	"path"
	"strings"
)

// Clean returns the one spelling of a key: absolute, no trailing slash, no empty, "." or ".."
// segment; the root is "". ".." never leaves the key space. Access control and the store
// both use it, so that they cannot disagree.
func Clean(key string) string {
	if !strings.HasPrefix(key, "/") {
		key = "/" + key
	}
	if clean := path.Clean(key); clean != "/" { // allocates nothing for a key that is clean
		return clean
	}
	return ""
}

// Parent returns the directory that holds a clean key; "" for a key at the root and for the root.
func Parent(key string) string {
	if i := strings.LastIndexByte(key, '/'); i > 0 {
		return key[:i]
	}
	return ""
}

// Base returns the last segment of a clean key, "" for the root.
func Base(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// Below reports whether key is strictly below dir; both are clean.
func Below(key, dir string) bool {
	return len(key) > len(dir) && key[len(dir)] == '/' && key[:len(dir)] == dir
}

// HiddenBelow reports whether a segment of key below dir begins with '_', so that listings and
// recursive watches of dir leave it out. key must be dir or below it.
func HiddenBelow(key, dir string) bool { return strings.Contains(key[len(dir):], "/_") }

// SplitDir returns the clean spelling of a key and whether it was asked for as a directory, with a
// slash at its end.
func SplitDir(key string) (clean string, asDir bool) {
	return Clean(key), strings.HasSuffix(key, "/")
}
