// Package route is the table of all that the daemon answers over HTTP: each path with its methods,
// and for each method who may use it while access control is on. What is not in the table cannot
// be reached, and nothing comes into it without saying who may.
//
// It knows paths and methods. It knows no keys, users or answers: the rooms bring their routes,
// and the daemon brings what lets root through.
package route

import (
	"fmt"
	"net/http"
	"path"
	"strings"
)

// Needs says whom a method is for while access control is on.
type Needs uint8

// The zero value is none of them, so that a method whose Needs were forgotten is found at the start.
const (
	Nothing Needs = iota + 1 // anybody: it tells nothing that is protected and changes nothing
	Rights                   // whoever has rights on the keys at stake: its handler asks the service for each
	Root                     // a user with the role root: the table lets nobody else through
)

// String returns the word for n.
func (n Needs) String() string {
	switch n {
	case Nothing:
		return "nothing"
	case Rights:
		return "rights"
	case Root:
		return "root"
	}
	return fmt.Sprintf("needs %d", uint8(n))
}

// Method is one method of a route.
type Method struct {
	Name  string
	Needs Needs
}

// For returns methods that all need the same.
func For(needs Needs, methods ...string) []Method {
	list := make([]Method, len(methods))
	for i, name := range methods {
		list[i] = Method{Name: name, Needs: needs}
	}
	return list
}

// Route is one path and what answers it.
type Route struct {
	Path    string   // escaped and clean, "/v2/keys"
	Below   bool     // every path below it is its own as well; the path itself may have a route without
	Methods []Method // in the order of the Allow header
	Handler http.HandlerFunc
}

// Table answers requests by their routes. It is safe for concurrent use.
type Table struct {
	trees []entry          // routes with Below, in the order given
	exact map[string]entry // the others
	all   []Route
}

type entry struct {
	path     string
	handlers map[string]http.HandlerFunc
	allow    string
}

// New returns the table of routes. onlyRoot returns a handler that passes on to next what root asks
// and refuses the rest; it is put before every method that needs Root. Routes that are searched
// most belong first. New panics on a route that is not complete, or that is there twice: the
// routes are part of the program.
func New(onlyRoot func(next http.HandlerFunc) http.HandlerFunc, routes ...Route) *Table {
	t := &Table{exact: map[string]entry{}, all: routes}
	type place struct {
		path  string
		below bool
	}
	seen := map[place]bool{}
	for _, r := range routes {
		if seen[place{r.Path, r.Below}] || r.Handler == nil || len(r.Methods) == 0 || r.Path != cleanPath(r.Path) {
			panic(fmt.Sprintf("route %q is there twice or not complete", r.Path))
		}
		seen[place{r.Path, r.Below}] = true
		e := entry{path: r.Path, handlers: map[string]http.HandlerFunc{}}
		var names []string
		for _, m := range r.Methods {
			handler := r.Handler
			switch m.Needs {
			case Nothing, Rights:
			case Root:
				handler = onlyRoot(handler)
			default:
				panic(fmt.Sprintf("route %q does not say who may use %s", r.Path, m.Name))
			}
			e.handlers[m.Name] = handler
			names = append(names, m.Name)
		}
		e.allow = strings.Join(names, ",")
		if r.Below {
			t.trees = append(t.trees, e)
		} else {
			t.exact[r.Path] = e
		}
	}
	return t
}

// Routes returns the routes in the order given. The slice is shared: read only.
func (t *Table) Routes() []Route { return t.all }

// ServeHTTP routes by the escaped path, so that an escaped separator or dot is part of a key and
// never of the route. A path that is not clean is redirected, one without a route is answered 404,
// a method that its route does not have 405.
func (t *Table) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	escaped := r.URL.EscapedPath()
	if escaped == "*" { // the server as a whole, of which only OPTIONS can be asked
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if clean := cleanPath(escaped); clean != escaped && r.Method != http.MethodConnect { // whose target is no path
		redirect(w, r, clean)
		return
	}
	e, ok := t.find(escaped)
	if !ok {
		http.NotFound(w, r)
		return
	}
	handler, ok := e.handlers[r.Method]
	if !ok {
		w.Header().Set("Allow", e.allow)
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	handler(w, r)
}

func (t *Table) find(escaped string) (entry, bool) {
	for _, e := range t.trees {
		if rest, ok := strings.CutPrefix(escaped, e.path); ok && (rest == "" || rest[0] == '/') {
			if len(rest) <= 1 {
				if itself, ok := t.exact[escaped]; ok {
					return itself, true
				}
			}
			return e, true
		}
	}
	e, ok := t.exact[escaped]
	return e, ok
}

// cleanPath returns the path without empty, "." and ".." segments; a trailing slash stays.
func cleanPath(escaped string) string {
	if !strings.HasPrefix(escaped, "/") {
		escaped = "/" + escaped
	}
	clean := path.Clean(escaped) // allocates nothing for a path that is clean
	switch {
	case clean == "/" || !strings.HasSuffix(escaped, "/"):
		return clean
	case len(clean)+1 == len(escaped):
		return escaped
	}
	return clean + "/"
}

// redirect sends the client to the clean spelling with the same method and body. It has no body of
// its own: nothing that a client sent comes back as HTML.
func redirect(w http.ResponseWriter, r *http.Request, escaped string) {
	if r.URL.RawQuery != "" {
		escaped += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", escaped)
	w.WriteHeader(http.StatusTemporaryRedirect)
}
