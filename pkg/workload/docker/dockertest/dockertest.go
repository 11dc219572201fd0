// Package dockertest is a Docker engine for tests: it speaks the part of the API that a follower of
// containers uses, over a unix socket, and does what a real engine does only on bad days.
//
// It knows containers as a table that the test changes, and events as the test sends them. It runs
// nothing: a container is what Set says of it.
package dockertest

import (
	"cmp"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// cutMax bounds how long Cut waits for a stream that it can cut.
const cutMax = 20 * time.Second

// Engine is an engine without containers at first. Its methods may be called from any goroutine,
// those that fail the test only while it runs.
type Engine struct {
	t    testing.TB
	path string

	mu          sync.Mutex // guards the fields below
	server      *http.Server
	listener    net.Listener
	containers  map[string]Container
	streams     map[chan any]struct{}
	past        []event
	since       string           // of the latest subscription
	frozen      bool             // nothing is answered, open streams stay open
	version     string           // of the API that the engine speaks
	asked       string           // the version of the latest request that named one
	babble      http.HandlerFunc // answers in place of the engine; nil: the engine does
	inspecting  int
	inspectMost int // in flight at the same time
}

type event struct {
	at      time.Time
	message any
}

// Container is what the engine tells of one container.
type Container struct {
	Name      string // "" means its ID
	Image     string // "" means "web"
	StartedAt time.Time
	Running   bool
	ExitCode  int // of one that does not run
	Labels    map[string]string
	Published map[string]string // "80/tcp" to the address of the host that leads there, "0.0.0.0:8080"
	Addresses map[string]string // network to the container's address in it

	Broken   bool // the engine answers 500 about it
	Hangs    bool // the engine does not answer about it
	Unlisted bool // the engine's list lacks it
}

// Start returns an engine that runs until t ends.
func Start(t testing.TB) *Engine {
	t.Helper()
	folder, err := os.MkdirTemp("", "kvd-engine-") // the name of a test may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	e := &Engine{t: t, version: "1.41", path: filepath.Join(folder, "sock"), containers: map[string]Container{}, streams: map[chan any]struct{}{}}
	e.Restart()
	t.Cleanup(e.Stop)
	return e
}

// Host is the engine's address in the form of DOCKER_HOST.
func (e *Engine) Host() string { return "unix://" + e.path }

// Restart begins to listen again after Stop. Containers and past events are as they were.
func (e *Engine) Restart() {
	e.t.Helper()
	listener, err := net.Listen("unix", e.path)
	if err != nil {
		e.t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(e.serve)}
	e.mu.Lock()
	e.server, e.listener = server, listener
	e.mu.Unlock()
	go server.Serve(listener)
}

// Stop ends the engine as SIGKILL would: every connection is cut.
func (e *Engine) Stop() {
	e.mu.Lock()
	server, listener := e.server, e.listener
	e.mu.Unlock()
	listener.Close() // the server may not know it yet
	server.Close()
}

// Freeze lets nothing be answered any more, or all again.
func (e *Engine) Freeze(frozen bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frozen = frozen
}

// Speak has the engine speak a version of the API, "1.41" unless it is told otherwise.
func (e *Engine) Speak(version string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.version = version
}

// Asked is the version of the API that the latest request was made in.
func (e *Engine) Asked() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

// Babble has every request answered by answer, which may hand it on to the engine by ServeHTTP; nil:
// by the engine again. Connections that are open are cut.
func (e *Engine) Babble(answer http.HandlerFunc) {
	e.t.Helper()
	e.mu.Lock()
	e.babble = answer
	e.mu.Unlock()
	e.Stop()
	e.Restart()
}

// Set changes what is told of a container, and sends no event.
func (e *Engine) Set(id string, c Container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[id] = c
}

// Remove forgets a container, and sends no event.
func (e *Engine) Remove(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, id)
}

// Send sends a container's event to every subscriber there is.
func (e *Engine) Send(id, action string, at time.Time, attributes map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	message := map[string]any{
		"Type": "container", "Action": action, "time": at.Unix(), "timeNano": at.UnixNano(),
		"Actor": map[string]any{"ID": id, "Attributes": attributes},
	}
	e.past = append(e.past, event{at, message})
	for stream := range e.streams {
		select {
		case stream <- message:
		default: // its reader is too slow, or gone
			close(stream)
			delete(e.streams, stream)
		}
	}
}

// Run sets a container that runs from now on, and sends its start.
func (e *Engine) Run(id string, c Container) {
	c.Running, c.StartedAt = true, time.Now()
	e.Set(id, c)
	e.Send(id, "start", c.StartedAt, nil)
}

// Signal sends that a container was told to stop. It goes on running.
func (e *Engine) Signal(id string) {
	e.Send(id, "kill", time.Now(), map[string]string{"signal": "15"})
}

// End lets a container end and removes it, with the events of docker rm.
func (e *Engine) End(id string) {
	e.Remove(id)
	e.Send(id, "die", time.Now(), map[string]string{"exitCode": "0"})
	e.Send(id, "destroy", time.Now(), nil)
}

// Exit lets a container end with an exit code, and leaves it there.
func (e *Engine) Exit(id string, code int) {
	e.mu.Lock()
	c := e.containers[id]
	c.Running, c.ExitCode = false, code
	c.Published, c.Addresses = nil, nil
	e.containers[id] = c
	e.mu.Unlock()
	e.Send(id, "die", time.Now(), map[string]string{"exitCode": strconv.Itoa(code)})
}

