package raftnode

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// heartbeatPatience is how long raft waits for the answer to a sign of life when followers have more time
// for it: well within raft's own lease.
const heartbeatPatience = 50 * time.Millisecond

var errNoHeartbeat = errors.New("signs of life have not been answered for too long")

// heartbeats give followers more time to answer a leader's signs of life than raft does. Its lease is fixed
// when it starts: a leader that has not heard from a majority for so long steps down, which on a slow link
// would be always. With grace, a follower counts as heard until grace has passed since it was. That is about
// when a leader gives up, and about nothing else: no read and no write rests on it.
//
// Nor is a sign of life sent to who has just answered another request: all of them say that the leader lives.
type heartbeats struct {
	send   func(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error
	grace  func() time.Duration // beyond raft's lease; 0: none
	enough time.Duration        // for which a request that was answered is a sign of life

	mu       sync.Mutex
	pulses   map[raft.ServerID]*pulse
	sending  sync.WaitGroup
	draining bool
}

// pulse is what one follower has answered in one term.
type pulse struct {
	term   uint64
	heard  time.Time // when an answer to a sign of life has come
	asked  time.Time // when the last request was sent that was answered
	flight *beat     // nil: none
}

// beat is one sign of life that is on its way.
type beat struct {
	done   chan struct{} // closed when the fields below are set
	answer raft.AppendEntriesResponse
	err    error
}

// give gives a sign of life. Its answer is the follower's, or that all is well because it was a moment ago.
func (h *heartbeats) give(id raft.ServerID, target raft.ServerAddress, request *raft.AppendEntriesRequest, answer *raft.AppendEntriesResponse) error {
	if h.spared(id, request.Term) {
		*answer = well(request)
		return nil
	}
	grace := h.grace()
	if grace <= 0 {
		return h.send(id, target, request, answer)
	}
	p, f := h.launch(id, target, request)
	if f == nil {
		return raft.ErrTransportShutdown
	}
	patience := time.NewTimer(heartbeatPatience)
	defer patience.Stop()
	err := errNoHeartbeat
	select {
	case <-f.done:
		if *answer, err = f.answer, f.err; err == nil {
			return nil
		}
	case <-patience.C:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(p.heard) > grace {
		return err
	}
	*answer = well(request)
	return nil
}

// well is the answer of a follower with which all is well. It shares nothing with the request: raft reads the
// next answer into the same bytes.
func well(request *raft.AppendEntriesRequest) raft.AppendEntriesResponse {
	return raft.AppendEntriesResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: request.ProtocolVersion}, Term: request.Term, Success: true}
}

// answered notes that a follower has answered a request of a term that was sent at asked.
func (h *heartbeats) answered(id raft.ServerID, term uint64, asked time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.pulse(id, term); asked.After(p.asked) {
		p.asked = asked
	}
}

// spared reports whether a follower needs no sign of life now.
func (h *heartbeats) spared(id raft.ServerID, term uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.pulse(id, term).asked) < h.enough
}

// pulse returns that of a follower in a term. h.mu is held.
func (h *heartbeats) pulse(id raft.ServerID, term uint64) *pulse {
	p := h.pulses[id]
	if p == nil || p.term != term {
		p = &pulse{term: term, heard: time.Now()}
		h.pulses[id] = p
	}
	return p
}

// launch returns the sign of life that is on its way to a follower, a new one if there is none.
func (h *heartbeats) launch(id raft.ServerID, target raft.ServerAddress, request *raft.AppendEntriesRequest) (*pulse, *beat) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return nil, nil
	}
	p := h.pulse(id, request.Term)
	if p.flight != nil {
		return p, p.flight
	}
	f, once := &beat{done: make(chan struct{})}, *request
	p.flight = f
	h.sending.Go(func() {
		f.err = h.send(id, target, &once, &f.answer)
		h.mu.Lock()
		defer h.mu.Unlock()
		if p.flight = nil; f.err == nil {
			p.heard = time.Now()
		}
		close(f.done)
	})
	return p, f
}

// close waits for what is on its way. The network is to be closed before.
func (h *heartbeats) close() {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.sending.Wait()
}
