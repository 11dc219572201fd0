package daemon

import (
	"container/list"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/pace"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

const (
	handshakeTimeout = 10 * time.Second
	// handshakesMax is how many may be under way at a time on one port.
	handshakesMax = 1024
	// handshakePatience is after what time one that is under way has to make room for others when
	// there are as many as may be.
	handshakePatience = time.Second
	// recheckInterval is how often the files of TLS are looked at for the connections that are open.
	recheckInterval = time.Second
)

// recordHandshake is the first byte of a TLS connection, and of nothing in HTTP.
const recordHandshake = 0x16

// handshaker is a listener whose connections have their TLS handshakes behind them. Those under way
// wait beside each other. A bounded number of them is let in; when there are as many, and they take
// their time, the oldest goes for the next. So neither who dawdles nor a crowd that comes at once
// keeps others out.
//
// Accept returns *tls.Conn; where plain HTTP is spoken too, also connections that have not begun
// with a handshake.
type handshaker struct {
	net.Listener // of *conn
	secure       *tlsconfig.Server
	plain        bool
	failures     *teller
	misled       *teller // who spoke plain HTTP

	slots   chan struct{} // holds a token for each handshake under way
	ready   chan accepted
	closing chan struct{}
	running sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	underWay *list.List // of *attempt, the oldest first
	closed   bool
}

// accepted is what Accept returns.
type accepted struct {
	conn net.Conn
	err  error
}

// attempt is a handshake under way.
type attempt struct {
	conn  *conn
	began time.Time
}

// newHandshaker returns a handshaker behind l, which it takes over, and starts it.
func newHandshaker(l net.Listener, p *port, log *slog.Logger) *handshaker {
	h := &handshaker{
		Listener: l, secure: p.tls, plain: p.plain,
		failures: newTeller(log, "TLS handshakes with clients failed"), misled: newTeller(log, "plain HTTP came to a port that speaks HTTPS"),
		slots: make(chan struct{}, handshakesMax), ready: make(chan accepted), closing: make(chan struct{}), underWay: list.New(),
	}
	h.running.Go(h.run)
	return h
}

// Accept returns the next connection whose handshake is done. Errors are those of the listener.
func (h *handshaker) Accept() (net.Conn, error) {
	select {
	case a := <-h.ready:
		return a.conn, a.err
	case <-h.closing:
		return nil, net.ErrClosed
	}
}

// Close stops listening and ends the handshakes under way. It returns when they are over.
func (h *handshaker) Close() error {
	h.mu.Lock()
	again := h.closed
	h.closed = true
	h.mu.Unlock()
	if again {
		return nil
	}
	close(h.closing)
	err := h.Listener.Close()
	h.mu.Lock()
	for e := h.underWay.Front(); e != nil; e = e.Next() {
		e.Value.(*attempt).conn.Close()
	}
	h.mu.Unlock()
	h.running.Wait()
	return err
}

// run lets connections in until the listener is closed.
func (h *handshaker) run() {
	for h.awaitSlot() {
		c, err := h.Listener.Accept()
		if err != nil {
			<-h.slots
			if errors.Is(err, net.ErrClosed) || !h.deliver(accepted{err: err}) {
				return // those under way may go on until Close
			}
			continue
		}
		a := &attempt{c.(*conn), time.Now()}
		e, ok := h.begin(a)
		if !ok {
			a.conn.Close()
			<-h.slots
			return
		}
		h.running.Go(func() {
			ready := h.shake(a)
			h.end(e)
			<-h.slots
			if ready != nil && !h.deliver(accepted{conn: ready}) {
				ready.Close()
			}
		})
	}
}

// begin notes a as under way. It returns false when the handshaker closes.
func (h *handshaker) begin(a *attempt) (*list.Element, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, false
	}
	return h.underWay.PushBack(a), true
}

// end notes that the attempt in e is over.
func (h *handshaker) end(e *list.Element) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underWay.Remove(e) // nothing if it was taken out before
}

func (h *handshaker) deliver(a accepted) bool {
	select {
	case h.ready <- a:
		return true
	case <-h.closing:
		return false
	}
}

