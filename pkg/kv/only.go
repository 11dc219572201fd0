package kv

import (
	"fmt"
	"slices"
	"strings"
)

// OnlyMax is how many keys one Read or one Watch can be narrowed to.
const OnlyMax = 256

// Only returns keys, to which a Read or a Watch of the directory dir is to be narrowed, as every Store
// takes them: clean, in order, none twice, and none that another one shows already, as /a does /a/b but not
// /a/_hidden. nil means that nothing is narrowed. Errors: Invalid, for more than OnlyMax keys, and for one
// that is neither dir nor below it.
func Only(dir string, keys []string) ([]string, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	dir = Clean(dir)
	if len(keys) > OnlyMax {
		return nil, &Error{Op: "get", Key: dir, Kind: Invalid, Cause: fmt.Sprintf("narrowed to %d keys, more than %d", len(keys), OnlyMax)}
	}
	only := make([]string, len(keys))
	for i, key := range keys {
		if only[i] = Clean(key); only[i] != dir && !Below(only[i], dir) {
			return nil, &Error{Op: "get", Key: dir, Kind: Invalid, Cause: fmt.Sprintf("narrowed to %s, which is not in %s", only[i], dir)}
		}
	}
	slices.Sort(only)
	only = slices.Compact(only)
	given := slices.Clone(only)
	return slices.DeleteFunc(only, func(key string) bool { return shown(given, key) }), nil
}

// shown reports whether another of keys, which are sorted, shows key.
func shown(keys []string, key string) bool {
	for dir := key; dir != ""; {
		dir = Parent(dir)
		if _, found := slices.BinarySearch(keys, dir); found && !HiddenBelow(key, dir) {
			return true
		}
	}
	return false
}

// Among reports whether a clean key is one of keys, which are clean and sorted, or below one and not hidden
// from there.
func Among(keys []string, key string) bool {
	if _, found := slices.BinarySearch(keys, key); found {
		return true
	}
	return shown(keys, key)
}

// Above reports whether one of keys, which are clean and sorted, is strictly below the clean key dir.
func Above(dir string, keys []string) bool {
	i, _ := slices.BinarySearch(keys, dir+"/")
	return i < len(keys) && strings.HasPrefix(keys[i], dir+"/")
}

// Common returns the lowest directory that all of keys, which are clean, are in or are themselves; "" for none.
func Common(keys []string) string {
	if len(keys) == 0 {
		return ""
	}
	common := keys[0]
	for _, key := range keys[1:] {
		for common != "" && key != common && !Below(key, common) {
			common = Parent(common)
		}
	}
	return common
}
