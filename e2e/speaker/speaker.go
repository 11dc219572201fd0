// Package speaker holds dialogues with servers of the v2 API over raw connections, so that nothing
// is cleaned on the way, and brings answers to a form in which two servers can be compared.
//
// A line of a dialogue is one of:
//
//	PUT ~/foo value=bar ttl=100            a request; words with "=" are its form, with ":" a header
//	PUT ~/u body:{"user":"u"}              a body that is not a form
//	PUT ~/foo as:root:secret value=bar     with a user and a password
//	PUT ~/foo Transfer-Encoding:chunked value=bar
//	@2 GET ~/foo                           over a second connection
//	1100 times PUT ~/foo value=bar         the last answer counts
//	w: GET ~/foo?wait=true&stream=true     a request whose answer is read piece by piece
//	w line                                 the next line of w
//	w end                                  the end of w's body
//	w close                                the client goes away
//
// In it "~" is a directory of the dialogue's own; {+1} is the first index after the dialogue began,
// {0+1} the name of an in-order key with that index, {x*1000} a thousand times x, and \x20 a byte.
//
// The package knows the wire and what of it may differ between two servers that behave alike; it
// does not know which server is right.
package speaker

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// answerMax bounds the wait for an answer to begin and, except that of a watch, to end.
const answerMax = 20 * time.Second

// Speaker holds one dialogue with one server. It is for one goroutine.
type Speaker struct {
	address string // host:port
	home    string // "/t7": the dialogue's directory
	base    int64  // the server's index when the dialogue began
	dial    func(r request) (speaks, error)
	plain   map[string]speaks
	pending map[string]*Pending
}

// Answer is a response as it came. The body of a pending one is empty.
type Answer struct {
	Status int
	Header http.Header // Transfer-Encoding among it
	Body   string
	Length int64 // what Content-Length says; -1 without
}

// New begins a dialogue with the server at url ("http://host:port"), below the key home ("/t7").
func New(url, home string) (*Speaker, error) {
	address := strings.TrimPrefix(url, "http://")
	s := &Speaker{address: address, home: home, dial: dialer(address), plain: map[string]speaks{}, pending: map[string]*Pending{}}
	return s, s.begin()
}

// begin learns the server's index.
func (s *Speaker) begin() error {
	answer, err := s.Exchange("GET /v2/keys/_no_such_key")
	if err != nil {
		return err
	}
	if s.base, err = strconv.ParseInt(answer.Header.Get("X-Etcd-Index"), 10, 64); err != nil {
		s.HangUp()
		return fmt.Errorf("%s: no index in %v", s.address, answer.Header)
	}
	return nil
}

// HangUp closes all connections, and waits for who reads them.
func (s *Speaker) HangUp() {
	for _, p := range s.pending {
		p.Close()
	}
	for _, c := range s.plain {
		c.Close()
	}
	clear(s.plain)
}

// Say performs one line and returns the normal form of the answer: status, headers, empty line,
// body for a request; the line or "(end)" or "(nothing)", after wait, for a piece of a pending one.
func (s *Speaker) Say(line string, wait time.Duration) (string, error) {
	name, rest, named := strings.Cut(line, ": ")
	if named && !strings.ContainsAny(name, " /") {
		_, answer, err := s.Begin(name, rest)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d\n%s", answer.Status, s.Headers(answer, -1)), nil
	}
	if words := strings.Fields(line); len(words) == 2 && s.pending[words[0]] != nil {
		return s.piece(s.pending[words[0]], words[1], wait), nil
	}
	answer, err := s.Exchange(line)
	if err != nil {
		return "", err
	}
	length := len(answer.Body)
	if strings.HasPrefix(line, "HEAD ") {
		length = int(answer.Length) // the length of the body that GET would have
	}
	return fmt.Sprintf("%d\n%s\n\n%s", answer.Status, s.Headers(answer, length), s.Body(answer.Body)), nil
}

func (s *Speaker) piece(p *Pending, what string, wait time.Duration) string {
	if what == "close" {
		p.Close()
		return ""
	}
	line, state := p.Next(wait)
	switch state {
	case Ended:
		return "(end)"
	case Silent:
		return "(nothing)"
	}
	return s.Body(line)
}

