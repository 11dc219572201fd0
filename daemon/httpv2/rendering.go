package httpv2

import (
	"sync"
	"weak"

	"github.com/kvd-io/kvd/pkg/kv"
)

const (
	// longListing is the number of children from which on a listing is worth being kept rendered.
	longListing = 128
	// renderedBytes bounds what is kept.
	renderedBytes = 32 << 20
	// noteBytes is about what it takes to know a listing, beside its JSON.
	noteBytes = 128
)

// renderings keeps the JSON of long listings that are read again and again. A store that returns
// the same node again, which nobody may change, has returned what was rendered before; an equal
// node that is another one is rendered again. No node stays in memory for being known here: what a
// store makes for one answer alone, however large, goes with that answer. The zero value is ready
// for use from any goroutine.
type renderings struct {
	mu    sync.Mutex // guards the fields below
	lines map[weak.Pointer[kv.Node]][]byte
	bytes int
}

// of returns the JSON of event as a line, shared: read only. It is nil for an event that is not a
// long listing, and for the first time that a listing is seen: many are never seen again.
func (r *renderings) of(event kv.Event) []byte {
	if event.Node == nil || len(event.Node.Nodes) < longListing || event.Action != kv.ActionGet {
		return nil
	}
	node := weak.Make(event.Node)
	r.mu.Lock()
	rendered, seen := r.lines[node]
	if !seen {
		r.put(node, nil)
	}
	r.mu.Unlock()
	if rendered != nil || !seen {
		return rendered
	}
	rendered = render(nil, event)
	r.mu.Lock()
	defer r.mu.Unlock()
	if other := r.lines[node]; other != nil {
		return other
	}
	r.put(node, rendered)
	return rendered
}

// put notes what is known of node. When there is too much, everything is forgotten: what is read
// again will be back at once.
func (r *renderings) put(node weak.Pointer[kv.Node], rendered []byte) {
	size := noteBytes + len(rendered)
	if size > renderedBytes {
		return
	}
	if r.lines == nil || r.bytes+size > renderedBytes {
		r.lines, r.bytes = map[weak.Pointer[kv.Node]][]byte{}, 0
	}
	r.lines[node] = rendered
	r.bytes += size
}
