// Package systemd is a workload.Source for units of the system's service manager: for the units that it
// is given, or for all services and sockets whose files have a section for kvd.
//
// It knows how systemd names a unit's states, how to be told of them over D-Bus, and how unit files are
// written. It does not know what the options of a section mean, and it never starts, stops or changes a
// unit.
//
//	source, err := systemd.New(systemd.Config{Units: []string{"app.service"}})
//	snapshots := make(chan workload.Snapshot)
//	go source.Run(ctx, snapshots)
//
// How a unit becomes a workload:
//
//	activating, also between automatic restarts   Starting
//	active, reloading, refreshing                 Running
//	active/exited                                 Stopped: nothing is left that could answer
//	deactivating                                  Stopping
//	inactive, failed, or no such unit             Stopped
//	InvocationID                                  Run: another one after every start
//
// A section for kvd, in the unit's file or a drop-in, becomes labels. A unit of several services has a
// section for each of the others, with its name:
//
//	[X-Kvd]                      kvd.web.port=8080
//	Service=web                  kvd.web.check=http:/healthz
//	Port=8080                    kvd.web.meta.zone=eu
//	Check=http:/healthz          kvd.admin.port=8081
//	Meta=zone=eu
//
//	[X-Kvd admin]
//	Port=8081
//
// They are read when systemd reads them: when the unit is loaded, and after a daemon-reload.
package systemd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/workload"
)

// DefaultPeriod is how often units are read again although no change was signalled.
const DefaultPeriod = 10 * time.Second

const (
	readTimeout  = 5 * time.Second // of all that is read at one time
	reconnectMax = time.Second     // between attempts: whom they are for is on this machine
)

// Config says which units to follow.
type Config struct {
	// Units are full names, "app.service"; they need not exist yet. Without any, all loaded services and
	// sockets with a section for kvd are followed.
	Units  []string
	Host   string        // the name of this machine in sections, %H; "" asks the system
	Period time.Duration // 0 means DefaultPeriod
	Log    *slog.Logger  // nil discards

	connect func(ctx context.Context, units []string) (bus, error) // nil is the real one
	open    func(path string) ([]byte, error)                      // reads a unit file; nil is the real one
}

// Source follows units. Use New. Status is safe for concurrent use.
type Source struct {
	cfg Config

	// Owned by the goroutine of Run.
	failing  bool // a problem was logged, and no success since
	sent     bool
	last     []workload.Workload
	notFound map[string]bool // units that were asked for and said to be missing

	mu     sync.Mutex // guards status
	status workload.Status
}

var (
	_ workload.Source   = (*Source)(nil)
	_ workload.Reporter = (*Source)(nil)
)

// New checks cfg and returns a source that does nothing until Run.
func New(cfg Config) (*Source, error) {
	for _, unit := range cfg.Units {
		if err := ValidateName(unit); err != nil {
			return nil, err
		}
	}
	if cfg.Period <= 0 {
		cfg.Period = DefaultPeriod
	}
	if cfg.Host == "" {
		cfg.Host, _ = os.Hostname() // "" is then what %H means
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.connect == nil {
		cfg.connect = connectSystem
	}
	if cfg.open == nil {
		cfg.open = readUnitFile
	}
	return &Source{cfg: cfg, notFound: map[string]bool{}}, nil
}

// Status returns how well the source sees at this moment.
func (s *Source) Status() workload.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// Run follows the units as workload.Source says. A unit that was asked for and does not exist is
// Stopped, with the reason "not-found". While systemd does not answer nothing is sent.
func (s *Source) Run(ctx context.Context, out chan<- workload.Snapshot) error {
	retry := backoff.Backoff{Min: 100 * time.Millisecond, Max: reconnectMax}
	for ctx.Err() == nil {
		err := s.session(ctx, out, retry.Reset)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errRestarted) { // it answers: only the connection has to be a new one
			continue
		}
		s.complain(err)
		retry.Wait(ctx)
	}
	return nil
}

