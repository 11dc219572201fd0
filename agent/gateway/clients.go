package gateway

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

const (
	clientsKept  = 8192 // that are remembered
	refusalsMax  = 64   // connections that are refused in words at a time
	refusalTime  = time.Second
	refusalBytes = 4 << 10 // of the request is read, so that the refusal reaches its sender
)

// clients knows who is there, and how far each was told that the store is. It is safe for concurrent use.
type clients struct {
	max, maxEach int
	refusals     sync.WaitGroup
	refused      atomic.Uint64

	mu       sync.Mutex // guards the fields below, and those of each client
	cluster  string     // whose indices these are; "" if it is not known
	known    map[netip.Addr]*client
	floor    kv.Index // no client that is not known any more was told more
	changed  kv.Index // of the last change that was seen here by anybody
	inside   int
	refusing int
}

// client is everybody at one address.
type client struct {
	address     netip.Addr // not valid for those at sockets
	seen        kv.Index   // the highest index that it was told
	connections int
	watches     int
}

func newClients(max, maxEach int) *clients {
	return &clients{max: max, maxEach: maxEach, known: map[netip.Addr]*client{}}
}

// doorway is a listener behind which connections are counted.
type doorway struct {
	net.Listener
	clients  *clients
	networks atomic.Pointer[[]netip.Prefix] // of its address
}

// visit is a connection that was let in.
type visit struct {
	net.Conn
	client *client
	door   *doorway
	leave  func()
}

// Accept returns the next connection that there is room for, as a *visit.
func (d *doorway) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client, why := d.clients.enter(addressOf(conn))
		if why == "" {
			return &visit{Conn: conn, client: client, door: d, leave: sync.OnceFunc(func() { d.clients.leave(client) })}, nil
		}
		d.clients.turnAway(conn, why)
	}
}

// Close closes the connection and gives its place to another.
func (v *visit) Close() error {
	v.leave()
	return v.Conn.Close()
}

// CloseWrite lets net/http say that nothing more comes before it closes a connection over unread bytes.
func (v *visit) CloseWrite() error {
	if half, ok := v.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// addressOf returns where a connection comes from; it is not valid for a socket.
func addressOf(conn net.Conn) netip.Addr {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// enter counts a connection from an address, or says why there is no room for it.
func (c *clients) enter(address netip.Addr) (*client, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.known[address]
	switch {
	case c.inside >= c.max:
		return nil, fmt.Sprintf("this gateway serves no more than %d connections at a time", c.max)
	case one != nil && one.connections >= c.maxEach:
		return nil, fmt.Sprintf("this gateway serves no more than %d connections of one client at a time", c.maxEach)
	case one == nil:
		c.makeRoom()
		one = &client{address: address, seen: c.floor}
		c.known[address] = one
	}
	c.inside++
	one.connections++
	return one, ""
}

// makeRoom forgets a client that is not here if there are many. c.mu is held.
func (c *clients) makeRoom() {
	if len(c.known) < clientsKept {
		return
	}
	for address, one := range c.known {
		if one.connections == 0 {
			c.floor = max(c.floor, one.seen)
			delete(c.known, address)
			return
		}
	}
}

func (c *clients) leave(one *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inside--
	one.connections--
}

// beginWatch counts a watch, one of several keys as one of each, or reports that there are enough.
func (c *clients) beginWatch(one *client, weight, limit int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if one.watches+weight > limit {
		return false
	}
	one.watches += weight
	return true
}

func (c *clients) endWatch(one *client, weight int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one.watches -= weight
}

// told notes that one learns of the state of a cluster at an index; both may be unknown. It reports whether
// that is another cluster than before: then nothing counts that was noted of the other.
func (c *clients) told(one *client, cluster string, index kv.Index) (another bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cluster != "" && cluster != c.cluster {
		another = c.cluster != ""
		c.cluster = cluster
		if another {
			c.reset()
		}
	}
	one.seen = max(one.seen, index)
	return another
}

// forget is for a store that has gone back.
func (c *clients) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset()
}

// reset forgets all indices. c.mu is held.
func (c *clients) reset() {
	c.floor, c.changed = 0, 0
	for _, one := range c.known {
		one.seen = 0
	}
}

// change notes that somebody has learned here of a change with an index.
func (c *clients) change(index kv.Index) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = max(c.changed, index)
}

// horizon returns the index that an answer to one must not be older than, and the highest that one was told.
func (c *clients) horizon(one *client) (atLeast, seen kv.Index) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(one.seen, c.changed), one.seen
}

// clusterID returns the cluster that was heard of last, "" if none was.
func (c *clients) clusterID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cluster
}

func (c *clients) connections() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inside
}

func (c *clients) turnedAway() uint64 { return c.refused.Load() }

// turnAway refuses conn in words, unless many are being refused, without making the caller wait.
func (c *clients) turnAway(conn net.Conn, why string) {
	c.refused.Add(1)
	c.mu.Lock()
	inWords := c.refusing < refusalsMax
	if inWords {
		c.refusing++
	}
	c.mu.Unlock()
	if !inWords {
		conn.Close()
		return
	}
	c.refusals.Go(func() {
		refuse(conn, why)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.refusing--
	})
}

// refuse answers the first request of conn and closes it.
func refuse(conn net.Conn, why string) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(refusalTime))
	if _, err := conn.Read(make([]byte, refusalBytes)); err != nil {
		return
	}
	body := append(etcdv2.AppendError(nil, etcdv2.Overloaded(why)), '\n')
	answer := "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n\r\n" + string(body)
	_, _ = conn.Write([]byte(answer)) // who has gone cannot be told
}

// wait returns when all refusals are over.
func (c *clients) wait() { c.refusals.Wait() }
