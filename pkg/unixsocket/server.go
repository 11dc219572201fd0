package unixsocket

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// What one peer may take.
const (
	connectionsMax = 64
	headerBytesMax = 16 << 10
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = 60 * time.Second // some answers take a while to make
	idleTimeout    = 30 * time.Second
)

// Server answers requests on one listener, within bounds on what a peer may take.
type Server struct {
	listener net.Listener
	http     *http.Server
}

// NewServer returns a server that owns listener, be it of Listen or another one. What is wrong with connections is
// logged at debug; log nil discards.
func NewServer(listener net.Listener, handler http.Handler, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		listener: netutil.LimitListener(listener, connectionsMax),
		http: &http.Server{
			Handler: handler, MaxHeaderBytes: headerBytesMax, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout,
			WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
	}
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run answers until ctx ends, closes the listener, and returns nil then. It is called once.
func (s *Server) Run(ctx context.Context) error {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(ended); s.http.Close() })
	err := s.http.Serve(s.listener)
	s.listener.Close() // Serve may not have seen it
	if !stop() {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
