// Package render turns a template and a tree of keys into the bytes of a file.
//
// It knows text/template, confd's template functions and what confd's templates expect of them,
// which keys a render has looked at, and which of them made a line. It refuses to know where keys
// come from, where the bytes go, and what time it is: the few things a template may ask of the
// machine come in through Env. A template runs no command, reads no file but templates beside it,
// and is bounded in time, output and memory.
//
//	t, err := render.Parse("haproxy.cfg.tmpl", text, render.Env{Include: render.IncludeDir("/etc/kvconfd/templates")})
//	out, err := t.Render(ctx, render.NewTree(view, render.Scope{Keys: []string{"/services"}}), nil)
//	if out.Reads.Touches("/services/web/i1") { ... render again ... }
package render

import (
	"context"
	"fmt"
	"sync"
	"text/template"
	"text/template/parse"
	"time"
)

// Limits bounds one render. The zero value of a field is its default.
type Limits struct {
	Time        time.Duration // 10 s
	OutputBytes int           // 64 MiB
	ValueBytes  int           // of one text, list or map that a function makes: 64 MiB
	MadeBytes   int           // of all that functions make in one render, kept or not: 1 GiB
	Depth       int           // of templates that call each other: 1,000
}

func (l Limits) orDefaults() Limits {
	if l.Time <= 0 {
		l.Time = 10 * time.Second
	}
	if l.OutputBytes <= 0 {
		l.OutputBytes = 64 << 20
	}
	if l.ValueBytes <= 0 {
		l.ValueBytes = 64 << 20
	}
	if l.MadeBytes <= 0 {
		l.MadeBytes = 1 << 30
	}
	if l.Depth <= 0 {
		l.Depth = 1000
	}
	return l
}

// Env is what surrounds a template. The zero value is the real machine, the default limits and
// nothing to include.
type Env struct {
	World World

	// Include returns the text of another template by its name; nil: there is none. IncludeDir makes one.
	Include func(name string) (text string, err error)

	// Decrypt returns the text of an encrypted value, for cget, cgets, cgetv and cgetvs; nil: there is no secret
	// keyring, and they fail. Its error says nothing of the value. It is safe for concurrent use.
	Decrypt func(value string) (text string, err error)

	Limits Limits

	// Sensitive keeps values out of errors and of Output.Skipped: they name the place, the function
	// and keys that stand in the template, and withhold the rest.
	Sensitive bool
}

// Template is a parsed template. It is safe for concurrent use.
type Template struct {
	name   string
	text   string
	parsed *template.Template
	env    Env

	mu        sync.Mutex      // guards the fields below
	literals  map[string]bool // texts that stand in the template and in those it included, which an error may name
	records   records
	decoded   decodedJSONs
	lastBytes int                  // of the last output
	included  map[string]*included // by name, as last read
}

// Output is the result of one render.
type Output struct {
	Content []byte // nil after an error
	// Skipped names the records that the services function left out, each with the reason.
	Skipped []string
	// Reads is what was looked at, after an error as well: what the error came of. Never nil.
	Reads *Reads
}

// Parse reads a template. name appears in error messages. An error names the line, and for a
// function that does not exist one that does and is spelled much like it.
func Parse(name, text string, env Env) (*Template, error) {
	env.World = env.World.real()
	env.Limits = env.Limits.orDefaults()
	t := &Template{name: name, text: text, env: env, included: map[string]*included{}, literals: map[string]bool{}}
	var err error
	if t.parsed, err = t.parse(name, text); err != nil {
		return nil, fmt.Errorf("cannot parse the template: %w", err)
	}
	return t, nil
}

// parse returns the template of text, ready to be bound to a run.
func (t *Template) parse(name, text string) (*template.Template, error) {
	if err := checkNesting(name, text); err != nil {
		return nil, err
	}
	parsed, err := template.New(name).Funcs((&run{t: t}).functions()).Parse(text)
	if err != nil {
		return nil, withSuggestions(name, text, err)
	}
	for _, one := range parsed.Templates() {
		if one.Tree != nil {
			t.remember(one.Tree)
			instrument(one.Tree)
		}
	}
	return parsed, nil
}

// remember notes the texts that stand in tree.
func (t *Template) remember(tree *parse.Tree) {
	t.mu.Lock()
	defer t.mu.Unlock()
	eachArgument(tree, func(node parse.Node) {
		if text, ok := node.(*parse.StringNode); ok {
			t.literals[text.Text] = true
		}
	})
}

// literal reports whether text stands in the template, so that it is no value of the store.
func (t *Template) literal(text string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.literals[text]
}

// Render executes the template over tree, with item as its dot: nil, or the Item of a resource with
// for_each. It returns when it is done, at its limits, or soon after ctx has ended. On error there
// is no content at all; the error names template, line, function, key and reason.
func (t *Template) Render(ctx context.Context, tree Tree, item any) (Output, error) {
	return t.render(ctx, tree, item, false)
}

func (t *Template) render(ctx context.Context, tree Tree, item any, lenient bool) (out Output, err error) {
	r := newRun(t, tree)
	r.lenient = lenient
	if item, ok := item.(Item); ok {
		r.reads.key(item.Key)
	}
	defer r.begin(ctx)()
	err = r.execute(t.parsed, item, &r.output)
	out = Output{Skipped: r.skipped, Reads: r.reads}
	if err != nil {
		return out, fmt.Errorf("cannot render the template: %w", r.explained(err))
	}
	t.keep(r)
	out.Content = r.output.Bytes()
	return out, nil
}
