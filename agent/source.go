package agent

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/workload"
)

// Source is one place that workloads come from.
type Source struct {
	Name   string // SourceDocker, SourceSystemd or SourceFile
	Detail string // which engine, bus or directory, for people
	// Expected says that it is a fault when it is not there. One that is only looked for may be missing.
	Expected bool
	// Absent reports whether this machine has nothing of the kind now; nil: that cannot be seen.
	Absent func() bool
	// Open returns the source. It is called again when that has ended.
	Open func() (workload.Source, error)
}

// SourceStatus is how a source fares.
type SourceStatus struct {
	Name      string    `json:"name"`
	Detail    string    `json:"detail"`
	Expected  bool      `json:"expected"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"` // since when Connected is what it is
	Err       string    `json:"error,omitempty"`
	Workloads int       `json:"workloads"`
	Reported  bool      `json:"reported"` // at least once since the start

	LastEvent time.Time     `json:"lastEvent,omitzero"`
	Lag       time.Duration `json:"lagNanoseconds,omitempty"` // of the latest event
	Relists   int           `json:"relists"`
	Missed    int           `json:"missed"`  // changes that only a comparison with everything found
	Dropped   int           `json:"dropped"` // messages that could not be understood
}

// update is what a source has to tell.
type update struct {
	follow    *follow
	workloads []workload.Workload
	forgotten bool // they are gone because the source has failed for too long

	incomplete bool // there are others of which the source could learn nothing yet
}

// follow is a source that is being followed. Beyond what its goroutine sends it is guarded by the
// Agent's mutex.
type follow struct {
	Source
	log     *slog.Logger
	hold    time.Duration
	started time.Time

	workloads []workload.Workload
	reported  bool
	complete  bool // it has reported all that it has at least once

	mu     sync.Mutex // guards the fields below; held after the Agent's
	open   workload.Source
	err    error     // why it cannot be followed
	since  time.Time // of err
	worked bool      // it has reported at least once
}

const (
	followRetryMax = 5 * time.Second

	// absentAfter is how long a source that may be missing has to come after the start, as engines are
	// started beside the agent.
	absentAfter = 15 * time.Second
)

// run follows the source until ctx ends, however often it has to begin anew.
func (f *follow) run(ctx context.Context, updates chan<- update) {
	retry := backoff.Backoff{Min: 100 * time.Millisecond, Max: followRetryMax}
	forgotten := true // nothing is known yet
	for ctx.Err() == nil {
		err := f.once(ctx, updates, func() {
			forgotten = false
			retry.Reset()
		})
		if ctx.Err() != nil {
			return
		}
		lost := f.fail(err)
		if !forgotten && f.hold > 0 && time.Since(lost) > f.hold {
			forgotten = true
			f.log.Error("a source has failed for too long; forgetting what it reported", "source", f.Name, "hold", f.hold, "err", err)
			f.send(ctx, updates, update{follow: f, forgotten: true})
		}
		retry.Wait(ctx)
	}
}

// once follows it until it ends.
func (f *follow) once(ctx context.Context, updates chan<- update, works func()) error {
	source, err := f.Open()
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.open = source
	f.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	snapshots := make(chan workload.Snapshot)
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, snapshots) }()
	for {
		select {
		case snapshot := <-snapshots:
			works()
			f.fine()
			f.send(ctx, updates, update{follow: f, workloads: snapshot.Workloads, incomplete: snapshot.Incomplete})
		case err := <-ended:
			if err == nil {
				err = errors.New("it ended by itself")
			}
			return err
		}
	}
}

func (f *follow) send(ctx context.Context, updates chan<- update, u update) {
	select {
	case updates <- u:
	case <-ctx.Done():
	}
}

// fail notes why it cannot be followed, and returns since when that is so.
func (f *follow) fail(err error) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil || f.err.Error() != err.Error() {
		level := slog.LevelWarn
		if !f.Expected && !f.worked {
			level = slog.LevelInfo
		}
		f.log.Log(context.Background(), level, "a source cannot be followed; waiting for it", "source", f.Name, "detail", f.Detail, "err", err)
	}
	if f.err == nil {
		f.since = time.Now()
	}
	f.err, f.open = err, nil
	return f.since
}

func (f *follow) fine() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.worked = nil, true
}

// take takes in what it has told. The Agent's mutex is held.
func (f *follow) take(u update) {
	f.workloads = u.workloads
	f.reported = f.reported || !u.forgotten
	f.complete = f.complete || !u.forgotten && !u.incomplete
}

// known reports whether it has reported all that it has, or was given the time to.
func (f *follow) known() bool {
	return f.complete || f.lost() || f.absent() || f.reported && f.hold > 0 && time.Since(f.started) > f.hold
}

// absent reports whether nobody expects it, it has not come since the start, and nothing of the kind is there.
func (f *follow) absent() bool {
	return !f.Expected && !f.reported && f.Absent != nil && time.Since(f.started) > absentAfter && f.Absent()
}

// failing reports whether it is known not to answer now.
func (f *follow) failing() bool { s := f.status(); return !s.Connected && s.Err != "" }

// lost reports whether it has not answered for so long that what it had is taken to be gone.
func (f *follow) lost() bool {
	return f.hold > 0 && f.failing() && time.Since(f.started) > f.hold
}

// status returns how it fares. The Agent's mutex is held.
func (f *follow) status() SourceStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := SourceStatus{Name: f.Name, Detail: f.Detail, Expected: f.Expected, Workloads: len(f.workloads), Reported: f.reported}
	s.Connected, s.Since = f.err == nil && f.reported, f.since
	if f.err != nil {
		s.Err = f.err.Error()
	}
	if reporter, ok := f.open.(workload.Reporter); ok && f.err == nil {
		told := reporter.Status()
		s.Connected, s.Since, s.LastEvent, s.Lag = told.Connected, told.Since, told.LastEvent, told.Lag
		s.Relists, s.Missed, s.Dropped = told.Relists, told.Missed, told.Dropped
		if told.Err != nil && !told.Connected {
			s.Err = told.Err.Error()
		}
	}
	return s
}

// notHeard returns the names of the sources that have told nothing since the start.
func (a *Agent) notHeard() (names []string) {
	for _, s := range a.SourceStatus() {
		if !s.Reported {
			names = append(names, s.Name)
		}
	}
	return names
}
