package route

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPathsAreCleanedAndKeepTheirTrailingSlash(t *testing.T) {
	for dirty, clean := range map[string]string{
		"": "/", "/": "/", "//": "/", "/.": "/", "/..": "/", "a": "/a", "/a": "/a", "/a/": "/a/", "/a//": "/a/",
		"/a/./": "/a/", "/./a/": "/a/", "/a/..": "/", "/a/../": "/", "/a/../b/": "/b/", "/a/.b/..c/": "/a/.b/..c/",
		"//a/": "/a/", "/%2e%2e/a": "/%2e%2e/a",
	} {
		if got := cleanPath(dirty); got != clean {
			t.Errorf("%q becomes %q, want %q", dirty, got, clean)
		}
		if got := cleanPath(clean); got != clean {
			t.Errorf("%q is clean and becomes %q: a client would be sent round in circles", clean, got)
		}
	}
}

func answer(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(text)) }
}

func TestOnlyWhatIsInTheTableIsReached(t *testing.T) {
	refuse := func(http.HandlerFunc) http.HandlerFunc { return answer("refused") }
	table := New(refuse,
		Route{Path: "/tree", Below: true, Methods: []Method{{"GET", Rights}, {"PUT", Root}}, Handler: answer("tree")},
		Route{Path: "/tree/", Methods: []Method{{"GET", Nothing}}, Handler: answer("top")},
		Route{Path: "/leaf", Methods: []Method{{"GET", Nothing}}, Handler: answer("leaf")},
	)
	for request, want := range map[string]string{
		"GET /tree": "tree", "GET /tree/": "top", "PUT /tree/": "405 GET", "GET /tree/a/b": "tree", "PUT /tree/a": "refused", "GET /leaf": "leaf",
		"GET /trees": "404", "GET /leaf/": "404", "GET /leaf/a": "404", "GET /": "404", "GET /%74ree": "404", "GET /tree%2Fa": "404",
		"POST /tree": "405 GET,PUT", "PUT /leaf": "405 GET", "get /leaf": "405 GET",
		"GET //tree": "307 /tree", "PUT /leaf/../tree": "307 /tree", "CONNECT /tree/./a": "405 GET,PUT",
	} {
		method, path, _ := strings.Cut(request, " ")
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "http://h"+path, nil)
		r.Method = method // set late: NewRequest takes no path for CONNECT
		table.ServeHTTP(w, r)
		got := w.Body.String()
		switch w.Code {
		case http.StatusNotFound:
			got = "404"
		case http.StatusMethodNotAllowed:
			got = "405 " + w.Header().Get("Allow")
		case http.StatusTemporaryRedirect:
			got = "307 " + w.Header().Get("Location")
		}
		if got != want {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
}

func TestARouteThatDoesNotSayWhoMayCannotBeAdded(t *testing.T) {
	whole := Route{Path: "/a", Methods: []Method{{"GET", Nothing}}, Handler: answer("")}
	for name, routes := range map[string][]Route{
		"a method without needs": {{Path: "/a", Methods: []Method{{"GET", Nothing}, {Name: "PUT"}}, Handler: answer("")}},
		"unknown needs":          {{Path: "/a", Methods: []Method{{"GET", Root + 1}}, Handler: answer("")}},
		"no method":              {{Path: "/a", Handler: answer("")}},
		"no handler":             {{Path: "/a", Methods: whole.Methods}},
		"a path that is dirty":   {{Path: "/a//b", Methods: whole.Methods, Handler: answer("")}},
		"a path twice":           {whole, whole},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: accepted", name)
				}
			}()
			New(nil, routes...)
		}()
	}
}
