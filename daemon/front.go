package daemon

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/kvd-io/kvd/daemon/admin"
	"github.com/kvd-io/kvd/pkg/etcdv2"
)

// startPatience is how long a request may wait for a member that starts. It leaves clients the time to ask
// another one.
const startPatience = 2 * time.Second

// front answers clients from the moment that the ports are open. While the member starts, requests wait
// for it, but not for long; /health does not wait at all. It is safe for concurrent use.
type front struct {
	patience time.Duration
	decided  chan struct{} // closed when next is set, or never will be
	next     http.Handler  // nil: the start has failed

	mu    sync.Mutex // guards waits
	waits string     // what the start waits for
}

func newFront() *front {
	return &front{patience: startPatience, decided: make(chan struct{}), waits: "it reads its data"}
}

// wait notes what the start waits for.
func (f *front) wait(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits = what
}

// open has next answer from now on; nil: nobody will. It is called once.
func (f *front) open(next http.Handler) {
	f.next = next
	close(f.decided)
}

// ServeHTTP implements http.Handler.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case <-f.decided:
	default:
		f.hold(r)
	}
	select {
	case <-f.decided:
		if f.next != nil {
			f.next.ServeHTTP(w, r)
			return
		}
	default:
	}
	f.refuse(w, r)
}

// hold returns when the member has started, or r shall wait no longer.
func (f *front) hold(r *http.Request) {
	if r.URL.Path == admin.HealthPath {
		return
	}
	patience := time.NewTimer(f.patience)
	defer patience.Stop()
	select {
	case <-f.decided:
	case <-r.Context().Done():
	case <-patience.C:
	}
}

func (f *front) refuse(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	why := f.waits
	f.mu.Unlock()
	body := etcdv2.AppendError(nil, etcdv2.Starting(why))
	if r.URL.Path == admin.HealthPath {
		body, _ = json.Marshal(map[string]string{"health": "false", "reason": "STARTING: " + why})
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	w.Write(append(body, '\n'))
}
