package render

import (
	"fmt"
	"maps"
	"strings"
	"text/template"
)

// Where a function comes from.
const (
	FromConfd = "confd" // confd 0.16
	FromFork  = "fork"  // the maintained fork of confd
	FromKvd   = "kvd"   // here alone
)

// Function describes one function of templates.
type Function struct {
	Name      string
	Signature string // as it is called: getv KEY [DEFAULT]
	Group     string
	Text      string // what it does, in Markdown
	Example   string // a template over ExampleKeys; "" where the result depends on the machine
	Result    string // what Example makes
	Origin    string // FromConfd, FromFork or FromKvd
}

// function is a Function with what it is called with in a run.
type function struct {
	Function
	of func(r *run) any
}

// Functions returns all functions of templates beside those of text/template, by group.
func Functions() []Function {
	var all []Function
	for _, f := range table() {
		all = append(all, f.Function)
	}
	return all
}

func table() (all []function) {
	for _, group := range []struct {
		name  string
		funcs []function
	}{
		{"Keys", keyFunctions}, {"Encrypted values", cryptFunctions}, {"Services", serviceFunctions}, {"Lists", listFunctions}, {"Maps", mapFunctions},
		{"Text", textFunctions}, {"Quoting", quoteFunctions}, {"JSON and coding", codingFunctions}, {"Numbers", numberFunctions},
		{"Choices", choiceFunctions}, {"The machine", worldFunctions}, {"Templates", templateFunctions()},
	} {
		for _, f := range group.funcs {
			f.Group = group.name
			all = append(all, f)
		}
	}
	return all
}

// functions returns everything that templates of this run may call.
func (r *run) functions() template.FuncMap {
	funcs := template.FuncMap{enterFunction: r.enter, leaveFunction: r.leave}
	for _, f := range table() {
		funcs[f.Name] = f.of(r)
	}
	maps.Copy(funcs, r.boundedBuiltins())
	return funcs
}

// boundedBuiltins are the functions of text/template that can make much of little.
func (r *run) boundedBuiltins() template.FuncMap {
	sprint := func(print func(...any) string) func(...any) (string, error) {
		return func(values ...any) (string, error) {
			bytes, err := size(values...)
			if err == nil {
				err = r.spend(bytes)
			}
			if err != nil {
				return "", err
			}
			return print(values...), nil
		}
	}
	escape := func(escaper func(...any) string) func(...any) (string, error) {
		return func(values ...any) (string, error) {
			bytes, err := size(values...)
			if err == nil {
				err = r.spend(6 * bytes) // the longest escape of one byte
			}
			if err != nil {
				return "", err
			}
			return escaper(values...), nil
		}
	}
	return template.FuncMap{
		"print": sprint(fmt.Sprint), "println": sprint(fmt.Sprintln), "printf": r.printf,
		"html": escape(template.HTMLEscaper), "js": escape(template.JSEscaper),
		"urlquery": escape(template.URLQueryEscaper),
	}
}

// printf is fmt.Sprintf with an estimate of its result first: fmt would make it whole.
func (r *run) printf(format string, values ...any) (string, error) {
	bytes, err := size(values...)
	if err != nil {
		return "", err
	}
	verbs, padding, plain := verbsIn(format)
	if !plain { // a value may be used twice, or be spelled out: at ten times its length at the most
		longest := 0
		for _, value := range values {
			one, _ := size(value)
			longest = max(longest, one)
		}
		bytes = product(verbs, 10*longest) + padding
	}
	if err := r.spend(len(format) + bytes); err != nil {
		return "", err
	}
	return fmt.Sprintf(format, values...), nil
}

// verbsIn returns how many verbs format has, what their widths and precisions ask for at the most,
// and whether all of them are plain: they print a value as it is.
func verbsIn(format string) (verbs, padding int, plain bool) {
	const fmtMax = 1_000_000 // fmt takes no larger width
	plain = true
	for {
		_, rest, found := strings.Cut(format, "%")
		if !found {
			return verbs, padding, plain
		}
		verbs++
		end, number := 0, 0
		for ; end < len(rest) && strings.IndexByte("+-# 0123456789.*[]", rest[end]) >= 0; end++ {
			plain = false
			switch c := rest[end]; {
			case c >= '0' && c <= '9':
				number = min(10*number+int(c-'0'), fmtMax)
				continue
			case c == '*':
				number = fmtMax
			}
			padding, number = padding+4*number, 0
		}
		padding += 4 * number
		if end < len(rest) {
			plain = plain && strings.IndexByte("svdt%", rest[end]) >= 0
			end++
		}
		format = rest[end:]
	}
}

// ExampleKeys are the keys that the examples of functions read.
func ExampleKeys() []KVPair {
	record := func(address string, port int, more string) string {
		return fmt.Sprintf(`{"address":%q,"port":%d,"protocol":"tcp","state":"up"%s}`, address, port, more)
	}
	return []KVPair{
		{"/app/db/host", "10.0.0.5"}, {"/app/db/port", "5432"}, {"/app/motd", "a \"b\"\nc"}, {"/app/name", "shop"},
		{"/app/up/aa", "beta"}, {"/app/up/z", "alpha"},
		{"/services/api/a1", record("10.0.0.9", 9000, "")},
		{"/services/web/w1", record("10.0.0.1", 80, `,"meta":{"zone":"a"}`)},
		{"/services/web/w2", record("2001:db8::2", 80, `,"meta":{"zone":"b"},"tags":["canary"]`)},
	}
}
