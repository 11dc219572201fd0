package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits on what a client may make the server wait for or keep; see also answerTimeout. There is no
// limit on the time of an answer: a watch lasts as long as it is wanted.
const (
	readHeaderTimeout = 10 * time.Second
	bodyTimeout       = time.Minute // to send the body of a request
	idleTimeout       = 2 * time.Minute
	headerBytesMax    = 1 << 20         // the conditions of a DELETE are in its URL
	closeGrace        = 5 * time.Second // for requests that are under way when the server closes
)

// limitBody bounds the time to send the body of a request. This is not the server's ReadTimeout: that
// would end watches, which lift the bound for themselves.
func limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody {
			http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
		}
		next.ServeHTTP(w, r)
	})
}

// server serves HTTP on several listeners.
type server struct {
	http      http.Server
	door      *door
	secure    []*handshaker
	serving   sync.WaitGroup
	rechecked chan struct{} // closed to end rechecks
}

// serve starts to serve handler on listeners, which it takes over, to whom door lets in.
func serve(listeners []net.Listener, handler http.Handler, door *door, log *slog.Logger) *server {
	s := &server{door: door, rechecked: make(chan struct{})}
	s.http = http.Server{
		Protocols: new(http.Protocols), Handler: handler, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: headerBytesMax, ConnContext: withClient, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.http.Protocols.SetHTTP1(true) // so that a connection carries one request at a time
	door.open()
	for _, l := range listeners {
		way := net.Listener(doorway{Listener: l, door: s.door})
		if p, ok := l.(*port); ok && p.tls != nil {
			way = s.securely(p, log)
		}
		s.serving.Go(func() {
			if err := s.http.Serve(way); !errors.Is(err, http.ErrServerClosed) {
				log.Error("cannot serve clients any more", "address", l.Addr(), "err", err)
			}
		})
	}
	return s
}

// securely returns the way in through a port that speaks TLS.
func (s *server) securely(p *port, log *slog.Logger) net.Listener {
	h := newHandshaker(doorway{Listener: p.Listener, door: s.door, secure: true}, p, log)
	if len(s.secure) == 0 { // one for all: they share what TLS works with
		s.http.ConnState = noteRequest
		s.serving.Go(func() { recheck(p.tls, s.door, log, s.rechecked) })
	}
	s.secure = append(s.secure, h)
	return h
}

// noteRequest notes the requests of connections over TLS; the others do so themselves.
func noteRequest(c net.Conn, state http.ConnState) {
	if _, ok := c.(*tls.Conn); !ok || state != http.StateActive {
		return
	}
	if under := beneath(c); under != nil {
		under.asked()
	}
}

// beneath returns the connection that a door has let in and that carries c, with or without TLS; nil if
// there is none.
func beneath(c net.Conn) *conn {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	switch under := c.(type) {
	case *conn:
		return under
	case *begun:
		return under.conn
	}
	return nil
}

// drain makes every answer from now on the last one of its connection.
func (s *server) drain() { s.http.SetKeepAlivesEnabled(false) }

// Close stops accepting, waits a while for requests under way, and cuts the rest off.
func (s *server) Close() error {
	// Shutdown would give a connection that has sent nothing five seconds to do so. Clients open
	// such connections in reserve.
	s.door.closeSilent()
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	close(s.rechecked)
	s.serving.Wait()
	s.door.close()
	return err
}
