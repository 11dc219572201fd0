package docker_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
	"github.com/kvd-io/kvd/pkg/workload/docker"
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

func runs() fakeContainer { return fakeContainer{running: true, startedAt: time.Now()} }

func TestTheFirstSnapshotIsFullEvenWhenItIsEmpty(t *testing.T) {
	e := newFake(t)
	f := follow(t, docker.Config{Host: e.host()})
	if s := f.until("a snapshot", func(workload.Snapshot) bool { return true }); len(s.Workloads) != 0 {
		t.Errorf("got %+v", s)
	}
}

func TestManyContainersComeInOneSnapshotAndAreNotAskedForAllAtOnce(t *testing.T) {
	e := newFake(t)
	for i := range 300 {
		e.set(fmt.Sprintf("c%03d", i), runs())
	}
	f := follow(t, docker.Config{Host: e.host()})
	if s := f.until("a snapshot", func(workload.Snapshot) bool { return true }); len(s.Workloads) != 300 {
		t.Errorf("the first snapshot has %d of 300 containers", len(s.Workloads))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.inspectMost > 8 {
		t.Errorf("%d containers were asked for at the same time", e.inspectMost)
	}
}

func TestTheEventStreamBeginsInThePast(t *testing.T) {
	e := newFake(t)
	f := follow(t, docker.Config{Host: e.host()})
	f.until("a snapshot", holds())
	e.mu.Lock()
	defer e.mu.Unlock()
	since, err := strconv.ParseInt(e.since, 10, 64)
	if err != nil || since > time.Now().Unix()-2 {
		t.Errorf("since=%q: events between the answer's head and the subscription would be lost", e.since)
	}
}

func TestAnEventThatTheEngineSwallowsIsMadeUpFor(t *testing.T) {
	e := newFake(t)
	f := follow(t, docker.Config{Host: e.host(), Relist: 20 * time.Millisecond})
	f.until("nothing runs", holds())
	e.set("a", runs())
	f.until("a runs", holds("a"))
	e.set("a", fakeContainer{})
	f.until("a has ended", holds())
}

func TestAContainerOfAnEventIsLookedAtBeforeItIsBelieved(t *testing.T) {
	e := newFake(t)
	e.set("a", runs())
	f := follow(t, docker.Config{Host: e.host()})
	f.until("a runs", holds("a"))
	e.event("a", "die", time.Now(), nil) // an old one, of the run before
	e.set("b", runs())
	e.event("b", "start", time.Now(), nil)
	f.until("both run", holds("a", "b"))
}

func TestWhatHappensWhileTheStreamIsCutIsSeen(t *testing.T) {
	e := newFake(t)
	e.set("a", runs())
	f := follow(t, docker.Config{Host: e.host()})
	f.until("a runs", holds("a"))
	for i := range 5 {
		id := fmt.Sprintf("b%d", i)
		e.set(id, runs())
		e.cut()
		f.until(id+" runs", func(s workload.Snapshot) bool { return find(s, id).State == workload.Running })
	}
}

func TestTheLastSnapshotStandsWhileTheEngineIsAway(t *testing.T) {
	e := newFake(t)
	e.set("a", runs())
	f := follow(t, docker.Config{Host: e.host()})
	f.until("a runs", holds("a"))
	e.stop()
	e.set("b", runs())
	e.start()
	// Nothing may come between the last snapshot before and the first after.
	if s := f.until("a snapshot", func(workload.Snapshot) bool { return true }); !holds("a", "b")(s) {
		t.Errorf("after the engine's return: %+v", s)
	}
}

func TestAnEngineThatStaysAwayIsForgottenWithItsContainers(t *testing.T) {
	e := newFake(t)
	e.set("a", runs())
	f := follow(t, docker.Config{Host: e.host(), Hold: 50 * time.Millisecond})
	f.until("a runs", holds("a"))
	e.stop()
	f.until("a is forgotten", holds())
	e.start()
	f.until("a runs again", holds("a"))
}

func TestAnEngineThatHangsIsAsGoodAsAway(t *testing.T) {
	e := newFake(t)
	e.set("a", runs())
	f := follow(t, docker.Config{Host: e.host(), Hold: 50 * time.Millisecond, Timeout: 50 * time.Millisecond, Relist: 20 * time.Millisecond})
	f.until("a runs", holds("a"))
	e.freeze(true)
	f.until("a is forgotten", holds())
	e.freeze(false)
	f.until("a runs again", holds("a"))
}

func TestAContainerThatTheEngineFailsToTellAboutCostsNobodyElse(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  fakeContainer
	}{
		{"an error", fakeContainer{running: true, broken: true}},
		{"no answer", fakeContainer{running: true, hangs: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newFake(t)
			e.set("a", runs())
			e.set("bad", c.bad)
			f := follow(t, docker.Config{Host: e.host(), Timeout: 100 * time.Millisecond, Relist: 200 * time.Millisecond})
			f.until("a runs", holds("a"))
			e.set("c", runs())
			e.event("c", "start", time.Now(), nil)
			f.until("c runs", holds("a", "c"))
			e.set("bad", runs())
			f.until("the engine tells again", holds("a", "bad", "c"))
			e.set("bad", c.bad)
			e.set("c", fakeContainer{})
			f.until("its last state is kept", holds("a", "bad"))
		})
	}
}

func TestAStopSignalCountsForTheRunItWasSentTo(t *testing.T) {
	e := newFake(t)
	started := time.Now()
	e.set("a", fakeContainer{running: true, startedAt: started})
	e.set("b", fakeContainer{running: true, startedAt: started})
	f := follow(t, docker.Config{Host: e.host()})
	f.until("both run", holds("a", "b"))

	e.event("a", "kill", started.Add(-time.Second), map[string]string{"signal": "15"}) // the run before
	e.event("b", "kill", started.Add(time.Second), map[string]string{"signal": "15"})
	s := f.until("b is stopping", func(s workload.Snapshot) bool { return find(s, "b").State == workload.Stopping })
	if find(s, "a").State != workload.Running {
		t.Errorf("a is %s", find(s, "a").State)
	}

	e.set("b", fakeContainer{running: true, startedAt: started.Add(2 * time.Second)})
	e.event("b", "start", started.Add(2*time.Second), nil)
	f.until("b runs anew", func(s workload.Snapshot) bool { return find(s, "b").State == workload.Running })
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	for _, host := range []string{"ssh://there", "unix://", "/var/run/docker.sock", "tcp://", "unix"} {
		if _, err := docker.New(docker.Config{Host: host}); err == nil {
			t.Errorf("%q was accepted", host)
		}
	}
}