// awaitSlot waits until one more handshake may begin. It returns false when the handshaker closes.
func (h *handshaker) awaitSlot() bool {
	for {
		select {
		case h.slots <- struct{}{}:
			return true
		case <-h.closing:
			return false
		default:
		}
		timer := time.NewTimer(h.makeRoom())
		select {
		case h.slots <- struct{}{}:
			timer.Stop()
			return true
		case <-h.closing:
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

// makeRoom ends the oldest handshake if it has had its time, and returns when to look again.
func (h *handshaker) makeRoom() time.Duration {
	h.mu.Lock()
	oldest := h.underWay.Front()
	if oldest == nil { // all are about to end
		h.mu.Unlock()
		return handshakePatience
	}
	a := oldest.Value.(*attempt)
	left := handshakePatience - time.Since(a.began)
	if left <= 0 {
		h.underWay.Remove(oldest)
	}
	h.mu.Unlock()
	if left > 0 {
		return left
	}
	a.conn.Close()
	return handshakePatience
}

// shake returns a's connection when it is ready for requests, nil if it is not and was closed.
func (h *handshaker) shake(a *attempt) net.Conn {
	c := a.conn
	c.SetDeadline(a.began.Add(handshakeTimeout))
	raw := net.Conn(c)
	if h.plain {
		first := make([]byte, 1)
		if _, err := io.ReadFull(c, first); err != nil {
			c.Close()
			return nil
		}
		raw = &begun{conn: c, first: first}
		if first[0] != recordHandshake {
			c.SetDeadline(time.Time{})
			return raw
		}
	}
	secure := tls.Server(raw, h.secure.Config())
	if err := secure.Handshake(); err != nil {
		h.fail(c, err)
		c.Close()
		return nil
	}
	c.SetDeadline(time.Time{})
	c.secured(secure)
	return secure
}

// fail tells the log why a handshake failed, and a client that speaks plain HTTP what to speak.
func (h *handshaker) fail(c *conn, err error) {
	from := c.RemoteAddr().String()
	var header tls.RecordHeaderError
	if errors.As(err, &header) && tlsconfig.IsHTTP(header) {
		h.misled.tell("the client has to use https in place of http", from)
		answerPlain(c, "Client sent an HTTP request to an HTTPS server: use https:// in place of http://, "+
			"and let the client trust the authority of this server (kvctl --ca-file, curl --cacert).")
		return
	}
	reason := tlsconfig.Explain(err)
	if reason == "" { // it has just gone, as port scanners and probes do
		h.failures.log.Debug("a connection ended before its TLS handshake", "from", from, "err", err)
		return
	}
	c.door.handshakesFailed.Add(1)
	h.failures.tell(reason, from)
}

// answerPlain answers with 400 to a request that came without TLS and was read in part.
func answerPlain(c net.Conn, text string) {
	c.SetDeadline(time.Now().Add(refusalTime))
	_, err := fmt.Fprintf(c, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s\n", len(text)+1, text)
	if err == nil {
		linger(c)
	}
}

// begun is a connection of which the first byte was read.
type begun struct {
	*conn
	first []byte
}

// Read reads that byte first.
func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) > 0 && len(p) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.conn.Read(p)
}

// recheck closes the connections that secure would not let in any more, as often as its files
// change, until stop is closed.
func recheck(secure *tlsconfig.Server, d *door, log *slog.Logger, stop <-chan struct{}) {
	told := newTeller(log, "open connections closed: their certificates are not accepted any more")
	seen := secure.Refresh()
	for range pace.Every(stop, recheckInterval) {
		now := secure.Refresh()
		if now == seen {
			continue
		}
		seen = now
		for _, c := range d.all() {
			t := c.tls()
			if t == nil {
				continue
			}
			if err := secure.Verify(t.ConnectionState()); err != nil {
				c.Close()
				told.tell(tlsconfig.Explain(err), c.RemoteAddr().String())
			}
		}
	}
}

// teller has the log tell of something that can happen often: the first time at once, and then once
// in a while with how often it has. It is safe for concurrent use.
type teller struct {
	log  *slog.Logger
	what string

	mu    sync.Mutex // guards the fields below
	count int        // since told
	told  time.Time
}

func newTeller(log *slog.Logger, what string) *teller { return &teller{log: log, what: what} }

// tell notes that it has happened once more. reason and from are told if it is this one that is.
func (t *teller) tell(reason, from string) {
	t.mu.Lock()
	t.count++
	count, now := t.count, time.Now()
	due := now.Sub(t.told) >= refusalsTold
	if due {
		t.count, t.told = 0, now
	}
	t.mu.Unlock()
	if due {
		t.log.Warn(t.what, "reason", reason, "times", count, "last", from)
	}
}
