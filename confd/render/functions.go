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
		{"Keys", keyFunctions}, {"Services", serviceFunctions}, {"Lists", listFunctions}, {"Maps", mapFunctions},
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
	funcs := template.FuncMap{tickFunction: r.tick, enterFunction: r.enter, leaveFunction: r.leave}
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
	if strings.ContainsAny(format, "*[.0123456789+#xqUX") { // widths, values used twice, and verbs that spell bytes out
		verbs := strings.Count(format, "%")
		longest := 0
		for _, value := range values {
			one, _ := size(value)
			longest = max(longest, one)
		}
		bytes = verbs*10*longest + widths(format)
	}
	if err := r.spend(len(format) + bytes); err != nil {
		return "", err
	}
	return fmt.Sprintf(format, values...), nil
}

// widths returns how many bytes the widths and precisions in format ask for at the most.
func widths(format string) int {
	const fmtMax = 1_000_000 // fmt takes no larger one
	total, number := 0, 0
	for i := range len(format) {
		switch c := format[i]; {
		case c == '*':
			total += 2 * fmtMax
		case c >= '0' && c <= '9':
			number = min(10*number+int(c-'0'), fmtMax)
		default:
			total, number = total+4*number, 0
		}
	}
	return total + 4*number
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
