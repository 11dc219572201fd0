package docker_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
	"github.com/kvd-io/kvd/pkg/workload/docker"
	"github.com/kvd-io/kvd/pkg/workload/docker/dockertest"
)

// holds reports whether the workloads of s are exactly those with the given IDs.
func holds(ids ...string) func(workload.Snapshot) bool {
	return func(s workload.Snapshot) bool {
		got := []string{}
		for _, w := range s.Workloads {
			got = append(got, w.ID)
		}
		return slices.Equal(got, ids)
	}
}

func runs() dockertest.Container { return dockertest.Container{Running: true, StartedAt: time.Now()} }

func TestTheFirstSnapshotIsFullEvenWhenItIsEmpty(t *testing.T) {
	e := dockertest.Start(t)
	f := follow(t, docker.Config{Host: e.Host()})
	if s := f.until("a snapshot", func(workload.Snapshot) bool { return true }); len(s.Workloads) != 0 {
		t.Errorf("got %+v", s)
	}
}

func TestManyContainersComeInOneSnapshotAndAreNotAskedForAllAtOnce(t *testing.T) {
	e := dockertest.Start(t)
	for i := range 300 {
		e.Set(fmt.Sprintf("c%03d", i), runs())
	}
	f := follow(t, docker.Config{Host: e.Host()})
	if s := f.until("a snapshot", func(workload.Snapshot) bool { return true }); len(s.Workloads) != 300 {
		t.Errorf("the first snapshot has %d of 300 containers", len(s.Workloads))
	}
	if most := e.InspectMost(); most > 8 {
		t.Errorf("%d containers were asked for at the same time", most)
	}
}

func TestTheEventStreamBeginsInThePast(t *testing.T) {
	e := dockertest.Start(t)
	f := follow(t, docker.Config{Host: e.Host()})
	f.until("a snapshot", holds())
	if dockertest.Time(e.Since()).After(time.Now().Add(-2 * time.Second)) {
		t.Errorf("since=%q: events between the answer's head and the subscription would be lost", e.Since())
	}
}

func TestAnEventThatTheEngineSwallowsIsMadeUpFor(t *testing.T) {
	e := dockertest.Start(t)
	f := follow(t, docker.Config{Host: e.Host(), Relist: 20 * time.Millisecond})
	f.until("nothing runs", holds())
	e.Set("a", runs())
	f.until("a runs", holds("a"))
	e.Set("a", dockertest.Container{})
	f.until("a has ended", holds())
}

func TestAContainerOfAnEventIsLookedAtBeforeItIsBelieved(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", runs())
	f := follow(t, docker.Config{Host: e.Host()})
	f.until("a runs", holds("a"))
	e.Send("a", "die", time.Now().Add(-time.Minute), nil) // of the run before
	e.Set("b", runs())
	e.Send("b", "start", time.Now(), nil)
	if s := f.until("a snapshot", func(workload.Snapshot) bool { return true }); !holds("a", "b")(s) {
		t.Errorf("got %+v", s)
	}
}

func TestAContainerThatHasEndedIsGoneBeforeTheEngineTellsMore(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", runs())
	f := follow(t, docker.Config{Host: e.Host(), Timeout: time.Hour})
	f.until("a runs", holds("a"))
	e.Set("a", dockertest.Container{Hangs: true})
	e.Send("a", "die", time.Now(), nil)
	f.until("a has ended", holds())
}

func TestWhatHappensWhileTheStreamIsCutIsSeen(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", runs())
	f := follow(t, docker.Config{Host: e.Host()})
	f.until("a runs", holds("a"))
	for i := range 5 {
		id := fmt.Sprintf("b%d", i)
		e.Set(id, runs())
		e.Cut()
		f.until(id+" runs", func(s workload.Snapshot) bool { return find(s, id).State == workload.Running })
	}
}

func TestTheLastSnapshotStandsWhileTheEngineIsAway(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", runs())
	f := follow(t, docker.Config{Host: e.Host()})
	f.until("a runs", holds("a"))
	e.Stop()
	e.Set("b", runs())
	e.Restart()
	// Nothing may come between the last snapshot before and the first after.
	if s := f.until("a snapshot", func(workload.Snapshot) bool { return true }); !holds("a", "b")(s) {
		t.Errorf("after the engine's return: %+v", s)
	}
}

func TestAnEngineThatStaysAwayIsForgottenWithItsContainers(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", runs())
	f := follow(t, docker.Config{Host: e.Host(), Hold: 50 * time.Millisecond})
	f.until("a runs", holds("a"))
	e.Stop()
	f.until("a is forgotten", holds())
	e.Restart()
	f.until("a runs again", holds("a"))
}

func TestAnEngineThatHangsIsAsGoodAsAway(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", runs())
	f := follow(t, docker.Config{Host: e.Host(), Hold: 50 * time.Millisecond, Timeout: 50 * time.Millisecond, Relist: 20 * time.Millisecond})
	f.until("a runs", holds("a"))
	e.Freeze(true)
	f.until("a is forgotten", holds())
	e.Freeze(false)
	f.until("a runs again", holds("a"))
}

