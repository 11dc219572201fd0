package render

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
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

// templateError is why another template could not be included. Besides its name it has no value.
type templateError struct {
	name   string
	reason error
}

func (e templateError) Error() string { return e.reason.Error() }
func (e templateError) Unwrap() error { return e.reason }

// valueError is what is wrong with the value of a key.
type valueError struct {
	key    string
	reason error
}

func (e valueError) Error() string { return fmt.Sprintf("%v (the value of %s)", e.reason, e.key) }
func (e valueError) Unwrap() error { return e.reason }

// cryptError is why the value of a key cannot be decrypted; it says nothing of the value.
type cryptError struct{ valueError }

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
	case errors.As(err, &missing) && r.t.literal(missing.key):
		return missing.Error()
	case errors.As(err, &missing):
		return "a key does not exist; its name was made by the template and is withheld, as the target is sensitive"
	}
	var crypt cryptError
	if errors.As(err, &crypt) {
		if r.t.literal(crypt.key) {
			return crypt.Error()
		}
		return crypt.reason.Error()
	}
	var file templateError
	if errors.As(err, &file) && r.t.literal(file.name) {
		return file.Error()
	}
	if found := harmless.FindString(err.Error()); found != "" {
		return found
	}
	return "the reason is withheld, as the target is sensitive"
}

// harmless are the errors of text/template that name types and what stands in the template, and no value.
var harmless = regexp.MustCompile(`can't evaluate field \w+ in type [\w.*\[\]{} ]+$|wrong type for value; expected [\w.*\[\]{} ]+; got [\w.*\[\]{} ]+$|wrong number of args for \w+: [\w ]+$|expected (integer|string|bool|float)|template "[^"]*" not defined$`)

// withSuggestions adds to an error of parsing what may have been meant by functions that do not exist.
func withSuggestions(name, text string, err error) error {
	var meant []string
	for _, unknown := range unknownFunctions(name, text) {
		if unknown.meant != "" {
			meant = append(meant, fmt.Sprintf("line %d: %s; did you mean %s?", unknown.line, unknown.name, unknown.meant))
		}
	}
	if meant == nil {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(meant, " "))
}

// unknown is a call of a function that does not exist, with the one that is spelled most like it.
type unknown struct {
	line        int
	name, meant string
}

// unknownFunctions returns the calls in text of functions that do not exist.
func unknownFunctions(name, text string) (found []unknown) {
	trees, err := parseUnchecked(name, text)
	if err != nil {
		return nil
	}
	names := functionNames()
	known := map[string]bool{}
	for _, name := range names {
		known[name] = true
	}
	for _, define := range slices.Sorted(maps.Keys(trees)) {
		eachArgument(trees[define], func(node parse.Node) {
			if function, ok := node.(*parse.IdentifierNode); ok && !known[function.Ident] {
				found = append(found, unknown{lineOf(trees[define], node), function.Ident, meant(function.Ident, names)})
			}
		})
	}
	return found
}

// meant returns the one of names that written was most likely meant to be, "" if none is close: the
// letters are right and only their case or order is not, or most of them are.
func meant(written string, names []string) string {
	letters := func(name string) string {
		sorted := []byte(strings.ToLower(name))
		slices.Sort(sorted)
		return string(sorted)
	}
	for _, name := range names {
		if letters(name) == letters(written) {
			return name
		}
	}
	return spelling.Meant(written, names)
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
