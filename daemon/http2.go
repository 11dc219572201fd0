package daemon

import (
	"net/http"
	"time"
)

// Limits of a connection of HTTP/2, which carries many requests at a time. Go's server bounds the rest: the
// handlers that run beside each other also when their requests were reset, frames that continue
// headers, frames that wait to be sent, settings.
const (
	// streamsMax may be taken up by watches alone: clients know it, and make another connection for more.
	streamsMax = 250
	// After pingAfter without a frame the client is asked whether it is there, and has pingTimeout to say so.
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second
)

func settings2() *http.HTTP2Config {
	return &http.HTTP2Config{MaxConcurrentStreams: streamsMax, SendPingTimeout: pingAfter, PingTimeout: pingTimeout}
}

// bounded2 bounds how long a client of HTTP/2 may refuse to take an answer while it takes others on the same
// connection. Over HTTP/1.1 the connection does.
func bounded2(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor < 2 {
			next.ServeHTTP(w, r)
			return
		}
		if r.ContentLength == 0 {
			r.Body = http.NoBody // as it is over HTTP/1.1
		}
		b := boundedWriter{w, http.NewResponseController(w)}
		next.ServeHTTP(b, r)
		b.bound() // for what is left in a buffer
	})
}

// boundedWriter gives each Write and each flush answerTimeout.
type boundedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Write writes p. Errors: those of the stream, which is reset when the client does not take it.
func (b boundedWriter) Write(p []byte) (int, error) {
	b.bound()
	defer b.unbound()
	return b.ResponseWriter.Write(p)
}

// FlushError sends what was written, with the errors of Write. It is for http.ResponseController.
func (b boundedWriter) FlushError() error {
	b.bound()
	defer b.unbound()
	return b.control.Flush()
}

// Unwrap is for http.ResponseController.
func (b boundedWriter) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b boundedWriter) bound() { _ = b.control.SetWriteDeadline(time.Now().Add(answerTimeout)) }

// unbound lifts the bound: a watch waits for its next event as long as it takes.
func (b boundedWriter) unbound() { _ = b.control.SetWriteDeadline(time.Time{}) }