// Cut ends every event stream, of which there is one at least sooner or later.
func (e *Engine) Cut() {
	e.t.Helper()
	e.whenSubscribed(func() {
		for stream := range e.streams {
			close(stream)
			delete(e.streams, stream)
		}
	})
}

// Subscribed waits until there is an event stream.
func (e *Engine) Subscribed() {
	e.t.Helper()
	e.whenSubscribed(func() {})
}

// whenSubscribed does something, with the lock held, as soon as there is an event stream.
func (e *Engine) whenSubscribed(do func()) {
	e.t.Helper()
	for deadline := time.Now().Add(cutMax); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		e.mu.Lock()
		subscribed := len(e.streams) > 0
		if subscribed {
			do()
		}
		e.mu.Unlock()
		if subscribed {
			return
		}
	}
	e.t.Fatalf("nobody subscribed within %v", cutMax)
}

// Since is what the latest subscriber asked events from.
func (e *Engine) Since() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.since
}

// InspectMost is how many containers were asked for at the same time, at most.
func (e *Engine) InspectMost() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.inspectMost
}

func (e *Engine) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	frozen, babble := e.frozen, e.babble
	e.mu.Unlock()
	switch {
	case frozen:
		<-r.Context().Done()
	case babble != nil:
		babble(w, r)
	default:
		e.ServeHTTP(w, r)
	}
}

// ServeHTTP answers as an engine does.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	e.mu.Lock()
	if strings.HasPrefix(path, "/v") {
		slash := strings.Index(path[1:], "/") + 1
		e.asked, path = path[2:slash], path[slash:]
	}
	version := e.version
	e.mu.Unlock()
	switch {
	case path == "/_ping":
		w.Header().Set("Api-Version", version)
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

func (e *Engine) serveEvents(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	e.since = r.URL.Query().Get("since")
	e.mu.Unlock()
	w.(http.Flusher).Flush() // a real engine, too, sends the head before it subscribes
	e.mu.Lock()
	since := Time(e.since)
	var missed []any
	for _, event := range e.past {
		if !event.at.Before(since) {
			missed = append(missed, event.message)
		}
	}
	stream := make(chan any, len(missed)+64)
	for _, message := range missed {
		stream <- message
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

// Time reads a time of a query, "seconds.nanoseconds".
func Time(text string) time.Time {
	before, after, _ := strings.Cut(text, ".")
	seconds, _ := strconv.ParseInt(before, 10, 64)
	nanoseconds, _ := strconv.ParseInt(after, 10, 64)
	return time.Unix(seconds, nanoseconds)
}

func (e *Engine) serveList(w http.ResponseWriter) {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := []map[string]any{}
	for id, c := range e.containers {
		if c.Running && !c.Unlisted {
			list = append(list, c.line(id))
		}
	}
	json.NewEncoder(w).Encode(list)
}

// line is c in the engine's list.
func (c Container) line(id string) map[string]any {
	c = c.named(id)
	// An endpoint is a new one after every start.
	networks := map[string]any{"none": map[string]string{"EndpointID": c.StartedAt.String()}}
	for name, address := range c.Addresses {
		networks[name] = map[string]string{"EndpointID": c.StartedAt.String(), "IPAddress": address}
	}
	ports := []string{}
	for port, address := range c.Published {
		ports = append(ports, address+"->"+port)
	}
	slices.Sort(ports)
	return map[string]any{"Id": id, "Names": []string{"/" + c.Name}, "Image": c.Image, "State": "running", "Status": "Up 3 hours",
		"Labels": c.Labels, "Ports": ports, "NetworkSettings": map[string]any{"Networks": networks}}
}

// named is c with the name and image that it has if it was given none.
func (c Container) named(id string) Container {
	c.Name, c.Image = cmp.Or(c.Name, id), cmp.Or(c.Image, "web")
	return c
}

func (e *Engine) serveInspect(w http.ResponseWriter, r *http.Request, id string) {
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
	case c.Broken:
		http.Error(w, `{"message":"it is broken"}`, http.StatusInternalServerError)
	case c.Hangs:
		<-r.Context().Done()
	default:
		json.NewEncoder(w).Encode(c.inspect(id))
	}
}

// inspect is the answer about c, as far as somebody reads it.
func (c Container) inspect(id string) map[string]any {
	c = c.named(id)
	exposed, ports := map[string]any{}, map[string]any{}
	for port, address := range c.Published {
		host, number, _ := net.SplitHostPort(address)
		exposed[port] = struct{}{}
		ports[port] = []map[string]string{{"HostIp": host, "HostPort": number}}
	}
	networks := map[string]any{}
	for name, address := range c.Addresses {
		networks[name] = map[string]string{"IPAddress": address}
	}
	return map[string]any{
		"Id": id, "Name": "/" + c.Name,
		"State":           map[string]any{"Running": c.Running, "ExitCode": c.ExitCode, "StartedAt": c.StartedAt.Format(time.RFC3339Nano)},
		"Config":          map[string]any{"Image": c.Image, "Labels": c.Labels, "ExposedPorts": exposed},
		"NetworkSettings": map[string]any{"Ports": ports, "Networks": networks},
	}
}