// Exchange sends the request that line describes and returns the whole answer.
func (s *Speaker) Exchange(line string) (Answer, error) {
	times := 1
	if count, rest, many := strings.Cut(line, " times "); many {
		var err error
		if times, err = strconv.Atoi(count); err != nil {
			return Answer{}, err
		}
		line = rest
	}
	which := ""
	if strings.HasPrefix(line, "@") {
		which, line, _ = strings.Cut(line, " ")
	}
	r, err := s.read(line)
	if err != nil {
		return Answer{}, err
	}
	var answer Answer
	for range times {
		if answer, err = s.exchange(which, r); err != nil {
			return Answer{}, err
		}
	}
	return answer, nil
}

func (s *Speaker) exchange(which string, r request) (Answer, error) {
	c := s.plain[which]
	if c == nil {
		var err error
		if c, err = s.dial(r); err != nil {
			return Answer{}, err
		}
		s.plain[which] = c
	}
	response, err := c.send(r)
	if err != nil {
		c.Close()
		delete(s.plain, which)
		return Answer{}, err
	}
	body, err := io.ReadAll(response.Body)
	if response.Close || err != nil {
		c.Close()
		delete(s.plain, which)
	}
	return newAnswer(response, string(body)), err
}

func newAnswer(response *http.Response, body string) Answer {
	header := response.Header.Clone()
	if len(response.TransferEncoding) > 0 {
		header["Transfer-Encoding"] = response.TransferEncoding
	}
	return Answer{Status: response.StatusCode, Header: header, Body: body, Length: response.ContentLength}
}

// Begin sends the request that line describes over a connection of its own, and returns once the
// headers are here. "name line" and so on read the rest, or the methods of the result do.
func (s *Speaker) Begin(name, line string) (*Pending, Answer, error) {
	if old := s.pending[name]; old != nil {
		old.Close()
	}
	r, err := s.read(line)
	if err != nil {
		return nil, Answer{}, err
	}
	c, err := s.dial(r)
	if err != nil {
		return nil, Answer{}, err
	}
	response, err := c.send(r)
	if err != nil {
		c.Close()
		return nil, Answer{}, err
	}
	c.lasting()
	p := &Pending{connection: c, lines: make(chan string), gone: make(chan struct{})}
	s.pending[name] = p
	p.reading.Go(func() { p.read(response) })
	return p, newAnswer(response, ""), nil
}

// padding is a hidden key outside of all dialogues, asked for as root, should there be one.
const padding = "/v2/keys/_pad as:root:secret"

// Index asks for the server's index, over a connection of its own.
func (s *Speaker) Index() (int64, error) {
	answer, err := s.Exchange("@index GET " + padding)
	if err != nil {
		return 0, err
	}
	index, err := strconv.ParseInt(answer.Header.Get("X-Etcd-Index"), 10, 64)
	if err != nil || index == 0 {
		return 0, fmt.Errorf("%s tells no index: %d %s", s.address, answer.Status, answer.Body)
	}
	return index, nil
}

// Level brings the index of both servers to the same number, by writes to the one that is behind,
// and tells how many it took. The speakers count on from where their servers were before.
func Level(a, b *Speaker) (writes int, err error) {
	for {
		indexA, err := a.Index()
		if err != nil {
			return writes, err
		}
		indexB, err := b.Index()
		if err != nil || indexA == indexB {
			return writes, err
		}
		behind := a
		if indexB < indexA {
			behind = b
		}
		if _, err := behind.Exchange("@index PUT " + padding); err != nil {
			return writes, err
		}
		writes++
	}
}

// Pending is a request whose answer is read piece by piece.
type Pending struct {
	connection speaks
	lines      chan string // closed at the end of the body
	gone       chan struct{}
	close      sync.Once
	reading    sync.WaitGroup
}

// State is what a wait for a line came to.
type State int

// A Line is here; the body has Ended; nothing came in time.
const (
	Line State = iota
	Ended
	Silent
)

// Next returns the next line of the body, waiting for it for at most wait.
func (p *Pending) Next(wait time.Duration) (string, State) {
	select { // what is here needs no timer
	case line, open := <-p.lines:
		return lineOrEnd(line, open)
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case line, open := <-p.lines:
		return lineOrEnd(line, open)
	case <-timer.C:
		return "", Silent
	}
}

func lineOrEnd(line string, open bool) (string, State) {
	if !open {
		return "", Ended
	}
	return line, Line
}

// Close goes away: nothing more is read. It may be called again.
func (p *Pending) Close() {
	p.close.Do(func() {
		close(p.gone)
		p.connection.Close()
	})
	p.reading.Wait()
}

