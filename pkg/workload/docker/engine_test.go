package docker_test

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/e2e/parts"
	"github.com/kvd-io/kvd/pkg/workload"
	"github.com/kvd-io/kvd/pkg/workload/docker"
)

// limit bounds every wait in these tests; nothing is expected to take nearly as long.
const limit = 20 * time.Second

// feed is a Source that runs, and the last snapshot that was taken from it.
type feed struct {
	t         testing.TB
	source    *docker.Source
	snapshots chan workload.Snapshot
	last      workload.Snapshot
}

// follow runs a Source with cfg until the test ends.
func follow(t testing.TB, cfg docker.Config) *feed {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	source, err := docker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := &feed{t: t, source: source, snapshots: make(chan workload.Snapshot)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, f.snapshots) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the source ended with %v", err)
		}
	})
	return f
}

// until takes snapshots until one satisfies the condition.
func (f *feed) until(what string, condition func(workload.Snapshot) bool) workload.Snapshot {
	f.t.Helper()
	timeout := time.After(limit)
	for {
		select {
		case f.last = <-f.snapshots:
			if condition(f.last) {
				return f.last
			}
		case <-timeout:
			f.t.Fatalf("waited %v for: %s; the last snapshot was %+v", limit, what, f.last)
		}
	}
}

// until waits for a condition to hold.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for: %s", limit, what)
		}
	}
}

// untilOne takes snapshots until the workload with id satisfies the condition. An absent workload
// is shown to it as Stopped.
func (f *feed) untilOne(id, what string, condition func(workload.Workload) bool) workload.Workload {
	f.t.Helper()
	return find(f.until(what, func(s workload.Snapshot) bool { return condition(find(s, id)) }), id)
}

func find(s workload.Snapshot, id string) workload.Workload {
	i := slices.IndexFunc(s.Workloads, func(w workload.Workload) bool { return w.ID == id })
	if i < 0 {
		return workload.Workload{ID: id, State: workload.Stopped}
	}
	return s.Workloads[i]
}

func is(state workload.State) func(workload.Workload) bool {
	return func(w workload.Workload) bool { return w.State == state }
}

func TestAContainerIsFollowedFromItsStartToItsEnd(t *testing.T) {
	parts.Docker(t)
	f := follow(t, docker.Config{})
	f.until("the first snapshot", func(workload.Snapshot) bool { return true })

	id := parts.RunContainer(t, []string{"-p", "127.0.0.1::80", "--expose", "81", "-e", "COLOUR=blue", "--label", "shape=round"})
	w := f.untilOne(id, "it runs", is(workload.Running))
	if w.Env["COLOUR"] != "blue" || w.Labels["shape"] != "round" || w.Image != parts.BusyboxImage(t) || w.Run == "" || w.PID == 0 {
		t.Errorf("unexpected workload %+v", w)
	}
	if len(w.Ports) != 2 || w.Ports[0].Number != 80 || w.Ports[0].HostIP != "127.0.0.1" || w.Ports[0].HostNumber == 0 ||
		w.Ports[1] != (workload.Port{Number: 81, Protocol: "tcp"}) {
		t.Errorf("unexpected ports %+v", w.Ports)
	}
	if !strings.HasPrefix(w.Addresses["bridge"], "172.") {
		t.Errorf("unexpected addresses %v", w.Addresses)
	}

	name := "kvd-test-" + id[:12]
	parts.DockerCommand(t, "rename", id, name)
	f.untilOne(id, "it is renamed", func(w workload.Workload) bool { return w.Name == name })

	parts.DockerCommand(t, "pause", id)
	f.untilOne(id, "it is paused", func(w workload.Workload) bool { return w.State == workload.Starting && w.Reason == "paused" })
	parts.DockerCommand(t, "unpause", id)
	f.untilOne(id, "it runs again", is(workload.Running))

	parts.DockerCommand(t, "restart", id)
	f.untilOne(id, "it is started anew", func(now workload.Workload) bool { return now.State == workload.Running && now.Run != w.Run })

	parts.DockerCommand(t, "stop", id)
	f.untilOne(id, "it is stopped", is(workload.Stopped))
}

