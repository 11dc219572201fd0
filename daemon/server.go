package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits on what a client may make the server wait for or keep. There is no limit on the time of an
// answer: a watch lasts as long as it is wanted.
const (
	readHeaderTimeout = 10 * time.Second
	bodyTimeout       = time.Minute      // to send the body of a request
	answerTimeout     = 30 * time.Second // to take an answer; a long one has as much for each part
	idleTimeout       = 2 * time.Minute
	headerBytesMax    = 1 << 20         // the conditions of a DELETE are in its URL
	closeGrace        = 5 * time.Second // for requests that are under way when the server closes
)

// limitTime bounds the time to send the body of a request and to take its answer, which is there
// within work. These are not the server's ReadTimeout and WriteTimeout: those would end watches,
// which lift the bounds for themselves.
func limitTime(work time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response, now := http.NewResponseController(w), time.Now()
		end := now.Add(work + answerTimeout)
		if r.Body != http.NoBody {
			response.SetReadDeadline(now.Add(bodyTimeout))
			end = end.Add(bodyTimeout)
		}
		response.SetWriteDeadline(end)
		next.ServeHTTP(w, r)
	})
}

// server serves HTTP on several listeners.
type server struct {
	http    http.Server
	door    *door
	serving sync.WaitGroup

	mu     sync.Mutex
	silent map[net.Conn]struct{} // connected, and have not sent anything yet
}

// serve starts to serve handler on listeners, which it takes over, to whom door lets in.
func serve(listeners []net.Listener, handler http.Handler, door *door, log *slog.Logger) *server {
	s := &server{door: door, silent: map[net.Conn]struct{}{}}
	s.http = http.Server{
		Protocols: new(http.Protocols), Handler: handler, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: headerBytesMax, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), ConnState: s.note,
	}
	s.http.Protocols.SetHTTP1(true) // so that a connection carries one request at a time
	for _, l := range listeners {
		s.serving.Go(func() {
			if err := s.http.Serve(doorway{l, s.door}); !errors.Is(err, http.ErrServerClosed) {
				log.Error("cannot serve clients any more", "address", l.Addr(), "err", err)
			}
		})
	}
	return s
}

func (s *server) note(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateIdle: // has been active before
		return
	case http.StateClosed:
		s.door.leave(conn)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateNew {
		s.silent[conn] = struct{}{}
	} else {
		delete(s.silent, conn)
	}
}

// drain makes every answer from now on the last one of its connection.
func (s *server) drain() { s.http.SetKeepAlivesEnabled(false) }

// Close stops accepting, waits a while for requests under way, and cuts the rest off.
func (s *server) Close() error {
	// Shutdown would give a connection that has sent nothing five seconds to do so. Clients open
	// such connections in reserve.
	s.mu.Lock()
	for conn := range s.silent {
		conn.Close()
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	s.serving.Wait()
	s.door.wait()
	return err
}
