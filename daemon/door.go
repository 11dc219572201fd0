package daemon

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/pace"
)

const (
	refusalsMax    = 128 // connections that are being refused at a time; more are cut off without a word
	refusalTime    = time.Second
	refusalRequest = 64 << 10 // of the request is read, so that the refusal reaches its sender
	refusalsTold   = 10 * time.Second
)

// door lets connections in as long as there is room. The others are told so, with an answer that
// clients take for "ask another member", and closed; they never wait in a queue that nobody
// serves. It is safe for concurrent use.
type door struct {
	max, maxPerAddress int // maxPerAddress may be 0, for any number
	log                *slog.Logger
	refusals           sync.WaitGroup
	draining           atomic.Bool    // nobody is let in any more
	farewells          sync.WaitGroup // connections that are being closed while draining
	misled             *teller        // who spoke TLS to a port for plain HTTP
	opened             time.Time
	round              atomic.Int64  // its time, in nanoseconds since opened
	rounds             chan struct{} // closed to end them
	walking            sync.WaitGroup

	mu        sync.Mutex
	inside    map[*conn]struct{}
	byAddress map[netip.Prefix]int // empty unless there is a maxPerAddress
	refusing  int
	refused   int       // since told
	told      time.Time // when the log last heard of it

	turnedAway uint64 // connections, ever

	handshakesFailed atomic.Uint64 // ever

	clients *clients
}

// count returns how many connections are inside, and how many were refused so far.
func (d *door) count() (inside int, turnedAway uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.inside), d.turnedAway
}

func newDoor(l limits, log *slog.Logger) *door {
	d := &door{max: l.connections, maxPerAddress: l.connectionsPerAddress, log: log, misled: newTeller(log, "TLS came to a port that speaks plain HTTP"), opened: time.Now(), rounds: make(chan struct{}),
		inside: map[*conn]struct{}{}, byAddress: map[netip.Prefix]int{}, clients: newClients()}
	d.round.Store(1) // 0 stands for no time
	return d
}

// open begins the rounds, which end with close.
func (d *door) open() { d.walking.Go(d.goRounds) }

// goRounds looks after all connections once in a while.
func (d *door) goRounds() {
	for range pace.Every(d.rounds, roundInterval) {
		now := time.Since(d.opened)
		d.round.Store(int64(now))
		for _, c := range d.all() {
			c.lookAfter(now)
		}
	}
}

// clock returns the time of the last round, which is up to one roundInterval ago, and never 0.
func (d *door) clock() time.Duration { return time.Duration(d.round.Load()) }

// all returns the connections inside.
func (d *door) all() []*conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.AppendSeq(make([]*conn, 0, len(d.inside)), maps.Keys(d.inside))
}

// empty returns when all connections of HTTP/1.1 are gone, or ctx ends. It closes those that
// carry no request; of the others each has to say, with its answer, that it is the last.
func (d *door) empty(ctx context.Context) {
	ticker := time.NewTicker(drainInterval)
	defer ticker.Stop()
	type sight struct {
		turn  turn
		since time.Time
	}
	for seen := map[*conn]sight{}; ; {
		left := 0
		for _, c := range d.all() {
			if c.multiplexed.Load() {
				continue
			}
			left++
			now, was := sight{c.turn(), time.Now()}, seen[c]
			if now.turn != was.turn || was.since.IsZero() {
				seen[c] = now
			} else if grace, may := now.turn.grace(); may && now.since.Sub(was.since) >= grace {
				d.farewells.Go(func() { c.dismiss(now.turn) })
			}
		}
		if left == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// doorway is a listener behind a door.
type doorway struct {
	net.Listener
	door   *door
	secure bool // TLS is spoken there, so that nobody is refused in words
}

// Accept returns the next connection that there is room for, as a *conn.
func (w doorway) Accept() (net.Conn, error) {
	for {
		accepted, err := w.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := newConn(accepted, w.door, !w.secure)
		why := w.door.enter(c)
		if why == "" {
			return c, nil
		}
		w.door.turnAway(accepted, why, w.secure)
	}
}

// enter counts c as inside, or says why it cannot be.
func (d *door) enter(c *conn) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	address, counted := d.siteOf(c)
	switch {
	case len(d.inside) >= d.max:
		return fmt.Sprintf("this member serves no more than %d connections at a time (--max-connections)", d.max)
	case counted && d.byAddress[address] >= d.maxPerAddress:
		return fmt.Sprintf("this member serves no more than %d connections of %s at a time (--max-connections-per-ip)", d.maxPerAddress, address)
	}
	d.inside[c] = struct{}{}
	c.client = d.clients.enter(addressOf(c))
	if counted {
		d.byAddress[address]++
	}
	return ""
}

// leave counts c, which has entered, as gone.
func (d *door) leave(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.inside, c)
	d.clients.leave(c.client)
	address, counted := d.siteOf(c)
	if !counted {
		return
	}
	if d.byAddress[address]--; d.byAddress[address] == 0 {
		delete(d.byAddress, address)
	}
}

// siteOf returns whom conn comes from, and whether that matters: one address, for IPv6 the
// network of one site, all of whose addresses one machine can use.
func (d *door) siteOf(conn net.Conn) (netip.Prefix, bool) {
	address := addressOf(conn)
	if d.maxPerAddress == 0 || !address.IsValid() {
		return netip.Prefix{}, false
	}
	bits := 32
	if address.Is6() {
		bits = 64
	}
	prefix, err := address.Prefix(bits)
	return prefix, err == nil
}

// turnAway refuses conn and closes it, without making the caller wait. Over TLS, a word would cost a
// handshake; the connection is just closed.
func (d *door) turnAway(conn net.Conn, why string, secure bool) {
	d.tell(conn, why)
	if secure || !d.startRefusal() {
		conn.Close()
		return
	}
	d.refusals.Go(func() {
		refuse(conn, why)
		d.mu.Lock()
		defer d.mu.Unlock()
		d.refusing--
	})
}

func (d *door) startRefusal() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refusing >= refusalsMax {
		return false
	}
	d.refusing++
	return true
}

// tell has the log say that connections are refused, the first time at once and then once in a
// while.
func (d *door) tell(conn net.Conn, why string) {
	d.mu.Lock()
	d.refused++
	d.turnedAway++
	refused, now := d.refused, time.Now()
	due := now.Sub(d.told) >= refusalsTold
	if due {
		d.refused, d.told = 0, now
	}
	d.mu.Unlock()
	if due {
		d.log.Warn("connections refused", "reason", why, "refused", refused, "last", conn.RemoteAddr().String())
	}
}

// refuse answers the first request of conn with 503 and closes it. It reads what else there is
// before, because a connection that is closed over unread bytes takes its answer with it.
func refuse(conn net.Conn, why string) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(refusalTime))
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		return
	}
	body := append(etcdv2.AppendError(nil, etcdv2.Overloaded(why)), '\n')
	var answer bytes.Buffer
	answer.WriteString("HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: ")
	answer.WriteString(strconv.Itoa(len(body)))
	answer.WriteString("\r\n\r\n")
	answer.Write(body)
	if _, err := conn.Write(answer.Bytes()); err != nil {
		return
	}
	linger(conn)
}

// linger says that nothing more comes on conn, and reads what was sent meanwhile.
func linger(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	io.CopyN(io.Discard, conn, refusalRequest)
}

// close ends the rounds and returns when they, all refusals and all farewells are over.
func (d *door) close() {
	close(d.rounds)
	d.walking.Wait()
	d.refusals.Wait()
	d.farewells.Wait()
}
