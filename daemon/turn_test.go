package daemon

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

func TestAStopAnswersWhatComesInTimeAndEndsTheRestInOrder(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string        // what the client sends before the stop, and then
		wait          time.Duration // in between
		answered      bool
		least, most   time.Duration // that the stop takes
	}{
		"nothing":                   {"", "", 0, false, restGrace, restGrace + 100*time.Millisecond},
		"the next request":          {askRoot, askRoot, restGrace / 2, true, restGrace / 2, restGrace},
		"the first request":         {"", askRoot, restGrace / 2, true, restGrace / 2, restGrace},
		"the rest of a request":     {askRoot[:9], askRoot[9:], arrivalGrace / 2, true, arrivalGrace / 2, arrivalGrace},
		"half a request":            {askRoot[:9], "", 0, false, arrivalGrace, arrivalGrace + 100*time.Millisecond},
		"the next request too late": {askRoot, askRoot, 2 * restGrace, false, restGrace, restGrace + 100*time.Millisecond},
		"a slow request":            {"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", "", 0, true, 3 * time.Second, 3*time.Second + restGrace + 100*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener, log := newPipes(), slog.New(slog.DiscardHandler)
				s := serve([]net.Listener{listener}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/slow" {
						time.Sleep(3 * time.Second)
					}
					io.WriteString(w, "ok")
				}), newDoor(limits{connections: 9}, log), log)
				conn := listener.dial()
				defer conn.Close()
				answers := bufio.NewReader(conn)
				read := func() (*http.Response, error) {
					answer, err := http.ReadResponse(answers, nil)
					if err == nil {
						io.Copy(io.Discard, answer.Body)
					}
					return answer, err
				}
				io.WriteString(conn, c.before)
				if c.before == askRoot {
					if answer, err := read(); err != nil || answer.Close {
						t.Fatalf("before the stop: %+v, %v", answer, err)
					}
				}
				synctest.Wait()
				start := time.Now()
				stopped := make(chan time.Duration, 1)
				go func() {
					s.Close()
					stopped <- time.Since(start)
				}()
				time.Sleep(c.wait)
				go io.WriteString(conn, c.after)
				answer, err := read()
				if answered := err == nil; answered != c.answered || answered && answer.StatusCode != 200 {
					t.Errorf("%+v, %v", answer, err)
				}
				if _, err := answers.ReadByte(); err != io.EOF {
					t.Errorf("the connection ends with %v", err)
				}
				conn.Close()
				if took := <-stopped; took < c.least || took > c.most {
					t.Errorf("the stop took %v, want %v to %v", took, c.least, c.most)
				}
			})
		})
	}
}

func TestWithoutConnectionsAStopTakesNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		s := serve([]net.Listener{newPipes()}, answerOK, newDoor(limits{connections: 9}, log), log)
		start := time.Now()
		if err := s.Close(); err != nil || time.Since(start) > 0 {
			t.Errorf("%v, after %v", err, time.Since(start))
		}
	})
}
