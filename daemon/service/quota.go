package service

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
)

// DefaultQuota is how many bytes the store may hold unless a Config says otherwise.
const DefaultQuota = 2 << 30

// AlarmNoSpace is the alarm of a store that is full, or whose disk is.
const AlarmNoSpace = "NOSPACE"

// quota decides whether there is room for a write, before it goes into the log. What is in the log
// is executed on every member, whatever room there is.
//
// Once a write was refused because the store is full, all that would make it grow are, until a
// twentieth of the quota is free: otherwise a large write would wait for ever behind small ones
// that fill every gap. What makes nothing grow goes on: reads, removals, refreshes, and values no
// longer than those they replace.
type quota struct {
	bytes   int64
	machine *store.Machine
	disk    func() raftnode.Space
	log     *slog.Logger
	refused atomic.Uint64

	mu       sync.Mutex // guards the fields below
	reserved int64      // growth of writes that are on their way
	full     bool
}

// newQuota returns the quota of a store that may be nearly full already: it then is if less than a
// hundredth is free.
func newQuota(bytes int64, machine *store.Machine, disk func() raftnode.Space, log *slog.Logger) *quota {
	q := &quota{bytes: bytes, machine: machine, disk: disk, log: log}
	if used := machine.Bytes(); used > bytes-bytes/100 {
		q.fill(used)
	}
	return q
}

// enough is how many bytes may be used in a store that was full and is no more.
func (q *quota) enough() int64 { return q.bytes - q.bytes/20 }

// reserve makes sure that there is room for a write that makes the store grow by growth bytes, until
// release. While a write is executed it counts twice for a moment. Errors: NoSpace.
func (q *quota) reserve(growth int64) error {
	if growth <= 0 {
		return nil
	}
	err := q.refuse(growth)
	if err != nil {
		q.refused.Add(1)
	}
	return err
}

// admit refuses what only takes room in the log, when that has none left: all but what removes keys, or
// keeps them from expiring. Errors: NoSpace.
func (q *quota) admit(w kv.Write) error {
	if disk := q.disk(); disk.Full && w.Op != kv.OpDelete && w.Op != kv.OpCompareAndDelete && !w.Refresh {
		q.refused.Add(1)
		return shortOfDisk(disk)
	}
	return nil
}

func shortOfDisk(disk raftnode.Space) error {
	return noSpace("%d MiB are free for the data of this member, and it needs %d MiB to go on: make room on its disk", disk.Free>>20, disk.Reserve>>20)
}

// reserveFor is reserve for what w needs, which it returns. While less than half of the quota is used, that is
// the most that w could need, wherever its key is: the state need not be asked.
func (q *quota) reserveFor(w kv.Write) (growth int64, err error) {
	most := store.GrowthAtMost(w)
	if most <= 0 || q.reserveIfRoomy(most) {
		return most, nil
	}
	growth = q.machine.Growth(w)
	return growth, q.reserve(growth)
}

// reserveIfRoomy is reserve in a store that is far from full.
func (q *quota) reserveIfRoomy(growth int64) bool {
	if q.disk().Short {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.full || q.machine.Bytes()+q.reserved+growth > q.bytes/2 {
		return false
	}
	q.reserved += growth
	return true
}

func (q *quota) refuse(growth int64) error {
	if disk := q.disk(); disk.Short {
		return shortOfDisk(disk)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	used := q.settle()
	if !q.full && used+q.reserved+growth <= q.bytes {
		q.reserved += growth
		return nil
	}
	if !q.full && used > q.enough() {
		q.fill(used)
	}
	if q.full {
		return noSpace("%d of %d bytes are used: delete keys until it is %d, or start kvd with a larger --quota-backend-bytes", used, q.bytes, q.enough())
	}
	return noSpace("%d of %d bytes are used, and this write needs %d: delete keys, or start kvd with a larger --quota-backend-bytes", used, q.bytes, growth)
}

func noSpace(format string, args ...any) error {
	return &kv.Error{Kind: kv.NoSpace, Cause: fmt.Sprintf(format, args...)}
}

// release gives back what reserve has granted, once the write was executed or is given up.
func (q *quota) release(growth int64) {
	if growth > 0 {
		q.mu.Lock()
		q.reserved -= growth
		q.mu.Unlock()
	}
}

// fill raises the alarm.
func (q *quota) fill(used int64) {
	q.full = true
	q.log.Warn("the store is full: writes that make it grow are refused", "alarm", AlarmNoSpace, "used", used, "quota", q.bytes,
		"try", "delete keys, or start kvd with a larger --quota-backend-bytes")
}

// settle clears the alarm if there is room again, and returns how many bytes are used.
func (q *quota) settle() int64 {
	used := q.machine.Bytes()
	if q.full && used <= q.enough() {
		q.full = false
		q.log.Info("the store has room again", "used", used, "quota", q.bytes)
	}
	return used
}

// alarmed reports whether writes that make the store grow are refused.
func (q *quota) alarmed() bool {
	if q.disk().Short {
		return true
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settle()
	return q.full
}
