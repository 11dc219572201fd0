package diff

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/speaker"
	"github.com/kvd-io/kvd/pkg/kvclient/etcdtest"
)

const (
	home = "/d" // what "~" stands for

	// patience bounds the wait for an event that must come, doubt for one that may be missing for a
	// reason on the list.
	patience = 4 * time.Second
	doubt    = time.Second

	// expiryMax bounds the wait for the end of a key whose time is up: etcd looks twice a second.
	expiryMax = 8 * time.Second
)

// run is one sequence with a fresh pair of servers.
type run struct {
	etcd, kvd *speaker.Speaker
	base      int64 // the index of both at the beginning
	watches   map[string]*watch
	due       []deadline
	auth      bool // users or roles have been written
	refreshes int  // places of the history that only etcd uses
	explained map[string]int
	quit      []func()
}

// deadline is a key that expires soon.
type deadline struct {
	path  string    // as the request named it
	first time.Time // the earliest moment
	lines int       // how many lines may come before it is waited for
}

// step is a line and its answers.
type step struct {
	run        *run
	line       string
	path       string // of the request, decoded
	parameters url.Values
	etcd, kvd  speaker.Answer
}

func (s *step) target() string {
	for _, word := range strings.Fields(s.line) {
		if strings.HasPrefix(word, "~") || strings.HasPrefix(word, "/") {
			return word
		}
	}
	return ""
}

// ttl returns the time to live that the request asks for, in seconds; -1 for none.
func (s *step) ttl() float64 {
	if n, err := strconv.ParseUint(s.parameters.Get("ttl"), 10, 64); err == nil {
		return float64(n)
	}
	return -1
}

// difference is what a sequence has found.
type difference struct {
	line, etcd, kvd string
}

func (d *difference) String() string {
	return fmt.Sprintf("%s\n--- etcd\n%s\n--- kvd\n%s", d.line, brief(d.etcd), brief(d.kvd))
}

// newRun starts a pair of servers that end with t or with stop.
func newRun(t *testing.T) (*run, error) {
	r := &run{watches: map[string]*watch{}, explained: map[string]int{}}
	etcd, kvd := etcdtest.Start(t), daemontest.Start(t, 1, "--cors=*")
	r.quit = append(r.quit, etcd.Stop, etcd.Wipe, kvd.Stop)
	first, err := speaker.New(etcd.URL, home)
	if err != nil {
		return r, err
	}
	r.quit = append([]func(){first.HangUp}, r.quit...)
	other, err := speaker.New(kvd.URL(), home)
	if err != nil {
		return r, err
	}
	defer other.HangUp()
	r.etcd, r.kvd = first, other
	if _, err := speaker.Level(r.etcd, r.kvd); err != nil {
		return r, err
	}
	if r.kvd, err = speaker.New(kvd.URL(), home); err != nil { // again, for the right base
		return r, err
	}
	r.quit = append([]func(){r.kvd.HangUp}, r.quit...)
	r.base, err = r.kvd.Index()
	return r, err
}

func (r *run) stop() {
	for _, w := range r.watches {
		w.close()
	}
	for _, quit := range r.quit {
		quit()
	}
}

func (r *run) unevenHistory() bool { return r.refreshes > 0 }

// parted is the end of a sequence after which the stores differ as explained.
type parted struct{}

func (parted) Error() string { return "the stores differ from here on, as explained" }

// stalled is a machine so slow that times mean nothing.
type stalled struct{}

func (stalled) Error() string { return "the machine stood still" }

// perform does one line with both. A difference that nothing explains comes back; an error means
// that the sequence cannot go on: parted, stalled, or a server that does not answer as HTTP wants.
func (r *run) perform(line string) (*step, *difference, error) {
	s, d, err := r.say(line)
	if d != nil && r.stood(d) {
		return s, nil, stalled{}
	}
	return s, d, err
}

// stood tells whether the machine was so slow that a key may have expired on one side only: its time
// is up before it was to be waited for, or etcd removed it a second late, when its ttl is negative.
func (r *run) stood(d *difference) bool {
	return strings.Contains(d.etcd, `"action":"expire"`) && strings.Contains(d.etcd, `"ttl":0`) ||
		slices.ContainsFunc(r.due, func(d deadline) bool { return time.Until(d.first) < 50*time.Millisecond && d.lines > 0 })
}

