package render

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
)

// includeDepthMax is how deep included templates may include others.
const includeDepthMax = 10

// includeBytesMax bounds the text of an included template.
const includeBytesMax = 16 << 20

// included is another template, as it was last read.
type included struct {
	text   string
	parsed *template.Template
}

// IncludeDir returns an Env.Include that reads the files in dir and below it. Neither ".." nor a
// link leads out of it.
func IncludeDir(dir string) func(name string) (string, error) {
	return func(name string) (string, error) {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return "", err
		}
		defer root.Close()
		file, err := root.Open(filepath.FromSlash(name))
		if err != nil {
			return "", err
		}
		defer file.Close()
		if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
			return "", errors.Join(err, fmt.Errorf("%s is not a file", name))
		}
		text, err := io.ReadAll(io.LimitReader(file, includeBytesMax+1))
		if len(text) > includeBytesMax {
			return "", fmt.Errorf("%s is larger than %d MiB", name, includeBytesMax>>20)
		}
		return string(text), err
	}
}

// include returns what another template makes of data, with the same keys and functions. What that
// template defines is its own.
func (r *run) include(name string, data ...any) (string, error) {
	clean := cleanName(name)
	r.reads.include(clean)
	switch {
	case r.t.env.Include == nil:
		return "", errors.New("there is no directory to include templates from")
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "", fmt.Errorf("template %q is outside the templates directory", name)
	case slices.Contains(r.stack, clean):
		return "", fmt.Errorf("templates include each other in a circle: %s -> %s", strings.Join(r.stack, " -> "), clean)
	case len(r.stack) >= includeDepthMax:
		return "", fmt.Errorf("templates include each other more than %d deep: %s -> %s", includeDepthMax, strings.Join(r.stack, " -> "), clean)
	}
	parsed, err := r.t.includedTemplate(clean)
	if err != nil {
		return "", err
	}
	r.stack = append(r.stack, clean)
	defer func() { r.stack = r.stack[:len(r.stack)-1] }()
	var dot any
	if len(data) > 0 {
		dot = data[0]
	}
	output := limitedBuffer{run: r, Buffer: bytes.Buffer{}}
	if err := r.execute(parsed, dot, &output); err != nil {
		return "", err
	}
	return r.text(output.String())
}

// includedTemplate returns the parsed template of that name. It is read each time, and parsed when
// its text has changed.
func (t *Template) includedTemplate(name string) (*template.Template, error) {
	text, err := t.env.Include(name)
	if err != nil {
		return nil, templateError{name, err}
	}
	t.mu.Lock()
	known := t.included[name]
	t.mu.Unlock()
	if known != nil && known.text == text {
		return known.parsed, nil
	}
	parsed, err := t.parse(name, text)
	if err != nil {
		return nil, templateError{name, err}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.included[name] = &included{text, parsed}
	return parsed, nil
}

// cleanName returns the one spelling of a template's name.
func cleanName(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }
