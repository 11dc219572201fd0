package daemon

import (
	"net/http"
	"sync"
	"sync/atomic"
)

// class is what a request is for, as far as its method tells.
type class uint8

const (
	classRead class = iota
	classWrite
	classOther
	classes
)

func (c class) String() string { return [classes]string{"read", "write", "other"}[c] }

func classOf(method string) class {
	switch method {
	case http.MethodGet, http.MethodHead:
		return classRead
	case http.MethodPut, http.MethodPost, http.MethodDelete:
		return classWrite
	}
	return classOther
}

const statusMax = 600

// traffic counts requests by class and status. Counting allocates nothing. It is safe for
// concurrent use.
type traffic struct {
	inFlight atomic.Int64
	answered [classes][statusMax]atomic.Uint64
	writers  sync.Pool // of *statusWriter
}

// wrap counts what goes through next.
func (t *traffic) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counted, ok := t.writers.Get().(*statusWriter)
		if !ok {
			counted = new(statusWriter)
		}
		counted.ResponseWriter = w
		t.inFlight.Add(1)
		countClient(r.Context())
		defer func() { // also when a handler breaks the connection off by a panic
			t.inFlight.Add(-1)
			t.answered[classOf(r.Method)][counted.sent()].Add(1)
			*counted = statusWriter{}
			t.writers.Put(counted)
		}()
		next.ServeHTTP(counted, r)
	})
}

// statusWriter notes the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader sends the status, and notes the first that is not informational.
func (w *statusWriter) WriteHeader(status int) {
	if w.status < http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// sent returns the status that the client got: 200 unless another was sent.
func (w *statusWriter) sent() int {
	if w.status < http.StatusOK || w.status >= statusMax {
		return http.StatusOK
	}
	return w.status
}
