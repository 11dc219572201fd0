package daemon

import (
	"crypto/tls"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// roundInterval is how often the door looks after its connections.
	roundInterval = time.Second
	// answerTimeout is how long a client may refuse to take what is sent: an answer, or each part of
	// a long one.
	answerTimeout = 30 * time.Second
)

// conn is a connection that a door has let in. net/http sets its read deadline seven times in the
// course of a request, nearly always to lift it again before it matters, and one in the runtime's
// poller costs as much as to look up a key. So a deadline is only noted here, and takes effect in
// the door's next round; one that has passed already, with which net/http ends a Read under way,
// does so at once. A Write whose client takes nothing for answerTimeout fails.
//
// While a request is being answered net/http reads one byte, to learn that the client has gone, and
// gives the Read up before the next request. It would cost as much as any other for what is hardly ever
// there, so it begins in the door's next round: most requests are answered by then.
//
// It is safe for concurrent use, with one Read and one Write at a time.
type conn struct {
	net.Conn
	door   *door
	plain  bool    // no TLS is spoken here
	client *client // where it comes from

	now         atomic.Uint64 // a turn
	multiplexed atomic.Bool   // HTTP/2 is spoken: turns say nothing

	mu      sync.Mutex    // guards the fields below
	secure  *tls.Conn     // over this one, after its handshake; else nil
	greeted int           // bytes of the preface of HTTP/2 with which the client has begun, -1 for another beginning
	reading bool          // a Read is under way
	held    bool          // a Read waits for the door's next round
	resumed sync.Cond     // held is over, or late has come
	readBy  time.Duration // of the door's clock; 0 for no deadline
	late    bool          // readBy has passed
	woken   bool          // the poller was told, so that a Read under way ends
	bounded bool          // the poller was told of a deadline for writes
	since   time.Duration // when the Write under way began, by the door's clock; 0 for none
	stuck   bool          // a Write was given up, so that no other may follow it
	gone    bool          // has left the door
}

func newConn(under net.Conn, d *door, plain bool) *conn {
	c := &conn{Conn: under, door: d, plain: plain}
	c.resumed.L = &c.mu
	return c
}

// Read reads until the deadline. Errors: os.ErrDeadlineExceeded, and those of the connection.
func (c *conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	for c.held = len(p) == 1 && c.turn().state() == asking; c.held && !c.late; {
		c.resumed.Wait()
	}
	c.held = false
	if c.late {
		c.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	c.reading = true
	c.mu.Unlock()
	n, err := c.Conn.Read(p)
	if n > 0 && !c.arrived() {
		n, err = 0, net.ErrClosed
	}
	c.mu.Lock()
	first := n > 0 && c.greeted == 0
	if n > 0 && c.greeted >= 0 {
		c.greet(p[:n])
	}
	c.reading = false
	c.mu.Unlock()
	if first && c.plain && p[0] == recordHandshake {
		c.door.misled.tell("the client has to use http in place of https, or kvd to listen on https", c.RemoteAddr().String())
	}
	return n, err
}

// preface is what a client of HTTP/2 sends first where no TLS is spoken.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// greet notes what the client has sent, of which greeted bytes came before. c.mu is held.
func (c *conn) greet(sent []byte) {
	sent = sent[:min(len(sent), len(preface)-c.greeted)]
	if string(sent) != preface[c.greeted:c.greeted+len(sent)] {
		c.greeted = -1
		return
	}
	if c.greeted += len(sent); c.greeted == len(preface) {
		c.multiplexed.Store(true)
		c.greeted = -1
	}
}

// Write writes all of p. Errors: os.ErrDeadlineExceeded when the client does not take it, and those
// of the connection.
func (c *conn) Write(p []byte) (int, error) {
	c.setSince(c.door.clock())
	defer c.setSince(0)
	return c.Conn.Write(p)
}

func (c *conn) setSince(t time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = t
}

// SetReadDeadline bounds reads, also the one under way; the zero time lifts the bound.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.readBy, c.late = 0, false
	if !t.IsZero() {
		c.readBy = t.Sub(c.door.opened)
		c.late = c.readBy <= c.door.clock()
	}
	if c.late && c.held {
		c.resumed.Signal()
	}
	if c.late && c.reading && !c.woken {
		c.woken = true
		c.mu.Unlock() // which the Read that ends now needs
		return c.Conn.SetReadDeadline(longAgo)
	}
	defer c.mu.Unlock()
	if !c.late && c.woken {
		c.woken = false
		return c.Conn.SetReadDeadline(time.Time{})
	}
	return nil
}

// longAgo as a deadline ends what is under way.
var longAgo = time.Unix(1, 0)

// SetWriteDeadline bounds writes beside answerTimeout; the zero time lifts the bound.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.IsZero() && !c.bounded || c.stuck {
		return nil
	}
	c.bounded = !t.IsZero()
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// CloseWrite tells the client that nothing more will be sent. net/http does so before it closes the
// connection over unread bytes, which would take the answer with them.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close closes the connection and gives its place to another. It may be called more than once. While
// the door drains, the client first has a while to close its side.
func (c *conn) Close() error {
	c.mu.Lock()
	first := !c.gone
	c.gone = true
	c.resume()
	c.mu.Unlock()
	switch draining := c.door.draining.Load(); {
	case first && draining:
		c.door.farewells.Go(c.linger) // before its place is free: who finds the door empty waits for all farewells
		c.door.leave(c)
		return nil
	case first:
		c.door.leave(c)
	case draining:
		return nil // linger closes it
	}
	return c.Conn.Close()
}

// resume lets a Read that is held begin. c.mu is held.
func (c *conn) resume() {
	if c.held {
		c.held = false
		c.resumed.Signal()
	}
}

// lookAfter enforces the deadlines that have passed at now.
func (c *conn) lookAfter(now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return
	}
	c.resume()
	if c.readBy != 0 && c.readBy <= now && !c.late {
		c.late = true
		if c.reading {
			c.woken = true
			c.Conn.SetReadDeadline(longAgo)
		}
	}
	if c.since != 0 && now-c.since >= answerTimeout+roundInterval { // the clock had stood for up to one round
		c.stuck = true
		c.Conn.SetWriteDeadline(longAgo)
	}
}

// secured notes that t, over c, has its handshake behind it. What comes from now on is requests.
func (c *conn) secured(t *tls.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secure = t
	c.multiplexed.Store(t.ConnectionState().NegotiatedProtocol == protocol2)
	c.now.Store(uint64(c.turn().next(resting)))
}

// protocol2 is the name of HTTP/2 in ALPN.
const protocol2 = "h2"

// tls returns what secured has noted.
func (c *conn) tls() *tls.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.secure
}
