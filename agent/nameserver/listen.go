package nameserver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/kvd-io/kvd/pkg/backoff"
)

// The library's own server starts a goroutine for each packet, and waits for ever for a TCP client that does
// not read, so that both loops are here. Messages and the addresses of packets are the library's.
const (
	udpWorkers      = 4    // for each address; a question costs microseconds and waits for nothing
	questionSizeMax = 4096 // over UDP; what is larger is cut off, and so no message

	connsMax     = 256              // over TCP; one more is closed at once
	idleTimeout  = 10 * time.Second // for the next question of a connection, whole
	writeTimeout = 5 * time.Second
)

// serveUDP answers packets until the socket is closed.
func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn) {
	buffer := make([]byte, questionSizeMax)
	var retry backoff.Backoff
	for {
		n, session, err := dns.ReadFromSessionUDP(conn, buffer)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.cfg.Log.Warn("cannot read from a UDP socket, trying again", "address", conn.LocalAddr().String(), "err", err)
			if retry.Wait(ctx) != nil {
				return
			}
			continue
		}
		retry.Reset()
		from, _ := session.RemoteAddr().(*net.UDPAddr)
		if from == nil {
			continue
		}
		if answer := s.respond(buffer[:n], from.AddrPort().Addr(), true); answer != nil {
			if _, err := dns.WriteToSessionUDP(conn, answer, session); err != nil {
				s.counts.unsent.Add(1) // who has asked may ask again
			}
		}
	}
}

// serveTCP accepts connections until the listener is closed.
func (s *Server) serveTCP(ctx context.Context, listener *net.TCPListener) {
	var serving sync.WaitGroup
	defer serving.Wait()
	var retry backoff.Backoff
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			s.cfg.Log.Warn("cannot accept a TCP connection, trying again", "address", listener.Addr().String(), "err", err)
			if retry.Wait(ctx) != nil {
				return
			}
			continue
		}
		retry.Reset()
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if !s.allowed(from) {
			s.counts.disallowed.Add(1)
			conn.Close()
			continue
		}
		if !s.conns.add(conn) {
			s.counts.crowded.Add(1)
			conn.Close()
			continue
		}
		serving.Go(func() {
			defer s.conns.remove(conn)
			s.serveConn(conn, from)
		})
	}
}

// serveConn answers the questions of one connection in their order, until it ends or takes too long.
func (s *Server) serveConn(conn net.Conn, from netip.Addr) {
	for {
		packet, err := readMessage(conn)
		if err != nil {
			return
		}
		answer := s.respond(packet, from, false)
		if answer == nil {
			return // no question: nothing good comes after it
		}
		if writeMessage(conn, answer) != nil {
			return
		}
	}
}

// readMessage reads a message behind its length of two bytes.
func readMessage(conn net.Conn) ([]byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint16(size[:])
	if length > questionSizeMax {
		return nil, errors.New("a question of such a size is none")
	}
	packet := make([]byte, length)
	_, err := io.ReadFull(conn, packet)
	return packet, err
}

func writeMessage(conn net.Conn, message []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(message)), uint16(len(message)))
	_, err := conn.Write(append(framed, message...))
	return err
}

// connections are those that are open.
type connections struct {
	mu     sync.Mutex // guards the fields below
	open   map[net.Conn]struct{}
	closed bool
}

// add notes a connection, and returns false if there is no room for it.
func (c *connections) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.open) >= connsMax {
		return false
	}
	c.open[conn] = struct{}{}
	return true
}

func (c *connections) remove(conn net.Conn) {
	c.mu.Lock()
	delete(c.open, conn)
	c.mu.Unlock()
	conn.Close()
}

// closeAll closes all connections, and those to come.
func (c *connections) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.open {
		conn.Close()
	}
}

func (c *connections) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}
