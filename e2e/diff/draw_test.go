package diff

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// drawer draws the lines of one sequence. What it draws depends on the seed and on the answers so
// far: conditions aim at the indices that keys have, so that they hold often enough.
type drawer struct {
	*rand.Rand
	keys    []string
	indices map[string]int64 // where each key was last written, relative to the beginning
	files   map[string]bool  // the keys that were not directories when last written
	now     int64            // the last index seen, relative to the beginning
	watches int
	open    []string
	next    []string // lines that belong together
	burst   bool
	auth    bool
	ttl     bool
}

func newDrawer(seed uint64) *drawer {
	d := &drawer{Rand: rand.New(rand.NewPCG(seed, 41))}
	d.burst, d.ttl, d.auth = seed%20 == 7, seed%2 == 0, *withAuth && seed%20 == 3
	for range 4 + d.IntN(10) {
		d.keys = append(d.keys, d.key())
	}
	return d
}

// forget is for the beginning with fresh servers.
func (d *drawer) forget() {
	d.indices, d.files, d.now, d.open, d.next = map[string]int64{}, map[string]bool{}, 0, nil, nil
}

// pick returns one of words, a rare one of those after "|" in one of 16 cases.
func (d *drawer) pick(words ...string) string {
	common, rare := words, words
	for i, word := range words {
		if word == "|" {
			common, rare = words[:i], words[i+1:]
		}
	}
	if d.IntN(16) == 0 {
		return rare[d.IntN(len(rare))]
	}
	return common[d.IntN(len(common))]
}

func (d *drawer) chance(oneIn int) bool { return d.IntN(oneIn) == 0 }

// key draws a key below ~ from few enough names that keys get in each other's way.
func (d *drawer) key() string {
	path := "~"
	for range 1 + d.IntN(3) {
		path += "/" + d.pick("a", "b", "a-b", "ab", "_h", "c",
			"|", "A", "%c3%a9", "%e2%98%83", `\xc3\xa9`, "%ff", `\xff\xfe`, "%00", "%0a", "%3f", "%23", "%25", "%2525", "%252e%252e", "+", "%2B", "%20",
			"..a", "...", ".a", "a%2fb", "a%2F_h", "%5f%5f", "a;b", "a=b&c", "a,b", "*", "%2a", "%22", "%5c", "%3cb%3e", "%e2%80%a8", "00000000000000000009",
			"_", "__", "a_", "%7e", "{x*300}", "{long*2000}", "keys", "v2", "a:b", "@", "%7f", "%08")
	}
	return path
}

// path is a key as a request names it.
func (d *drawer) path() string {
	path := d.keys[d.IntN(len(d.keys))]
	switch {
	case d.chance(6): // its parent or an ancestor
		path = path[:strings.LastIndexByte(path, '/')]
	case d.chance(6): // something below it
		path += "/" + d.pick("a", "b", "_h", "|", "%c3%a9", "x")
	case d.chance(12):
		path = d.key()
	}
	switch {
	case d.chance(25):
		path += "/"
	case d.chance(80):
		path += d.pick("//", "/./", "/../a", "//a", "/.", "/..", "%2f")
	}
	return path
}

// parameter draws one parameter of name, mostly a good one.
func (d *drawer) parameter(name, path string) string {
	switch name {
	case "value":
		return "value=" + d.pick("one", "two", "one", "two", "three", "", "%00%01%09%0A%0D%1F%22%5C%2F%7F", "%3C%3E%26", "%c3%a9%e2%80%a8%e2%80%a9", "%ff%fe%c3", "a+b%2Bc",
			"|", "{x*3000}", "{%c3%a9*20000}", "%08%0c", "a%08%5Cu0008", "%zz", "a;b", "{%3C*5000}", "null", "{x*300000}", "%f0%9f%98%80", "%ed%a0%80", "%c0%80", "%ef%bf%bd", "%ef%bf%be")
	case "prevValue":
		return "prevValue=" + d.pick("one", "two", "three", "|", "", "%ff", "%3C%3E%26", "a%22b", "%e2%80%a8")
	case "prevIndex":
		return "prevIndex=" + d.pick(d.indexOf(path), d.indexOf(path), fmt.Sprintf("{%+d}", d.Int64N(d.now+2)), "|", "0", "", "x", "-1", "+1", "01", "18446744073709551615", "18446744073709551616", "1e1")
	case "waitIndex":
		return "waitIndex=" + d.pick(d.indexOf(path), fmt.Sprintf("{%+d}", d.now+1), fmt.Sprintf("{%+d}", d.now+1+d.Int64N(4)), fmt.Sprintf("{%+d}", d.Int64N(d.now+1)), "0", "|", "", "x", "1", "2", "18446744073709551615", "9223372036854775808")
	case "ttl":
		if d.ttl && d.chance(6) {
			return "ttl=" + d.pick("1", "0", "2", "|", "01")
		}
		return "ttl=" + d.pick("5100", "5200", "5300", "", "|", "-1", "1.5", "x", "+5100", "0x1400", "18446744073709551616", "5e3", "005100", "100000000")
	default:
		return name + "=" + d.pick("true", "false", "true", "1", "t", "T", "TRUE", "True", "0", "f", "F", "FALSE", "False", "|", "", "x", "yes", "tRUE", "2", "true+", "on")
	}
}

