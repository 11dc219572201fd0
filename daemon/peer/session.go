package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

const readBufferBytes = 64 << 10

// session is the caller's side of a stream of kind rpc: requests go out, answers come in. It is
// safe for concurrent use.
type session struct {
	conn *stream
	out  *writer
	now  func() time.Time

	mu    sync.Mutex
	err   error // why it is over; nil while it is not
	next  uint64
	calls map[uint64]*call // in flight, those that nobody waits for any more as well
	bytes int              // of their requests

	pinged     time.Time // zero: no ping is in flight
	pingID     uint64
	pingRounds int // since pinged
	trips      [16]time.Duration
	tripCount  int
}

// call is one request in flight.
type call struct {
	bytes  int           // of the request
	done   chan struct{} // closed when the fields below are set
	answer []byte
	sent   bool
	err    error
}

func newSession(conn *stream, now func() time.Time) *session {
	return &session{conn: conn, out: newWriter(conn), now: now, calls: map[uint64]*call{}}
}

// run serves the session until the connection breaks, and returns why it did.
func (s *session) run() error {
	s.ping()
	var writing sync.WaitGroup
	writing.Go(func() {
		if err := s.out.run(); err != nil {
			s.fail(err)
		}
	})
	s.fail(s.read())
	writing.Wait()
	return s.err // fixed since fail
}

// read takes answers in until the connection breaks.
func (s *session) read() error {
	r := bufio.NewReaderSize(s.conn, readBufferBytes)
	for {
		h, body, err := readMessage(r)
		if err == nil {
			err = s.answered(h, body)
		}
		if err != nil {
			return err
		}
	}
}

// fail ends the session, and with it the calls in flight. Only the first time counts.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = noEOF(err)
	s.conn.Close()
	s.out.close()
	for id, c := range s.calls {
		s.finish(id, c, nil, true, fmt.Errorf("the connection broke: %w", s.err))
	}
}

// finish ends a call. s.mu is held.
func (s *session) finish(id uint64, c *call, answer []byte, sent bool, err error) {
	delete(s.calls, id)
	s.bytes -= c.bytes
	c.answer, c.sent, c.err = answer, sent, err
	close(c.done)
}

// call sends a request and waits for its answer, or for the end of ctx. sent is false if the
// request was surely not handled.
func (s *session) call(ctx context.Context, method Method, request []byte) (answer []byte, sent bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	c, err := s.send(method, request)
	if err != nil {
		return nil, false, err
	}
	select {
	case <-c.done:
		return c.answer, c.sent, c.err
	case <-ctx.Done():
		return nil, true, ctx.Err()
	}
}

func (s *session) send(method Method, request []byte) (*call, error) {
	s.mu.Lock()
	if s.err != nil {
		defer s.mu.Unlock()
		return nil, fmt.Errorf("the connection broke: %w", s.err)
	}
	if len(s.calls) >= callsMax || s.bytes+len(request) > callBytesMax {
		defer s.mu.Unlock()
		return nil, fmt.Errorf("%w: %d calls with %d bytes", ErrBusy, len(s.calls), s.bytes)
	}
	c := &call{bytes: len(request), done: make(chan struct{})}
	s.next++
	id := s.next
	s.calls[id] = c
	s.bytes += c.bytes
	s.mu.Unlock()
	s.out.put(header{id: id, method: method}, request)
	return c, nil
}

// answered takes one answer in.
func (s *session) answered(h header, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.flags&flagAnswer == 0 {
		return errors.New("the other side sends requests where answers belong")
	}
	if h.method == 0 {
		return s.ponged(h.id)
	}
	c := s.calls[h.id]
	if c == nil {
		return fmt.Errorf("the other side answers request %d, which is not in flight", h.id)
	}
	var err error
	if h.flags&flagFailed != 0 {
		err, body = &HandlerError{clean(string(body)), h.flags&flagNotHandled != 0}, nil
	}
	s.finish(h.id, c, body, h.flags&flagNotHandled == 0, err)
	return nil
}

// round is called once a second: it sends a ping, and breaks a connection on which the last one
// stays unanswered. Rounds are counted, not seconds: while this process stands still, none pass.
func (s *session) round() {
	s.mu.Lock()
	late := false
	if !s.pinged.IsZero() {
		s.pingRounds++
		late = s.pingRounds >= pingRounds
	}
	waits := !s.pinged.IsZero()
	s.mu.Unlock()
	switch {
	case late:
		s.fail(fmt.Errorf("no answer to a ping in %s: is the process there stopped or overloaded?", pingRounds*roundInterval))
	case !waits:
		s.ping()
	}
}

func (s *session) ping() {
	s.mu.Lock()
	s.next++
	id := s.next
	s.pingID, s.pinged, s.pingRounds = id, s.now(), 0
	s.mu.Unlock()
	s.out.put(header{id: id}, nil)
}

