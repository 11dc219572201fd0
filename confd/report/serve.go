package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/unixsocket"
)

// Health is the answer of the health check.
type Health struct {
	Healthy  bool      `json:"healthy"`
	Index    kv.Index  `json:"index"`
	Problems []Problem `json:"problems"`
}

// Page answers what changes nothing:
//
//	GET /health    Health: 200 while every store is heard and every target converged or held, else 503
//	GET /metrics   for Prometheus
//	GET /status    Status
//
// No answer holds the value of a key.
func (r *Report) Page() http.Handler { return r.mux() }

// Console answers what Page does, and
//
//	GET  /explain?file=PATH&line=N   Explanation; 404 if no target makes the file
//	POST /release?name=NAME          lets through once what is held; 404 if nothing is called so, 409 if it is not held
func (r *Report) Console() http.Handler {
	mux := r.mux()
	mux.HandleFunc("GET /explain", r.explain)
	mux.HandleFunc("POST /release", r.release)
	return mux
}

func (r *Report) mux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		s := r.Status()
		problems := s.ailments()
		code := http.StatusOK
		if len(problems) > 0 {
			code = http.StatusServiceUnavailable
		}
		answer(w, code, Health{len(problems) == 0, s.Index, problems})
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, r.Status()) })
	mux.Handle("GET /metrics", r.metrics.handler())
	return mux
}

func (r *Report) asked() Agent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.agent
}

func (r *Report) explain(w http.ResponseWriter, request *http.Request) {
	agent := r.asked()
	if agent == nil {
		refuse(w, http.StatusServiceUnavailable, "it has not begun yet")
		return
	}
	query := request.URL.Query()
	line := 0
	if text := query.Get("line"); text != "" {
		var err error
		if line, err = strconv.Atoi(text); err != nil || line < 1 {
			refuse(w, http.StatusBadRequest, "line %.20q is not the number of a line", text)
			return
		}
	}
	explanation, err := agent.Explain(request.Context(), query.Get("file"), line)
	switch {
	case err == nil:
		answer(w, http.StatusOK, explanation)
	case kv.Is(err, kv.NotFound):
		refuse(w, http.StatusNotFound, "%s", causeOf(err))
	case kv.Is(err, kv.Invalid):
		refuse(w, http.StatusBadRequest, "%s", causeOf(err))
	default:
		refuse(w, http.StatusInternalServerError, "%s", clean(err.Error()))
	}
}

func (r *Report) release(w http.ResponseWriter, request *http.Request) {
	agent := r.asked()
	if agent == nil {
		refuse(w, http.StatusServiceUnavailable, "it has not begun yet")
		return
	}
	name := request.URL.Query().Get("name")
	err := agent.Release(name)
	switch {
	case err == nil:
		answer(w, http.StatusOK, map[string]string{"released": name})
	case kv.Is(err, kv.NotFound):
		refuse(w, http.StatusNotFound, "%s", causeOf(err))
	default:
		refuse(w, http.StatusConflict, "%s", causeOf(err))
	}
}

// causeOf is an error without the words of its Kind, if it has others.
func causeOf(err error) string {
	var known *kv.Error
	if errors.As(err, &known) && known.Cause != "" {
		return known.Cause
	}
	return clean(err.Error())
}

func answer(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(value) // who asked may have gone
}

func refuse(w http.ResponseWriter, code int, format string, args ...any) {
	answer(w, code, unixsocket.Problem{Error: fmt.Sprintf(format, args...)})
}

// Listen takes the socket at path for the Console. An error says that the path cannot be had.
func (r *Report) Listen(path string) (*unixsocket.Server, error) {
	listener, err := unixsocket.Listen(path)
	if err != nil {
		return nil, err
	}
	return unixsocket.NewServer(listener, r.Console(), r.cfg.Log), nil
}

// ListenPage takes a TCP address for the Page.
func (r *Report) ListenPage(address string) (*unixsocket.Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return unixsocket.NewServer(listener, r.Page(), r.cfg.Log), nil
}