func TestAKilledContainerIsGone(t *testing.T) {
	parts.Docker(t)
	f := follow(t, docker.Config{})
	id := parts.RunContainer(t, nil)
	f.untilOne(id, "it runs", is(workload.Running))
	parts.DockerCommand(t, "kill", "-s", "KILL", id)
	f.untilOne(id, "it is gone", is(workload.Stopped))
}

func TestAContainerStopsBeforeItsProcessEnds(t *testing.T) {
	parts.Docker(t)
	f := follow(t, docker.Config{StopHold: time.Millisecond})
	// The process ignores its stop signal, so that nothing but the signal can be the reason.
	id := parts.RunContainer(t, []string{"--stop-signal", "USR1", "--stop-timeout", "1"}, "sh", "-c", "trap : USR1; while :; do sleep 1; done")
	f.untilOne(id, "it runs", is(workload.Running))

	parts.DockerCommand(t, "kill", "-s", "HUP", id)
	parts.DockerCommand(t, "kill", "-s", "USR1", id)
	w := f.untilOne(id, "it is stopping", is(workload.Stopping))
	if w.Run == "" {
		t.Error("a stopping container was reported without its run")
	}
	f.untilOne(id, "it has ignored the signal and runs on", is(workload.Running))
}

func TestAnotherSignalDoesNotStopAContainer(t *testing.T) {
	parts.Docker(t)
	f := follow(t, docker.Config{})
	id := parts.RunContainer(t, nil, "sh", "-c", "trap : HUP; while :; do sleep 1; done")
	f.untilOne(id, "it runs", is(workload.Running))
	parts.DockerCommand(t, "kill", "-s", "HUP", id)
	name := "kvd-test-" + id[:12]
	parts.DockerCommand(t, "rename", id, name)
	w := f.untilOne(id, "the rename after the signal is seen", func(w workload.Workload) bool { return w.Name == name || w.State != workload.Running })
	if w.State != workload.Running {
		t.Errorf("SIGHUP made it %s", w.State)
	}
}

func TestTheVerdictOfAHealthcheckIsFollowed(t *testing.T) {
	parts.Docker(t)
	f := follow(t, docker.Config{})
	id := parts.RunContainer(t, []string{"--health-cmd", "test -e /tmp/well", "--health-interval", "200ms", "--health-retries", "1"})
	f.untilOne(id, "it starts", func(w workload.Workload) bool {
		return w.Health == workload.HealthStarting || w.Health == workload.HealthUnhealthy
	})
	parts.DockerCommand(t, "exec", id, "sh", "-c", ": >/tmp/well")
	f.untilOne(id, "it is healthy", func(w workload.Workload) bool { return w.Health == workload.HealthHealthy })
	parts.DockerCommand(t, "exec", id, "busybox", "rm", "/tmp/well")
	f.untilOne(id, "it is unhealthy", func(w workload.Workload) bool { return w.Health == workload.HealthUnhealthy })
}

func TestTheHostsNetworkPublishesEveryExposedPort(t *testing.T) {
	parts.Docker(t)
	f := follow(t, docker.Config{})
	id := parts.RunContainer(t, []string{"--network", "host", "--expose", "4711"}, "sleep", "1000")
	w := f.untilOne(id, "it runs", is(workload.Running))
	if len(w.Ports) != 1 || w.Ports[0] != (workload.Port{Number: 4711, Protocol: "tcp", HostIP: "0.0.0.0", HostNumber: 4711}) {
		t.Errorf("unexpected ports %+v", w.Ports)
	}
	if len(w.Addresses) != 0 {
		t.Errorf("unexpected addresses %v", w.Addresses)
	}
}

