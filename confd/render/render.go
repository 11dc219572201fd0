// Package render turns a template and a tree of keys into the bytes of a file.
//
// It knows text/template, confd's template functions and what confd's templates expect of them.
// It refuses to know where keys come from, where the bytes go, and what time it is: the few
// things a template may ask of the machine come in through World. A template can read no file,
// run no command and produce no more than OutputBytesMax.
//
//	t, err := render.Parse("haproxy.cfg.tmpl", text, render.World{})
//	out, err := t.Render(render.NewTree(pairs))
package render

import (
	"bytes"
	"fmt"
	"maps"
	"text/template"
)

// OutputBytesMax bounds what one template may produce.
const OutputBytesMax = 64 << 20

// Template is a parsed template. It is safe for concurrent use.
type Template struct {
	parsed *template.Template
	world  World
}

// Output is the result of one render.
type Output struct {
	Content []byte
	// Skipped names the records that the services function left out, each with the reason.
	Skipped []string
}

// Parse reads a template. name appears in error messages; world's zero value is the real one.
func Parse(name, text string, world World) (*Template, error) {
	placeholders := worldFuncs(world)
	maps.Copy(placeholders, storeFuncs(Tree{}, nil))
	parsed, err := template.New(name).Funcs(placeholders).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("cannot parse the template: %w", err)
	}
	return &Template{parsed: parsed, world: world}, nil
}

// Render executes the template over tree. On error there is no output at all.
func (t *Template) Render(tree Tree) (Output, error) {
	var out Output
	bound, err := t.parsed.Clone()
	if err != nil {
		return Output{}, err
	}
	bound.Funcs(storeFuncs(tree, func(key, why string) {
		out.Skipped = append(out.Skipped, key+": "+why)
	}))
	var buffer limitedBuffer
	if err := bound.Execute(&buffer, nil); err != nil {
		return Output{}, fmt.Errorf("cannot render the template: %w", err)
	}
	out.Content = buffer.Bytes()
	return out, nil
}

// limitedBuffer refuses to grow beyond OutputBytesMax, so that a template that loops over its own
// output cannot take the machine's memory.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > OutputBytesMax {
		return 0, fmt.Errorf("the output is larger than %d MiB", OutputBytesMax>>20)
	}
	return b.Buffer.Write(p)
}
