package daemon

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// askFront returns the status and the body of the answer to a GET of path.
func askFront(h http.Handler, path string) (status int, body string) {
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer.Code, answer.Body.String()
}

func TestAMemberThatStartsTellsWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFront()
		f.wait("1 of 3 are there")
		begun := time.Now()
		if status, body := askFront(f, "/health"); status != http.StatusServiceUnavailable || body != `{"health":"false","reason":"STARTING: 1 of 3 are there"}`+"\n" || time.Since(begun) > 0 {
			t.Errorf("health: %d %s after %v", status, body, time.Since(begun))
		}
		status, body := askFront(f, "/v2/keys/a")
		if status != http.StatusServiceUnavailable || !strings.Contains(body, `"errorCode":300`) || !strings.Contains(body, "etcdserver: no leader: this member is starting: 1 of 3 are there") || time.Since(begun) != startPatience {
			t.Errorf("keys: %d %s after %v", status, body, time.Since(begun))
		}
	})
}

func TestARequestWaitsForAMemberThatStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFront()
		answered := make(chan int)
		go func() {
			status, _ := askFront(f, "/v2/keys/a")
			answered <- status
		}()
		time.Sleep(startPatience / 2)
		f.open(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
		if status := <-answered; status != http.StatusTeapot {
			t.Errorf("one that came before: %d", status)
		}
		if status, _ := askFront(f, "/health"); status != http.StatusTeapot {
			t.Errorf("one that comes later: %d", status)
		}
	})
}

func TestAStartThatFailsLeavesNobodyWaiting(t *testing.T) {
	f := newFront()
	f.open(nil)
	if status, _ := askFront(f, "/v2/keys/a"); status != http.StatusServiceUnavailable {
		t.Errorf("got %d", status)
	}
}
