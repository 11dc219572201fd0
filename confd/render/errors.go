package render

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"text/template/parse"

	"github.com/kvd-io/kvd/pkg/spelling"
)

// limitError says which limit of a render was reached. It contains no value.
type limitError string

func (e limitError) Error() string { return string(e) }

// missingError says that a key has no value.
type missingError struct{ key string }

func (e missingError) Error() string { return "key does not exist: " + e.key }

// valueError is what is wrong with the value of a key.
type valueError struct {
	key    string
	reason error
}

func (e valueError) Error() string { return fmt.Sprintf("%v (the value of %s)", e.reason, e.key) }
func (e valueError) Unwrap() error { return e.reason }

var place = regexp.MustCompile(`template: ([^\n]+?:\d+(?::\d+)?): `)
var called = regexp.MustCompile(`error calling ([A-Za-z_]\w*): `)

// explained returns err as it may be shown.
func (r *run) explained(err error) error {
	if !r.t.env.Sensitive {
		return err
	}
	text := err.Error()
	var told []string
	if found := place.FindAllStringSubmatch(text, -1); found != nil {
		told = append(told, found[len(found)-1][1])
	}
	if found := called.FindAllStringSubmatch(text, -1); found != nil {
		told = append(told, found[len(found)-1][1])
	}
	return errors.New(strings.Join(append(told, r.reason(err)), ": "))
}

// reason returns why err came about, without any value.
func (r *run) reason(err error) string {
	var limit limitError
	var missing missingError
	switch {
	case errors.As(err, &limit):
		return limit.Error()
	case errors.As(err, &missing) && r.t.literals[missing.key]:
		return missing.Error()
	case errors.As(err, &missing):
		return "a key does not exist; its name was made by the template and is withheld, as the target is sensitive"
	}
	return "the reason is withheld, as the target is sensitive"
}

// withSuggestions adds to an error of parsing what may have been meant by functions that do not exist.
func withSuggestions(name, text string, err error) error {
	var meant []string
	for _, unknown := range unknownFunctions(name, text) {
		if unknown.Meant != "" {
			meant = append(meant, fmt.Sprintf("line %d: %s; did you mean %s?", unknown.Line, unknown.Name, unknown.Meant))
		}
	}
	if meant == nil {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(meant, " "))
}

// Unknown is a call of a function that does not exist.
type Unknown struct {
	Template string
	Line     int
	Name     string
	Meant    string // the function that is spelled most like it, "" if none is
}

// unknownFunctions returns the calls in text of functions that do not exist.
func unknownFunctions(name, text string) (found []Unknown) {
	tree := parse.New(name)
	tree.Mode = parse.SkipFuncCheck
	trees := map[string]*parse.Tree{}
	if _, err := tree.Parse(text, "", "", trees); err != nil {
		return nil
	}
	names := functionNames()
	known := map[string]bool{}
	for _, name := range names {
		known[name] = true
	}
	for _, tree := range trees {
		eachIdentifier(tree, func(node *parse.IdentifierNode, line int) {
			if !known[node.Ident] {
				found = append(found, Unknown{Template: name, Line: line, Name: node.Ident, Meant: spelling.Meant(node.Ident, names)})
			}
		})
	}
	return found
}

// builtins are the functions that text/template brings along.
var builtins = []string{"and", "or", "not", "len", "index", "slice", "print", "printf", "println", "html", "js", "urlquery",
	"eq", "ge", "gt", "le", "lt", "ne", "call"}

// functionNames returns the names of all functions that a template may call.
func functionNames() []string {
	names := append([]string(nil), builtins...)
	for _, f := range Functions() {
		names = append(names, f.Name)
	}
	return names
}
