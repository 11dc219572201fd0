package docker_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/workload"
	"github.com/kvd-io/kvd/pkg/workload/docker"
	"github.com/kvd-io/kvd/pkg/workload/docker/dockertest"
)

// listening is a container that runs and is published.
func listening() dockertest.Container {
	c := runs()
	c.Published, c.Addresses = map[string]string{"80/tcp": "0.0.0.0:8080"}, map[string]string{"bridge": "172.17.0.2"}
	return c
}

func TestAContainerThatHasFailedIsToldAsItWasUntilItIsRemovedOrStarts(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", listening())
	f := follow(t, docker.Config{Host: e.Host(), FailedHold: docker.Always, Relist: 20 * time.Millisecond})
	before := f.untilOne("a", "a runs", is(workload.Running))
	e.Exit("a", 3)
	got := f.untilOne("a", "a has failed", is(workload.Failed))
	want := before
	want.State, want.Reason = workload.Failed, "exited with 3"
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	e.Run("a", listening())
	f.untilOne("a", "a runs again", func(w workload.Workload) bool { return w.State == workload.Running && w.Run != before.Run })
	e.Exit("a", 3)
	f.untilOne("a", "a has failed again", is(workload.Failed))
	e.Remove("a") // and the event is lost
	f.untilOne("a", "a is removed", is(workload.Stopped))
}

func TestWhoWasToldToStopOrEndedWellHasNotFailed(t *testing.T) {
	for name, c := range map[string]struct {
		code   int
		signal bool
		hold   time.Duration
	}{
		"ended well":          {0, false, docker.Always},
		"ended by a signal":   {128 + 9, false, docker.Always},
		"was told to stop":    {1, true, docker.Always},
		"nobody asked for it": {1, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			e := dockertest.Start(t)
			e.Set("a", listening())
			f := follow(t, docker.Config{Host: e.Host(), FailedHold: c.hold})
			f.untilOne("a", "a runs", is(workload.Running))
			if c.signal {
				e.Signal("a")
				f.untilOne("a", "a is stopping", is(workload.Stopping))
			}
			e.Exit("a", c.code)
			ended := f.untilOne("a", "a has ended", func(w workload.Workload) bool { return w.State == workload.Failed || w.State == workload.Stopped })
			if ended.State == workload.Failed {
				t.Errorf("it counts as failed: %+v", ended)
			}
		})
	}
}

func TestAContainerThatHasFailedIsLeftOutAfterAWhile(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", listening())
	f := follow(t, docker.Config{Host: e.Host(), FailedHold: 50 * time.Millisecond})
	f.untilOne("a", "a runs", is(workload.Running))
	e.Exit("a", 3)
	f.untilOne("a", "a has failed", is(workload.Failed))
	f.untilOne("a", "a is left out", is(workload.Stopped))
}

func TestAFailureWhoseEventWasLostIsFound(t *testing.T) {
	e := dockertest.Start(t)
	e.Set("a", listening())
	f := follow(t, docker.Config{Host: e.Host(), FailedHold: docker.Always, Relist: 20 * time.Millisecond})
	f.untilOne("a", "a runs", is(workload.Running))
	e.Set("a", dockertest.Container{ExitCode: 3})
	f.untilOne("a", "a has failed", is(workload.Failed))
}

func TestARealContainerThatFailsIsKeptInSightUntilItIsRemoved(t *testing.T) {
	parts.Docker(t)
	f := follow(t, docker.Config{FailedHold: docker.Always})
	id := parts.RunContainer(t, []string{"-p", "127.0.0.1::80"}, "sh", "-c", "while ! test -e /tmp/go; do sleep 0.05; done; exit 3")
	before := f.untilOne(id, "it runs", is(workload.Running))
	parts.DockerCommand(t, "exec", id, "/bin/busybox", "touch", "/tmp/go")
	failed := f.untilOne(id, "it has failed", is(workload.Failed))
	if !reflect.DeepEqual(failed.Ports, before.Ports) || failed.Reason != "exited with 3" {
		t.Errorf("got %+v", failed)
	}
	parts.DockerCommand(t, "rm", id)
	f.untilOne(id, "it is removed", is(workload.Stopped))
}