func TestAContainerThatTheEngineFailsToTellAboutCostsNobodyElse(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  dockertest.Container
	}{
		{"an error", dockertest.Container{Running: true, Broken: true}},
		{"no answer", dockertest.Container{Running: true, Hangs: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := dockertest.Start(t)
			e.Set("a", runs())
			e.Set("bad", c.bad)
			f := follow(t, docker.Config{Host: e.Host(), Timeout: 100 * time.Millisecond, Relist: 200 * time.Millisecond})
			f.until("a runs", holds("a"))
			e.Set("c", runs())
			e.Send("c", "start", time.Now(), nil)
			f.until("c runs", holds("a", "c"))
			e.Set("bad", runs())
			f.until("the engine tells again", holds("a", "bad", "c"))
			e.Set("bad", c.bad)
			e.Set("c", dockertest.Container{})
			f.until("its last state is kept", holds("a", "bad"))
		})
	}
}

func TestAStopSignalCountsForTheRunItWasSentTo(t *testing.T) {
	e := dockertest.Start(t)
	started := time.Now()
	e.Set("a", dockertest.Container{Running: true, StartedAt: started})
	e.Set("b", dockertest.Container{Running: true, StartedAt: started})
	f := follow(t, docker.Config{Host: e.Host()})
	f.until("both run", holds("a", "b"))

	e.Send("a", "kill", started.Add(-time.Second), map[string]string{"signal": "15"}) // the run before
	e.Send("b", "kill", started.Add(time.Second), map[string]string{"signal": "15"})
	s := f.until("b is stopping", func(s workload.Snapshot) bool { return find(s, "b").State == workload.Stopping })
	if find(s, "a").State != workload.Running {
		t.Errorf("a is %s", find(s, "a").State)
	}

	e.Set("b", dockertest.Container{Running: true, StartedAt: started.Add(2 * time.Second)})
	e.Send("b", "start", started.Add(2*time.Second), nil)
	f.until("b runs anew", func(s workload.Snapshot) bool { return find(s, "b").State == workload.Running })
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	for _, host := range []string{"ssh://there", "unix://", "/var/run/docker.sock", "tcp://", "unix"} {
		if _, err := docker.New(docker.Config{Host: host}); err == nil {
			t.Errorf("%q was accepted", host)
		}
	}
}

func TestAStreamThatIsOpenedAnewBeginsAtTheLatestEvent(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", runs())
	f := follow(t, docker.Config{Host: e.Host()})
	f.until("a runs", holds("a"))
	e.Subscribed()                   // an event so old would not be told to who subscribes after it
	at := time.Now().Add(-time.Hour) // by the engine's clock
	e.Set("b", runs())
	e.Send("b", "start", at, nil)
	f.until("b runs", holds("a", "b"))
	e.Cut()
	e.Set("c", runs())
	f.until("c runs", holds("a", "b", "c"))
	if since := dockertest.Time(e.Since()); since.After(at) || at.Sub(since) > time.Minute {
		t.Errorf("since=%s, the latest event was at %v", e.Since(), at)
	}
}

func TestAContainerThatHangsKeepsNoOtherFromStopping(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", dockertest.Container{Running: true, StartedAt: time.Now().Add(-time.Minute)})
	f := follow(t, docker.Config{Host: e.Host(), Timeout: time.Hour})
	f.until("a runs", holds("a"))
	for i := range 4 {
		id := fmt.Sprintf("h%d", i)
		e.Set(id, dockertest.Container{Running: true, Hangs: true})
		e.Send(id, "start", time.Now(), nil)
	}
	e.Send("a", "kill", time.Now(), map[string]string{"signal": "15"})
	f.untilOne("a", "it is stopping", is(workload.Stopping))
	e.Set("a", dockertest.Container{})
	e.Send("a", "die", time.Now(), nil)
	f.until("a has ended", holds())
}

func TestAnIncompleteSnapshotSaysSo(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", runs())
	e.Set("bad", dockertest.Container{Running: true, Broken: true})
	f := follow(t, docker.Config{Host: e.Host(), Relist: 20 * time.Millisecond})
	if s := f.until("a snapshot", holds("a")); !s.Incomplete {
		t.Error("a container of which nothing is known is not mentioned")
	}
	e.Set("bad", runs())
	if s := f.until("both run", holds("a", "bad")); s.Incomplete {
		t.Error("it is still called incomplete")
	}
}

func TestAContainerThatIsNeitherListedNorToldAboutIsGone(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", runs())
	e.Set("bad", runs())
	f := follow(t, docker.Config{Host: e.Host(), Relist: 20 * time.Millisecond})
	f.until("both run", holds("a", "bad"))
	e.Set("bad", dockertest.Container{Running: true, Broken: true, Unlisted: true})
	f.until("it is gone", holds("a"))
}

