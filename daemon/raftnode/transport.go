package raftnode

import (
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// transport is raft's network transport without two things that are broken in it.
type transport struct {
	*raft.NetworkTransport
}

// newTransport speaks over layer. With one request in flight there is no pipeline, which can
// wedge for ever after a follower refuses entries; with batches as entries it would gain nothing.
func newTransport(layer raft.StreamLayer, log hclog.Logger) *transport {
	return &transport{raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Logger: log, Stream: layer, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: peerTimeout,
		MsgpackUseNewTimeFormat: true,
	})}
}

// SetHeartbeatHandler does nothing, so that heartbeats take raft's main loop like every other
// request. The handler would change the term beside that loop, and a leader of the past could
// stamp an entry with a term that is not its own.
func (*transport) SetHeartbeatHandler(func(raft.RPC)) {}

// soloLayer connects a cluster of one member: to itself, in memory. It holds the peer address,
// so that nothing else takes it, and hangs up on everybody who calls: the only member knows no
// peer, and raft believes whoever speaks to it.
type soloLayer struct {
	listener net.Listener
	self     chan net.Conn
	done     chan struct{} // closed when the listener is
	close    sync.Once
	hangup   sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // both ends of what Dial made
}

func newSoloLayer(listener net.Listener) *soloLayer {
	l := &soloLayer{listener: listener, self: make(chan net.Conn), done: make(chan struct{})}
	l.hangup.Go(l.hangUp)
	return l
}

func (l *soloLayer) hangUp() {
	for {
		conn, err := l.listener.Accept()
		if err == nil {
			conn.Close()
			continue
		}
		select {
		case <-l.done:
			return
		case <-time.After(acceptRetry): // out of file descriptors, most likely
		}
	}
}

// Accept returns the next connection that Dial made.
func (l *soloLayer) Accept() (net.Conn, error) {
	select {
	case conn := <-l.self:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Dial connects the member to itself.
func (l *soloLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	here, there := net.Pipe()
	l.mu.Lock()
	l.conns = append(l.conns, here, there)
	l.mu.Unlock()
	select {
	case l.self <- there:
		return here, nil
	case <-l.done:
		return nil, fmt.Errorf("dial %s: %w", address, net.ErrClosed)
	case <-time.After(timeout):
		return nil, fmt.Errorf("dial %s: no answer in %s", address, timeout)
	}
}

// Addr returns the address that is held.
func (l *soloLayer) Addr() net.Addr { return l.listener.Addr() }

// Close gives the address back.
func (l *soloLayer) Close() error {
	var err error
	l.close.Do(func() {
		close(l.done)
		err = l.listener.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, conn := range l.conns {
			conn.Close()
		}
	})
	l.hangup.Wait()
	return err
}