// ponged takes the answer to a ping in. s.mu is held.
func (s *session) ponged(id uint64) error {
	if s.pinged.IsZero() || id != s.pingID {
		return fmt.Errorf("the other side answers ping %d, which is not in flight", id)
	}
	trip := max(s.now().Sub(s.pinged), 1)
	s.conn.traffic.trips.add(trip)
	s.trips[s.tripCount%len(s.trips)] = trip
	s.tripCount++
	s.pinged = time.Time{}
	return nil
}

func (s *session) stats() (median, longest time.Duration, inFlight int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	trips := slices.Sorted(slices.Values(s.trips[:min(s.tripCount, len(s.trips))]))
	if len(trips) > 0 {
		median, longest = trips[len(trips)/2], trips[len(trips)-1]
	}
	return median, longest, len(s.calls)
}

// serveCalls is the other side: it has the handlers answer what comes over conn, until it breaks.
func (n *Network) serveCalls(conn *stream) {
	a := &answering{network: n, conn: conn, out: newWriter(conn)}
	ctx, cancel := context.WithCancel(n.ctx)
	conn.setRound(a.round)
	a.work.Go(func() {
		a.out.run() // its error is that of the connection, which read sees as well
		a.out.close()
		conn.Close()
	})
	err := a.read(ctx)
	conn.Close()
	a.out.close()
	cancel()
	a.work.Wait()
	if n.ctx.Err() == nil && !errors.Is(err, io.EOF) {
		n.log.Debug("the connection of a member ended", "member", hex(conn.member), "err", err)
	}
}

// answering is the state of one serveCalls.
type answering struct {
	network *Network
	conn    *stream
	out     *writer
	work    sync.WaitGroup // the writer, and handlers

	mu      sync.Mutex
	running int
	bytes   int // of the requests that are being handled
	silent  int // rounds since the last message
}

func (a *answering) read(ctx context.Context) error {
	r := bufio.NewReaderSize(a.conn, readBufferBytes)
	for {
		h, body, err := readMessage(r)
		if err != nil {
			return err
		}
		if h.flags != 0 {
			return errors.New("the other side sends answers where requests belong")
		}
		a.heard()
		if h.method == 0 {
			err = a.reply(r, header{id: h.id, flags: flagAnswer}, nil)
		} else if answer, ok := a.atOnce(h.method, body); ok {
			err = a.reply(r, header{id: h.id, method: h.method, flags: flagAnswer}, answer)
		} else if a.admit(len(body)) {
			a.work.Go(func() { a.handle(ctx, h, body) })
		} else {
			err = a.reply(r, header{id: h.id, method: h.method, flags: flagAnswer | flagFailed | flagNotHandled}, []byte("too many requests of this member are being handled already"))
		}
		if err != nil {
			return err
		}
	}
}

// atOnce answers a request if that takes no time.
func (a *answering) atOnce(method Method, request []byte) (answer []byte, ok bool) {
	if at := a.network.atOnce[method]; at != nil {
		return at(a.conn.member, request)
	}
	return nil, false
}

// reply sends an answer from the goroutine that reads from r. While there is more to read it lets run write.
func (a *answering) reply(r *bufio.Reader, h header, answer []byte) error {
	if r.Buffered() == 0 {
		return a.out.send(h, answer)
	}
	a.out.put(h, answer)
	return nil
}

// heard notes a message.
func (a *answering) heard() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.silent = 0
}

// admit notes a request, and reports whether there is room to handle it.
func (a *answering) admit(bytes int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running >= runningMax || a.bytes+bytes > runningBytesMax {
		return false
	}
	a.running++
	a.bytes += bytes
	return true
}

// handle answers one request.
func (a *answering) handle(ctx context.Context, h header, request []byte) {
	size := len(request)
	answer, err := a.answer(ctx, h.method, request)
	h.flags = flagAnswer
	if err != nil {
		h.flags |= flagFailed
		if errors.Is(err, ErrNotHandled) {
			h.flags |= flagNotHandled
		}
		answer = []byte(clean(err.Error()))
	}
	a.out.put(h, answer)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running--
	a.bytes -= size
}

func (a *answering) answer(ctx context.Context, method Method, request []byte) ([]byte, error) {
	handler := a.network.handlers[method]
	if handler == nil {
		return nil, fmt.Errorf("%w: there is no method %d; run releases of kvd that are next to each other", ErrNotHandled, method)
	}
	answer, err := handler(ctx, a.conn.member, request)
	if err == nil && len(answer) > MessageBytesMax {
		return nil, fmt.Errorf("%w: the answer has %d bytes, the most is %d", ErrTooLarge, len(answer), MessageBytesMax)
	}
	return answer, err
}

// round is called once a second: a caller that does not even ping is gone.
func (a *answering) round() {
	a.mu.Lock()
	a.silent++
	gone := a.silent > silentRounds
	a.mu.Unlock()
	if gone {
		a.conn.Close()
	}
}
