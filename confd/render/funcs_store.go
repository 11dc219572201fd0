package render

import (
	"fmt"
	"slices"
	"text/template"
)

// storeFuncs are the functions that read the tree. skip hears of records that services leaves out.
func storeFuncs(tree Tree, skip func(key, why string)) template.FuncMap {
	get := func(key string) (KVPair, error) {
		if pair, ok := tree.Get(key); ok {
			return pair, nil
		}
		return KVPair{}, fmt.Errorf("key does not exist: %s", key)
	}
	return template.FuncMap{
		"exists": func(key string) bool {
			_, ok := tree.Get(key)
			return ok
		},
		"get": get,
		"getv": func(key string, fallback ...string) (string, error) {
			pair, err := get(key)
			if err != nil && len(fallback) > 0 {
				return fallback[0], nil
			}
			return pair.Value, err
		},
		"gets": tree.Glob,
		"getvs": func(pattern string) ([]string, error) {
			pairs, err := tree.Glob(pattern)
			values := make([]string, len(pairs))
			for i, pair := range pairs {
				values[i] = pair.Value
			}
			slices.Sort(values)
			return values, err
		},
		"ls":       tree.List,
		"lsdir":    tree.ListDir,
		"services": func(dir string) []Service { return services(tree, dir, skip) },
	}
}
