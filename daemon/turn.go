package daemon

import (
	"io"
	"net"
	"time"
)

// turn is whose turn it is on a connection that carries one request at a time: one of the states below,
// and how often it has changed to resting, so that no two turns are the same.
type turn uint64

const (
	resting   turn = iota // the client has nothing to expect
	arriving              // it has sent something that is no request yet
	asking                // it has sent the head of a request, and has not got all of the answer
	dismissed             // nothing that it sends is looked at any more

	turnStates = 4
)

func (t turn) state() turn { return t % turnStates }

// next returns t in another state.
func (t turn) next(state turn) turn {
	t = t - t.state() + state
	if state == resting {
		t += turnStates
	}
	return t
}

// grace returns how long a turn may last while the door drains, and whether its end may be forced.
func (t turn) grace() (time.Duration, bool) {
	switch t.state() {
	case resting:
		return restGrace, true
	case arriving:
		return arrivalGrace, true
	}
	return 0, false
}

func (c *conn) turn() turn { return turn(c.now.Load()) }

// become changes the state from any but dismissed, and returns false if it was that.
func (c *conn) become(state turn) bool {
	for {
		t := c.turn()
		switch {
		case t.state() == dismissed:
			return false
		case t.state() == state, c.now.CompareAndSwap(uint64(t), uint64(t.next(state))):
			return true
		}
	}
}

// arrived notes that the client has sent something. It returns false when that comes too late.
func (c *conn) arrived() bool {
	for {
		t := c.turn()
		switch t.state() {
		case dismissed:
			return false
		case arriving, asking:
			return true
		}
		if c.now.CompareAndSwap(uint64(t), uint64(t.next(arriving))) {
			return true
		}
	}
}

// asked notes that a request has begun. Over TLS it may have come with the end of the handshake.
func (c *conn) asked() { c.become(asking) }

// answered notes that its answer is complete.
func (c *conn) answered() { c.become(resting) }

// dismiss closes the connection in its turn t, if that is not over. Nothing that has come is lost then but
// half a request.
func (c *conn) dismiss(t turn) {
	if !c.now.CompareAndSwap(uint64(t), uint64(t.next(dismissed))) {
		return
	}
	if secure := c.tls(); secure != nil {
		secure.Close() // says farewell
		return
	}
	c.Close()
}

// linger says that nothing more comes, waits a while for the client to say so too, and closes the
// connection, which has left the door.
func (c *conn) linger() {
	defer c.Conn.Close()
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.Conn.SetReadDeadline(time.Now().Add(lingerTime)) // which a Read under way has to keep, too
	io.Copy(io.Discard, struct{ net.Conn }{c.Conn})
}
