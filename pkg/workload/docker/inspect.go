package docker

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"

	"github.com/kvd-io/kvd/pkg/workload"
)

// running is a container that runs, with what only this package needs to know of it.
type running struct {
	workload.Workload
	startedAt   time.Time // by the engine's clock
	stopSignal  int
	stopTimeout time.Duration
}

// defaultStopTimeout is the engine's own: between the stop signal and SIGKILL.
const defaultStopTimeout = 10 * time.Second

// read turns the engine's answer into our words. It reports false for a container that does not
// run. Every part of the answer may be missing: other engines speak the same API loosely.
func read(answer container.InspectResponse) (running, bool) {
	if answer.ContainerJSONBase == nil || answer.State == nil || answer.Config == nil {
		return running{}, false
	}
	state := answer.State
	// A container that waits for its next automatic start says Running and Restarting at once.
	if !state.Running || state.Restarting || state.Dead {
		return running{}, false
	}
	c := running{
		Workload: workload.Workload{
			ID:     answer.ID,
			Run:    state.StartedAt,
			Name:   strings.TrimPrefix(answer.Name, "/"),
			Image:  answer.Config.Image,
			State:  workload.Running,
			Reason: "running",
			PID:    state.Pid,
			Labels: answer.Config.Labels,
			Env:    environment(answer.Config.Env),
		},
		stopSignal:  signalNumber(answer.Config.StopSignal),
		stopTimeout: defaultStopTimeout,
	}
	if state.Paused {
		c.State, c.Reason = workload.Starting, "paused"
	}
	if state.Health != nil && state.Health.Status != container.NoHealthcheck {
		c.Health = workload.Health(state.Health.Status)
	}
	// An unreadable time is the zero time: then every stop signal counts as later than the start.
	c.startedAt, _ = time.Parse(time.RFC3339Nano, state.StartedAt)
	if seconds := answer.Config.StopTimeout; seconds != nil && *seconds >= 0 {
		c.stopTimeout = time.Duration(*seconds) * time.Second
	}
	var published nat.PortMap
	if answer.NetworkSettings != nil {
		published = answer.NetworkSettings.Ports
		c.Addresses = addresses(answer.NetworkSettings.Networks)
	}
	onHost := answer.HostConfig != nil && answer.HostConfig.NetworkMode.IsHost()
	c.Ports = ports(answer.Config.ExposedPorts, published, onHost)
	return c, true
}

func environment(list []string) map[string]string {
	env := make(map[string]string, len(list))
	for _, entry := range list {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	return env
}

func addresses(networks map[string]*network.EndpointSettings) map[string]string {
	list := make(map[string]string, len(networks))
	for name, endpoint := range networks {
		if endpoint == nil {
			continue
		}
		if address := cmp.Or(endpoint.IPAddress, endpoint.GlobalIPv6Address); address != "" {
			list[name] = address
		}
	}
	return list
}

// ports lists every published address of every port, and ports that are only exposed, by number,
// protocol and then published address.
func ports(exposed nat.PortSet, published nat.PortMap, onHost bool) []workload.Port {
	var list []workload.Port
	for name := range exposed {
		port, ok := parsePort(name)
		if !ok || len(published[name]) > 0 {
			continue
		}
		if onHost {
			port.HostIP, port.HostNumber = netip.IPv4Unspecified().String(), port.Number
		}
		list = append(list, port)
	}
	for name, bindings := range published {
		port, ok := parsePort(name)
		if !ok {
			continue
		}
		for _, binding := range bindings {
			if number, ok := portNumber(binding.HostPort); ok {
				port.HostIP, port.HostNumber = cmp.Or(binding.HostIP, netip.IPv4Unspecified().String()), number
				list = append(list, port)
			}
		}
	}
	slices.SortFunc(list, func(a, b workload.Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.HostIP, b.HostIP), cmp.Compare(a.HostNumber, b.HostNumber))
	})
	return list
}

func parsePort(name nat.Port) (workload.Port, bool) {
	number, protocol, _ := strings.Cut(string(name), "/")
	protocol = cmp.Or(protocol, "tcp")
	n, ok := portNumber(number)
	return workload.Port{Number: n, Protocol: protocol}, ok && (protocol == "tcp" || protocol == "udp")
}

func portNumber(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 1 && n <= 65535
}
