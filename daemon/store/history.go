package store

import "github.com/kvd-io/kvd/pkg/kv"

// history keeps the last events. It is part of the state: a member that was restored from a
// snapshot answers a watcher's question about the past like any other.
type history struct {
	length  int
	events  []kv.Event // a ring once it is full; start is the oldest
	start   int
	dropped kv.Index // of the newest event that is no longer kept
}

func (h *history) append(e kv.Event) {
	if len(h.events) < h.length {
		h.events = append(h.events, e)
		return
	}
	h.dropped = h.events[h.start].Node.ModifiedIndex
	h.events[h.start] = e
	h.start = (h.start + 1) % h.length
}

// list returns the events, oldest first, in a slice of the caller's.
func (h *history) list() []kv.Event {
	list := make([]kv.Event, 0, len(h.events))
	list = append(list, h.events[h.start:]...)
	return append(list, h.events[:h.start]...)
}
