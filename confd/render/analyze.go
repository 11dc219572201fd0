package render

import (
	"text/template/parse"
)

// eachIdentifier calls visit for each function name in tree, with its line.
func eachIdentifier(tree *parse.Tree, visit func(node *parse.IdentifierNode, line int)) {
	_ = tree
	_ = visit
}

// Analysis is what can be said of a template without a render.
type Analysis struct {
	Reads []StaticRead // in the order of the text
}

// StaticRead is a key or pattern that a template asks for.
type StaticRead struct {
	Template string // its name, or that of an included one
	Line     int
	Function string
	Key      string // as it is written: a key, a pattern or a directory, as the template sees it
	Kind     ReadKind
	Default  bool // nothing is wrong if it is missing
}

// ReadKind says what is read of StaticRead.Key.
type ReadKind string

// The kinds of reads.
const (
	ReadKey     ReadKind = "key"       // exactly this key
	ReadPattern ReadKind = "pattern"   // what matches; "*" also stands for what is only known in a render
	ReadDir     ReadKind = "directory" // what is at or below it; a pattern as well
)

// Analyze returns which keys and patterns the template asks for, as far as they can be seen in its
// text and in that of the templates it includes by name.
func (t *Template) Analyze() Analysis { return Analysis{} }
