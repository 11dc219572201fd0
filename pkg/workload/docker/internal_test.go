package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

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

// described is what an engine says about a container that runs, with its parts changed.
func described(t *testing.T, change string) details {
	t.Helper()
	var d details
	for _, text := range []string{`{"Id":"id","Name":"/name","State":{"Running":true,"Pid":7,"StartedAt":"2026-01-02T03:04:05.6Z"},"Config":{"Image":"web:1"}}`, change} {
		if err := json.Unmarshal([]byte(text), &d); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestContainersThatDoNotRunAreLeftOut(t *testing.T) {
	for name, change := range map[string]string{
		"ended":                 `{"State":{"Running":false}}`,
		"waits for its restart": `{"State":{"Restarting":true}}`,
		"dead":                  `{"State":{"Dead":true}}`,
	} {
		if c, ok := read(described(t, change)); ok {
			t.Errorf("%s: got %+v", name, c)
		}
	}
	if c, ok := read(described(t, `{"HostConfig":null,"NetworkSettings":null}`)); !ok || c.ID != "id" {
		t.Errorf("an answer without networks: got %+v, %v", c, ok)
	}
}

func TestAContainerThatPodmanIsStoppingStillRuns(t *testing.T) {
	c, ok := read(described(t, `{"State":{"Running":false,"Status":"stopping"}}`))
	if !ok || c.State != workload.Stopping {
		t.Errorf("got %+v, %v", c, ok)
	}
}

func TestAnAnswerBecomesAWorkload(t *testing.T) {
	got, ok := read(described(t, `{
		"State":{"Health":{"Status":"unhealthy"}},
		"Config":{"Env":["A=1","B=x=y","C"],"Labels":{"l":"v"},"StopSignal":"SIGQUIT","StopTimeout":3,
			"ExposedPorts":{"80/tcp":{},"53/udp":{},"9/sctp":{},"70000/tcp":{}}},
		"NetworkSettings":{
			"Ports":{"80/tcp":[{"HostIp":"::","HostPort":"8080"},{"HostIp":"","HostPort":"8080"},{"HostIp":"1.2.3.4","HostPort":""},{"HostIp":"nowhere","HostPort":"80"}],"53/udp":null},
			"Networks":{"four":{"IPAddress":"10.0.0.1","GlobalIPv6Address":"fd00::1"},"six":{"GlobalIPv6Address":"fd00::2"},"none":{},"nil":null,"bad":{"IPAddress":"invalid IP"}}}}`))
	want := workload.Workload{
		ID: "id", Run: "2026-01-02T03:04:05.6Z", Name: "name", Image: "web:1", State: workload.Running, Reason: "running",
		Health: workload.HealthUnhealthy, PID: 7, Labels: map[string]string{"l": "v"}, Env: map[string]string{"A": "1", "B": "x=y", "C": ""},
		Addresses:  map[string]string{"four": "10.0.0.1", "six": "fd00::2"},
		Addresses6: map[string]string{"four": "fd00::1", "six": "fd00::2"},
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

// held makes the containers of a follower out of engines' answers.
func held(t *testing.T, answers ...string) map[string]*container {
	known := map[string]*container{}
	for _, text := range answers {
		c, ok := read(described(t, text))
		if !ok {
			t.Fatalf("%s does not run", text)
		}
		known[c.ID] = &container{running: c}
	}
	return known
}

func TestAContainerInAnothersNetworkIsReachedAtThatOnesAddresses(t *testing.T) {
	const ownerID = "0123456789abcdef"
	known := held(t,
		`{"Id":"`+ownerID+`","Name":"/pause","NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}]},"Networks":{"bridge":{"IPAddress":"10.0.0.1"}}}}`,
		`{"Id":"host","HostConfig":{"NetworkMode":"host"}}`,
		`{"Id":"a","Config":{"ExposedPorts":{"80/tcp":{},"81/tcp":{}}},"HostConfig":{"NetworkMode":"container:`+ownerID+`"}}`,
		`{"Id":"b","Config":{"ExposedPorts":{"80/tcp":{}}},"HostConfig":{"NetworkMode":"container:pause"}}`,
		`{"Id":"c","HostConfig":{"NetworkMode":"container:`+ownerID[:shortID]+`"}}`,
		`{"Id":"d","Config":{"ExposedPorts":{"80/tcp":{}}},"HostConfig":{"NetworkMode":"container:host"}}`,
		`{"Id":"e","Config":{"ExposedPorts":{"80/tcp":{}}},"HostConfig":{"NetworkMode":"container:a"}}`,
		`{"Id":"f","Config":{"ExposedPorts":{"80/tcp":{}}},"HostConfig":{"NetworkMode":"container:gone"}}`,
		`{"Id":"g","HostConfig":{"NetworkMode":"container:h"}}`,
		`{"Id":"h","HostConfig":{"NetworkMode":"container:g"}}`,
	)
	published := workload.Port{Number: 80, Protocol: "tcp", HostIP: "0.0.0.0", HostNumber: 8080}
	for id, want := range map[string]struct {
		of, address string
		onHost      bool
		ports       []workload.Port
	}{
		ownerID: {address: "10.0.0.1", ports: []workload.Port{published}},
		"a":     {of: ownerID, address: "10.0.0.1", ports: []workload.Port{published, {Number: 81, Protocol: "tcp"}}},
		"b":     {of: ownerID, address: "10.0.0.1", ports: []workload.Port{published}},
		"c":     {of: ownerID, address: "10.0.0.1"},
		"d":     {of: "host", onHost: true, ports: []workload.Port{{Number: 80, Protocol: "tcp", HostIP: "0.0.0.0", HostNumber: 80}}},
		"e":     {of: ownerID, address: "10.0.0.1", ports: []workload.Port{published}},
		"f":     {ports: []workload.Port{{Number: 80, Protocol: "tcp"}}},
		"g":     {},
	} {
		w := resolve(known[id].running, known)
		if w.NetworkOf != want.of || w.HostNetwork != want.onHost || w.Addresses["bridge"] != want.address || !slices.Equal(w.Ports, want.ports) {
			t.Errorf("%s: got %+v, want %+v", id, w, want)
		}
	}
}

// said is an event about a container as an engine sends it.
func said(id, action, attributes string) event {
	var e event
	text := fmt.Sprintf(`{"Type":"container","Action":%q,"Actor":{"ID":%q,"Attributes":{%s}},"time":1,"timeNano":%d}`, action, id, attributes, time.Now().UnixNano())
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		panic(err)
	}
	return e
}

func TestHintsHaveABound(t *testing.T) {
	h := newHints()
	for i := range 3 * hintsMax {
		h.add(said(fmt.Sprint(i), actionKill, `"signal":"15"`), time.Now())
	}
	noted, all := h.take()
	if len(noted) > hintsMax || !all || len(h.seen) > seenMax {
		t.Errorf("%d noted, all: %v, %d remembered", len(noted), all, len(h.seen))
	}
	if _, _, dropped := h.told(); dropped != 2*hintsMax {
		t.Errorf("%d dropped", dropped)
	}
	if noted, all = h.take(); len(noted) != 0 || all {
		t.Errorf("taken twice: %v %v", noted, all)
	}
}

func TestAnEventThatANewStreamRepeatsIsTakenOnce(t *testing.T) {
	h := newHints()
	first := said("a", actionKill, `"signal":"15"`)
	h.add(first, time.Now())
	h.take()
	h.add(first, time.Now())
	h.add(said("a", "die", ""), time.Now())
	if noted, _ := h.take(); len(noted) != 1 || noted[0].signal != 0 {
		t.Errorf("got %+v", noted)
	}
}

func TestANewStreamBeginsBeforeTheLatestEvent(t *testing.T) {
	h := newHints()
	now := time.Unix(1000, 7)
	if got := h.resume(now); !got.Equal(now.Add(-replay)) {
		t.Errorf("without an event: %v", got)
	}
	h.add(event{Type: typeContainer, Action: "start", Actor: actor("a"), Nanoseconds: now.Add(-time.Minute).UnixNano()}, now)
	if got := h.resume(now); !got.Equal(now.Add(-time.Minute - replay)) {
		t.Errorf("after one: %v", got)
	}
	h.add(event{Type: typeContainer, Action: "start", Actor: actor("a"), Nanoseconds: now.Add(time.Hour).UnixNano()}, now)
	if got := h.resume(now); got.After(now) {
		t.Errorf("after one of the future: %v", got)
	}
}

func actor(id string) (a struct {
	ID         string
	Attributes map[string]string
}) {
	a.ID = id
	return a
}

func TestOnlyEventsThatChangeSomethingAreHints(t *testing.T) {
	h := newHints()
	for _, action := range []string{"exec_create: true", "exec_start: true", "exec_die", "exec", "attach", "top", "create", "mount"} {
		h.add(said("quiet", action, ""), time.Now())
	}
	for i, action := range []string{"start", "die", "pause", "health_status: healthy", "health_status", "exec_died", "something new"} {
		h.add(said(fmt.Sprint(i), action, ""), time.Now())
	}
	connected := said("network", "connect", `"container":"connected"`)
	connected.Type = typeNetwork
	h.add(connected, time.Now())
	created := said("network", "create", "")
	created.Type = typeNetwork
	h.add(created, time.Now())
	noted, _ := h.take()
	if len(noted) != 8 {
		t.Errorf("noted: %+v", noted)
	}
	for _, hint := range noted {
		if hint.id == "quiet" || hint.id == "network" || hint.network != (hint.id == "connected") {
			t.Errorf("%+v", hint)
		}
	}
}

func TestTheOlderVersionOfTheAPIIsSpoken(t *testing.T) {
	for theirs, want := range map[string]string{"1.41": "1.41", "1.9": "1.9", "1.52": "1.52", "1.99": apiNewest, "2.0": apiNewest, "": apiNewest, "x": apiNewest, "1.-3": apiNewest} {
		if got := older(apiNewest, theirs); got != want {
			t.Errorf("with %q: %s, want %s", theirs, got, want)
		}
	}
}

func TestALineOfTheListShowsWhatMayHaveChanged(t *testing.T) {
	line := func(change string) summary {
		var s summary
		for _, text := range []string{`{"Id":"a","Names":["/a"],"State":"running","Status":"Up 3 hours (healthy)","NetworkSettings":{"Networks":{"bridge":{"EndpointID":"e1"}}}}`, change} {
			if err := json.Unmarshal([]byte(text), &s); err != nil {
				t.Fatal(err)
			}
		}
		return s
	}
	base, isYoung := line(`{}`).print()
	if isYoung {
		t.Error("three hours are young")
	}
	if later, _ := line(`{"Status":"Up 2 days (healthy)"}`).print(); later != base {
		t.Error("time alone is news")
	}
	for _, change := range []string{`{"Status":"Up 3 hours (unhealthy)"}`, `{"Names":["/b"]}`, `{"State":"paused"}`,
		`{"NetworkSettings":{"Networks":{"bridge":{"EndpointID":"e2"}}}}`, `{"Ports":[{"PrivatePort":80}]}`} {
		if changed, _ := line(change).print(); changed == base {
			t.Errorf("%s is no news", change)
		}
	}
	for _, status := range []string{"Up 3 seconds", "Up Less than a second", "Up About a minute (healthy)"} {
		if _, isYoung := line(`{"Status":"` + status + `"}`).print(); !isYoung {
			t.Errorf("%q is not young", status)
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
