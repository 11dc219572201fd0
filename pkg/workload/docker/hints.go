package docker

import (
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"
)

// hintsMax bounds the containers that are noted one by one; beyond it all are looked at.
const hintsMax = 4096

// signalSent is a signal that a container was sent.
type signalSent struct {
	id     string
	signal int
	at     time.Time // by the engine's clock
}

// hints are what events have said since the last look: which containers may have changed and
// which were sent a signal. The engine drops events without notice when its subscriber is slow,
// so that taking them in must never wait for anything.
type hints struct {
	wake chan struct{} // holds one token while there may be hints

	mu      sync.Mutex // guards the fields below
	changed map[string]struct{}
	signals []signalSent // oldest first
	all     bool         // too many: look at every container
}

func newHints() *hints {
	return &hints{wake: make(chan struct{}, 1), changed: map[string]struct{}{}}
}

// silent are the actions after which a container serves as it did before. They are what health
// checks and people who look around cause, many each second on a busy host.
func silent(action events.Action) bool {
	switch action {
	case events.ActionAttach, events.ActionDetach, events.ActionResize, events.ActionTop, events.ActionCopy,
		events.ActionArchivePath, events.ActionExtractToDir, events.ActionExport, events.ActionCommit, events.ActionCreate:
		return true
	}
	return strings.HasPrefix(string(action), "exec_")
}

// add notes what an event says.
func (h *hints) add(event events.Message) {
	id := event.Actor.ID
	if event.Type == events.NetworkEventType {
		id = event.Actor.Attributes["container"]
	}
	if id == "" || event.Type == events.ContainerEventType && silent(event.Action) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.changed) >= hintsMax || len(h.signals) >= hintsMax {
		h.all = true
	} else {
		h.changed[id] = struct{}{}
		if event.Type == events.ContainerEventType && event.Action == events.ActionKill {
			if signal, err := strconv.Atoi(event.Actor.Attributes["signal"]); err == nil {
				h.signals = append(h.signals, signalSent{id: id, signal: signal, at: eventTime(event)})
			}
		}
	}
	h.knock()
}

// addEach notes that each of ids, which the engine has listed, is to be looked at.
func (h *hints) addEach(ids []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, id := range ids {
		h.changed[id] = struct{}{}
	}
	h.knock()
}

func (h *hints) knock() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// take removes and returns at most limit changed containers and all signals. all is true once
// after an overflow.
func (h *hints) take(limit int) (changed []string, signals []signalSent, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.changed {
		if len(changed) == limit {
			break
		}
		changed = append(changed, id)
		delete(h.changed, id)
	}
	signals, h.signals = h.signals, nil
	all, h.all = h.all, false
	return changed, signals, all
}

func eventTime(event events.Message) time.Time {
	if event.TimeNano != 0 {
		return time.Unix(0, event.TimeNano)
	}
	// Without a finer time the signal counts as sent at the end of its second: a process that
	// started within it is then taken to be stopping, which the stop timeout puts right.
	return time.Unix(event.Time+1, 0)
}