func (d *drawer) indexOf(path string) string {
	if index, known := d.indices[path]; known {
		return fmt.Sprintf("{%+d}", index)
	}
	return fmt.Sprintf("{%+d}", d.now)
}

// parameters draws those of names that one in oneIn requests has, and rarely others.
func (d *drawer) parameters(path string, oneIn int, names ...string) []string {
	var drawn []string
	for _, name := range names {
		if d.chance(oneIn) {
			drawn = append(drawn, d.parameter(name, path))
		}
	}
	if d.chance(30) {
		drawn = append(drawn, d.pick("x=1", "x=%zz", "x;y", "&&=", "QUORUM=x", "dir", "recursive", "=", "%64ir=true", "value[]=1", "VALUE=2"))
	}
	if len(drawn) > 0 && d.chance(30) {
		drawn = append(drawn, d.parameter(names[d.IntN(len(names))], path))
	}
	return drawn
}

// request puts method, path and parameters into a line: in the query, or for some in a form.
func (d *drawer) request(method, path string, parameters []string) string {
	var query, form []string
	readsForm := method == "PUT" || method == "POST"
	for _, p := range parameters {
		if strings.Contains(p, "*") && !readsForm {
			continue // too long for a request line
		}
		if strings.Contains(p, "*") || readsForm && !d.chance(3) || !readsForm && d.chance(20) {
			form = append(form, p)
		} else {
			query = append(query, p)
		}
	}
	line := method + " " + path
	if len(query) > 0 {
		line += "?" + strings.Join(query, "&")
	}
	for _, p := range form {
		line += " " + p
	}
	if len(form) > 0 && d.chance(20) {
		line += " Content-Type:" + d.pick("application/json", "text/plain", "none", "application/x-www-form-urlencoded;charset=utf-8", "multipart/form-data;boundary=x", ";;",
			"APPLICATION/X-WWW-FORM-URLENCODED", "application/x-www-form-urlencoded;boundary", "text/plain,application/x-www-form-urlencoded", `application/x-www-form-urlencoded\x20;\x20charset`)
	}
	if d.chance(30) {
		line += " Transfer-Encoding:chunked"
	}
	if d.chance(60) {
		line += " " + d.pick("X-HTTP-Method-Override:DELETE", "Range:bytes=0-3", "If-None-Match:*", "Accept:text/html", "Origin:http://other.example", "Accept-Encoding:gzip", "Cookie:a=b")
	}
	if d.chance(5) {
		line = "@2 " + line
	}
	return line
}

// line draws the next line.
func (d *drawer) line() string {
	if len(d.next) > 0 {
		line := d.next[0]
		d.next = d.next[1:]
		return line
	}
	if d.auth {
		return d.authLine()
	}
	return d.anyLine()
}

func (d *drawer) anyLine() string {
	switch n := d.IntN(200); {
	case n < 64:
		return d.write()
	case n < 84:
		path := d.path()
		return d.request("DELETE", path, d.parameters(path, 3, "recursive", "dir", "prevValue", "prevIndex"))
	case n < 98:
		path := d.path()
		return d.request("POST", path, append([]string{d.parameter("value", path)}, d.parameters(path, 8, "dir", "ttl", "noValueOnSuccess", "prevExist", "refresh", "prevIndex")...))
	case n < 150:
		path := d.path()
		return d.request(d.pick("GET", "GET", "GET", "HEAD"), path, d.parameters(path, 4, "recursive", "sorted", "quorum", "dir", "stream", "noValueOnSuccess"))
	case n < 164:
		return d.watch()
	case n < 168 && len(d.open) > 0:
		i := d.IntN(len(d.open))
		name := d.open[i]
		d.open = append(d.open[:i:i], d.open[i+1:]...)
		return name + " close"
	case n < 186:
		return d.write()
	case n < 190: // every parameter on every method
		path := d.path()
		return d.request(d.pick("GET", "HEAD", "DELETE", "PUT", "POST"), path,
			d.parameters(path, 3, "prevIndex", "waitIndex", "recursive", "sorted", "dir", "quorum", "stream", "prevValue", "noValueOnSuccess", "ttl", "prevExist"))
	case n < 193:
		return d.pick("PATCH", "OPTIONS", "TRACE", "CONNECT", "put", "FOO") + " " + d.path()
	case n < 194 && d.burst:
		d.burst = false
		// The window of the history ends in the middle of what comes now; a refresh moves etcd's.
		d.next = []string{"PUT ~/burst refresh=true ttl=5100",
			fmt.Sprintf("GET ~/burst?wait=true&waitIndex={%+d}", d.now+1), fmt.Sprintf("GET ~/burst?wait=true&waitIndex={%+d}", d.now+4)}
		return "1000 times " + d.request("PUT", "~/burst", []string{"value=x"})
	case n < 195:
		return d.request(d.pick("GET", "HEAD"), d.keys[d.IntN(len(d.keys))]+d.pick("/%2e%2e/a", "/%2e", "%2f%2fa", "/%2E%2E/%2E%2E", "%2f.%2fa"), nil)
	case n < 196:
		path := d.path()
		if d.chance(8) {
			return d.request("PUT", "~/{a/*140}x", nil)
		}
		return d.request("PUT", path, []string{d.pick("ttl=9000000000", "ttl=18446744073709551615", "value={x*1600000}", "refresh=true&dir=true&ttl=5100", "refresh=true&prevExist=true&ttl=5100")})
	default:
		return d.elsewhere()
	}
}

