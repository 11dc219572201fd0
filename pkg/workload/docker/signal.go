package docker

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The real-time signals as the C library numbers them, and with it the engine.
const (
	signalRealTimeMin = 34
	signalRealTimeMax = 64
)

// signalKill stops every container, whatever its stop signal is.
const signalKill = int(syscall.SIGKILL)

// signalNumber reads a stop signal as an image may name it: "SIGTERM", "term", "15",
// "SIGRTMIN+3", and "" for the engine's default. 0 means that it is none of these.
func signalNumber(name string) int {
	if name == "" {
		return int(syscall.SIGTERM)
	}
	if n, err := strconv.Atoi(name); err == nil {
		return n
	}
	name = strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if n := int(unix.SignalNum("SIG" + name)); n != 0 {
		return n
	}
	for base, start := range map[string]int{"RTMIN": signalRealTimeMin, "RTMAX": signalRealTimeMax} {
		offset, found := strings.CutPrefix(name, base)
		if !found {
			continue
		}
		if offset == "" {
			return start
		}
		if n, err := strconv.Atoi(offset); err == nil && start+n >= signalRealTimeMin && start+n <= signalRealTimeMax {
			return start + n
		}
	}
	return 0
}
