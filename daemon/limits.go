package daemon

import (
	"fmt"
	"syscall"
)

// openFilesReserve is how many descriptors are not for clients: the log, snapshots and their
// folding, other members, and connections while they are being refused.
const openFilesReserve = 512

// limits is how much clients may take up at a time.
type limits struct {
	connections           int
	connectionsPerAddress int // 0 for any number
	watchers              int
}

// limitsOf returns the limits that c asks for, of a process that may open openFiles files. An error
// is a *ConfigError.
func limitsOf(c *Config, openFiles uint64) (limits, error) {
	room := uint(openFiles - min(openFilesReserve, openFiles/2))
	if c.MaxConnections > room {
		return limits{}, configErrorf("max-connections", "%d is more than the %d that the limit of %d open files leaves; raise that limit (ulimit -n, or LimitNOFILE= of the unit), or leave this setting out", c.MaxConnections, room, openFiles)
	}
	l := limits{connections: int(room), connectionsPerAddress: int(c.MaxConnectionsPerIP), watchers: int(c.MaxWatchers)}
	if c.MaxConnections > 0 {
		l.connections = int(c.MaxConnections)
	}
	if l.watchers == 0 {
		// Over HTTP/1.1 a watch holds a connection. Were they to take all, nobody could write what they wait for.
		l.watchers = l.connections - (l.connections+15)/16
	}
	return l, nil
}

// openFilesMax returns how many files this process may have open.
func openFilesMax() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit of open files: %w", err)
	}
	return min(limit.Cur, limitless), nil
}

// limitless is more connections than any machine has.
const limitless = 1 << 24
