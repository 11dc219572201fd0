// Package systemd is a workload.Source for units of the system's service manager.
//
// It knows how systemd names a unit's states and how to be told of them over D-Bus. It does not
// know what a unit offers to others, and it never starts, stops or changes one.
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
package systemd

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/workload"
)

// DefaultPeriod is how often units are read again although no change was signalled.
const DefaultPeriod = 10 * time.Second

const (
	readTimeout  = 5 * time.Second
	reconnectMax = 5 * time.Second
)

// Config says which units to follow.
type Config struct {
	Units  []string      // full names, "app.service"; they need not exist yet
	Period time.Duration // 0 means DefaultPeriod
	Log    *slog.Logger  // nil discards

	connect func(ctx context.Context) (bus, error) // nil is the real one
}

// Source follows units. Use New.
type Source struct {
	cfg      Config
	failing  bool // a problem was logged, and no success since
	sent     bool
	last     []workload.Workload
	notFound map[string]bool
}

var _ workload.Source = (*Source)(nil)

// bus is a connection to the service manager.
type bus interface {
	properties(ctx context.Context, unit string) (map[string]any, error)
	// hints receives the name of a unit whenever it may have changed, and "" when any may have.
	hints() <-chan string
	connected() bool
	close()
}

// New checks cfg and returns a source that does nothing until Run.
func New(cfg Config) (*Source, error) {
	if len(cfg.Units) == 0 {
		return nil, errors.New("no unit to follow")
	}
	for _, unit := range cfg.Units {
		if err := ValidateName(unit); err != nil {
			return nil, err
		}
	}
	if cfg.Period <= 0 {
		cfg.Period = DefaultPeriod
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.connect == nil {
		cfg.connect = connectSystem
	}
	return &Source{cfg: cfg, notFound: map[string]bool{}}, nil
}

// ValidateName reports whether name can be the full name of a unit, such as "app@1.service".
func ValidateName(name string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@"
	dot := strings.LastIndexByte(name, '.')
	switch {
	case dot < 1 || dot == len(name)-1:
		return fmt.Errorf("unit %q: must be a full name, like app.service", name)
	case len(name) > 255:
		return fmt.Errorf("unit name of %d bytes: at most 255 are allowed", len(name))
	case strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(allowed, r) }):
		return fmt.Errorf("unit %q: a unit name has letters, digits and : - _ . \\ @ only", name)
	case strings.HasSuffix(name[:dot], "@"):
		return fmt.Errorf("unit %q: is a template; name one instance of it, like %s1%s", name, name[:dot], name[dot:])
	}
	return nil
}

// Run follows the units as workload.Source says. A unit that does not exist is Stopped, with the
// reason "not-found". While D-Bus does not answer nothing is sent.
func (s *Source) Run(ctx context.Context, out chan<- workload.Snapshot) error {
	retry := backoff.Backoff{Min: 100 * time.Millisecond, Max: reconnectMax}
	for ctx.Err() == nil {
		err := s.session(ctx, out, retry.Reset)
		if ctx.Err() != nil {
			break
		}
		s.complain(err)
		retry.Wait(ctx)
	}
	return nil
}

// session follows the units over one connection until it breaks or ctx ends.
func (s *Source) session(ctx context.Context, out chan<- workload.Snapshot, works func()) error {
	connection, err := s.cfg.connect(ctx)
	if err != nil {
		return fmt.Errorf("cannot reach systemd over D-Bus: %w", err)
	}
	defer connection.close()
	tick := time.NewTicker(s.cfg.Period)
	defer tick.Stop()
	for {
		// Signals are hints: they may be dropped and do not show every transition. The
		// properties are the truth.
		snapshot, err := s.read(ctx, connection)
		if err != nil {
			return fmt.Errorf("cannot read units over D-Bus: %w", err)
		}
		works()
		s.recovered()
		if err := s.send(ctx, out, snapshot); err != nil {
			return err
		}
		if err := s.await(ctx, connection, tick.C); err != nil {
			return err
		}
	}
}

// await returns when one of the units may have changed.
func (s *Source) await(ctx context.Context, connection bus, tick <-chan time.Time) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case unit, open := <-connection.hints():
			if !open {
				return errors.New("the connection to D-Bus ended")
			}
			if unit == "" || slices.Contains(s.cfg.Units, unit) {
				return nil
			}
		case <-tick:
			if !connection.connected() {
				return errors.New("the connection to D-Bus ended")
			}
			return nil
		}
	}
}

// send passes a snapshot on if it says anything new.
func (s *Source) send(ctx context.Context, out chan<- workload.Snapshot, workloads []workload.Workload) error {
	if s.sent && reflect.DeepEqual(workloads, s.last) {
		return nil
	}
	select {
	case out <- workload.Snapshot{Workloads: workloads}:
		s.sent, s.last = true, workloads
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Source) read(ctx context.Context, connection bus) ([]workload.Workload, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	workloads := make([]workload.Workload, 0, len(s.cfg.Units))
	for _, unit := range s.cfg.Units {
		properties, err := connection.properties(ctx, unit)
		if err != nil {
			return nil, err
		}
		found := describe(unit, properties)
		if missing := found.Reason == reasonNotFound; missing != s.notFound[unit] {
			s.notFound[unit] = missing
			if missing {
				s.cfg.Log.Warn("no such unit; waiting for it", "unit", unit)
			}
		}
		workloads = append(workloads, found)
	}
	return workloads, nil
}

// complain logs the first of several failures in a row: their texts differ, their cause does not.
func (s *Source) complain(err error) {
	if !s.failing {
		s.failing = true
		s.cfg.Log.Warn("units are not followed; trying again until they are", "reason", err)
	}
}

func (s *Source) recovered() {
	if s.failing {
		s.failing = false
		s.cfg.Log.Info("units are followed again")
	}
}

// reasonNotFound is the Reason of a unit that has no file.
const reasonNotFound = "not-found"

// describe turns the properties of a unit into a workload. A property that is absent or of an
// unexpected type counts as empty.
func describe(unit string, properties map[string]any) workload.Workload {
	active, _ := properties["ActiveState"].(string)
	sub, _ := properties["SubState"].(string)
	load, _ := properties["LoadState"].(string)
	pid, _ := properties["MainPID"].(uint32)
	invocation, _ := properties["InvocationID"].([]byte)
	w := workload.Workload{
		ID: unit, Name: unit, PID: int(pid),
		State:  stateOf(active, sub),
		Reason: active + "/" + sub,
	}
	if load == reasonNotFound && w.State == workload.Stopped {
		w.Reason = reasonNotFound
	}
	if w.State != workload.Stopped {
		w.Run = hex.EncodeToString(invocation)
	}
	return w
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
