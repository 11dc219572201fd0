package docker_test

import (
	"fmt"
	"slices"
	"strconv"
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
	since, err := strconv.ParseInt(e.Since(), 10, 64)
	if err != nil || since > time.Now().Unix()-2 {
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
	e.Send("a", "die", time.Now(), nil) // an old one, of the run before
	e.Set("b", runs())
	e.Send("b", "start", time.Now(), nil)
	f.until("both run", holds("a", "b"))
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
