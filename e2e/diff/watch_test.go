package diff

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/e2e/speaker"
)

// watch is a request whose answer comes piece by piece, from both.
type watch struct {
	name              string
	path              string // of the key, without a trailing slash; "" is the root
	stream, recursive bool
	from, began       int64 // the index asked for, and that of the store at the beginning
	etcd, kvd         side
	last              string // etcd's last event
	heard             int    // how many events of etcd have been compared
	old               bool   // the first of them was from before the watch began
	deaf              bool   // etcd sends nothing more, and that is explained
}

// side is one server's part of a watch.
type side struct {
	speaker *speaker.Speaker
	pending *speaker.Pending
	events  []string // that have come and are not compared yet
	ended   bool
}

func (w *watch) past() bool { return w.from > 0 && w.from <= w.began }

func (w *watch) close() {
	w.etcd.pending.Close()
	w.kvd.pending.Close()
}

// asInJSON returns text as who reads it from JSON sees it: bytes that are no UTF-8 are replaced.
func asInJSON(text string) string {
	encoded, _ := json.Marshal(text) // a string always can
	seen, _ := unquoteJSON(string(encoded))
	return seen
}

// read takes what has come within wait.
func (s *side) read(wait time.Duration) {
	for !s.ended {
		line, state := s.pending.Next(wait)
		if state == speaker.Silent {
			return
		}
		if state == speaker.Ended {
			s.ended = true
			return
		}
		s.events = append(s.events, s.speaker.Body(sortListing(line)))
		wait = 0
	}
}

func (s *side) next() string {
	if len(s.events) == 0 {
		return ""
	}
	return s.events[0]
}

// begin opens a watch with both and compares how they answer.
func (r *run) begin(s *step, name, request string) (*difference, error) {
	if old := r.watches[name]; old != nil {
		old.close()
		delete(r.watches, name)
	}
	w := &watch{name: name, stream: isTrue(s.parameters.Get("stream")), recursive: isTrue(s.parameters.Get("recursive"))}
	w.path = asInJSON(strings.TrimRight(strings.TrimPrefix(s.path, "/v2/keys"), "/"))
	w.from, _ = strconv.ParseInt(s.parameters.Get("waitIndex"), 10, 64)
	w.etcd.speaker, w.kvd.speaker = r.etcd, r.kvd
	var errEtcd, errKvd error
	w.etcd.pending, s.etcd, errEtcd = r.etcd.Begin(name, request)
	w.kvd.pending, s.kvd, errKvd = r.kvd.Begin(name, request)
	if errEtcd != nil || errKvd != nil {
		for _, p := range []*speaker.Pending{w.etcd.pending, w.kvd.pending} {
			if p != nil {
				p.Close()
			}
		}
		return &difference{s.line, text(s.etcd, errEtcd), text(s.kvd, errKvd)}, nil
	}
	w.began, _ = strconv.ParseInt(s.etcd.Header.Get("X-Etcd-Index"), 10, 64)
	form := func(sp *speaker.Speaker, answer speaker.Answer) string {
		return fmt.Sprintf("%d\n%s", answer.Status, sp.Headers(answer, -1))
	}
	if s.etcd.Status != 200 || s.kvd.Status != 200 { // then the body is short, and belongs to the answer
		w.etcd.read(patience)
		w.kvd.read(patience)
		s.etcd.Body, s.kvd.Body = strings.Join(w.etcd.events, ""), strings.Join(w.kvd.events, "")
		w.close()
		return r.judge(s, form(r.etcd, s.etcd)+"\n\n"+s.etcd.Body, form(r.kvd, s.kvd)+"\n\n"+s.kvd.Body)
	}
	r.watches[name] = w
	s.etcd.Header.Del("Content-Length") // of a listing that did not wait
	s.kvd.Header.Del("Content-Length")
	s.etcd.Header.Del("Transfer-Encoding")
	s.kvd.Header.Del("Transfer-Encoding")
	return r.judge(s, form(r.etcd, s.etcd), form(r.kvd, s.kvd))
}

// collect compares what all watches have seen since the last time.
func (r *run) collect(line string) *difference {
	for name, w := range r.watches {
		d, away := r.compare(w, line)
		if d != nil {
			return d
		}
		if away {
			w.close()
			delete(r.watches, name)
		}
	}
	return nil
}

// compare returns once both have sent the same, or a difference. Away means that the watch is over.
func (r *run) compare(w *watch, line string) (d *difference, away bool) {
	start := time.Now()
	w.etcd.read(0)
	w.kvd.read(0)
	for {
		r.rewrite(w.etcd.events)
		etcd, kvd := w.etcd.next(), w.kvd.next()
		switch {
		case etcd == "" && kvd == "" && (w.etcd.ended == w.kvd.ended || w.deaf):
			return nil, w.etcd.ended
		case etcd != "" && etcd == kvd:
			w.last = etcd
			w.heard++
			if w.heard == 1 {
				w.old = r.base+indexOfEvent(etcd) <= w.began
			}
			w.etcd.events, w.kvd.events = w.etcd.events[1:], w.kvd.events[1:]
			continue
		case w.deaf && etcd == "":
			w.kvd.events = nil
			continue
		}
		oneIsSilent := etcd == "" || kvd == ""
		waited := time.Since(start)
		if name, what := r.explain(w, etcd, kvd); what == etcdIsDeaf || what != unexplained && (!oneIsSilent || waited > doubt || what == skipEtcd) {
			r.explained[name]++
			switch what {
			case skipEtcd:
				w.etcd.events = w.etcd.events[1:]
			case skipKvd:
				w.kvd.events = w.kvd.events[1:]
				if w.kvd.ended && len(w.kvd.events) == 0 {
					return nil, true
				}
			case etcdIsDeaf:
				w.deaf = true
			case incomparable:
				return nil, true
			}
			continue
		}
		if !oneIsSilent || waited > patience {
			return &difference{fmt.Sprintf("%s (watch %s of %s)", line, w.name, w.path), w.etcd.tell(), w.kvd.tell()}, false
		}
		w.etcd.read(2 * time.Millisecond)
		w.kvd.read(2 * time.Millisecond)
	}
}

var indexField = regexp.MustCompile(`"modifiedIndex":\+(\d+)`)

// indexOfEvent returns the index of an event, counted from the beginning of the sequence.
func indexOfEvent(event string) int64 {
	found := indexField.FindStringSubmatch(event)
	if found == nil {
		return 0
	}
	n, _ := strconv.ParseInt(found[1], 10, 64) // the pattern admits nothing else
	return n
}

func (s *side) tell() string {
	text := strings.Join(s.events, "")
	if s.ended {
		text += "(end)"
	}
	return text + "\n"
}

// rewrite brings events of etcd into the letters that kvd uses.
func (r *run) rewrite(events []string) {
	for _, e := range explained {
		if e.rewrite == nil {
			continue
		}
		for i, event := range events {
			if events[i] = e.rewrite(event); events[i] != event {
				r.explained[e.name]++
			}
		}
	}
}

func (r *run) explain(w *watch, etcd, kvd string) (string, fate) {
	for _, e := range explained {
		if e.events == nil {
			continue
		}
		if what := e.events(w, etcd, kvd); what != unexplained {
			return e.name, what
		}
	}
	return "", unexplained
}
