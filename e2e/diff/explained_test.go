package diff

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/kvd-io/kvd/e2e/speaker"
)

// explanation is one difference that is meant. Each has a row in docs/reference/compatibility.md,
// under "Differences you may notice", whose topic is the name.
type explanation struct {
	name string
	etcd string // what etcd does
	kvd  string // what kvd does instead
	auth bool   // it needs users and roles to be seen

	rewrite func(etcd string) string              // what of etcd's answer or event is the same in other letters
	answer  func(s *step) bool                    // whether these answers differ for this reason
	events  func(w *watch, etcd, kvd string) fate // the same for the next events of a watch, "" for none
	parts   bool                                  // the stores differ from here on: the sequence ends
}

// fate is what becomes of the next events of a watch, when they differ.
type fate int

const (
	unexplained  fate = iota
	skipEtcd          // etcd's event is not kvd's to send
	skipKvd           // the reverse
	etcdIsDeaf        // etcd sends nothing more to this watch; kvd's events are judged alone
	incomparable      // the watches saw different things; the client goes away
)

// explained is the whole list.
var explained = []explanation{
	{
		name: "Redirect to the clean path", etcd: "301 with a line of HTML", kvd: "307 without a body",
		answer: func(s *step) bool {
			return s.etcd.Status == http.StatusMovedPermanently && s.kvd.Status == http.StatusTemporaryRedirect && s.kvd.Body == "" &&
				sameTarget(s.etcd.Header.Get("Location"), s.kvd.Header.Get("Location"))
		},
	},
	{
		name: "`%2e%2e` in a path", etcd: "redirects to what it leads to", kvd: "cleans the key",
		answer: func(s *step) bool {
			return s.etcd.Status == http.StatusMovedPermanently && escapedDots.MatchString(s.target())
		},
	},
	{
		name: "`\\b` and `\\f` in JSON strings", etcd: `\u0008 and \u000c`, kvd: `\b and \f`,
		rewrite: func(etcd string) string { return shortEscape.ReplaceAllStringFunc(etcd, shorten) },
	},
	{
		name: "Refreshes in the history", etcd: "each takes one of the 1000 places", kvd: "they take none",
		answer: func(s *step) bool {
			return s.run.unevenHistory() && s.parameters.Has("waitIndex") && code(s.etcd.Body) == 401 && (s.kvd.Status == http.StatusOK || code(s.kvd.Body) == 401)
		},
	},
	{
		name: "Streaming watch from the past", etcd: "sends one event and then nothing", kvd: "sends all and goes on",
		events: func(w *watch, etcd, kvd string) fate {
			return when(w.stream && w.old && w.heard == 1 && etcd == "" && kvd != "", etcdIsDeaf)
		},
	},
	{
		name: "Deletion seen by a stream on exactly that key", etcd: "delivers it twice", kvd: "once",
		events: func(w *watch, etcd, kvd string) fate {
			return when(w.stream && etcd != "" && etcd == w.last && isRemoval(etcd), skipEtcd)
		},
	},
	{
		name: "Hidden keys in a recursive watch", etcd: "delivers them from the past", kvd: "leaves them out",
		events: func(w *watch, etcd, kvd string) fate {
			return when(w.past() && w.recursive && hiddenBelow(w.path, eventKey(etcd)), incomparable)
		},
	},
	{
		name: "Deleted directory, watch from the past", etcd: "compares the letters of paths", kvd: "compares paths",
		events: func(w *watch, etcd, kvd string) fate {
			key := eventKey(etcd)
			return when(w.past() && isRemoval(etcd) && strings.HasPrefix(w.path, key) && w.path != key && !strings.HasPrefix(w.path, key+"/"), incomparable)
		},
	},
	{
		name: "Deleted directory, live watch below it", etcd: "wakes only watches of keys that were there", kvd: "wakes all",
		events: func(w *watch, etcd, kvd string) fate {
			return when(isRemoval(kvd) && strings.HasPrefix(w.path, eventKey(kvd)+"/"), skipKvd)
		},
	},
	{
		name: "`refresh=true` of a directory", etcd: "with prevExist=true its TTL changes", kvd: "102", parts: true,
		answer: func(s *step) bool {
			return isTrue(s.parameters.Get("refresh")) && s.etcd.Status == http.StatusOK && code(s.kvd.Body) == 102
		},
	},
	{
		name: "`refresh=true` and `dir=true` on a key", etcd: "the key becomes an empty directory", kvd: "it is refreshed", parts: true,
		answer: func(s *step) bool {
			return isTrue(s.parameters.Get("refresh")) && isTrue(s.parameters.Get("dir")) && s.etcd.Status == s.kvd.Status && strings.Contains(s.etcd.Body, `"dir":true`)
		},
	},
	{
		name: "TTL too long for 64-bit nanoseconds", etcd: "overflows", kvd: "292 years", parts: true,
		answer: func(s *step) bool { return s.ttl() > 7_000_000_000 && s.etcd.Status == s.kvd.Status },
	},
	{
		name: "Form larger than 1.5 MiB", etcd: "accepts up to 10 MiB", kvd: "413", parts: true,
		answer: func(s *step) bool {
			return s.kvd.Status == http.StatusRequestEntityTooLarge && len(s.parameters.Get("value")) > 1_500_000
		},
	},
	{
		name: "Key of more than 128 levels", etcd: "accepted", kvd: "a write is 413", parts: true,
		answer: func(s *step) bool {
			return s.kvd.Status == http.StatusRequestEntityTooLarge && strings.Count(s.path, "/") > 128
		},
	},
	{
		auth: true, name: "`PUT`, `DELETE` of `/v2/auth/users/a/b` without credentials", etcd: "400", kvd: "401",
		answer: func(s *step) bool {
			return strings.HasPrefix(s.path, "/v2/auth/") && strings.Contains(s.etcd.Body, "Invalid path") && s.kvd.Status == http.StatusUnauthorized
		},
	},
	{
		auth: true, name: "Access control: `prevNode`, the cause of error 101, the value in the answer to a refresh", etcd: "shown to whoever may write", kvd: "only to whoever may read",
		answer: func(s *step) bool {
			kvd := speaker.NormalBody(s.kvd.Body, 0)
			return s.run.auth && s.etcd.Status == s.kvd.Status && kvd == speaker.NormalBody(withoutOld.ReplaceAllString(s.etcd.Body, "$1"), 0) ||
				s.run.auth && isTrue(s.parameters.Get("refresh")) && s.etcd.Status == s.kvd.Status && eventKey(s.kvd.Body) == ""
		},
	},
	{
		auth: true, name: "Access control: the root", etcd: "`/*` is not for the root", kvd: "it is", parts: true,
		answer: func(s *step) bool { return s.oneRefuses() && strings.Trim(s.path, "/") == "v2/keys" },
	},
	{
		auth: true, name: "Access control: a slash at the end of a key", etcd: "part of what patterns see", kvd: "for directories", parts: true,
		answer: func(s *step) bool { return s.oneRefuses() && strings.HasSuffix(s.path, "/") },
	},
	{
		auth: true, name: "Access control: `recursive=true` by a guest", etcd: "is not looked at; one pattern of a user must cover all", kvd: "all patterns together", parts: true,
		answer: func(s *step) bool { return s.oneRefuses() && isTrue(s.parameters.Get("recursive")) },
	},
	{
		auth: true, name: "Access control: TTL of a directory", etcd: "needs the right on its key", kvd: "and on all below", parts: true,
		answer: func(s *step) bool { return s.oneRefuses() && s.kvd.Status == http.StatusUnauthorized && s.ttl() >= 0 },
	},
	{
		auth: true, name: "Access control: keys", etcd: "compared as sent", kvd: "cleaned first", parts: true,
		answer: func(s *step) bool { return s.oneRefuses() && strings.Contains(s.path, "//") },
	},
	{
		auth: true, name: "Access control: listings", etcd: "show all children", kvd: "those that may be read",
		answer: func(s *step) bool {
			return s.run.auth && s.etcd.Status == 200 && s.kvd.Status == 200 && strings.Contains(s.etcd.Body, `"nodes":[`) && len(s.kvd.Body) < len(s.etcd.Body)
		},
	},
	{
		auth: true, name: "`grant` and `revoke` without a pattern for a new role", etcd: "are kept and shown", kvd: "are ignored",
		answer: func(s *step) bool {
			return strings.HasPrefix(s.path, "/v2/auth/roles") && s.etcd.Status == s.kvd.Status && strings.Contains(s.etcd.Body, `"grant"`) != strings.Contains(s.kvd.Body, `"grant"`)
		},
	},
	{
		auth: true, name: "Requests that make etcd 3.4 panic, such as `Authorization: Basic` with an empty name", etcd: "no answer", kvd: "an answer", parts: true,
		answer: func(s *step) bool {
			return s.run.auth && s.etcd.Status == 0 && s.kvd.Status != 0
		},
	},
	{
		name: "`/health`", etcd: "3.4 has no reason", kvd: "reason, as 3.5",
		rewrite: func(etcd string) string {
			return strings.Replace(etcd, `{"health":"true"}`, `{"health":"true","reason":""}`, 1)
		},
	},
}

