package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"

	"github.com/kvd-io/kvd/pkg/workload"
)

func TestStopSignalsAreReadAsImagesNameThem(t *testing.T) {
	for name, want := range map[string]int{
		"": 15, "SIGTERM": 15, "TERM": 15, "term": 15, "15": 15, "SIGQUIT": 3, "SIGKILL": 9,
		"SIGRTMIN+3": 37, "RTMIN": 34, "SIGRTMAX-1": 63, "SIGRTMIN+99": 0, "SIGNONSENSE": 0,
	} {
		if got := signalNumber(name); got != want {
			t.Errorf("signalNumber(%q) = %d, want %d", name, got, want)
		}
	}
}

// answer is what an engine says about a container that runs.
func answer(change func(*container.InspectResponse)) container.InspectResponse {
	a := container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{
			ID: "id", Name: "/name", State: &container.State{Running: true, Pid: 7, StartedAt: "2026-01-02T03:04:05.6Z"}, HostConfig: &container.HostConfig{},
		},
		Config:          &container.Config{Image: "web:1"},
		NetworkSettings: &container.NetworkSettings{},
	}
	if change != nil {
		change(&a)
	}
	return a
}

func TestContainersThatDoNotRunAreLeftOut(t *testing.T) {
	for name, change := range map[string]func(*container.InspectResponse){
		"ended":                 func(a *container.InspectResponse) { a.State.Running = false },
		"waits for its restart": func(a *container.InspectResponse) { a.State.Restarting = true },
		"dead":                  func(a *container.InspectResponse) { a.State.Dead = true },
		"an answer of nothing":  func(a *container.InspectResponse) { *a = container.InspectResponse{} },
		"no state":              func(a *container.InspectResponse) { a.State = nil },
		"no configuration":      func(a *container.InspectResponse) { a.Config = nil },
	} {
		if c, ok := read(answer(change)); ok {
			t.Errorf("%s: got %+v", name, c)
		}
	}
	if c, ok := read(answer(func(a *container.InspectResponse) { a.HostConfig, a.NetworkSettings = nil, nil })); !ok || c.ID != "id" {
		t.Errorf("an answer without networks: got %+v, %v", c, ok)
	}
}

func TestAnAnswerBecomesAWorkload(t *testing.T) {
	seconds := 3
	got, ok := read(answer(func(a *container.InspectResponse) {
		a.State.Health = &container.Health{Status: "unhealthy"}
		a.Config.Env = []string{"A=1", "B=x=y", "C"}
		a.Config.Labels = map[string]string{"l": "v"}
		a.Config.StopSignal, a.Config.StopTimeout = "SIGQUIT", &seconds
		a.Config.ExposedPorts = nat.PortSet{"80/tcp": {}, "53/udp": {}, "9/sctp": {}, "70000/tcp": {}}
		a.NetworkSettings.Ports = nat.PortMap{"80/tcp": {{HostIP: "::", HostPort: "8080"}, {HostIP: "", HostPort: "8080"}, {HostIP: "1.2.3.4", HostPort: ""}}, "53/udp": nil}
		a.NetworkSettings.Networks = map[string]*network.EndpointSettings{
			"four": {IPAddress: "10.0.0.1", GlobalIPv6Address: "fd00::1"}, "six": {GlobalIPv6Address: "fd00::2"}, "none": {}, "nil": nil,
		}
	}))
	want := workload.Workload{
		ID: "id", Run: "2026-01-02T03:04:05.6Z", Name: "name", Image: "web:1", State: workload.Running, Reason: "running",
		Health: workload.HealthUnhealthy, PID: 7, Labels: map[string]string{"l": "v"}, Env: map[string]string{"A": "1", "B": "x=y", "C": ""},
		Addresses: map[string]string{"four": "10.0.0.1", "six": "fd00::2"},
		Ports: []workload.Port{
			{Number: 53, Protocol: "udp"},
			{Number: 80, Protocol: "tcp", HostIP: "0.0.0.0", HostNumber: 8080},
			{Number: 80, Protocol: "tcp", HostIP: "::", HostNumber: 8080},
		},
	}
	if !ok || !reflect.DeepEqual(got.Workload, want) {
		t.Errorf("got  %+v\nwant %+v", got.Workload, want)
	}
	if got.stopSignal != 3 || got.stopTimeout != 3*time.Second || got.startedAt.Year() != 2026 {
		t.Errorf("got %+v", got)
	}
}

func TestHintsHaveABound(t *testing.T) {
	h := newHints()
	for i := range 3 * hintsMax {
		h.add(events.Message{Type: events.ContainerEventType, Action: events.ActionKill,
			Actor: events.Actor{ID: fmt.Sprint(i), Attributes: map[string]string{"signal": "15"}}})
	}
	changed, signals, all := h.take(10 * hintsMax)
	if len(changed) > hintsMax || len(signals) > hintsMax || !all {
		t.Errorf("%d changed, %d signals, all: %v", len(changed), len(signals), all)
	}
	if changed, signals, all = h.take(1); len(changed) != 0 || len(signals) != 0 || all {
		t.Errorf("taken twice: %v %v %v", changed, signals, all)
	}
}

func TestOnlyEventsThatChangeSomethingAreHints(t *testing.T) {
	h := newHints()
	for _, action := range []events.Action{"exec_create: true", "exec_start: true", "exec_die", "attach", "top", "create"} {
		h.add(events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: "quiet"}})
	}
	for i, action := range []events.Action{"start", "die", "pause", "health_status: healthy", "health_status", "something new"} {
		h.add(events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: fmt.Sprint(i)}})
	}
	h.add(events.Message{Type: events.NetworkEventType, Action: "connect", Actor: events.Actor{ID: "network", Attributes: map[string]string{"container": "connected"}}})
	h.add(events.Message{Type: events.NetworkEventType, Action: "create", Actor: events.Actor{ID: "network"}})
	changed, _, _ := h.take(100)
	if len(changed) != 7 {
		t.Errorf("changed: %q", changed)
	}
	for _, id := range changed {
		if id == "quiet" || id == "network" {
			t.Errorf("%s is a hint", id)
		}
	}
}

func TestAnUnreachableEngineIsExplained(t *testing.T) {
	absent, err := New(Config{Host: "unix:///nonexistent/docker.sock"})
	if err != nil {
		t.Fatal(err)
	}
	if err := absent.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "/nonexistent/docker.sock") || !strings.Contains(err.Error(), "--docker-host") {
		t.Errorf("no socket: %v", err)
	}
	denied := fmt.Errorf("dial unix: %w", fs.ErrPermission)
	if err := explain(denied, DefaultHost); !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "usermod -aG docker") {
		t.Errorf("no permission: %v", err)
	}
}