// write draws a PUT of one of the kinds that clients send, with odd parameters thrown in.
func (d *drawer) write() string {
	path := d.path()
	kinds := [][]string{{"value"}, {"value"}, {"value", "ttl"}, {"dir=true"}, {"dir=true", "ttl"}, {"value", "prevExist=true"}, {"value", "prevExist=false"},
		{"value", "prevIndex"}, {"value", "prevValue"}, {"value", "prevValue", "prevIndex"}, {"prevExist=true", "ttl"}, {"prevExist=true", "dir=true", "ttl"},
		{"refresh=true", "ttl"}, {"refresh=true", "ttl", "prevExist=true"}, {"refresh=true", "ttl", "prevValue"}, {}}
	kind := kinds[d.IntN(len(kinds))]
	if len(kind) > 2 && kind[0] == "refresh=true" && !d.files[path] {
		kind = kinds[0] // of a directory it parts the stores
	}
	var drawn []string
	for _, name := range kind {
		if !strings.Contains(name, "=") {
			name = d.parameter(name, path)
		}
		drawn = append(drawn, name)
	}
	return d.request("PUT", path, append(drawn, d.parameters(path, 12, "value", "ttl", "dir", "prevExist", "prevValue", "prevIndex", "refresh", "noValueOnSuccess", "sorted", "recursive")...))
}

// watch draws a GET that waits. At most four are open; the oldest makes room.
func (d *drawer) watch() string {
	if len(d.open) >= 4 {
		name := d.open[0]
		d.open = d.open[1:]
		return name + " close"
	}
	path := d.path()
	drawn := []string{"wait=" + d.pick("true", "true", "1", "t")}
	if d.chance(2) {
		drawn = append(drawn, "recursive=true")
	}
	if d.chance(2) {
		drawn = append(drawn, "stream=true")
	}
	drawn = append(drawn, d.parameters(path, 2, "waitIndex")...)
	drawn = append(drawn, d.parameters(path, 30, "quorum", "sorted", "prevValue", "ttl", "recursive", "stream")...)
	d.watches++
	name := fmt.Sprintf("w%d", d.watches)
	d.open = append(d.open, name)
	return fmt.Sprintf("%s: GET %s?%s", name, path, strings.Join(drawn, "&"))
}

// elsewhere draws a request outside the keys, or of their root.
func (d *drawer) elsewhere() string {
	method := d.pick("GET", "GET", "GET", "HEAD", "|", "PUT", "DELETE", "POST", "OPTIONS", "PATCH")
	path := d.pick("/v2/machines", "/v2/members", "/v2/members/", "/v2/members/leader", "/version", "/health", "/v2/stats/self", "/v2/stats/leader", "/v2/stats/store",
		"/v2/keys", "/v2/keys/", "/v2/keys?recursive=true", "/v2/keys/?sorted=true&recursive=true", "/v2/keys?quorum=true",
		"|", "/", "/v2", "/v2/", "/v2/keysfoo", "/v2/machines/", "/v2/stats", "/v2/stats/self/", "/v2/stats/nothing", "/v2/members/none", "/v2/auth", "/v2/auth/", "/v1/keys/a", "/version/", "/nothing", "*", "//v2/keys/a", "/v2//keys")
	if (method == "POST" || method == "PUT" || method == "DELETE") && strings.HasPrefix(path, "/v2/members") {
		return method + " /v2/members/none" // what would change the cluster is not for here
	}
	return method + " " + path
}

// learn notes where a key was written.
func (d *drawer) learn(s *step) {
	index, err := strconv.ParseInt(s.etcd.Header.Get("X-Etcd-Index"), 10, 64)
	if err != nil || index == 0 {
		return
	}
	d.now = max(d.now, index-s.run.base)
	if s.etcd.Status < 300 && strings.Contains(" "+s.line, " PUT ") {
		key, _, _ := strings.Cut(s.target(), "?")
		d.indices[key] = d.now
		d.files[key] = strings.Contains(s.etcd.Body, `"value"`)
	}
}
