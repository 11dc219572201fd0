package admin

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	"github.com/kvd-io/kvd/daemon/route"
)

// member is a Member with what a test says about it.
type member struct {
	leaderless bool
	barrier    func(context.Context) error
	alarms     []string
}

func (m member) Alarms() []string { return m.alarms }

func (m member) HasLeader() bool { return !m.leaderless }

func (m member) Mark() Mark { return Mark{Index: 7, RaftIndex: 9, Sum: "00ff"} }

func (m member) ReadBarrier(ctx context.Context) error {
	if m.barrier == nil {
		return nil
	}
	return m.barrier(ctx)
}

func table(m Member) http.Handler {
	return route.New(func(next http.HandlerFunc) http.HandlerFunc { return next }, Routes(m, http.NotFoundHandler())...)
}

func TestAnswersAreThoseOfEtcdToTheByte(t *testing.T) {
	broken := member{barrier: func(context.Context) error { return errors.New("a \"bad\" day") }}
	full := member{alarms: []string{"NOSPACE"}}
	for _, c := range []struct {
		name, method, target string
		member               member
		status               int
		contentType, body    string
	}{
		{"version", "GET", "/version", member{}, 200, "application/json", `{"etcdserver":"3.5.33","etcdcluster":"3.5.0"}`},
		{"healthy", "GET", "/health", member{}, 200, "text/plain; charset=utf-8", `{"health":"true","reason":""}`},
		{"without a leader", "GET", "/health", member{leaderless: true}, 503, "text/plain; charset=utf-8", `{"health":"false","reason":"RAFT NO LEADER"}` + "\n"},
		{"alive without a leader", "GET", "/health?serializable=true", member{leaderless: true}, 200, "text/plain; charset=utf-8", `{"health":"true","reason":""}`},
		{"without a quorum", "GET", "/health", broken, 503, "text/plain; charset=utf-8", `{"health":"false","reason":"QGET ERROR:a \"bad\" day"}` + "\n"},
		{"a full store", "GET", "/health", full, 503, "text/plain; charset=utf-8", `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{"a full store that answers", "GET", "/health?serializable=true", full, 503, "text/plain; charset=utf-8", `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{"a full store, and that is known", "GET", "/health?exclude=CORRUPT&exclude=NOSPACE", full, 200, "text/plain; charset=utf-8", `{"health":"true","reason":""}`},
		{"a full store, and something else is known", "GET", "/health?exclude=&exclude=nospace,NOSPACE", full, 503, "text/plain; charset=utf-8", `{"health":"false","reason":"ALARM NOSPACE"}` + "\n"},
		{"a full store without a leader", "GET", "/health?exclude=NOSPACE", member{alarms: full.alarms, leaderless: true}, 503, "text/plain; charset=utf-8", `{"health":"false","reason":"RAFT NO LEADER"}` + "\n"},
		{"an alarm left out that is not raised", "GET", "/health?exclude=NOSPACE", member{}, 200, "text/plain; charset=utf-8", `{"health":"true","reason":""}`},
		{"state", "GET", "/debug/state", member{leaderless: true}, 200, "application/json", `{"index":7,"raftIndex":9,"sum":"00ff"}` + "\n"},
		{"head of state", "HEAD", "/debug/state", member{}, 405, "text/plain; charset=utf-8", "Method Not Allowed\n"},
		{"write to version", "PUT", "/version", member{}, 405, "text/plain; charset=utf-8", "Method Not Allowed\n"},
		{"head of health", "HEAD", "/health", member{}, 405, "text/plain; charset=utf-8", "Method Not Allowed\n"},
		{"elsewhere", "GET", "/health/", member{}, 404, "text/plain; charset=utf-8", "404 page not found\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answer := httptest.NewRecorder()
			table(c.member).ServeHTTP(answer, httptest.NewRequest(c.method, c.target, nil))
			if answer.Code != c.status || answer.Header().Get("Content-Type") != c.contentType || answer.Body.String() != c.body {
				t.Errorf("%d %s %q, want %d %s %q", answer.Code, answer.Header().Get("Content-Type"), answer.Body, c.status, c.contentType, c.body)
			}
		})
	}
}

func TestAMemberThatDoesNotAnswerInASecondIsNotHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := member{barrier: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}
		answer := httptest.NewRecorder()
		table(stuck).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/health", nil))
		if answer.Code != http.StatusServiceUnavailable {
			t.Errorf("status %d", answer.Code)
		}
	})
}
