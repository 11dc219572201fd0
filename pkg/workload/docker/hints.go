package docker

import (
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// hintsMax bounds what is noted one by one between two looks; beyond it all containers are
	// looked at.
	hintsMax = 4096

	// replay is how far before the latest event a new stream begins. The engine stamps events
	// before it orders them, and sends the head of its answer before it subscribes us.
	replay = 5 * time.Second

	// seenMax bounds the events that are recognised when a new stream repeats them.
	seenMax = 4096
)

// hint is what an event says: that this container may have changed, or what signal it was sent.
type hint struct {
	id      string
	network bool      // it is about a network, which can only concern a container that runs already
	signal  int       // that it was sent; 0: none
	died    bool      // its process has ended
	exit    int       // with this exit code
	at      time.Time // by the engine's clock
}

// hints are what events have said since the last look. The engine drops events without notice
// when its subscriber is slow, so that taking them in must never wait for anything.
type hints struct {
	wake chan struct{} // holds one token while there may be hints

	mu       sync.Mutex // guards the fields below
	waiting  []hint     // oldest first
	overflow bool       // too many: look at every container
	latest   time.Time  // of the events, by the engine's clock; zero: none was yet
	seen     map[string]time.Time
	dropped  int           // events that were not understood or not taken in
	arrived  time.Time     // when the latest event arrived, by our clock
	lag      time.Duration // of the latest event that was not repeated
}

func newHints() *hints {
	return &hints{wake: make(chan struct{}, 1), seen: map[string]time.Time{}}
}

// silent are the actions after which a container serves as it did before. They are what health
// checks and people who look around cause, many each second on a busy host. Podman's exec_died is
// not among them: it is the only sign there that a health check has ended.
func silent(action string) bool {
	switch action {
	case "attach", "detach", "resize", "top", "copy", "archive-path", "extract-to-dir", "export", "commit", "create",
		"exec", "exec_die", "init", "mount", "unmount", "sync", "prune":
		return true
	}
	return strings.HasPrefix(action, "exec_create") || strings.HasPrefix(action, "exec_start")
}

// add notes what an event says, unless an earlier stream has told it. since is when the stream
// began, by our clock: what is older is not late but repeated.
func (h *hints) add(e event, since time.Time) {
	id := e.container()
	if id == "" || e.Type == typeContainer && silent(e.Action) {
		return
	}
	now, at := time.Now(), e.at()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.repeated(e, id, at) {
		return
	}
	h.arrived = now
	if at.After(since) {
		h.lag = max(0, now.Sub(at))
	}
	if len(h.waiting) >= hintsMax {
		h.overflow = true
		h.dropped++
		h.knock()
		return
	}
	noted := hint{id: id, network: e.Type == typeNetwork, died: e.Type == typeContainer && e.Action == actionDie, at: at}
	if e.Type == typeContainer && e.Action == actionKill {
		// Podman does not say which signal it was; then the container is only looked at.
		noted.signal, _ = strconv.Atoi(e.Actor.Attributes["signal"])
	}
	if noted.died {
		noted.exit, _ = strconv.Atoi(e.Actor.Attributes["exitCode"])
	}
	h.waiting = append(h.waiting, noted)
	h.knock()
}

// repeated reports whether the event has been added before, and remembers it.
func (h *hints) repeated(e event, id string, at time.Time) bool {
	key := strconv.FormatInt(e.Nanoseconds, 36) + " " + e.Action + " " + id
	if _, again := h.seen[key]; again && e.Nanoseconds != 0 {
		return true
	}
	if at.After(h.latest) {
		h.latest = at
	}
	if len(h.seen) >= seenMax {
		for old, when := range h.seen {
			if h.latest.Sub(when) > 2*replay {
				delete(h.seen, old)
			}
		}
		if len(h.seen) >= seenMax { // a storm: what a new stream repeats of it is looked at again
			clear(h.seen)
		}
	}
	h.seen[key] = at
	return false
}

// misunderstood notes that an event came which could not be read: any container may have changed.
func (h *hints) misunderstood() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.overflow = true
	h.dropped++
	h.knock()
}

func (h *hints) knock() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// take removes and returns what is noted, oldest first. all is true once after an overflow.
func (h *hints) take() (noted []hint, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	noted, h.waiting = h.waiting, nil
	all, h.overflow = h.overflow, false
	return noted, all
}

// resume is where a new stream has to begin so that nothing falls between it and the last one.
func (h *hints) resume(now time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.latest.IsZero() || h.latest.After(now) { // nothing was heard yet, or a clock was turned
		return now.Add(-replay)
	}
	return h.latest.Add(-replay)
}

// told returns when the latest event arrived, how late it was, and how many were lost.
func (h *hints) told() (arrived time.Time, lag time.Duration, dropped int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.arrived, h.lag, h.dropped
}
