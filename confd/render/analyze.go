package render

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Analysis is what can be said of a template without a render.
type Analysis struct {
	Reads    []StaticRead // what it asks for, as far as that stands in its text; in the order of the text
	Includes []string     // the templates that it includes by name, in order, none twice
	Problems []Problem    // what will hardly do what was meant
}

// StaticRead is a key or pattern that a template asks for.
type StaticRead struct {
	Template string // its name, or that of an included one
	Line     int
	Function string
	Key      string // as the template sees it; "*" stands for a part that only a render can know, which may have slashes
	Kind     ReadKind
	Default  bool // it is no error if nothing is there
}

// ReadKind says what is read of StaticRead.Key.
type ReadKind string

// The kinds of reads.
const (
	ReadKey     ReadKind = "key"       // exactly this key
	ReadPattern ReadKind = "pattern"   // the keys that match
	ReadDir     ReadKind = "directory" // what is at or below it
)

// Problem is something in a template that will hardly do what was meant.
type Problem struct {
	Template string
	Line     int
	Text     string
}

// Outside returns the reads that find nothing because scope shows nothing of what they ask for.
func (a Analysis) Outside(scope Scope) (outside []StaticRead) {
	for _, read := range a.Reads {
		literal, more := strings.CutSuffix(read.Key, "/")
		if i := strings.IndexAny(read.Key, `*?[\`); i >= 0 {
			literal, more = read.Key[:i], true
		}
		outer := scope.Prefix + literal
		covered := scope.Covers(kv.Clean(outer))
		for _, key := range scope.Keys {
			switch {
			case more: // the rest may be anything
				covered = covered || strings.HasPrefix(key+"/", outer) || strings.HasPrefix(outer, key+"/")
			case read.Kind == ReadDir:
				covered = covered || kv.Below(key, kv.Clean(outer))
			}
		}
		if !covered {
			outside = append(outside, read)
		}
	}
	return outside
}

// Analyze returns which keys and patterns the template asks for, as far as they can be seen in its
// text and in that of the templates that it includes by name.
func (t *Template) Analyze() Analysis {
	a := analyzer{env: t.env, seen: map[string]bool{}}
	a.text(t.name, t.text)
	slices.Sort(a.Includes)
	return a.Analysis
}

// analyzer looks through templates.
type analyzer struct {
	Analysis
	env  Env
	seen map[string]bool // templates that were included

	name      string // of the template under way
	tree      *parse.Tree
	defined   map[string]*parse.Tree
	declared  map[string]int      // how often each variable gets a value
	variables map[string]estimate // those that get one once, and that can be known
}

// estimate is a text as far as it is known: "*" stands for the rest.
type estimate struct {
	text  string
	exact bool
}

var anything = estimate{text: "*"}

// text looks through a template and all that it defines.
func (a *analyzer) text(name, text string) {
	trees, err := parseUnchecked(name, text)
	if err != nil {
		a.Problems = append(a.Problems, Problem{Template: name, Line: 1, Text: err.Error()})
		return
	}
	outer := *a
	a.name, a.defined = name, trees
	for _, define := range slices.Sorted(maps.Keys(trees)) {
		a.tree, a.declared, a.variables = trees[define], map[string]int{}, map[string]estimate{}
		eachPipe(a.tree, func(pipe *parse.PipeNode, loop bool) {
			for _, variable := range pipe.Decl {
				a.declared[variable.Ident[0]]++
				if loop {
					a.declared[variable.Ident[0]]++
				}
			}
		})
		eachNode(a.tree.Root, func(node parse.Node) {
			switch node := node.(type) {
			case *parse.TemplateNode:
				if trees[node.Name] == nil {
					a.problem(node, fmt.Sprintf("there is no template %q to call; it is defined nowhere in this file", node.Name))
				}
			case *parse.PipeNode:
				value := a.pipe(node)
				if len(node.Decl) == 1 && a.declared[node.Decl[0].Ident[0]] == 1 {
					a.variables[node.Decl[0].Ident[0]] = value
				}
			}
		})
	}
	a.name, a.tree, a.defined, a.declared, a.variables = outer.name, outer.tree, outer.defined, outer.declared, outer.variables
}

// pipe returns what a pipeline makes, and notes what its calls read.
func (a *analyzer) pipe(pipe *parse.PipeNode) estimate {
	var value *estimate
	for _, command := range pipe.Cmds {
		made := a.command(command, value)
		value = &made
	}
	if value == nil {
		return anything
	}
	return *value
}

// command returns what one command of a pipeline makes; piped is what the one before made.
func (a *analyzer) command(command *parse.CommandNode, piped *estimate) estimate {
	args := make([]estimate, 0, len(command.Args))
	for _, arg := range command.Args[1:] {
		args = append(args, a.value(arg))
	}
	if piped != nil {
		args = append(args, *piped)
	}
	if function, ok := command.Args[0].(*parse.IdentifierNode); ok {
		return a.call(function, args)
	}
	return a.value(command.Args[0])
}

// value returns what a node stands for.
func (a *analyzer) value(node parse.Node) estimate {
	switch node := node.(type) {
	case *parse.StringNode:
		return estimate{node.Text, true}
	case *parse.NumberNode:
		return estimate{node.Text, true}
	case *parse.PipeNode:
		return a.pipe(node)
	case *parse.IdentifierNode:
		return a.call(node, nil)
	case *parse.VariableNode:
		if value, ok := a.variables[node.Ident[0]]; ok && len(node.Ident) == 1 {
			return value
		}
	case *parse.ChainNode:
		a.value(node.Node)
	}
	return anything
}

// readers are the functions that read keys, by what they read.
var readers = map[string]ReadKind{
	"exists": ReadKey, "get": ReadKey, "getv": ReadKey, "gets": ReadPattern, "getvs": ReadPattern,
	"cget": ReadKey, "cgetv": ReadKey, "cgets": ReadPattern, "cgetvs": ReadPattern, "ls": ReadDir, "lsdir": ReadDir, "services": ReadDir,
}

// call returns what a function makes, and notes what it reads.
func (a *analyzer) call(function *parse.IdentifierNode, args []estimate) estimate {
	name := function.Ident
	if kind, ok := readers[name]; ok && len(args) > 0 {
		isNeeded := name == "get" || name == "cget" || name == "cgetv" || name == "getv" && len(args) == 1
		a.read(function, kind, args[0], !isNeeded)
	}
	switch {
	case name == "include" && len(args) > 0 && args[0].exact:
		a.include(function, args[0].text)
	case name == "getenv" && len(args) > 0 && args[0].exact:
		if value := a.env.World.Getenv(args[0].text); value != "" || len(args) == 1 {
			return estimate{value, true}
		}
		return args[1]
	case name == "printf" && len(args) > 0 && args[0].exact:
		return formatted(args[0].text, args[1:])
	case name == "print":
		whole := estimate{exact: true}
		for _, arg := range args {
			whole = estimate{whole.text + arg.text, whole.exact && arg.exact}
		}
		return whole
	}
	return anything
}

func (a *analyzer) read(function *parse.IdentifierNode, kind ReadKind, key estimate, fallback bool) {
	if key == anything {
		return
	}
	if kind == ReadKey && !key.exact {
		kind = ReadPattern
	}
	_, malformed := path.Match(key.text, "")
	switch {
	case kind == ReadPattern && malformed != nil:
		a.problem(function, fmt.Sprintf("%s %q: the pattern is malformed", function.Ident, key.text))
	case !strings.HasPrefix(key.text, "/") && !strings.HasPrefix(key.text, "*"):
		a.problem(function, fmt.Sprintf("%s %q finds nothing: keys begin with a slash", function.Ident, key.text))
	case function.Ident == "lsdir" && key == estimate{"/", true}:
		a.problem(function, "lsdir of / lists nothing, as in confd; name a directory below it")
	case kind == ReadKey && len(key.text) > 1 && strings.HasSuffix(key.text, "/"):
		a.problem(function, fmt.Sprintf("%s %q finds nothing: keys do not end with a slash", function.Ident, key.text))
	}
	a.Reads = append(a.Reads, StaticRead{Template: a.name, Line: a.line(function), Function: function.Ident, Key: key.text, Kind: kind, Default: fallback})
}

// include looks through another template, each once.
func (a *analyzer) include(function *parse.IdentifierNode, name string) {
	clean := cleanName(name)
	if a.seen[clean] {
		return
	}
	a.seen[clean] = true
	a.Includes = append(a.Includes, clean)
	if a.env.Include == nil {
		return
	}
	text, err := a.env.Include(clean)
	if err != nil {
		a.problem(function, fmt.Sprintf("include %q: %v", name, err))
		return
	}
	a.text(clean, text)
}

func (a *analyzer) problem(node parse.Node, text string) {
	a.Problems = append(a.Problems, Problem{Template: a.name, Line: a.line(node), Text: text})
}

func (a *analyzer) line(node parse.Node) int { return lineOf(a.tree, node) }

// formatted is what printf makes of what is known.
func formatted(format string, args []estimate) estimate {
	whole := estimate{exact: true}
	for {
		before, verb, found := strings.Cut(format, "%")
		whole.text += before
		switch {
		case !found:
			return whole
		case strings.HasPrefix(verb, "%"):
			whole.text, format = whole.text+"%", verb[1:]
		case len(args) > 0 && verb != "" && strings.Contains("svd", verb[:1]):
			whole = estimate{whole.text + args[0].text, whole.exact && args[0].exact}
			format, args = verb[1:], args[1:]
		default:
			return estimate{whole.text + "*", false}
		}
	}
}

// parseUnchecked returns the template and what it defines by name, whether their functions exist or not.
func parseUnchecked(name, text string) (map[string]*parse.Tree, error) {
	tree := parse.New(name)
	tree.Mode = parse.SkipFuncCheck
	trees := map[string]*parse.Tree{}
	_, err := tree.Parse(text, "", "", trees)
	return trees, err
}

// lineOf returns the line of node.
func lineOf(tree *parse.Tree, node parse.Node) int {
	location, _ := tree.ErrorContext(node) // NAME:LINE:COLUMN
	parts := strings.Split(location, ":")
	if len(parts) < 3 {
		return 1
	}
	line, _ := strconv.Atoi(parts[len(parts)-2])
	return line
}

// eachNode calls visit for the nodes in list that stand for themselves: texts, templates, and each
// pipeline that is not part of another, in the order of the text.
func eachNode(list *parse.ListNode, visit func(parse.Node)) {
	if list == nil {
		return
	}
	branch := func(b *parse.BranchNode) {
		visit(b.Pipe)
		eachNode(b.List, visit)
		eachNode(b.ElseList, visit)
	}
	for _, node := range list.Nodes {
		switch node := node.(type) {
		case *parse.ActionNode:
			visit(node.Pipe)
		case *parse.TemplateNode:
			visit(node)
			if node.Pipe != nil {
				visit(node.Pipe)
			}
		case *parse.IfNode:
			branch(&node.BranchNode)
		case *parse.WithNode:
			branch(&node.BranchNode)
		case *parse.RangeNode:
			branch(&node.BranchNode)
		}
	}
}

// eachPipe calls visit for each pipeline of tree; loop: a range takes its values one by one.
func eachPipe(tree *parse.Tree, visit func(pipe *parse.PipeNode, loop bool)) {
	loops := map[*parse.PipeNode]bool{}
	eachList(tree.Root, func(list *parse.ListNode, _ bool) {
		for _, node := range list.Nodes {
			if node, ok := node.(*parse.RangeNode); ok {
				loops[node.Pipe] = true
			}
		}
	})
	eachNode(tree.Root, func(node parse.Node) {
		if pipe, ok := node.(*parse.PipeNode); ok {
			visit(pipe, loops[pipe])
		}
	})
}

// eachArgument calls visit for each function, text and other argument that stands in tree.
func eachArgument(tree *parse.Tree, visit func(node parse.Node)) {
	var look func(node parse.Node)
	look = func(node parse.Node) {
		switch node := node.(type) {
		case *parse.PipeNode:
			for _, command := range node.Cmds {
				for _, arg := range command.Args {
					look(arg)
				}
			}
		case *parse.ChainNode:
			look(node.Node)
		default:
			visit(node)
		}
	}
	eachNode(tree.Root, func(node parse.Node) { look(node) })
}
