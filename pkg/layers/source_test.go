package layers

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// source is the parsed text of one package.
type source struct {
	path  string // below the module
	set   *token.FileSet
	files []*ast.File // shipped
	tests []*ast.File
}

func TestPackagesKeepTheirPromises(t *testing.T) {
	for _, p := range modulePackages(t) {
		for _, broken := range brokenPromises(p) {
			t.Error(broken)
		}
	}
}

func TestBrokenPromisesAreCaught(t *testing.T) {
	const comment = "// Package store is a test.\npackage store\n"
	for _, c := range []struct {
		name, path, text, want string
	}{
		{"a good package", "daemon/store", comment + `var kinds = [...]string{"a"}; const x = 1`, ""},
		{"no package comment", "pkg/store", "package store", "no package comment"},
		{"a comment that names another package", "pkg/store", "// Package other is a test.\npackage store", "no package comment"},
		{"a main calls itself a command", "cmd/kvd", "// Command kvd is a test.\npackage main", ""},
		{"init", "pkg/store", comment + "func init() {}", "init"},
		{"a method named init is no init", "pkg/store", comment + "type t struct{}\nfunc (t) init() {}", ""},
		{"a global that is assigned", "pkg/store", comment + "var n = 1\nfunc f() { n = 2 }", "changes the package variable n"},
		{"a global that is counted", "pkg/store", comment + "var n int\nfunc f() { n++ }", "changes the package variable n"},
		{"a global table that is written", "pkg/store", comment + "var m = map[string]int{}\nfunc f() { m[\"a\"] = 1 }", "changes the package variable m"},
		{"a global that leaks its address", "pkg/store", comment + "var n int\nfunc f() *int { return &n }", "changes the package variable n"},
		{"a local of the same name", "pkg/store", comment + "var n = 1\nfunc f() int { n := 2; n++; return n }", ""},
		{"the clock in the store", "daemon/store", comment + "import \"time\"\nvar a = time.Now()", "time.Now"},
		{"a clock under another name", "daemon/store", comment + "import clock \"time\"\nvar a = clock.Now()", "time.Now"},
		{"the clock elsewhere", "pkg/store", comment + "import \"time\"\nvar a = time.Now()", ""},
		{"durations in the store", "daemon/store", comment + "import \"time\"\nconst a = time.Second", ""},
		{"a goroutine in the store", "daemon/store", comment + "func f() { go f() }", "goroutine"},
		{"a map walked in the store", "daemon/store", comment + "type s struct{ m map[string]bool }\nfunc (x s) f() {\n for range x.m {}\n}", "map"},
		{"a map walked with its excuse", "daemon/store", comment + "type s struct{ m map[string]bool }\nfunc (x s) f() {\n // In any order: only counted.\n for range x.m {}\n}", ""},
		{"a slice walked in the store", "daemon/store", comment + "func f(x []int) { for range x {} }", ""},
		{"map keys taken in the store", "daemon/store", comment + "import \"maps\"\nfunc f(m map[string]int) { for range maps.Keys(m) {} }", "map"},
		{"map keys sorted in the store", "daemon/store", comment + "import (\"maps\"; \"slices\")\nfunc f(m map[string]int) { for range slices.Sorted(maps.Keys(m)) {} }", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, "x.go", c.text, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			found := brokenPromises(source{path: c.path, set: set, files: []*ast.File{file}})
			switch {
			case c.want == "" && len(found) > 0:
				t.Errorf("unexpected: %q", found)
			case c.want != "" && !slices.ContainsFunc(found, func(v string) bool { return strings.Contains(v, c.want) }):
				t.Errorf("got %q, want one with %q", found, c.want)
			}
		})
	}
}

// brokenPromises returns a sentence for each thing that p does and that no package, or no package
// of its room, should.
func brokenPromises(p source) []string {
	var found []string
	if !hasPackageComment(p) {
		found = append(found, p.path+" has no package comment that says what it knows and what it refuses to know")
	}
	complain := func(at token.Pos, format string, args ...any) {
		place := p.set.Position(at)
		found = append(found, fmt.Sprintf("%s/%s:%d %s", p.path, filepath.Base(place.Filename), place.Line, fmt.Sprintf(format, args...)))
	}
	info := resolve(p)
	for _, file := range p.files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					complain(n.Pos(), "has an init function: whoever imports the package cannot decline it")
				}
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, left := range n.Lhs {
						complainOfGlobal(info, left, complain)
					}
				}
			case *ast.IncDecStmt:
				complainOfGlobal(info, n.X, complain)
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					complainOfGlobal(info, n.X, complain)
				}
			}
			return true
		})
		if matchAny(pureRooms, p.path) {
			complainOfImpurity(p, info, file, complain)
		}
	}
	return found
}

func hasPackageComment(p source) bool {
	if len(p.files) == 0 { // a folder of tests only
		return true
	}
	return slices.ContainsFunc(p.files, func(f *ast.File) bool {
		text := f.Doc.Text()
		if f.Name.Name == "main" {
			return strings.HasPrefix(text, "Command "+filepath.Base(p.path)+" ")
		}
		return strings.HasPrefix(text, "Package "+f.Name.Name+" ")
	})
}

