package daemon

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// clientsMax is how many addresses of clients have a count of their own.
const clientsMax = 64

// clients counts requests by the address that they come from. When another address needs room, the one
// without connections that has asked least gives its place up; while all have connections, further
// addresses share one count. Only connections that come and go take a lock, requests do not.
type clients struct {
	mu    sync.Mutex
	known map[netip.Addr]*client // at most clientsMax
	other client                 // all who have no place in known
}

// client is what one address has asked for.
type client struct {
	requests    atomic.Uint64
	connections int // guarded by clients.mu
}

func newClients() *clients { return &clients{known: map[netip.Addr]*client{}} }

// enter returns who counts the requests of a connection from address, until leave.
func (c *clients) enter(address netip.Addr) *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.known[address]
	if k == nil && address.IsValid() && c.makeRoom() {
		k = &client{}
		c.known[address] = k
	}
	if k == nil {
		k = &c.other
	}
	k.connections++
	return k
}

// makeRoom reports whether there is room for one more address. c.mu is held.
func (c *clients) makeRoom() bool {
	if len(c.known) < clientsMax {
		return true
	}
	var least netip.Addr
	for address, k := range c.known {
		if k.connections == 0 && (!least.IsValid() || k.requests.Load() < c.known[least].requests.Load()) {
			least = address
		}
	}
	if !least.IsValid() {
		return false
	}
	c.other.requests.Add(c.known[least].requests.Load())
	delete(c.known, least)
	return true
}

// leave ends what enter has begun.
func (c *clients) leave(k *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.connections--
}

// counts returns the requests of each address, and those of all others together.
func (c *clients) counts() (known map[netip.Addr]uint64, other uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known = make(map[netip.Addr]uint64, len(c.known))
	for address, k := range c.known {
		known[address] = k.requests.Load()
	}
	return known, c.other.requests.Load()
}

// addressOf returns where conn comes from, the zero Addr if that is no address of IP.
func addressOf(conn net.Conn) netip.Addr {
	from, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return from.AddrPort().Addr().Unmap().WithZone("")
}

type clientKey struct{}

// withClient gives the requests of conn, with ctx, who counts them.
func withClient(ctx context.Context, conn net.Conn) context.Context {
	if c := beneath(conn); c != nil {
		return context.WithValue(ctx, clientKey{}, c.client)
	}
	return ctx
}

// countClient counts a request with this context.
func countClient(ctx context.Context) {
	if k, ok := ctx.Value(clientKey{}).(*client); ok {
		k.requests.Add(1)
	}
}