func (p *Pending) read(response *http.Response) {
	defer close(p.lines)
	defer p.connection.Close()
	reader := bufio.NewReader(response.Body)
	for {
		line, err := reader.ReadString('\n')
		if line != "" {
			select {
			case p.lines <- line:
			case <-p.gone:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// connection is one connection to a server.
type connection struct {
	net.Conn
	reader *bufio.Reader
}

// firstLineMax is how long the first request line of a connection to etcd may be: more does not look
// like HTTP to it.
const firstLineMax = 4000

// dial connects, and makes way for r with a shorter request if r is too long for the first.
func dial(address string, r request) (*connection, error) {
	conn, err := net.DialTimeout("tcp", address, answerMax)
	if err != nil {
		return nil, err
	}
	c := &connection{conn, bufio.NewReader(conn)}
	if len(r.target) < firstLineMax {
		return c, nil
	}
	response, err := c.send(request{method: http.MethodGet, target: "/version"})
	if err == nil {
		_, err = io.Copy(io.Discard, response.Body)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// send writes r and returns once the headers of the answer are here. A server may answer before it
// has read all; so the answer counts, also when not all could be written.
func (c *connection) send(r request) (*http.Response, error) {
	c.SetDeadline(time.Now().Add(answerMax))
	_, unsent := io.WriteString(c, r.wire(c.RemoteAddr().String()))
	response, err := http.ReadResponse(c.reader, &http.Request{Method: r.method})
	if err != nil {
		return nil, errors.Join(unsent, err)
	}
	return response, nil
}

func (c *connection) lasting() { c.SetDeadline(time.Time{}) }

// request is what a line asks for.
type request struct {
	method, target string
	header         []string // "Name: value"
	body           string
	chunked        bool
}

func (r request) wire(host string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.method, r.target, host)
	for _, line := range r.header {
		text.WriteString(line + "\r\n")
	}
	switch half := len(r.body) / 2; {
	case r.chunked && r.body != "":
		fmt.Fprintf(&text, "Transfer-Encoding: chunked\r\n\r\n")
		for _, part := range []string{r.body[:half], r.body[half:]} {
			if part != "" {
				fmt.Fprintf(&text, "%x\r\n%s\r\n", len(part), part)
			}
		}
		text.WriteString("0\r\n\r\n")
	case r.chunked:
		text.WriteString("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	case r.body != "" || r.method == http.MethodPut || r.method == http.MethodPost:
		fmt.Fprintf(&text, "Content-Length: %d\r\n\r\n%s", len(r.body), r.body)
	default:
		text.WriteString("\r\n")
	}
	return text.String()
}

// hasForm tells whether servers read the body.
func (r request) hasForm() bool {
	return (r.method == http.MethodPut || r.method == http.MethodPost) && slices.ContainsFunc(r.header, func(line string) bool {
		return strings.HasPrefix(strings.ToLower(line), "content-type: application/x-www-form-urlencoded")
	})
}

// read makes a request of "METHOD target word...".
func (s *Speaker) read(line string) (request, error) {
	words := strings.Fields(expand(line, s.home, s.base))
	if len(words) < 2 {
		return request{}, fmt.Errorf("not a request: %q", line)
	}
	for i, word := range words {
		words[i] = unescape(word)
	}
	r := request{method: words[0], target: words[1]}
	var form []string
	kind := "application/x-www-form-urlencoded"
	for _, word := range words[2:] {
		name, value, colon := strings.Cut(word, ":")
		switch {
		case !colon || strings.Contains(name, "="):
			form = append(form, word)
		case name == "body":
			r.body, kind = value, ""
		case name == "as":
			r.header = append(r.header, "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte(value)))
		case name == "Transfer-Encoding":
			r.chunked = true
		case name == "Content-Type":
			kind = value
		default:
			r.header = append(r.header, name+": "+value)
		}
	}
	if len(form) > 0 {
		r.body = strings.Join(form, "&")
	}
	if r.body != "" && kind != "" && kind != "none" {
		r.header = append(r.header, "Content-Type: "+kind)
	}
	return r, nil
}

// Path returns the decoded path of the request that line describes, without its query, and the
// parameters that a server of the v2 API reads from it: those of the form, if it reads it, before
// those of the query. Parts that cannot be parsed are left out.
func (s *Speaker) Path(line string) (path string, parameters url.Values) {
	r, err := s.read(line)
	if err != nil {
		return "", nil
	}
	raw, query, _ := strings.Cut(r.target, "?")
	if path, err = url.PathUnescape(raw); err != nil {
		path = raw
	}
	parameters, _ = url.ParseQuery(query)
	if form, err := url.ParseQuery(r.body); err == nil && r.hasForm() {
		for name, values := range form {
			parameters[name] = append(values, parameters[name]...)
		}
	}
	return path, parameters
}
