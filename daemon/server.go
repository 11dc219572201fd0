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
	headerBytesMax    = 1 << 20                // the conditions of a DELETE are in its URL
	closeGrace        = 5 * time.Second        // for requests that are under way when the server closes
	queueGrace        = 50 * time.Millisecond  // for connections that have not been accepted yet
	queueInterval     = 100 * time.Microsecond // between looks at them
	restGrace         = 250 * time.Millisecond // for a client that may just be sending the next one
	arrivalGrace      = time.Second            // for one that is sending it, or shaking hands
	lingerTime        = 200 * time.Millisecond // for clients to close their side as well
	drainInterval     = 5 * time.Millisecond   // between looks at the connections that are left
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
	listeners []net.Listener
	secure    []*handshaker
	serving   sync.WaitGroup
	rechecked chan struct{} // closed to end rechecks
}

// serve starts to serve handler on listeners, which it takes over, to whom door lets in.
func serve(listeners []net.Listener, handler http.Handler, door *door, log *slog.Logger) *server {
	s := &server{door: door, rechecked: make(chan struct{})}
	s.http = http.Server{
		Protocols: new(http.Protocols), HTTP2: settings2(), Handler: lastWhenDraining(bounded2(handler), door), ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: headerBytesMax, ConnContext: withClient, ConnState: noteState, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetHTTP2(true) // over TLS, for those who ask for it in the handshake
	s.http.Protocols.SetUnencryptedHTTP2(true)
	door.open()
	for _, l := range listeners {
		p, ok := l.(*port)
		secure := ok && p.tls != nil
		socket := l
		if ok {
			socket = p.Listener
		}
		entrance := doorway{Listener: &gentle{Listener: socket}, door: s.door, secure: secure}
		s.listeners = append(s.listeners, entrance)
		way := net.Listener(entrance)
		if secure {
			way = s.securely(entrance, p, log)
		}
		s.serving.Go(func() {
			if err := s.http.Serve(way); !errors.Is(err, http.ErrServerClosed) && !door.draining.Load() {
				log.Error("cannot serve clients any more", "address", l.Addr(), "err", err)
			}
		})
	}
	return s
}

// securely returns the way in through entrance, which is that of a port that speaks TLS.
func (s *server) securely(entrance net.Listener, p *port, log *slog.Logger) net.Listener {
	h := newHandshaker(entrance, p, log)
	if len(s.secure) == 0 { // one for all: they share what TLS works with
		s.serving.Go(func() { recheck(p.tls, s.door, log, s.rechecked) })
	}
	s.secure = append(s.secure, h)
	return h
}

// lastWhenDraining makes every answer to what comes while door drains the last one of its connection.
func lastWhenDraining(next http.Handler, door *door) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if door.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

// noteState tells a connection of the requests on it.
func noteState(c net.Conn, state http.ConnState) {
	under := beneath(c)
	switch {
	case under == nil:
	case state == http.StateActive:
		under.asked()
	case state == http.StateIdle:
		under.answered()
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

// drain lets nobody else in, and makes every answer to what comes from now on the last one of its
// connection.
func (s *server) drain() {
	s.door.draining.Store(true)
	closeAll(s.listeners)
}

// Close lets nobody else in, answers what comes for a while, and cuts off what is still under way then.
//
// To close a connection over bytes that nobody has read would reset it, and a client that has just
// sent them could not tell whether they were executed. So a connection is closed when its answer has said
// that it is the last one, or when it has carried nothing for restGrace; then only the client is told that
// nothing more comes, and what it sends all the same is read and thrown away until it has closed its side.
func (s *server) Close() error {
	s.drain()
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	s.door.empty(ctx)
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	close(s.rechecked)
	s.serving.Wait()
	s.door.close()
	return err
}

// gentle is a listener that may be closed more than once. The system resets the connections that wait to be
// accepted when it is; so nobody else may connect until they have been accepted.
type gentle struct {
	net.Listener
	once sync.Once
	err  error // of the first time
}

// Close closes the listener the first time.
func (l *gentle) Close() error {
	l.once.Do(func() {
		deafen(l.Listener)
		for deadline := time.Now().Add(queueGrace); waiting(l.Listener) > 0 && time.Now().Before(deadline); {
			time.Sleep(queueInterval)
		}
		l.err = l.Listener.Close()
	})
	return l.err
}
