package httpv2

import (
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// watch answers with the first event, or with stream, or when a header asks for one, with all of
// them, one JSON line each, until the client goes. When the store ends the watch the answer ends too, and the client asks again
// from the index after the last event it has seen.
func (h *handler) watch(w http.ResponseWriter, r *http.Request, from kv.WatchFrom, stream bool) {
	// The server notices that a client has gone only after its body was read.
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, h.MaxRequestBytes)); err != nil {
		h.fail(w, r, formError(err))
		return
	}
	ctx := r.Context()
	watch, err := h.Store.Watch(ctx, from)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer watch.Close()

	if r.Header.Get(etcdv2.HeaderWatch) == etcdv2.WatchStream {
		stream = true
		w.Header().Set(etcdv2.HeaderWatch, etcdv2.WatchStream)
	}
	raftIndex, raftTerm := h.Cluster.Position()
	h.setIndex(w, watch.Index(), raftIndex, raftTerm)
	w.WriteHeader(http.StatusOK)
	if h.send(w, nil) != nil { // the client may rely on the watch from here on
		return
	}
	var line []byte
	for {
		event, err := watch.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				h.Log.Debug("watch ended", "key", from.Key, "err", err)
			}
			return
		}
		line = append(etcdv2.AppendEvent(line[:0], event), '\n')
		if h.send(w, line) != nil || !stream {
			return
		}
	}
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
