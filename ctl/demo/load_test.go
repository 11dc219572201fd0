package demo

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestTheLoadCountsAnswersByBackendAndFailures(t *testing.T) {
	var turn atomic.Int64
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch turn.Add(1) % 4 {
		case 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 1: // no backend has put its name here
		case 2:
			w.Header().Set(headerBackend, "a")
		case 3:
			w.Header().Set(headerBackend, "b")
		}
	}))
	t.Cleanup(front.Close)
	l := newLoad(front.URL)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	eventually(t, "eight requests", func() bool { return l.now().requests >= 8 })
	if l.answeredAt("a").IsZero() || !l.answeredAt("c").IsZero() {
		t.Error("the first answers are not known by backend")
	}
	cancel()
	<-done

	total := l.now()
	answers, failure := l.totals()
	if total.requests != int(turn.Load()) || total.failed+answers["a"]+answers["b"] != total.requests {
		t.Errorf("%d were asked; counted %+v, %v", turn.Load(), total, answers)
	}
	if total.failed < 4 || answers["a"] < 2 || answers["b"] < 2 || !strings.Contains(failure, "the proxy answered") {
		t.Errorf("counted %+v, %v, %q", total, answers, failure)
	}
	if l.mark(); !l.answeredAt("a").IsZero() {
		t.Error("an answer from before the mark counts after it")
	}
}

func TestARefusedConnectionIsAFailure(t *testing.T) {
	front := httptest.NewServer(http.NotFoundHandler())
	front.Close()
	l := newLoad(front.URL)
	if _, err := l.ask(); err == nil {
		t.Error("no error")
	}
}

func TestRequestsThatPileUpCountAsFailures(t *testing.T) {
	release := make(chan struct{})
	front := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(front.Close)
	l := newLoad(front.URL)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	eventually(t, "failures", func() bool { return l.now().failed > 0 })
	cancel()
	close(release)
	<-done
	if _, failure := l.totals(); l.now().requests < requestsAtOnce {
		t.Errorf("%+v, %q", l.now(), failure)
	}
}
