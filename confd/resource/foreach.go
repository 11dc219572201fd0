package resource

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"text/template"
	"unicode"

	"github.com/kvd-io/kvd/pkg/kv"
)

// nameBytesMax bounds the name of a file that a key has given.
const nameBytesMax = 200

// forEach fills in which keys become files of their own.
func (p *parser) forEach(r *Resource, t *table) {
	names := strings.Contains(t.Dest, "{{")
	if t.ForEach == "" {
		if names && strings.Contains(t.Dest, ".Name") {
			p.wrong("template.dest", "dest names {{.Name}}, but there is no for_each; add for_each = \"/vhosts/*\" to write one file for each key")
		}
		return
	}
	r.ForEach = path.Join("/", t.ForEach)
	if _, err := path.Match(r.ForEach, ""); err != nil || r.ForEach == "/" {
		p.wrong("template.for_each", "for_each %q is not a pattern of keys; write it as \"/vhosts/*\"", t.ForEach)
		return
	}
	if len(r.Keys) == 0 {
		r.Keys = []string{r.forEachRoot()}
	}
	if !covers(r.Keys, r.forEachRoot()) {
		p.wrong("template.for_each", "for_each looks at %s, which keys does not have; add %q to keys", r.forEachRoot(), path.Join("/", literalDir(r.ForEach)))
	}
	p.destPattern(r, t)
}

// destPattern checks a dest that names the key.
func (p *parser) destPattern(r *Resource, t *table) {
	parsed, err := destTemplate(r.Dest)
	if err != nil {
		p.wrong("template.dest", "dest %q cannot be used with for_each: %v; write it as \"/etc/nginx/vhosts/{{.Name}}.conf\"", t.Dest, err)
		return
	}
	one, errOne := execute(parsed, "/a")
	other, errOther := execute(parsed, "/b")
	dir, prefix, suffix := r.Files()
	switch {
	case !strings.Contains(r.Dest, "{{"), errOne == nil && errOther == nil && one == other:
		p.wrong("template.dest", "dest %q is the same for every key of for_each; name the key in it, as in \"/etc/nginx/vhosts/{{.Name}}.conf\"", t.Dest)
	case errOne != nil:
		p.wrong("template.dest", "dest %q cannot be used with for_each: %v; write it as \"/etc/nginx/vhosts/{{.Name}}.conf\"", t.Dest, errOne)
	case strings.Contains(dir, "{{") || filepath.Dir(one) != dir:
		p.wrong("template.dest", "dest %q names the key in a directory; only the name of the file can have it, as in \"/etc/nginx/vhosts/{{.Name}}.conf\"", t.Dest)
	case prefix == "" && suffix == "":
		p.warn("template.dest", "dest %q gives files no ending of their own; one such as {{.Name}}.conf keeps them apart from others in %s", t.Dest, dir)
	}
}

// destTemplate returns dest as a template of .Name and .Key, with base and dir.
func destTemplate(dest string) (*template.Template, error) {
	return template.New("dest").Option("missingkey=error").
		Funcs(template.FuncMap{"base": path.Base, "dir": path.Dir, "replace": strings.Replace, "toLower": strings.ToLower}).Parse(dest)
}

func execute(dest *template.Template, key string) (string, error) {
	var text strings.Builder
	err := dest.Execute(&text, map[string]string{"Key": key, "Name": path.Base(key)})
	return text.String(), err
}

// DestOf returns the file that belongs to a key which matches ForEach, as the template sees it. The name that
// the key gives it must be one clean, visible segment of letters, digits and . _ - + @ : , = ~ %: nothing else
// from a store becomes part of a path, or of a command that names the path. The error names the key.
func (r Resource) DestOf(key string) (string, error) {
	parsed, err := destTemplate(r.Dest)
	if err != nil {
		return "", err
	}
	dest, err := execute(parsed, key)
	if err != nil {
		return "", err
	}
	dir, prefix, suffix := r.Files()
	name, isIn := strings.CutPrefix(dest, strings.TrimSuffix(dir, "/")+"/")
	middle := strings.TrimSuffix(strings.TrimPrefix(name, prefix), suffix)
	switch {
	case !isIn || middle == "" || strings.HasPrefix(name, ".") || strings.Trim(middle, ".") == "" || strings.ContainsFunc(middle, isUnsafe):
		return "", fmt.Errorf("key %q cannot name a file: only letters, digits and . _ - + @ : , = ~ %% can, and not a dot at the start; rename the key", key)
	case len(name) > nameBytesMax:
		return "", fmt.Errorf("key %.50q... would name a file of %d bytes, which is more than %d; rename the key", key, len(name), nameBytesMax)
	}
	return dest, nil
}

// isUnsafe reports whether a character may not come from a store into a path.
func isUnsafe(char rune) bool {
	return char == unicode.ReplacementChar || !unicode.IsLetter(char) && !unicode.IsDigit(char) && !strings.ContainsRune("._-+@:,=~%", char)
}

// Files returns the directory of the files that a resource with ForEach writes, and how their names begin
// and end.
func (r Resource) Files() (dir, prefix, suffix string) {
	before, _, _ := strings.Cut(r.Dest, "{{")
	if end := strings.LastIndex(r.Dest, "}}"); end >= 0 {
		suffix = r.Dest[end+len("}}"):]
	}
	slash := strings.LastIndexByte(before, '/')
	return filepath.Clean(before[:slash+1]), before[slash+1:], suffix
}

// Item returns the key or directory matching ForEach that a key belongs to, both as the template sees them.
func (r Resource) Item(key string) (item string, ok bool) {
	if r.ForEach == "" {
		return "", false
	}
	rest := key
	for range strings.Count(r.ForEach, "/") {
		if rest == "" {
			return "", false
		}
		if end := strings.IndexByte(rest[1:], '/'); end >= 0 {
			rest = rest[1+end:]
		} else {
			rest = ""
		}
	}
	item = key[:len(key)-len(rest)]
	matches, err := path.Match(r.ForEach, item)
	return item, err == nil && matches
}

// forEachRoot is the absolute key below which everything that matches ForEach is.
func (r Resource) forEachRoot() string {
	return kv.Clean(path.Join("/", r.Prefix, literalDir(r.ForEach)))
}

// literalDir returns the part of a pattern before the first segment with a special character.
func literalDir(pattern string) string {
	special := strings.IndexAny(pattern, `*?[\`)
	if special < 0 {
		return pattern
	}
	return pattern[:strings.LastIndexByte(pattern[:special], '/')+1]
}

// covers reports whether key is one of keys or below one.
func covers(keys []string, key string) bool {
	for _, above := range keys {
		if key == above || strings.HasPrefix(key, above+"/") && !kv.HiddenBelow(key, above) {
			return true
		}
	}
	return false
}
