package gateway

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// asked is a request of the keys API in the one spelling in which it is checked, remembered and passed on: a
// clean key, and of each parameter that the API has the value that counts.
type asked struct {
	method string
	key    string   // clean
	asDir  bool     // it had a slash at its end
	only   []string // keys to which a read or watch is narrowed, clean, as often as they were named
	params url.Values

	recursive bool // or not told clearly
	wait      bool // as a watch: GET with wait and without quorum
	stream    bool
	waitIndex kv.Index
	plain     bool // nothing but recursive and sorted was given, if anything, and it is clear
}

// parameters are those of the keys API, beside only, which alone counts as often as it is given. Others mean nothing to a store, and are not passed on.
var parameters = []string{"value", "ttl", "lease", "dir", "recursive", "sorted", "quorum", "wait", "stream", "waitIndex",
	"prevExist", "prevValue", "prevIndex", "refresh", "noValueOnSuccess"}

// ask returns the request for what is at a path below the keys, decoded, with the values of its query and form,
// those of the form first.
func ask(method, below string, values url.Values) asked {
	q := asked{method: method, params: url.Values{}}
	q.key, q.asDir = kv.SplitDir(below)
	for _, name := range parameters {
		if given := values[name]; len(given) > 0 {
			q.params[name] = given[:1]
		}
	}
	for _, key := range values[etcdv2.ParamOnly] {
		q.only = append(q.only, kv.Clean(key))
		q.params.Add(etcdv2.ParamOnly, nameOf(kv.Clean(key)))
	}
	recursive, clear := q.flag("recursive")
	q.recursive = recursive || !clear
	wait, waitClear := q.flag("wait")
	quorum, quorumClear := q.flag("quorum")
	stream, streamClear := q.flag("stream")
	index, indexErr := strconv.ParseUint(q.params.Get("waitIndex"), 10, 64)
	q.wait = method == http.MethodGet && wait && !quorum && clear && waitClear && quorumClear && streamClear &&
		(indexErr == nil || !q.params.Has("waitIndex"))
	q.stream, q.waitIndex = stream, index
	_, sortedClear := q.flag("sorted")
	q.plain = clear && sortedClear && len(q.params) == q.given("recursive")+q.given("sorted")
	return q
}

func (q asked) given(name string) int {
	if q.params.Has(name) {
		return 1
	}
	return 0
}

// flag returns whether a flag is on, and whether it is clear: absent or as the API writes one.
func (q asked) flag(name string) (on, clear bool) {
	if !q.params.Has(name) {
		return false, true
	}
	on, err := strconv.ParseBool(q.params.Get(name))
	return on, err == nil
}

// reads reports whether the request changes nothing.
func (q asked) reads() bool { return q.method == http.MethodGet || q.method == http.MethodHead }

// narrowed reports whether the answer is to be about the keys in only, instead of its key. Where only cannot be used a
// kvd refuses, and another store does not know it.
func (q asked) narrowed() bool { return len(q.only) > 0 && q.recursive && q.reads() }

// unusual reports whether a watch has parameters that mean nothing to it, which a store checks all the same.
func (q asked) unusual() bool {
	for name := range q.params {
		if !slices.Contains([]string{"wait", "waitIndex", "recursive", "stream", etcdv2.ParamOnly}, name) {
			return true
		}
	}
	return false
}

// request returns what is passed on.
func (q asked) request() etcdv2.Request {
	r := etcdv2.Request{Method: q.method, Path: etcdv2.EscapeKey(q.key), Header: http.Header{}}
	if q.asDir && q.key != "" {
		r.Path += "/"
	}
	if q.method == http.MethodPut || q.method == http.MethodPost {
		r.Form = q.params
	} else {
		r.Query = q.params
	}
	return r
}

// without returns the request without some parameters, with one more if name is not "".
func (q asked) with(name, value string, without ...string) asked {
	params := url.Values{}
	for known, values := range q.params {
		if !slices.Contains(without, known) {
			params[known] = values
		}
	}
	if name != "" {
		params.Set(name, value)
	}
	q.params = params
	return q
}

// variant names an answer: requests of one variant are answered alike.
type variant struct {
	key               string
	asDir             bool
	recursive, sorted bool
}

func (q asked) variant() variant {
	sorted, _ := q.flag("sorted")
	return variant{q.key, q.asDir, q.recursive, sorted}
}

// cleanPath returns an escaped path without empty, "." and ".." segments; a slash at its end stays.
func cleanPath(escaped string) string {
	if !strings.HasPrefix(escaped, "/") {
		escaped = "/" + escaped
	}
	clean := path.Clean(escaped)
	if clean == "/" || !strings.HasSuffix(escaped, "/") {
		return clean
	}
	return clean + "/"
}

// under returns what follows root in an escaped path, and whether the path is root or below it.
func under(escaped, root string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(escaped, root)
	return rest, ok && (rest == "" || rest[0] == '/')
}