// nonsense is what may answer at an engine's socket on a very bad day.
var nonsense = map[string]func(e http.Handler, w http.ResponseWriter, r *http.Request){
	"an error for everything": func(_ http.Handler, w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"message":"out of order"}`, http.StatusInternalServerError)
	},
	"another server": func(_ http.Handler, w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
	"a redirection": func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	},
	"a page": func(_ http.Handler, w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "<html>welcome</html>")
	},
	"null":          func(_ http.Handler, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "null") },
	"an empty list": func(_ http.Handler, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "[]") },
	"an object":     func(_ http.Handler, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") },
	"half an answer": func(e http.Handler, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_ping" {
			e.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, `[{"Id":"`)
		panic(http.ErrAbortHandler)
	},
	"another container": func(e http.Handler, w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/a/json") {
			e.ServeHTTP(w, r)
			return
		}
		io.WriteString(w, `{"Id":"z","State":{},"Config":{}}`)
	},
	"an endless answer": func(e http.Handler, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/_ping" {
			e.ServeHTTP(w, r)
			return
		}
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				break
			}
		}
	},
	"an event of two megabytes": func(e http.Handler, w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/events") {
			e.ServeHTTP(w, r)
			return
		}
		fmt.Fprintf(w, `{"Type":%q}`, strings.Repeat("x", 2<<20))
	},
	"events of another form": func(e http.Handler, w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/events") {
			e.ServeHTTP(w, r)
			return
		}
		io.WriteString(w, `{"Type":7,"Action":{}} [] "x" {"Type":"container","Actor":{"ID":"a"},"Action":"die"}`)
	},
}

func TestAnEngineThatAnswersNonsenseChangesNothing(t *testing.T) {
	for name, answer := range nonsense {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := dockertest.Start(t)
			e.Set("a", runs())
			f := follow(t, docker.Config{Host: e.Host(), Relist: 5 * time.Millisecond, Timeout: 50 * time.Millisecond})
			f.until("a runs", holds("a"))
			var answered atomic.Int64
			e.Babble(func(w http.ResponseWriter, r *http.Request) {
				defer answered.Add(1)
				answer(e, w, r)
			})
			for deadline := time.Now().Add(limit); answered.Load() < 6; time.Sleep(time.Millisecond) {
				select {
				case s := <-f.snapshots:
					t.Fatalf("got %+v", s)
				default:
				}
				if time.Now().After(deadline) {
					t.Fatal("the engine is not asked any more")
				}
			}
			e.Babble(nil)
			e.Set("b", runs())
			f.until("the engine makes sense again", holds("a", "b"))
		})
	}
}

func TestASocketThatComesLaterIsWaitedFor(t *testing.T) {
	e := dockertest.Start(t)
	e.Stop()
	e.Set("a", runs())
	f := follow(t, docker.Config{Host: e.Host()})
	until(t, "the missing socket is told", func() bool {
		status := f.source.Status()
		return !status.Connected && status.Err != nil && strings.Contains(status.Err.Error(), strings.TrimPrefix(e.Host(), "unix://"))
	})
	e.Restart()
	f.until("a runs", holds("a"))
	if status := f.source.Status(); !status.Connected || status.Err != nil || status.Relists != 1 {
		t.Errorf("got %+v", status)
	}
}

func TestTheSourceSaysHowItFares(t *testing.T) {
	e := dockertest.Start(t)
	f := follow(t, docker.Config{Host: e.Host(), Relist: 20 * time.Millisecond})
	f.until("a snapshot", holds())
	e.Set("a", runs())
	f.until("a was found", holds("a"))
	e.Set("b", runs())
	e.Send("b", "start", time.Now(), nil)
	f.until("b was told", holds("a", "b"))
	status := f.source.Status()
	if !status.Connected || status.Since.IsZero() || status.Err != nil || status.LastEvent.IsZero() || status.Relists < 2 || status.Missed < 1 || status.Dropped != 0 {
		t.Errorf("got %+v", status)
	}
	e.Stop()
	until(t, "the loss is told", func() bool {
		s := f.source.Status()
		return !s.Connected && s.Err != nil && s.Since.After(status.Since)
	})
}

func TestTheEnginesOfTodayAreSpokenToAsTheyWish(t *testing.T) {
	for _, c := range []struct{ engine, asked string }{{"1.52", "1.52"}, {"1.60", "1.52"}, {"1.44", "1.44"}, {"1.24", "1.24"}} {
		e := dockertest.Start(t)
		e.Speak(c.engine)
		e.Set("a", runs())
		f := follow(t, docker.Config{Host: e.Host()})
		f.until("a runs", holds("a"))
		if asked := e.Asked(); asked != c.asked {
			t.Errorf("an engine of API %s is asked in %s, want %s", c.engine, asked, c.asked)
		}
	}
}
