package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/registrar"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/unixsocket"
	"github.com/kvd-io/kvd/pkg/workload"
)

const (
	bodyBytesMax = 4 << 10 // of an override

	// storeMax is how long an override that the host cannot remember is given to get to the store.
	storeMax = 5 * time.Second
)

// Config says what is shown. Registrar and Publisher are required.
type Config struct {
	Program   string // its name, and that of its unit if there is one
	Registrar *registrar.Registrar
	Publisher *registry.Publisher // of the Registrar
	Overrides *override.Source    // nil: none can be Set
	Log       *slog.Logger        // nil discards

	// Sources returns the engines that are followed, by name; nil: there is nothing to say of them.
	Sources func() iter.Seq2[string, workload.Status]

	// MoreMetrics writes metrics of the program's own behind those of this package; nil: there are none.
	MoreMetrics func(w io.Writer)

	// More answers what is asked for beyond the paths of this package; nil: 404.
	More http.Handler
}

// Listen takes the socket at path, and answers once the server runs. See the package for who may use it. An
// error says that the path cannot be had: nothing was changed there.
func Listen(path string, cfg Config) (*unixsocket.Server, error) {
	listener, err := unixsocket.Listen(path)
	if err != nil {
		return nil, err
	}
	return unixsocket.NewServer(listener, Handler(cfg), cfg.Log), nil
}

// Handler answers what the package says, wherever it is served. A page that many can reach must not
// pass PUT on.
func Handler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, cfg.Report()) })
	mux.HandleFunc("GET /v1/explain", cfg.explain)
	mux.HandleFunc("PUT /v1/override", cfg.override)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		WriteMetrics(w, cfg.Report())
		if cfg.MoreMetrics != nil {
			cfg.MoreMetrics(w)
		}
	})
	if cfg.More != nil {
		mux.Handle("/", cfg.More)
	}
	return mux
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(value) // who asked may have gone
}

func refuse(w http.ResponseWriter, status int, format string, args ...any) {
	answer(w, status, unixsocket.Problem{Error: fmt.Sprintf(format, args...)})
}

func (cfg Config) explain(w http.ResponseWriter, r *http.Request) {
	what := r.URL.Query().Get("what")
	found := slices.DeleteFunc(cfg.instances(), func(i Instance) bool { return !i.isCalled(what) })
	if len(found) == 0 {
		refuse(w, http.StatusNotFound, "nothing that is offered here is called %q", what)
		return
	}
	answer(w, http.StatusOK, found)
}

// isCalled reports whether what names the instance, its workload or its service; "" names all.
func (i Instance) isCalled(what string) bool {
	return what == "" || what == i.Service || what == i.Instance || what == i.Service+"/"+i.Instance ||
		what == i.Workload || what+".service" == i.Workload
}

// causeOf is an error without the words of its Kind, if it has others.
func causeOf(err error) string {
	var known *kv.Error
	switch {
	case !errors.As(err, &known):
		return err.Error()
	case known.Cause == "" && known.Err != nil:
		return known.Err.Error()
	}
	return cmp.Or(known.Cause, err.Error())
}

func (cfg Config) override(w http.ResponseWriter, r *http.Request) {
	service, instance := r.URL.Query().Get("service"), r.URL.Query().Get("instance")
	if cfg.Overrides == nil {
		refuse(w, http.StatusNotImplemented, "overrides are not followed here")
		return
	}
	isOurs := slices.ContainsFunc(cfg.instances(), func(i Instance) bool { return i.Service == service && i.Instance == instance })
	if !isOurs {
		refuse(w, http.StatusNotFound, "this host offers no instance %q of service %q; status lists those that it does, and kvctl service reaches the others", instance, service)
		return
	}
	var o override.Override
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&o); err != nil {
		refuse(w, http.StatusBadRequest, "not an override: %v", err)
		return
	}
	err := cfg.Overrides.Set(service, instance, o)
	if err != nil && !kv.Is(err, kv.Invalid) && !kv.Is(err, kv.TooLarge) { // the host cannot remember it; the store can
		ctx, cancel := context.WithTimeout(r.Context(), storeMax)
		defer cancel()
		if cfg.Overrides.AwaitStore(ctx, service, instance) == nil {
			err = nil
		}
	}
	switch {
	case err == nil:
		answer(w, http.StatusOK, cfg.Overrides.Get(service, instance))
	case kv.Is(err, kv.Invalid):
		refuse(w, http.StatusBadRequest, "%s", causeOf(err))
	case kv.Is(err, kv.TooLarge):
		refuse(w, http.StatusInternalServerError, "%s", causeOf(err))
	default:
		refuse(w, http.StatusInternalServerError, "it counts now and goes to the store when that answers; a restart before would forget it, because the host cannot remember it: %v", err)
	}
}
