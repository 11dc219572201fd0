package systemd

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"
)

// Job is what systemd has decided to do with a unit and has not finished, by the name that it gives it.
// A unit that is told to stop in order to be started again has the job JobRestart until it has stopped.
type Job string

// The jobs that end a unit. There are others.
const (
	JobNone    Job = ""
	JobStop    Job = "stop"
	JobRestart Job = "restart"
)

// Ends reports whether the unit is stopped by it, for good or to be started again.
func (j Job) Ends() bool { return j == JobStop || j == JobRestart }

// Plans are what systemd is about to do.
type Plans struct {
	Shutdown bool // the whole system stops: it is shut down, rebooted or halted
	Own      Job  // for the unit that this process belongs to; JobNone if it belongs to none
	Unit     Job  // for the unit asked about; JobNone also if it is not loaded
}

// ReadPlans asks systemd what it is about to do with the system, with the unit of this process and, unless
// it is "", with unit. It answers within milliseconds, or fails when systemd cannot be reached over D-Bus
// before ctx ends.
func ReadPlans(ctx context.Context, unit string) (Plans, error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	connection, _, err := dial(ctx)
	if err != nil {
		return Plans{}, fmt.Errorf("cannot reach systemd over D-Bus: %w", err)
	}
	defer connection.Close()
	plans, err := readPlans(ctx, &planBook{connection}, unit)
	if err != nil {
		return Plans{}, fmt.Errorf("cannot read over D-Bus what systemd is about to do: %w", err)
	}
	return plans, nil
}

// book is where systemd's plans can be read.
type book interface {
	// find returns the object of a unit, of that of this process if it is ""; "" if there is none.
	find(ctx context.Context, unit string) (dbus.ObjectPath, error)
	// property returns one property of an object.
	property(ctx context.Context, path dbus.ObjectPath, face, name string) (any, error)
}

func readPlans(ctx context.Context, b book, unit string) (plans Plans, err error) {
	state, err := b.property(ctx, managerPath, managerFace, "SystemState")
	if err != nil {
		return plans, err
	}
	plans.Shutdown = state == "stopping"
	if plans.Own, err = jobOf(ctx, b, ""); err != nil || unit == "" {
		return plans, err
	}
	plans.Unit, err = jobOf(ctx, b, unit)
	return plans, err
}

// jobOf returns the job of a unit, of that of this process if it is "".
func jobOf(ctx context.Context, b book, unit string) (Job, error) {
	path, err := b.find(ctx, unit)
	if err != nil || path == "" {
		return JobNone, err
	}
	value, err := b.property(ctx, path, unitFace, "Job")
	if err != nil {
		return JobNone, err
	}
	pair, _ := value.([]any) // its number, 0 for none, and its object
	if len(pair) != 2 {
		return JobNone, fmt.Errorf("the job of a unit is %v, not a number and an object", value)
	}
	job, isPath := pair[1].(dbus.ObjectPath)
	if number, _ := pair[0].(uint32); number == 0 || !isPath {
		return JobNone, nil
	}
	kind, err := b.property(ctx, job, systemdName+".Job", "JobType")
	if err != nil {
		return JobNone, err
	}
	text, _ := kind.(string)
	return Job(text), nil
}

// planBook is systemd's own.
type planBook struct{ connection *dbus.Conn }

func (b *planBook) find(ctx context.Context, unit string) (path dbus.ObjectPath, err error) {
	manager := b.connection.Object(systemdName, managerPath)
	if unit == "" {
		err = manager.CallWithContext(ctx, managerFace+".GetUnitByPID", 0, uint32(0)).Store(&path) // 0 is who asks
	} else {
		err = manager.CallWithContext(ctx, managerFace+".GetUnit", 0, unit).Store(&path)
	}
	if isError(err, systemdName+".NoSuchUnit") || isError(err, systemdName+".NoUnitForPID") {
		return "", nil
	}
	return path, err
}

func (b *planBook) property(ctx context.Context, path dbus.ObjectPath, face, name string) (any, error) {
	var value dbus.Variant
	err := b.connection.Object(systemdName, path).CallWithContext(ctx, propertyFace+".Get", 0, face, name).Store(&value)
	return value.Value(), err
}
