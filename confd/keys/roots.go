package keys

import (
	"slices"
	"strings"

	"github.com/kvd-io/kvd/confd/resource"
	"github.com/kvd-io/kvd/pkg/kv"
)

// rootsMax bounds the keys that one source follows by name.
const rootsMax = kv.OnlyMax

// Roots returns the fewest directories or keys to follow so that each of keys is covered: they
// themselves, or, when they are more than rootsMax, common directories above them, as low as
// possible. Hidden directories are not seen from above, so keys below one stand for themselves.
func Roots(keys []string) []string {
	deepest := 0
	keys = resource.Minimal(keys)
	for _, key := range keys {
		deepest = max(deepest, strings.Count(key, "/"))
	}
	roots := keys
	for depth := deepest - 1; depth >= 0 && len(roots) > rootsMax; depth-- {
		roots = slices.Clone(keys)
		for i, key := range roots {
			if above := ancestor(key, depth); !kv.HiddenBelow(key, above) {
				roots[i] = above
			}
		}
		roots = resource.Minimal(roots)
	}
	return roots
}

// ancestor returns the first depth segments of key, or key if it has no more.
func ancestor(key string, depth int) string {
	end := 0
	for range depth {
		next := strings.IndexByte(key[min(end+1, len(key)):], '/')
		if next < 0 {
			return key
		}
		end += 1 + next
	}
	return key[:end]
}
