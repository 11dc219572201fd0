package store

import (
	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// Tally counts how an operation went.
type Tally struct{ Done, Failed uint64 }

// Counts is what a machine has executed since it was made, every entry of the log that it was
// given. It is of this member and no part of the state: a restore changes none of it.
type Counts struct {
	Writes  [kv.OpCompareAndDelete + 1]Tally // by kv.Op
	Expired uint64                           // keys and directories whose time was over
	All     uint64                           // commands but for ticks and checks
}

// Since returns what was counted after earlier.
func (c Counts) Since(earlier Counts) Counts {
	for op, before := range earlier.Writes {
		c.Writes[op].Done -= before.Done
		c.Writes[op].Failed -= before.Failed
	}
	c.Expired -= earlier.Expired
	c.All -= earlier.All
	return c
}

func (c *Counts) note(body command.Body, err error, events []kv.Event) {
	c.All++
	if w, ok := body.(kv.Write); ok {
		if err == nil {
			c.Writes[w.Op].Done++
		} else {
			c.Writes[w.Op].Failed++
		}
	}
	for _, event := range events {
		if event.Action == kv.ActionExpire {
			c.Expired++
		}
	}
}

// Counts returns what the machine has executed.
func (m *Machine) Counts() Counts {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.counts
}

// Extent is how much a machine holds.
type Extent struct {
	Keys, Directories, Leases int   // the root is a directory
	Events                    int   // in the history
	Bytes                     int64 // see Machine.Bytes
}

// Extent returns how much the machine holds.
func (m *Machine) Extent() Extent {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := m.state
	return Extent{Keys: s.records.Len(), Directories: s.dirs.Len(), Leases: s.leases.Len(), Events: len(s.history.events), Bytes: s.bytes}
}