// errRestarted says that another systemd answers over the same D-Bus, as after a daemon-reexec.
var errRestarted = errors.New("systemd has been started anew")

// session follows the units over one connection until it breaks or ctx ends.
func (s *Source) session(ctx context.Context, out chan<- workload.Snapshot, works func()) error {
	connection, err := s.cfg.connect(ctx, s.cfg.Units)
	if err != nil {
		return fmt.Errorf("cannot reach systemd over D-Bus: %w", err)
	}
	defer connection.close()
	tick := time.NewTicker(s.cfg.Period)
	defer tick.Stop()
	v := s.newView(connection)
	for again := (changes{reloaded: true}); ; {
		// Signals are hints: they may be dropped and do not show every transition. The properties are
		// the truth.
		if err := v.refresh(ctx, again); err != nil {
			return fmt.Errorf("cannot read units over D-Bus: %w", err)
		}
		works()
		s.succeeded(again)
		if err := s.send(ctx, out, v.snapshot(), again.relist); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-connection.broken():
			return errEnded
		case <-connection.changed():
			again = connection.take()
		case <-tick.C:
			again = changes{relist: true}
		}
		if again.restarted {
			return errRestarted
		}
	}
}

// send passes a snapshot on if it says anything new, which nobody has told if it was found by a look at
// all units.
func (s *Source) send(ctx context.Context, out chan<- workload.Snapshot, workloads []workload.Workload, untold bool) error {
	if s.sent && reflect.DeepEqual(workloads, s.last) {
		return nil
	}
	if untold {
		s.mu.Lock()
		s.status.Missed++
		s.mu.Unlock()
	}
	select {
	case out <- workload.Snapshot{Workloads: workloads}:
		s.sent, s.last = true, workloads
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// succeeded notes that everything that may have changed could be read.
func (s *Source) succeeded(again changes) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.status.Connected {
		s.status.Since = now
	}
	s.status.Connected, s.status.Err = true, nil
	if again.relist || again.reloaded {
		s.status.Relists++
	} else {
		s.status.LastEvent = now
	}
	if s.failing {
		s.failing = false
		s.cfg.Log.Info("units are followed again")
	}
}

// complain notes a failure, and logs the first of several in a row: their texts differ, their cause
// does not.
func (s *Source) complain(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.Connected || s.status.Since.IsZero() {
		s.status.Since = time.Now()
	}
	s.status.Connected, s.status.Err = false, err
	if !s.failing {
		s.failing = true
		s.cfg.Log.Warn("units are not followed; trying again until they are", "reason", err)
	}
}

// reasonNotFound is the Reason of a unit that has no file.
const reasonNotFound = "not-found"

// describe turns the properties of a unit into a workload. A property that is absent or of an
// unexpected type counts as empty.
func describe(unit string, properties map[string]any) workload.Workload {
	active, sub := text(properties, "ActiveState"), text(properties, "SubState")
	pid, _ := properties["MainPID"].(uint32)
	invocation, _ := properties["InvocationID"].([]byte)
	w := workload.Workload{
		ID: unit, Name: unit, PID: int(pid), HostNetwork: true,
		State:  stateOf(active, sub),
		Reason: active + "/" + sub,
	}
	if text(properties, "LoadState") == reasonNotFound && w.State == workload.Stopped {
		w.Reason = reasonNotFound
	}
	if w.State != workload.Stopped {
		w.Run = hex.EncodeToString(invocation)
	}
	return w
}

func text(properties map[string]any, name string) string {
	value, _ := properties[name].(string)
	return value
}

// stateOf maps systemd's ActiveState and SubState, see the table in the package comment. A state
// that a later systemd may invent counts as Starting: not offered, and looked at again.
func stateOf(active, sub string) workload.State {
	switch active {
	case "active":
		if sub == "exited" {
			return workload.Stopped
		}
		return workload.Running
	case "reloading", "refreshing":
		return workload.Running
	case "deactivating":
		return workload.Stopping
	case "inactive", "failed", "maintenance", "":
		return workload.Stopped
	}
	return workload.Starting
}
