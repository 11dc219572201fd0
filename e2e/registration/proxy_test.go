package registration

import (
	"net"
	"sync"
	"testing"
)

// proxy is the way to a store, which can be cut.
type proxy struct {
	listener net.Listener
	target   string
	group    sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	state way
	conns map[net.Conn]bool
	moved *sync.Cond // state has changed
}

// way is what happens to who goes it.
type way int

const (
	open    way = iota
	refused     // connections are cut, new ones as soon as they are made
	stalled     // connections stay, and carry nothing
	closed      // for ever
)

func newProxy(t testing.TB, target string) *proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target, conns: map[net.Conn]bool{}}
	p.moved = sync.NewCond(&p.mu)
	p.group.Go(p.accept)
	t.Cleanup(func() {
		p.set(closed)
		listener.Close()
		p.group.Wait()
	})
	return p
}

func (p *proxy) url() string { return "http://" + p.listener.Addr().String() }

func (p *proxy) set(state way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = state
	p.moved.Broadcast()
	if state == refused || state == closed {
		for conn := range p.conns {
			conn.Close()
		}
	}
}

func (p *proxy) accept() {
	for {
		caller, err := p.listener.Accept()
		if err != nil {
			return
		}
		if !p.hold(caller) {
			continue
		}
		p.group.Go(func() {
			defer p.drop(caller)
			if !p.pass() {
				return
			}
			store, err := net.Dial("tcp", p.target)
			if err != nil || !p.hold(store) {
				return
			}
			defer p.drop(store)
			p.group.Go(func() { p.carry(store, caller) })
			p.carry(caller, store)
		})
	}
}

// hold keeps a connection so that it can be cut. It returns false if that is so already.
func (p *proxy) hold(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == refused || p.state == closed {
		conn.Close()
		return false
	}
	p.conns[conn] = true
	return true
}

func (p *proxy) drop(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	conn.Close()
	delete(p.conns, conn)
}

// pass waits while the way is stalled, and reports whether it is open then.
func (p *proxy) pass() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.state == stalled {
		p.moved.Wait()
	}
	return p.state == open
}

func (p *proxy) carry(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !p.pass() {
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
