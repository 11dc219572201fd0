package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// watch answers with the first event, or with all of them, one line each, until the client goes. The watch goes
// on at the next endpoint when one fails. When it cannot go on, a stream breaks off in the middle of its answer,
// and the answer with no event is complete, as kvd ends them: the client asks again, and is told why. only are the keys
// to which it is narrowed, as kv.Only has them, nil for none; of a store that does not narrow they are picked out here.
func (s *Server) watch(w http.ResponseWriter, r *http.Request, who caller, q asked, only []string) {
	if q.unusual() && !s.checked(w, r, who, q) {
		return
	}
	weight := max(1, len(only))
	if !s.clients.beginWatch(who.client, weight, s.cfg.WatchesPerClient) {
		s.counts.refused.Add(1)
		s.fail(w, http.StatusTooManyRequests, etcdv2.Overloaded(fmt.Sprintf("this gateway keeps no more than %d watches of one client at a time", s.cfg.WatchesPerClient)))
		return
	}
	defer s.clients.endWatch(who.client, weight)
	s.counts.watches.Add(1)
	defer s.counts.watches.Add(-1)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	stream := q.stream
	byHeader := r.Header.Get(etcdv2.HeaderWatch) == etcdv2.WatchStream
	if byHeader {
		stream = true
	}
	watch, err := s.store.RelayWatch(ctx, kv.WatchFrom{Key: q.key, Recursive: q.recursive, Index: q.waitIndex, Only: only}, who.credentials, !stream)
	if err != nil {
		s.failWatch(w, q, err)
		return
	}
	defer watch.Close()
	s.told(who.client, watch.Header.Get(etcdv2.HeaderClusterID), watch.Index())
	header := w.Header()
	for _, name := range []string{"Content-Type", etcdv2.HeaderClusterID, etcdv2.HeaderIndex, etcdv2.HeaderRaftIndex, etcdv2.HeaderRaftTerm} {
		if values := watch.Header.Values(name); len(values) > 0 {
			header[http.CanonicalHeaderKey(name)] = values
		}
	}
	if watch.Header.Get(etcdv2.HeaderOnly) != "" {
		header.Set(etcdv2.HeaderOnly, strconv.Itoa(len(q.only)))
	}
	if byHeader {
		header.Set(etcdv2.HeaderWatch, etcdv2.WatchStream)
	}
	w.WriteHeader(http.StatusOK)
	for line := []byte(nil); ; {
		if send(w, line) != nil || (stream || line == nil) && http.NewResponseController(w).Flush() != nil {
			return
		}
		if line != nil && !stream {
			return
		}
		event, err := watch.Next(ctx)
		switch {
		case r.Context().Err() != nil: // the client has gone
			return
		case err != nil && stream:
			panic(http.ErrAbortHandler)
		case err != nil:
			return
		}
		index := event.Node.ModifiedIndex
		s.changed(event.Node.Key, index)
		s.told(who.client, "", index)
		line = append(etcdv2.AppendEvent(nil, event), '\n')
	}
}

// checked has the store check the parameters of a watch that mean nothing to it, as it does for itself, and
// reports whether it has not refused them.
func (s *Server) checked(w http.ResponseWriter, r *http.Request, who caller, q asked) bool {
	a, err := s.relay(r, who, q.with("", "", "wait", "waitIndex", "stream").request(), true)
	if err != nil {
		s.failUpstream(w, err)
		return false
	}
	defer a.Body.Close()
	if a.Status == http.StatusBadRequest && number(a.Header, etcdv2.HeaderIndex) == 0 {
		s.pass(w, r, a)
		return false
	}
	return true
}

// failWatch answers that there is no watch.
func (s *Server) failWatch(w http.ResponseWriter, q asked, err error) {
	var answered *etcdv2.Error
	switch {
	case kv.Is(err, kv.HistoryGone):
		// What was remembered may be as old as what the client goes by.
		s.forget(q.key)
		s.fail(w, http.StatusBadRequest, gone(err))
	case errors.As(err, &answered) && kv.Is(err, kv.Unavailable): // a limit of the cluster's
		s.counts.failures.Add(1)
		s.fail(w, http.StatusTooManyRequests, answered)
	case errors.As(err, &answered):
		s.fail(w, answered.Status(), answered)
	default:
		s.failUpstream(w, err)
	}
}

// gone returns the error for a client whose events are not to be had any more.
func gone(err error) *etcdv2.Error {
	var e *kv.Error
	if errors.As(err, &e) {
		return etcdv2.EncodeError(e)
	}
	return etcdv2.NewError(etcdv2.CodeEventIndexGone, err.Error())
}