// oneRefuses tells whether one server lets the request pass and the other asks for more rights.
func (s *step) oneRefuses() bool {
	return s.run.auth && (s.etcd.Status == http.StatusUnauthorized) != (s.kvd.Status == http.StatusUnauthorized)
}

func when(holds bool, f fate) fate {
	if holds {
		return f
	}
	return unexplained
}

var (
	escapedDots = regexp.MustCompile(`(?i)(/|%2f)(\.|%2e)+((/|%2f)|\?|$)|%2f%2f|%2f/|/%2f`)
	withoutOld  = regexp.MustCompile(`,"(?:prevNode":\{.*\}(\})|cause":"(?:[^"\\]|\\.)*")`)
	shortEscape = regexp.MustCompile(`\\+u000[8c]`)
	keyOfNode   = regexp.MustCompile(`"node":\{"key":("(?:[^"\\]|\\.)*")`)
	codeOfError = regexp.MustCompile(`^\{"errorCode":(\d+),`)
)

// shorten makes \b of \u0008, unless the backslash is itself escaped.
func shorten(escape string) string {
	slashes := strings.TrimRight(escape, "u08c")
	if len(slashes)%2 == 0 {
		return escape
	}
	return slashes + map[byte]string{'8': "b", 'c': "f"}[escape[len(escape)-1]]
}