func TestTheNetworkOfAnotherContainerIsFollowedToItsOwner(t *testing.T) {
	parts.Docker(t)
	f := follow(t, docker.Config{})
	owner := parts.RunContainer(t, []string{"-p", "127.0.0.1::80"}, "sleep", "1000")
	joined := parts.RunContainer(t, []string{"--network", "container:" + owner, "-e", "PORTS=80"})
	image := parts.DockerCommand(t, "commit", "-c", "EXPOSE 80", joined)
	defer parts.DockerCommand(t, "rmi", image)
	exposing := parts.DockerCommand(t, "run", "-d", "--label", "kvd-test", "--network", "container:"+owner, image, "sleep", "1000")
	defer parts.DockerCommand(t, "rm", "-f", exposing)
	w := f.untilOne(exposing, "it runs", func(w workload.Workload) bool { return w.State == workload.Running && w.NetworkOf == owner })
	own := find(f.last, owner)
	if w.Addresses["bridge"] == "" || w.Addresses["bridge"] != own.Addresses["bridge"] || !slices.Equal(w.Ports, own.Ports) || len(w.Ports) != 1 {
		t.Errorf("got %+v, its owner is %+v", w, own)
	}
	parts.DockerCommand(t, "stop", "-t", "0", owner)
	f.untilOne(exposing, "it has lost its network", func(w workload.Workload) bool { return w.NetworkOf == "" && len(w.Addresses) == 0 })
}

func TestConnectingANetworkAddsItsAddress(t *testing.T) {
	parts.Docker(t)
	f := follow(t, docker.Config{})
	id := parts.RunContainer(t, nil)
	network := "kvd-test-" + id[:12]
	f.untilOne(id, "it runs", is(workload.Running))
	parts.DockerCommand(t, "network", "create", network)
	defer parts.DockerCommand(t, "network", "rm", network)
	parts.DockerCommand(t, "network", "connect", network, id)
	f.untilOne(id, "it has an address there", func(w workload.Workload) bool { return w.Addresses[network] != "" && w.Addresses["bridge"] != "" })
	parts.DockerCommand(t, "network", "disconnect", network, id)
	f.untilOne(id, "it has left it", func(w workload.Workload) bool { return w.Addresses[network] == "" && w.Addresses["bridge"] != "" })
}

func TestTheAddressesOfBothFamiliesAreRead(t *testing.T) {
	parts.Docker(t)
	f := follow(t, docker.Config{})
	id := parts.RunContainer(t, []string{"-p", "80"})
	f.untilOne(id, "it runs", is(workload.Running))
	network := "kvd-test-" + id[:12]
	// The subnet belongs to the container's ID: others test beside this one.
	parts.DockerCommand(t, "network", "create", "--ipv6", "--subnet", "fd00:"+id[:4]+":"+id[4:8]+"::/64", network)
	defer parts.DockerCommand(t, "network", "rm", network)
	parts.DockerCommand(t, "network", "connect", network, id)
	defer parts.DockerCommand(t, "network", "disconnect", "-f", network, id)
	w := f.untilOne(id, "it has addresses there", func(w workload.Workload) bool { return w.Addresses6[network] != "" })
	four, err4 := netip.ParseAddr(w.Addresses[network])
	six, err6 := netip.ParseAddr(w.Addresses6[network])
	if err4 != nil || err6 != nil || !four.Is4() || !six.Is6() || w.Addresses["bridge"] == "" || w.Addresses6["bridge"] != "" {
		t.Errorf("unexpected addresses %v and %v", w.Addresses, w.Addresses6)
	}
	published := map[bool]int{}
	for _, port := range w.Ports {
		ip, err := netip.ParseAddr(port.HostIP)
		if err != nil || port.Number != 80 || port.HostNumber == 0 {
			t.Errorf("unexpected port %+v", port)
		}
		published[ip.Is4()]++
	}
	if published[true] != 1 || published[false] > 1 {
		t.Errorf("unexpected ports %+v", w.Ports)
	}
}
