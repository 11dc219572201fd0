package local

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/kvd-io/kvd/pkg/registrar"
)

// phases are all in which an instance can be.
var phases = []registrar.Phase{
	registrar.Starting, registrar.Checking, registrar.Up, registrar.Unhealthy, registrar.Draining,
	registrar.Maintenance, registrar.Stopping, registrar.Failed, registrar.Held, registrar.WaitingForStore,
}

// sample is one value of a metric.
type sample struct {
	label, of string // "" for a metric without a label
	value     float64
}

// WriteMetrics writes a report in the text format of Prometheus. Every page has all metrics but those of
// sources, whose labels are the engines that the program follows. It ignores errors of w: who asked
// may have gone.
func WriteMetrics(w io.Writer, r Report) {
	metric := func(name, kind, help string, samples ...sample) {
		fmt.Fprintf(w, "# HELP kvd_registrar_%s %s\n# TYPE kvd_registrar_%s %s\n", name, help, name, kind)
		for _, s := range samples {
			label := ""
			if s.label != "" {
				label = fmt.Sprintf("{%s=%q}", s.label, s.of)
			}
			fmt.Fprintf(w, "kvd_registrar_%s%s %s\n", name, label, strconv.FormatFloat(s.value, 'g', -1, 64))
		}
	}
	one := func(value float64) sample { return sample{value: value} }
	count := map[registrar.Phase]int{}
	kept := 0
	for _, i := range r.Instances {
		count[registrar.Phase(i.Phase)]++
		if i.Kept {
			kept++
		}
	}
	var inPhase []sample
	for _, phase := range phases {
		inPhase = append(inPhase, sample{"phase", string(phase), float64(count[phase])})
	}
	metric("instances", "gauge", "Instances that this host offers, by where they stand.", inPhase...)
	metric("kept", "gauge", "Instances that are registered although they fail: as the last one, or because what has ended is to be found.", one(float64(kept)))
	metric("wanted", "gauge", "Keys that are to be in the store.", one(float64(r.Store.Wanted)))
	metric("registered", "gauge", "Keys that are in the store as they are to be.", one(float64(r.Store.Registered)))
	metric("store_up", "gauge", "1 while the store answers and nothing is wrong with any key.", one(bit(r.Store.Up)))
	metric("last_heartbeat_timestamp_seconds", "gauge", "When the store last confirmed that this registrar lives; 0 before the first time.", one(seconds(r.Store.Heartbeat)))
	metric("lease_age_seconds", "gauge", "Time since the store last confirmed that this registrar lives.", one(since(r.Time, r.Store.Heartbeat)))
	metric("lease_remaining_seconds", "gauge", "Time until what is registered expires if the store is not reached again.", one(max(0, -since(r.Time, r.Store.Expires))))
	metric("writes_total", "counter", "Keys written or removed.", one(float64(r.Store.Writes)))
	metric("renewals_total", "counter", "Heartbeats: of the lease, or of single keys.", one(float64(r.Store.Renewals)))
	metric("corrections_total", "counter", "Keys that somebody else had removed or changed and that were put right.", one(float64(r.Store.Corrections)))
	metric("leases_lost_total", "counter", "Leases that ended although they were to live.", one(float64(r.Store.LeasesLost)))
	metric("checks_total", "counter", "Checks that have ended.", one(float64(r.Checks.Total)))
	metric("check_failures_total", "counter", "Checks that have failed.", one(float64(r.Checks.Failed)))
	metric("overrides_pending", "gauge", "Wishes of operators that wait to be written to the store.", one(float64(r.Overrides.Pending)))
	metric("overrides_ignored", "gauge", "Keys of overrides that cannot be used.", one(float64(len(r.Overrides.Problems))))
	var connected, lag []sample
	for _, s := range r.Sources {
		connected = append(connected, sample{"source", s.Name, bit(s.Connected)})
		lag = append(lag, sample{"source", s.Name, s.Lag.Seconds()})
	}
	metric("source_connected", "gauge", "1 while an engine tells its changes as they happen.", connected...)
	metric("event_lag_seconds", "gauge", "From the latest change of an engine, by its clock, to its arrival.", lag...)
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// seconds is a time as Prometheus has it, 0 for none.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// since is how long ago t was, 0 for no time.
func since(now, t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return now.Sub(t).Seconds()
}
