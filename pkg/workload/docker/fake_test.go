package docker_test

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake is an engine that does what a real one does only on bad days. Its zero-size world is
// changed by its methods, which may be called from any goroutine.
type fake struct {
	t    testing.TB
	path string

	mu          sync.Mutex // guards the fields below
	server      *http.Server
	containers  map[string]fakeContainer
	streams     map[chan any]struct{}
	past        []fakeEvent
	since       string // of the latest subscription
	frozen      bool   // nothing is answered, open streams stay open
	inspecting  int
	inspectMost int // in flight at the same time
}

type fakeEvent struct {
	at      time.Time
	message any
}

type fakeContainer struct {
	startedAt time.Time
	running   bool
	broken    bool // the engine answers 500 about it
	hangs     bool // the engine does not answer about it
}

func newFake(t testing.TB) *fake {
	e := &fake{t: t, path: filepath.Join(t.TempDir(), "engine.sock"), containers: map[string]fakeContainer{}, streams: map[chan any]struct{}{}}
	e.start()
	t.Cleanup(e.stop)
	return e
}

func (e *fake) host() string { return "unix://" + e.path }

func (e *fake) start() {
	e.t.Helper()
	listener, err := net.Listen("unix", e.path)
	if err != nil {
		e.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(e.serve)}
	e.mu.Lock()
	e.server = server
	e.mu.Unlock()
	go server.Serve(listener)
}

// stop ends the engine as SIGKILL would: every connection is cut.
func (e *fake) stop() {
	e.mu.Lock()
	server := e.server
	e.mu.Unlock()
	server.Close()
}

func (e *fake) freeze(frozen bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frozen = frozen
}

func (e *fake) set(id string, c fakeContainer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[id] = c
}

// event sends a container's event to every subscriber there is.
func (e *fake) event(id, action string, at time.Time, attributes map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	message := map[string]any{
		"Type": "container", "Action": action, "time": at.Unix(), "timeNano": at.UnixNano(),
		"Actor": map[string]any{"ID": id, "Attributes": attributes},
	}
	e.past = append(e.past, fakeEvent{at, message})
	for stream := range e.streams {
		stream <- message
	}
}

// cut ends every event stream, of which there is one at least sooner or later.
func (e *fake) cut() {
	e.t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		e.mu.Lock()
		subscribed := len(e.streams) > 0
		for stream := range e.streams {
			close(stream)
			delete(e.streams, stream)
		}
		e.mu.Unlock()
		if subscribed {
			return
		}
	}
	e.t.Fatalf("nobody subscribed within %v", limit)
}

func (e *fake) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	frozen := e.frozen
	e.mu.Unlock()
	if frozen {
		<-r.Context().Done()
		return
	}
	path := r.URL.Path[strings.Index(r.URL.Path[1:], "/")+1:] // without the version
	switch {
	case r.URL.Path == "/_ping":
		w.Header().Set("Api-Version", "1.41")
	case path == "/events":
		e.serveEvents(w, r)
	case path == "/containers/json":
		e.serveList(w)
	case strings.HasPrefix(path, "/containers/"):
		e.serveInspect(w, r, strings.Split(path, "/")[2])
	default:
		http.NotFound(w, r)
	}
}

func (e *fake) serveEvents(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.since = r.URL.Query().Get("since")
	e.mu.Unlock()
	w.(http.Flusher).Flush() // a real engine, too, sends the head before it subscribes
	stream := make(chan any, 64)
	e.mu.Lock()
	since, _ := strconv.ParseInt(e.since, 10, 64)
	for _, event := range e.past {
		if event.at.Unix() >= since {
			stream <- event.message
		}
	}
	e.streams[stream] = struct{}{}
	e.mu.Unlock()
	for {
		select {
		case message, open := <-stream:
			if !open {
				return
			}
			json.NewEncoder(w).Encode(message)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			e.mu.Lock()
			delete(e.streams, stream)
			e.mu.Unlock()
			return
		}
	}
}

func (e *fake) serveList(w http.ResponseWriter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := []map[string]string{}
	for id, c := range e.containers {
		if c.running {
			list = append(list, map[string]string{"Id": id})
		}
	}
	json.NewEncoder(w).Encode(list)
}

func (e *fake) serveInspect(w http.ResponseWriter, r *http.Request, id string) {
	e.mu.Lock()
	c, found := e.containers[id]
	e.inspecting++
	e.inspectMost = max(e.inspectMost, e.inspecting)
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.inspecting--
		e.mu.Unlock()
	}()
	switch {
	case !found:
		http.Error(w, `{"message":"No such container"}`, http.StatusNotFound)
	case c.broken:
		http.Error(w, `{"message":"it is broken"}`, http.StatusInternalServerError)
	case c.hangs:
		<-r.Context().Done()
	default:
		json.NewEncoder(w).Encode(map[string]any{
			"Id": id, "Name": "/" + id,
			"State":  map[string]any{"Running": c.running, "StartedAt": c.startedAt.Format(time.RFC3339Nano)},
			"Config": map[string]any{"Image": "web", "Labels": map[string]string{}},
		})
	}
}
