// Package link is a way over TCP that tests can cut: a proxy between a program and the server it
// speaks to. It carries bytes and knows nothing of what they mean.
package link

import (
	"net"
	"sync"
	"testing"
)

// State is what happens to who goes the way.
type State int

// The states of a link.
const (
	Open    State = iota
	Refused       // connections are cut, new ones as soon as they are made
	Stalled       // connections stay, and carry nothing until the link is open again
	closed        // for ever
)

// Link is a listener on loopback whose connections lead to a target. All methods are safe for
// concurrent use.
type Link struct {
	listener net.Listener
	group    sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	target string
	state  State
	conns  map[net.Conn]bool
	moved  *sync.Cond // state has changed
}

// New returns an open link to the host and port of target. It ends with t.
func New(t testing.TB, target string) *Link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{listener: listener, target: target, conns: map[net.Conn]bool{}}
	l.moved = sync.NewCond(&l.mu)
	l.group.Go(l.accept)
	t.Cleanup(func() {
		l.Set(closed)
		listener.Close()
		l.group.Wait()
	})
	return l
}

// Address is where the link begins, as host:port.
func (l *Link) Address() string { return l.listener.Addr().String() }

// URL is Address for HTTP.
func (l *Link) URL() string { return "http://" + l.Address() }

// Set changes what happens to connections, to those that are there as well.
func (l *Link) Set(state State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = state
	l.moved.Broadcast()
	if state == Refused || state == closed {
		for conn := range l.conns {
			conn.Close()
		}
	}
}

// Connections returns how many callers are connected; while the link is stalled that is who waits.
func (l *Link) Connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// Lead makes new connections lead to another target, and cuts those that are there.
func (l *Link) Lead(target string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = target
	for conn := range l.conns {
		conn.Close()
	}
}

func (l *Link) accept() {
	for {
		caller, err := l.listener.Accept()
		if err != nil {
			return
		}
		if !l.hold(caller) {
			continue
		}
		l.group.Go(func() {
			defer l.drop(caller)
			target, open := l.pass()
			if !open {
				return
			}
			server, err := net.Dial("tcp", target)
			if err != nil || !l.hold(server) {
				return
			}
			defer l.drop(server)
			l.group.Go(func() { l.carry(server, caller) })
			l.carry(caller, server)
		})
	}
}

// hold keeps a connection so that it can be cut. It returns false if that is so already.
func (l *Link) hold(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == Refused || l.state == closed {
		conn.Close()
		return false
	}
	l.conns[conn] = true
	return true
}

func (l *Link) drop(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	conn.Close()
	delete(l.conns, conn)
}

// pass waits while the link is stalled, and reports where it leads and whether it is open then.
func (l *Link) pass() (target string, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.state == Stalled {
		l.moved.Wait()
	}
	return l.target, l.state == Open
}

func (l *Link) carry(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, open := l.pass(); !open {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