func (r *run) say(line string) (*step, *difference, error) {
	name, request, named := strings.Cut(line, ": ")
	if word, isClose := strings.CutSuffix(line, " close"); isClose {
		if w := r.watches[word]; w != nil {
			w.close()
			delete(r.watches, word)
		}
		return nil, nil, nil
	}
	s := &step{run: r, line: line}
	if named && !strings.ContainsAny(name, " /") {
		s.path, s.parameters = r.etcd.Path(request)
		if d, err := r.begin(s, name, request); d != nil || err != nil {
			return s, d, err
		}
	} else {
		s.path, s.parameters = r.etcd.Path(strings.TrimPrefix(timesAndConnection.ReplaceAllString(line, ""), " "))
		if d, err := r.exchange(s); d != nil || err != nil {
			return s, d, err
		}
		if strings.HasPrefix(s.path, "/v2/auth/") && !strings.Contains(" "+line, " GET ") {
			writes, err := speaker.Level(r.etcd, r.kvd) // etcd takes indices for users and roles, also when it refuses
			if err != nil {
				return s, &difference{line, "a common index", err.Error()}, nil
			}
			r.refreshes += writes
			r.auth = true
		}
		r.note(s)
	}
	// Before watches are compared: kvd removes what has expired at once, etcd twice a second.
	if d, err := r.settle(); d != nil || err != nil {
		return s, d, err
	}
	return s, r.collect(line), nil
}

var timesAndConnection = regexp.MustCompile(`^(\d+ times |@\S+ )+`)

func (r *run) exchange(s *step) (*difference, error) {
	var errEtcd, errKvd error
	s.etcd, errEtcd = r.etcd.Exchange(s.line)
	s.kvd, errKvd = r.kvd.Exchange(s.line)
	if errEtcd != nil || errKvd != nil {
		if errEtcd != nil && errKvd != nil {
			return nil, parted{} // neither answers: what they did is unknown
		}
		if errEtcd != nil {
			return r.judge(s, text(s.etcd, errEtcd), text(s.kvd, errKvd))
		}
		return &difference{s.line, text(s.etcd, errEtcd), text(s.kvd, errKvd)}, nil
	}
	isHead := strings.Contains(" "+s.line, " HEAD ")
	if d, err := r.judge(s, r.normal(r.etcd, s, s.etcd, isHead), r.normal(r.kvd, s, s.kvd, isHead)); d != nil || err != nil {
		return d, err
	}
	if isHead && s.kvd.Length >= 0 && s.kvd.Status < 300 {
		get, err := r.kvd.Exchange(strings.Replace(s.line, "HEAD ", "GET ", 1))
		if err != nil || int64(len(get.Body)) != s.kvd.Length {
			return &difference{s.line, fmt.Sprintf("the length that GET has: %d %v", len(get.Body), err), fmt.Sprint(s.kvd.Length)}, nil
		}
	}
	return nil, nil
}

func text(answer speaker.Answer, err error) string {
	if err != nil {
		return "no answer: " + err.Error()
	}
	return fmt.Sprintf("%d %v\n%s", answer.Status, answer.Header, answer.Body)
}

// judge compares the normal forms of two answers.
func (r *run) judge(s *step, etcd, kvd string) (*difference, error) {
	if etcd == kvd {
		return nil, nil
	}
	for _, e := range explained {
		switch {
		case e.rewrite != nil && e.rewrite(etcd) == kvd, e.answer != nil && e.answer(s):
			r.explained[e.name]++
			if e.parts {
				return nil, parted{}
			}
			return nil, nil
		}
	}
	return &difference{s.line, etcd, kvd}, nil
}

// normal is the form in which an answer is compared: in addition to what package speaker does,
// listings are sorted unless the request wants that of the server, and facts about one server are
// reduced to their form.
func (r *run) normal(s *speaker.Speaker, st *step, answer speaker.Answer, isHead bool) string {
	length := len(answer.Body)
	if isHead {
		length = int(answer.Length)
	}
	body := answer.Body
	if answer.Status < 300 && !isTrue(st.parameters.Get("sorted")) && strings.Contains(body, `"nodes":[`) {
		body = sortListing(body)
	}
	if strings.HasPrefix(st.path, "/v2/stats/") || st.path == "/version" {
		body = factNumber.ReplaceAllString(factString.ReplaceAllString(factRate.ReplaceAllString(body, ""), `:"TEXT"`), ":N")
	}
	return fmt.Sprintf("%d\n%s\n\n%s", answer.Status, s.Headers(answer, length), s.Body(body))
}

var (
	factRate   = regexp.MustCompile(`,"(recv|send)(Pkg|Bandwidth)Rate":[0-9.e+-]+`)
	factString = regexp.MustCompile(`:"[^"]*"`)
	factNumber = regexp.MustCompile(`:-?\d+(\.\d+)?(e[+-]\d+)?`)
)

// sortListing orders the children of each directory of an event by their keys.
func sortListing(event string) string {
	var outer struct{ Node json.RawMessage }
	if json.Unmarshal([]byte(event), &outer) != nil {
		return event
	}
	return strings.Replace(event, string(outer.Node), string(sortNode(outer.Node)), 1)
}

