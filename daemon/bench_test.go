package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// These benchmarks serve over a connection without a kernel, so that they show what net/http and
// the daemon cost themselves. The first one is the floor: a handler that does nothing.

func BenchmarkServeNothing(b *testing.B) {
	serveRequests(b, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), "/v2/keys/bench/key", "200 OK")
}

func BenchmarkServeGet(b *testing.B) {
	d := benchDaemon(b)
	write(b, d, "/bench/key")
	serveRequests(b, d.server.http.Handler, "/v2/keys/bench/key", "200 OK")
}

func BenchmarkServeGetOfNothing(b *testing.B) {
	serveRequests(b, benchDaemon(b).server.http.Handler, "/v2/keys/bench/key", "404 Not Found")
}

func BenchmarkServeQuorumGet(b *testing.B) {
	d := benchDaemon(b)
	write(b, d, "/bench/key")
	serveRequests(b, d.server.http.Handler, "/v2/keys/bench/key?quorum=true", "200 OK")
}

func BenchmarkServeListing(b *testing.B) {
	d := benchDaemon(b)
	for i := range 1000 {
		write(b, d, fmt.Sprintf("/bench/dir/child-%04d", i))
	}
	b.Run("unchanged", func(b *testing.B) { serveRequests(b, d.server.http.Handler, "/v2/keys/bench/dir", "200 OK") })
	b.Run("of a sorted one", func(b *testing.B) {
		serveRequests(b, d.server.http.Handler, "/v2/keys/bench/dir?recursive=true&sorted=true", "200 OK")
	})
}

func benchDaemon(b *testing.B) *Daemon {
	b.Helper()
	cfg := DefaultConfig()
	cfg.DataDir = b.TempDir()
	cfg.ListenClientURLs = []string{"http://127.0.0.1:0"}
	cfg.ListenPeerURLs = []string{"http://127.0.0.1:0"}
	d, err := Open(context.Background(), cfg, Deps{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := d.Close(); err != nil {
			b.Error(err)
		}
	})
	return d
}

func write(b *testing.B, d *Daemon, key string) {
	b.Helper()
	if _, err := d.service.Write(b.Context(), kv.Write{Op: kv.OpSet, Key: key, Value: strings.Repeat("v", 256)}); err != nil {
		b.Fatal(err)
	}
}

// serveRequests serves b.N requests of one connection with the daemon's server.
func serveRequests(b *testing.B, handler http.Handler, path, want string) {
	c := newMemoryConn("GET "+path+" HTTP/1.1\r\nHost: 127.0.0.1:2379\r\n\r\n", b.N)
	l := &oneConn{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	l.conns <- c
	b.ReportAllocs()
	b.ResetTimer()
	s := serve([]net.Listener{l}, handler, newDoor(limits{connections: 1000}, slog.New(slog.DiscardHandler)), slog.New(slog.DiscardHandler))
	<-c.closed
	b.StopTimer()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	if !strings.HasPrefix(c.first, "HTTP/1.1 "+want) {
		b.Fatalf("answered %.100q", c.first)
	}
	b.ReportMetric(float64(c.writes)/float64(b.N), "writes/op")
}

// memoryConn sends the same request again whenever the last one was answered, and takes answers.
type memoryConn struct {
	net.Conn
	request string
	first   string // answer, its beginning
	closed  chan struct{}
	once    sync.Once

	mu       sync.Mutex // guards the fields below
	changed  sync.Cond
	unread   string // of the request
	answered bool
	left     int
	writes   int
	overdue  bool
}

func newMemoryConn(request string, count int) *memoryConn {
	c := &memoryConn{request: request, answered: true, left: count, closed: make(chan struct{})}
	c.changed.L = &c.mu
	return c
}

func (c *memoryConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.overdue:
			return 0, os.ErrDeadlineExceeded
		case c.unread == "" && c.answered && c.left == 0:
			return 0, io.EOF
		case c.unread == "" && c.answered:
			c.unread, c.answered = c.request, false
			c.left--
		case c.unread != "":
			n := copy(p, c.unread)
			c.unread = c.unread[n:]
			return n, nil
		default: // the server looks whether the client hangs up
			c.changed.Wait()
		}
	}
}

func (c *memoryConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.first == "" {
		c.first = string(p[:min(len(p), 1000)])
	}
	c.writes++
	c.answered = true
	return len(p), nil
}

func (c *memoryConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.overdue = !t.IsZero() && t.Before(time.Now())
	c.changed.Broadcast()
	return nil
}

func (c *memoryConn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *memoryConn) SetWriteDeadline(time.Time) error { return nil }
func (c *memoryConn) LocalAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2379}
}
func (c *memoryConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}
}

func (c *memoryConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// oneConn is a listener with one caller.
type oneConn struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2379} }
