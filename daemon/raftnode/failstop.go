package raftnode

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
)

// failStop ends the node at the first fault of its disk and never lets it go on.
//
// hashicorp/raft carries on after a failed write: it steps down and tries again. But on Linux a
// failed fsync drops the dirty pages, so that the next one reports success for data that is gone.
// And a write that has not returned may or may not happen later. In both cases the only honest
// answer is to stop and to read the disk again at the next start.
type failStop struct {
	deadline time.Duration // the longest that one write may take

	mu    sync.Mutex
	err   error       // the first fault
	fatal func(error) // called once with it; nil until the node runs
}

// Trip records a fault and stops the process through fatal. Only the first fault counts.
func (f *failStop) Trip(err error) {
	f.mu.Lock()
	first := f.err == nil
	if first {
		f.err = err
	}
	fatal := f.fatal
	f.mu.Unlock()
	if first && fatal != nil {
		fatal(err)
	}
}

// Err returns the fault that stopped the node, nil while there is none.
func (f *failStop) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Arm makes the next fault call fatal. It returns the fault that came before, if any.
func (f *failStop) Arm(fatal func(error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fatal = fatal
	return f.err
}

// Guard runs one write. Its error, or its taking too long, trips; after that no write runs.
func (f *failStop) Guard(what string, write func() error) error {
	if err := f.Err(); err != nil {
		return err
	}
	return f.Finish(what, write)
}

// Finish is Guard for the rest of a write that has begun: that runs whatever has happened since.
func (f *failStop) Finish(what string, rest func() error) error {
	late := time.AfterFunc(f.deadline, func() {
		f.Trip(fmt.Errorf("%s has not finished in %s: the disk does not answer", what, f.deadline))
	})
	defer late.Stop()
	if err := rest(); err != nil {
		f.Trip(fmt.Errorf("%s: %w", what, err))
	}
	return f.Err()
}

// remedy says what to do about a fault.
func remedy(fault error) string {
	if format := (*command.FormatError)(nil); errors.As(fault, &format) {
		return "start the version of kvd that the other members run: what this one acknowledged is in its log"
	}
	return "check the disk and its free space, then start kvd again: what it acknowledged is in its log"
}
