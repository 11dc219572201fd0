package daemon

import (
	"net/http"
	"slices"
)

// anyOrigin in place of an origin means all of them.
const anyOrigin = "*"

// cors decides what web pages may do with the API. A browser lets every page send requests to every
// address that it can reach, and asks the server whether the page may see the answer and, only for
// some requests, whether they may be sent. So a page of an origin that is not allowed is told
// nothing, and its writes are refused as well.
type cors struct {
	origins []string
	foreign *http.CrossOriginProtection // knows which requests come from other origins
}

// newCORS returns what allows origins, each "scheme://host[:port]" or anyOrigin.
func newCORS(origins []string) (cors, error) {
	foreign := http.NewCrossOriginProtection()
	for _, origin := range origins {
		if origin == anyOrigin {
			continue
		}
		if err := foreign.AddTrustedOrigin(origin); err != nil {
			return cors{}, err
		}
	}
	return cors{origins, foreign}, nil
}

// wrap puts the decision before next. OPTIONS is answered on every path, as by etcd.
func (c cors) wrap(next http.Handler) http.Handler {
	anyMay := slices.Contains(c.origins, anyOrigin)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if anyMay {
			origin = anyOrigin
		}
		header := w.Header()
		if !anyMay && len(c.origins) > 0 {
			header.Set("Vary", "Origin") // what is kept of an answer for one page is not for another
		}
		if anyMay || slices.Contains(c.origins, origin) {
			header.Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
			header.Set("Access-Control-Allow-Origin", origin)
			header.Set("Access-Control-Allow-Headers", "accept, content-type, authorization")
		}
		switch {
		case r.Method == http.MethodOptions:
			w.WriteHeader(http.StatusOK)
		case !anyMay && c.foreign.Check(r) != nil:
			http.Error(w, "web pages of another origin may not write here; to allow one, start kvd with --cors and its origin", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// unsniffed has browsers take every answer for what it says it is. A value may hold a script.
func unsniffed(next http.Handler) http.Handler {
	nosniff := []string{"nosniff"} // shared by all answers
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Content-Type-Options"] = nosniff
		next.ServeHTTP(w, r)
	})
}
