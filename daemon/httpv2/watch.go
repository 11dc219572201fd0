package httpv2

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// watch answers with the first event, or with stream, or when a header asks for one, with all of
// them, one JSON line each, until the client goes.
//
// When the store ends a watch, because the client reads too slowly or because the member stops, a
// stream breaks off in the middle of its answer: its client must not take that for all there was,
// and asks again from the index after the last event that it has seen. The answer with no event is
// complete instead, as etcd's is, and clients of etcd repeat the request. On a member that is cut off
// from the leader both break off: the client is to ask another one.
func (h *handler) watch(w http.ResponseWriter, r *http.Request, store kv.Store, from kv.WatchFrom, stream bool) {
	if err := h.skipBody(w, r); err != nil {
		h.fail(w, r, formError(err))
		return
	}
	ctx := r.Context()
	watch, err := store.Watch(ctx, from)
	if err != nil {
		h.failWatch(w, r, err)
		return
	}
	defer watch.Close()

	if r.Header.Get(etcdv2.HeaderWatch) == etcdv2.WatchStream {
		stream = true
		w.Header().Set(etcdv2.HeaderWatch, etcdv2.WatchStream)
	}
	setOnly(w, from.Only)
	raftIndex, raftTerm := h.Cluster.Position()
	h.setIndex(w, watch.Index(), raftIndex, raftTerm)
	w.WriteHeader(http.StatusOK)
	if h.send(w, nil) != nil { // the client may rely on the watch from here on
		return
	}
	for {
		event, err := watch.Next(ctx)
		switch {
		case ctx.Err() != nil: // the client has gone
			return
		case err != nil:
			h.Log.Debug("watch ended", "key", from.Key, "err", err)
			if stream || kv.Is(err, kv.NoLeader) {
				panic(http.ErrAbortHandler)
			}
			return
		case !stream:
			// Without a flush, so that the event and the end of the answer leave together.
			h.extendDeadline(w)
			_, _ = w.Write(h.lines.of(event)) // a client that has gone cannot be told
			return
		}
		if h.send(w, h.lines.of(event)) != nil {
			return
		}
	}
}

// failWatch answers that there is no watch. A limit is no 5xx, after which clients of etcd would say
// that there is no leader, and it is named.
func (h *handler) failWatch(w http.ResponseWriter, r *http.Request, err error) {
	var limit *kv.Error
	if errors.As(err, &limit) && limit.Kind == kv.Unavailable {
		h.failAs(w, r, http.StatusTooManyRequests, etcdv2.Overloaded(limit.Cause))
		return
	}
	h.fail(w, r, err)
}

// skipBody reads what a request without a form has sent all the same: the server notices that a
// client has gone only after that.
func (h *handler) skipBody(w http.ResponseWriter, r *http.Request) error {
	if r.Body == http.NoBody {
		return nil
	}
	_, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, h.MaxRequestBytes))
	return err
}

// send writes and flushes within WriteTimeout. No deadline is left behind: over HTTP/2 it would cut
// a stream that is merely waiting for its next event.
func (h *handler) send(w http.ResponseWriter, line []byte) error {
	h.extendDeadline(w)
	response := http.NewResponseController(w)
	_, writeErr := w.Write(line)
	flushErr := response.Flush()
	_ = response.SetWriteDeadline(time.Time{})
	return errors.Join(writeErr, flushErr)
}

const (
	linesKept    = 16
	lineBytesMax = 64 << 10 // to send more than this takes longer than to encode it
)

// lines encodes events, each once and not once for every watcher that it wakes: those come for it
// at the same time, so a few of the latest are enough. It is safe for concurrent use.
type lines struct {
	latest [linesKept]atomic.Pointer[encoded]
}

type encoded struct {
	event kv.Event
	line  []byte
}

// of returns the line of event. It is shared: read only.
func (l *lines) of(event kv.Event) []byte {
	slot := &l.latest[event.Node.ModifiedIndex%linesKept]
	if known := slot.Load(); known != nil && known.event == event {
		return known.line
	}
	line := append(etcdv2.AppendEvent(make([]byte, 0, usualReply), event), '\n')
	if len(line) <= lineBytesMax {
		slot.Store(&encoded{event, line})
	}
	return line
}
