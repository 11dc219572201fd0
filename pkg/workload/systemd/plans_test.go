package systemd

import (
	"context"
	"errors"
	"testing"

	"github.com/godbus/dbus/v5"
)

// plan is a book: properties by object and name, and the objects of units by name.
type plan struct {
	units      map[string]dbus.ObjectPath
	properties map[string]any
}

func (p plan) find(_ context.Context, unit string) (dbus.ObjectPath, error) {
	return p.units[unit], nil
}

func (p plan) property(_ context.Context, path dbus.ObjectPath, _, name string) (any, error) {
	value, ok := p.properties[string(path)+" "+name]
	if !ok {
		return nil, errors.New("no such property")
	}
	return value, nil
}

func job(number uint32, path string) []any { return []any{number, dbus.ObjectPath(path)} }

func TestPlansAreThoseOfTheSystemOfTheOwnUnitAndOfTheOtherOne(t *testing.T) {
	units := map[string]dbus.ObjectPath{"": "/own", "app.service": "/app"}
	for name, c := range map[string]struct {
		properties map[string]any
		unit       string
		want       Plans
	}{
		"a restart of the own unit": {map[string]any{
			managerPath + " SystemState": "running", "/own Job": job(7, "/7"), "/7 JobType": "restart", "/app Job": job(0, "/"),
		}, "app.service", Plans{Own: JobRestart}},
		"a restart of the other": {map[string]any{
			managerPath + " SystemState": "degraded", "/own Job": job(7, "/7"), "/7 JobType": "restart", "/app Job": job(8, "/8"), "/8 JobType": "restart",
		}, "app.service", Plans{Own: JobRestart, Unit: JobRestart}},
		"a shutdown, and no other is asked about": {map[string]any{
			managerPath + " SystemState": "stopping", "/own Job": job(9, "/9"), "/9 JobType": "stop",
		}, "", Plans{Shutdown: true, Own: JobStop}},
		"the other is not loaded": {map[string]any{
			managerPath + " SystemState": "running", "/own Job": job(0, "/"),
		}, "none.service", Plans{}},
	} {
		if got, err := readPlans(t.Context(), plan{units, c.properties}, c.unit); got != c.want || err != nil {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

func TestPlansThatCannotBeReadAreAnError(t *testing.T) {
	units := map[string]dbus.ObjectPath{"": "/own", "app.service": "/app"}
	running := managerPath + " SystemState"
	for name, properties := range map[string]map[string]any{
		"no state":              {},
		"no job":                {running: "running"},
		"a job of another kind": {running: "running", "/own Job": "7"},
		"a job that has ended":  {running: "running", "/own Job": job(7, "/7")},
		"nothing of the other":  {running: "running", "/own Job": job(0, "/")},
	} {
		if got, err := readPlans(t.Context(), plan{units, properties}, "app.service"); err == nil {
			t.Errorf("%s: %+v and no error", name, got)
		}
	}
}