func sortNode(node json.RawMessage) json.RawMessage {
	var children struct{ Nodes json.RawMessage }
	var list []json.RawMessage
	if json.Unmarshal(node, &children) != nil || children.Nodes == nil || json.Unmarshal(children.Nodes, &list) != nil {
		return node
	}
	slices.SortFunc(list, func(a, b json.RawMessage) int { return strings.Compare(keyOf(a), keyOf(b)) })
	for i, child := range list {
		list[i] = sortNode(child)
	}
	return json.RawMessage(strings.Replace(string(node), string(children.Nodes), "["+join(list)+"]", 1))
}

func join(list []json.RawMessage) string {
	texts := make([]string, len(list))
	for i, text := range list {
		texts[i] = string(text)
	}
	return strings.Join(texts, ",")
}

func keyOf(node json.RawMessage) string {
	var it struct{ Key string }
	_ = json.Unmarshal(node, &it) // a part of what was read before
	return it.Key
}

// note keeps what later steps must know of this one.
func (r *run) note(s *step) {
	if s.kvd.Status >= 300 || s.etcd.Status >= 300 {
		return
	}
	if isTrue(s.parameters.Get("refresh")) {
		r.refreshes++
	}
	ttl := s.ttl()
	if ttl < 0 || ttl > 10 || !strings.Contains(" "+s.line, " PUT ") && !strings.Contains(" "+s.line, " POST ") {
		return
	}
	lifetime := time.Duration(ttl) * time.Second
	r.due = append(r.due, deadline{path: s.path, first: time.Now().Add(lifetime), lines: 3 * int(ttl)})
}

// settle waits for keys to expire once one of them must not be left alone any longer: from then on
// the servers would remove it at different moments.
func (r *run) settle() (*difference, error) {
	urgent := false
	for i := range r.due {
		d := &r.due[i]
		left := time.Until(d.first)
		urgent = urgent || d.lines <= 0 || left < 500*time.Millisecond
		if d.lines > 0 && left < 50*time.Millisecond {
			return nil, stalled{}
		}
		d.lines--
	}
	if !urgent {
		return nil, nil
	}
	for _, s := range []*speaker.Speaker{r.etcd, r.kvd} {
		for _, d := range r.due {
			if err := awaitExpiry(s, d.path); err != nil {
				return nil, err
			}
		}
	}
	r.due = nil
	etcd, err := r.etcd.Index()
	if err != nil {
		return nil, err
	}
	kvd, err := r.kvd.Index()
	if err != nil || etcd != kvd {
		return &difference{"(keys have expired; the index)", fmt.Sprint(etcd, err), fmt.Sprint(kvd, err)}, nil
	}
	return nil, nil
}

// awaitExpiry returns once nothing at path or below is about to expire.
func awaitExpiry(s *speaker.Speaker, path string) error {
	escaped := escape(path)
	for end := time.Now().Add(expiryMax); ; {
		answer, err := s.Exchange("@index GET " + escaped + "?recursive=true")
		if err != nil {
			return err
		}
		var event struct{ Node *node }
		if answer.Status != http.StatusOK || json.Unmarshal([]byte(answer.Body), &event) != nil || event.Node == nil {
			return nil
		}
		next := event.Node.next()
		if next == "" {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s does not expire", next)
		}
		index, _ := strconv.ParseInt(answer.Header.Get("X-Etcd-Index"), 10, 64)
		target := escape("/v2/keys" + next)
		pending, _, err := s.Begin("expiry", fmt.Sprintf("GET %s?wait=true&waitIndex=%d", target, index+1))
		if err != nil {
			return err
		}
		pending.Next(time.Second)
		pending.Close()
	}
}

// node is what a listing tells about lifetimes.
type node struct {
	Key        string
	Expiration *time.Time
	Nodes      []node
}

// next returns the key of a node that is about to expire, or "".
func (n *node) next() string {
	if n.Expiration != nil && time.Until(*n.Expiration) < 30*time.Second {
		return n.Key
	}
	for i := range n.Nodes {
		if key := n.Nodes[i].next(); key != "" {
			return key
		}
	}
	return ""
}

func unquoteJSON(quoted string) (text string, err error) {
	err = json.Unmarshal([]byte(quoted), &text)
	return text, err
}

// brief cuts long runs of one letter out of a text for people.
func brief(text string) string {
	if len(text) > 2000 {
		return fmt.Sprintf("%s ... (%d bytes) ... %s", text[:1200], len(text), text[len(text)-400:])
	}
	return text
}

// escape makes a target of a path, without a "~", which is a word of a dialogue.
func escape(path string) string {
	return strings.ReplaceAll((&url.URL{Path: path}).EscapedPath(), "~", "%7e")
}