// code returns the error code of a body, or 0.
func code(body string) int {
	found := codeOfError.FindStringSubmatch(body)
	if found == nil {
		return 0
	}
	n, _ := strconv.Atoi(found[1])
	return n
}

// eventKey returns the key of an event, or "".
func eventKey(event string) string {
	found := keyOfNode.FindStringSubmatch(event)
	if found == nil {
		return ""
	}
	key, err := unquoteJSON(found[1])
	if err != nil {
		return ""
	}
	return key
}

func isRemoval(event string) bool {
	return strings.HasPrefix(event, `{"action":"delete"`) || strings.HasPrefix(event, `{"action":"compareAndDelete"`) || strings.HasPrefix(event, `{"action":"expire"`)
}

// hiddenBelow tells whether key has a hidden part below path.
func hiddenBelow(path, key string) bool {
	below, ok := strings.CutPrefix(key, path)
	return ok && strings.Contains(below, "/_")
}

func isTrue(value string) bool {
	truth, err := strconv.ParseBool(value)
	return err == nil && truth
}

// sameTarget compares redirects: etcd escapes percent signs again, and everything in capitals.
func sameTarget(etcd, kvd string) bool { return plain(etcd) == plain(kvd) }

func plain(target string) string {
	for {
		shorter, err := url.PathUnescape(target)
		if err != nil || shorter == target {
			return target
		}
		target = shorter
	}
}
