package moves

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/kvd-io/kvd/pkg/kv"
)

// link is the way of one host to the store. It can hold back what goes in either direction for as long
// as it likes. A request that may change something comes out as it was sent also if its sender has given
// up meanwhile, or has died.
type link struct {
	host  string
	store *url.URL
	front *httptest.Server
	sent  sync.WaitGroup // requests on their way

	mu       sync.Mutex    // guards the fields below
	requests chan struct{} // closed while requests pass
	answers  chan struct{} // closed while answers pass
	writes   []write       // that the store has done
	leases   map[string]bool
	broken   error // what the link itself could not do
}

// write is something that the store has done for a host.
type write struct {
	host   string
	what   string // method, path and form, for people
	key    string
	action kv.Action
	index  kv.Index
}

func newLink(t *testing.T, host, store string) *link {
	t.Helper()
	target, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	l := &link{host: host, store: target, leases: map[string]bool{}}
	l.requests, l.answers = opened(), opened()
	l.front = httptest.NewServer(l)
	t.Cleanup(l.close)
	return l
}

func opened() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func isOpen(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// hold lets no request, or no answer, or neither through from now on.
func (l *link) hold(requests, answers bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if requests && isOpen(l.requests) {
		l.requests = make(chan struct{})
	}
	if answers && isOpen(l.answers) {
		l.answers = make(chan struct{})
	}
}

// open lets everything through, and what was held back first.
func (l *link) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range []chan struct{}{l.requests, l.answers} {
		if !isOpen(c) {
			close(c)
		}
	}
}

func (l *link) close() {
	l.open()
	l.front.CloseClientConnections()
	l.front.Close()
	l.sent.Wait()
}

func (l *link) requestGate() chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests
}

func (l *link) answerGate() chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers
}

// ServeHTTP passes a request on, and the answer back.
func (l *link) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // its sender has gone before all of it was there
	}
	if r.Method == http.MethodGet {
		l.read(w, r)
		return
	}
	answers := make(chan *httptest.ResponseRecorder, 1)
	l.sent.Go(func() { answers <- l.change(r.Method, r.URL.RequestURI(), r.Header, string(body)) })
	select {
	case answer := <-answers:
		if !await(r.Context(), l.answerGate()) {
			return
		}
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	case <-r.Context().Done():
	}
}

func await(ctx context.Context, gate chan struct{}) bool {
	select {
	case <-gate:
		return true
	case <-ctx.Done():
		return false
	}
}

// read passes on what changes nothing. An answer may have no end.
func (l *link) read(w http.ResponseWriter, r *http.Request) {
	if !await(r.Context(), l.requestGate()) {
		return
	}
	request, err := http.NewRequestWithContext(r.Context(), r.Method, l.store.String()+r.URL.RequestURI(), nil)
	if err != nil {
		l.fail(err)
		return
	}
	request.Header = r.Header
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		if r.Context().Err() == nil {
			l.fail(err)
		}
		return
	}
	defer answer.Body.Close()
	if !await(r.Context(), l.answerGate()) {
		return
	}
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	w.(http.Flusher).Flush()
	buffer := make([]byte, 32<<10)
	for {
		n, err := answer.Body.Read(buffer)
		if n > 0 {
			if !await(r.Context(), l.answerGate()) {
				return
			}
			w.Write(buffer[:n])
			w.(http.Flusher).Flush()
		}
		if err != nil {
			return
		}
	}
}

// change passes on what may change something, and notes what it has changed.
func (l *link) change(method, uri string, header http.Header, body string) *httptest.ResponseRecorder {
	<-l.requestGate()
	recorder := httptest.NewRecorder()
	request, err := http.NewRequest(method, l.store.String()+uri, strings.NewReader(body))
	if err != nil {
		l.fail(err)
		recorder.WriteHeader(http.StatusBadGateway)
		return recorder
	}
	request.Header = header
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		l.fail(err)
		recorder.WriteHeader(http.StatusBadGateway)
		return recorder
	}
	defer answer.Body.Close()
	for name, values := range answer.Header {
		recorder.Header()[name] = values
	}
	recorder.WriteHeader(answer.StatusCode)
	if _, err := io.Copy(recorder.Body, answer.Body); err != nil {
		l.fail(err)
	}
	if answer.StatusCode < 300 {
		l.note(method, uri, body, recorder.Body.Bytes())
	}
	return recorder
}

func (l *link) note(method, uri, form string, answer []byte) {
	var told struct {
		Action kv.Action
		Node   struct {
			Key           string
			ModifiedIndex kv.Index
		}
		ID string // of a lease
	}
	if err := json.Unmarshal(answer, &told); err != nil {
		l.fail(fmt.Errorf("%s %s %s: %w in %s", method, uri, form, err, answer))
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case told.ID != "":
		l.leases[told.ID] = true
	case told.Node.ModifiedIndex == 0:
		l.broken = fmt.Errorf("%s %s %s was answered without an index: %s", method, uri, form, answer)
	default:
		l.writes = append(l.writes, write{l.host, method + " " + uri + " " + form, told.Node.Key, told.Action, told.Node.ModifiedIndex})
	}
}

// fail notes that the link itself is not what the test needs.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == nil {
		l.broken = err
	}
}
