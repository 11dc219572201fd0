package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// traffic counts the bytes of all streams with one member, and the round trips of its pings.
type traffic struct {
	sent, received atomic.Uint64
	trips          trips
}

// stream is a connection with another member after both have said who they are.
type stream struct {
	net.Conn
	kind     kind
	member   uint64 // the other one
	incoming bool
	early    []byte // of the stream that came with the handshake; Read returns it first
	network  *Network
	traffic  *traffic
	number   uint64 // of the streams of this process
	gone     sync.Once

	round atomic.Pointer[func()] // called once a second; nil: nothing
}

func (s *stream) setRound(f func()) { s.round.Store(&f) }

// adopt takes s in, or closes it. Error: net.ErrClosed.
func (n *Network) adopt(s *stream) (*stream, error) {
	if s.kind == kindRaft {
		tune(s.Conn, unackedTimeoutRaft)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		s.Conn.Close()
		return nil, net.ErrClosed
	}
	n.numbered++
	s.network, s.traffic, s.number = n, &n.meet(s.member).traffic, n.numbered
	n.streams[s] = struct{}{}
	return s, nil
}

// behindTLS returns the connection that carries conn.
func behindTLS(conn net.Conn) net.Conn {
	if secure, ok := conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return conn
}

func (s *stream) Read(p []byte) (n int, err error) {
	if len(s.early) > 0 {
		n = copy(p, s.early)
		s.early = s.early[n:]
	} else {
		n, err = s.Conn.Read(p)
	}
	s.traffic.received.Add(uint64(n))
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	s.traffic.sent.Add(uint64(n))
	return n, err
}

// Close closes the connection. It may be called more than once, and does not wait: TLS has a word
// of parting that a full connection would not take.
func (s *stream) Close() error {
	s.gone.Do(func() {
		s.network.mu.Lock()
		defer s.network.mu.Unlock()
		delete(s.network.streams, s)
	})
	return behindTLS(s.Conn).Close()
}

// StreamLayer opens and accepts streams of kind raft. It is safe for concurrent use.
type StreamLayer struct {
	network  *Network
	accepted chan *stream
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc

	mu sync.Mutex // held while accepted is filled or emptied for good
}

func newStreamLayer(n *Network) *StreamLayer {
	l := &StreamLayer{network: n, accepted: make(chan *stream, raftStreamsMax)}
	l.ctx, l.cancel = context.WithCancel(n.ctx)
	return l
}

// Accept waits for the next stream that another member opens. Error: net.ErrClosed.
func (l *StreamLayer) Accept() (net.Conn, error) {
	select {
	case s := <-l.accepted:
		return s, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Dial opens a stream to a member, within timeout; a host that does not answer at all is given up
// sooner. Errors: ErrUnknownMember, a *Refusal, net.ErrClosed, those of the network.
func (l *StreamLayer) Dial(to uint64, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.ctx, timeout)
	defer cancel()
	s, err := l.network.open(ctx, to, kindRaft)
	if err != nil && l.ctx.Err() != nil {
		err = net.ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("connect to member %s: %w", hex(to), err)
	}
	l.network.seen(to)
	return s, nil
}

// Addr returns the address of the first listener, nil if there is none.
func (l *StreamLayer) Addr() net.Addr {
	if len(l.network.config.Listeners) == 0 {
		return nil
	}
	return l.network.config.Listeners[0].Addr()
}

// Close ends Accept and Dial, and closes further streams of kind raft as they come. Streams that were handed
// out belong to who has them. It may be called more than once.
func (l *StreamLayer) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cancel()
	for {
		select {
		case s := <-l.accepted:
			s.Close()
		default:
			return nil
		}
	}
}

// offer hands s to Accept. If that is not possible, s is closed.
func (l *StreamLayer) offer(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() == nil {
		select {
		case l.accepted <- s:
			return
		default: // nobody accepts: raft does not run yet
		}
	}
	s.Close()
}
