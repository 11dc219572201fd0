package docker

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
)

// running is a container that runs, with what only this package needs to know of it. It is not
// changed once it is made.
type running struct {
	workload.Workload // without the network of another container, which resolve adds

	startedAt   time.Time // by the engine's clock
	stopSignal  int
	stopTimeout time.Duration
	joins       string          // the container whose network it uses, by ID or name; "" for its own
	exposed     []workload.Port // of the image and the container, unpublished
	published   map[portName][]netip.AddrPort
}

// portName is a port inside a container.
type portName struct {
	number   int
	protocol string
}

// defaultStopTimeout is the engine's own: between the stop signal and SIGKILL.
const defaultStopTimeout = 10 * time.Second

// read turns the engine's answer into our words. It reports false for a container that does not
// run. answer has a State and a Config.
func read(answer details) (running, bool) {
	state := answer.State
	// Podman says of a container that was told to stop that it does not run, and "stopping".
	isStopping := state.Status == "stopping"
	// A container that waits for its next automatic start says Running and Restarting at once.
	if !state.Running && !isStopping || state.Restarting || state.Dead {
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
		exposed:     exposedPorts(answer.Config.ExposedPorts),
		published:   publishedPorts(answer.NetworkSettings.Ports),
	}
	switch {
	case isStopping:
		c.State, c.Reason = workload.Stopping, reasonStopping
	case state.Paused:
		c.State, c.Reason = workload.Starting, "paused"
	}
	if state.Health != nil {
		c.Health = healthOf(state.Health.Status)
	}
	// An unreadable time is the zero time: then every stop signal counts as later than the start.
	c.startedAt, _ = time.Parse(time.RFC3339Nano, state.StartedAt)
	if seconds := answer.Config.StopTimeout; seconds != nil && *seconds >= 0 && *seconds <= stopTimeoutMax {
		c.stopTimeout = time.Duration(*seconds) * time.Second
	}
	c.Addresses, c.Addresses6 = addresses(answer)
	mode := answer.HostConfig.NetworkMode
	c.HostNetwork = mode == "host"
	c.joins, _ = strings.CutPrefix(mode, "container:")
	if c.joins == mode {
		c.joins = ""
	}
	c.Ports = ports(c.exposed, c.published, c.HostNetwork, c.joins == "")
	return c, true
}

// reasonStopping is the Reason of a container between its stop signal and its end.
const reasonStopping = "stopping"

// stopTimeoutMax is the longest stop timeout that is believed, in seconds.
const stopTimeoutMax = 24 * 60 * 60

// healthOf leaves out what no engine is known to say.
func healthOf(status string) workload.Health {
	switch health := workload.Health(status); health {
	case workload.HealthStarting, workload.HealthHealthy, workload.HealthUnhealthy:
		return health
	}
	return workload.HealthUnknown
}

func environment(list []string) map[string]string {
	env := make(map[string]string, len(list))
	for _, entry := range list {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	return env
}

// addresses are those of all networks, and the IPv6 addresses alone.
func addresses(answer details) (first, six map[string]string) {
	first, six = map[string]string{}, map[string]string{}
	for name, endpoint := range answer.NetworkSettings.Networks {
		if endpoint == nil {
			continue
		}
		ip4, ip6 := validIP(endpoint.IPAddress), validIP(endpoint.GlobalIPv6Address)
		if ip6 != "" {
			six[name] = ip6
		}
		if either := cmp.Or(ip4, ip6); either != "" {
			first[name] = either
		}
	}
	return first, six
}

// validIP returns text if it is an address.
func validIP(text string) string {
	if ip, err := netip.ParseAddr(text); err != nil || !ip.IsValid() || ip.IsUnspecified() {
		return ""
	}
	return text
}

func exposedPorts(names map[string]struct{}) []workload.Port {
	var list []workload.Port
	for name := range names {
		if port, ok := parsePort(name); ok {
			list = append(list, workload.Port{Number: port.number, Protocol: port.protocol})
		}
	}
	return list
}

// publishedPorts leaves out ports that have no address on the host, and addresses that are none. No
// address means all of them.
func publishedPorts(bindings map[string][]binding) map[portName][]netip.AddrPort {
	list := map[portName][]netip.AddrPort{}
	for name, on := range bindings {
		port, ok := parsePort(name)
		if !ok {
			continue
		}
		for _, b := range on {
			ip, err := netip.ParseAddr(cmp.Or(b.HostIP, anyAddress))
			number, ok := portNumber(b.HostPort)
			if err == nil && ok {
				list[port] = append(list[port], netip.AddrPortFrom(ip, uint16(number)))
			}
		}
	}
	return list
}

// anyAddress stands for all addresses of the host.
const anyAddress = "0.0.0.0"

// ports lists every published address of every port, and ports that are only exposed, by number,
// protocol and then published address. All published ports are listed with all, else the exposed
// ones.
func ports(exposed []workload.Port, published map[portName][]netip.AddrPort, onHost, all bool) []workload.Port {
	names := map[portName]bool{}
	for _, port := range exposed {
		names[portName{port.Number, port.Protocol}] = true
	}
	if all {
		for name := range published {
			names[name] = true
		}
	}
	var list []workload.Port
	for name := range names {
		port := workload.Port{Number: name.number, Protocol: name.protocol}
		switch {
		case onHost:
			port.HostIP, port.HostNumber = anyAddress, name.number
			list = append(list, port)
		case len(published[name]) == 0:
			list = append(list, port)
		}
		if onHost {
			continue
		}
		for _, address := range published[name] {
			port.HostIP, port.HostNumber = address.Addr().String(), int(address.Port())
			list = append(list, port)
		}
	}
	slices.SortFunc(list, func(a, b workload.Port) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.HostIP, b.HostIP), cmp.Compare(a.HostNumber, b.HostNumber))
	})
	return list
}

func parsePort(name string) (portName, bool) {
	number, protocol, _ := strings.Cut(name, "/")
	protocol = cmp.Or(protocol, "tcp")
	n, ok := portNumber(number)
	return portName{n, protocol}, ok && (protocol == "tcp" || protocol == "udp")
}

func portNumber(text string) (int, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= 1 && n <= 65535
}

// joinsMax bounds the way from a container to the one whose network it ends up with.
const joinsMax = 8

// resolve gives c the network of the container that it joins, directly or over others. While that
// one does not run it has none. Its ports are those that it exposes itself, published as the other's.
func resolve(c running, known map[string]*container) workload.Workload {
	w := c.Workload
	if c.joins == "" {
		return w
	}
	owner := c
	for range joinsMax {
		joined := find(owner.joins, known)
		if joined == nil {
			return w
		}
		if owner = joined.running; owner.joins == "" {
			break
		}
	}
	if owner.joins != "" || owner.ID == c.ID {
		return w
	}
	w.NetworkOf = owner.ID
	w.HostNetwork = owner.HostNetwork
	w.Addresses, w.Addresses6 = owner.Addresses, owner.Addresses6
	w.Ports = ports(c.exposed, owner.published, owner.HostNetwork, false)
	return w
}

// find returns the container of an ID, of a name, or of the beginning of an ID that no other has.
func find(reference string, known map[string]*container) *container {
	if c := known[reference]; c != nil {
		return c
	}
	var found *container
	for _, id := range slices.Sorted(maps.Keys(known)) {
		c := known[id]
		if c.Name == reference {
			return c
		}
		if strings.HasPrefix(id, reference) && len(reference) >= shortID {
			if found != nil {
				return nil
			}
			found = c
		}
	}
	return found
}

// shortID is the length of the IDs that engines show to people.
const shortID = 12