// resolve finds out what names mean. What comes from other packages stays unknown, which is
// enough to tell a package's own variables and maps.
func resolve(p source) *types.Info {
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Types: map[ast.Expr]types.TypeAndValue{}}
	config := types.Config{Importer: emptyImporter{}, Error: func(error) {}}
	config.Check(p.path, p.set, p.files, info) // its error is the first of those ignored above
	return info
}

// emptyImporter knows the name of every package and the contents of none.
type emptyImporter struct{}

func (emptyImporter) Import(path string) (*types.Package, error) {
	imported := types.NewPackage(path, filepath.Base(path))
	imported.MarkComplete()
	return imported, nil
}

// complainOfGlobal complains if changing target changes a variable of the package.
func complainOfGlobal(info *types.Info, target ast.Expr, complain func(token.Pos, string, ...any)) {
	switch target := target.(type) {
	case *ast.Ident:
		if v, ok := info.Uses[target].(*types.Var); ok && v.Pkg() != nil && v.Parent() == v.Pkg().Scope() {
			complain(target.Pos(), "changes the package variable %s: keep state in a struct, so that two can live in one process", v.Name())
		}
	case *ast.IndexExpr:
		complainOfGlobal(info, target.X, complain)
	case *ast.SelectorExpr:
		complainOfGlobal(info, target.X, complain)
	case *ast.ParenExpr:
		complainOfGlobal(info, target.X, complain)
	}
}

// complainOfImpurity complains of everything in file that two members could see differently.
func complainOfImpurity(p source, info *types.Info, file *ast.File, complain func(token.Pos, string, ...any)) {
	excused := map[int]bool{} // lines that a comment about order covers
	for _, group := range file.Comments {
		if strings.Contains(strings.ToLower(group.Text()), "order") {
			for line := p.set.Position(group.Pos()).Line; line <= p.set.Position(group.End()).Line+1; line++ {
				excused[line] = true
			}
		}
	}
	sorted := map[ast.Expr]bool{} // arguments of slices.Sorted and its like
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			complain(n.Pos(), "starts a goroutine, but must be deterministic")
		case *ast.RangeStmt:
			_, isMap := underlying(info, n.X).(*types.Map)
			if isMap && !excused[p.set.Position(n.Pos()).Line] {
				complain(n.Pos(), "walks a map, whose order differs between members: sort, or say in a comment why the order does not matter")
			}
		case *ast.CallExpr:
			path, name := calledFunction(info, n)
			if path == "slices" && strings.HasPrefix(name, "Sorted") && len(n.Args) > 0 {
				sorted[n.Args[0]] = true
			}
			if path == "maps" && slices.Contains([]string{"Keys", "Values", "All"}, name) && !sorted[n] && !excused[p.set.Position(n.Pos()).Line] {
				complain(n.Pos(), "walks a map with maps.%s, whose order differs between members", name)
			}
		case *ast.SelectorExpr:
			if path, name := selected(info, n); path == "time" && slices.Contains(impureCalls, name) {
				complain(n.Pos(), "uses time.%s, but must be deterministic: time comes in the entry", name)
			}
		}
		return true
	})
}

func underlying(info *types.Info, e ast.Expr) types.Type {
	if t := info.TypeOf(e); t != nil {
		return t.Underlying()
	}
	return nil
}

func calledFunction(info *types.Info, call *ast.CallExpr) (path, name string) {
	if selector, ok := call.Fun.(*ast.SelectorExpr); ok {
		return selected(info, selector)
	}
	return "", ""
}

// selected returns the package and the name of a selector such as time.Now; "" for others.
func selected(info *types.Info, selector *ast.SelectorExpr) (path, name string) {
	if x, ok := selector.X.(*ast.Ident); ok {
		if imported, ok := info.Uses[x].(*types.PkgName); ok {
			return imported.Imported().Path(), selector.Sel.Name
		}
	}
	return "", ""
}

func (p source) imports() imports {
	paths := func(files []*ast.File) []string {
		all := map[string]bool{}
		for _, file := range files {
			for _, spec := range file.Imports {
				path, _ := strconv.Unquote(spec.Path.Value) // the parser has checked it
				all[path] = true
			}
		}
		return slices.Sorted(maps.Keys(all))
	}
	return imports{path: p.path, files: paths(p.files), tests: paths(p.tests)}
}

// modulePackages parses every package of this module, whatever its build constraints.
func modulePackages(t *testing.T) []source {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	byPath := map[string]*source{}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if path == root {
				return nil
			}
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
				return filepath.SkipDir // another module
			}
			if name := entry.Name(); strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		below, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		p := byPath[below]
		if p == nil {
			p = &source{path: filepath.ToSlash(below), set: token.NewFileSet()}
			byPath[below] = p
		}
		file, err := parser.ParseFile(p.set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, "_test.go") {
			p.tests = append(p.tests, file)
		} else {
			p.files = append(p.files, file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(byPath) == 0 {
		t.Fatalf("no Go files below %s", root)
	}
	packages := make([]source, 0, len(byPath))
	for _, path := range slices.Sorted(maps.Keys(byPath)) {
		packages = append(packages, *byPath[path])
	}
	return packages
}
