package registrar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/kvd-io/kvd/pkg/health"
	"github.com/kvd-io/kvd/pkg/override"
	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// gate is an offer with what is known about it. It is guarded by the Registrar's mutex.
type gate struct {
	offer    *Offer
	round    uint64            // of the latest Set that had the offer
	news     bool              // something has happened since it was decided about
	rival    string            // the workload whose offer of the same instance counts; "" if this one does
	override override.Override // what operators want

	checking *checking      // nil while nothing is checked
	verdict  health.Verdict // of the monitor, since the workload started
	passed   bool           // all checks have passed at some time since the workload started
	stays    bool           // when the workload failed its instance was in use: its record stays

	gone   bool // while it fails: another instance is up, so that this one need not be kept
	now    decision
	since  time.Time // of the phase
	remark time.Time // when to say again that it is still being checked
}

// checking is a monitor that runs.
type checking struct {
	monitor health.Monitor // as it was offered
	cancel  context.CancelFunc
}

// isAs reports whether it checks the same in the same way.
func (c *checking) isAs(offered health.Monitor) bool {
	before := c.monitor
	isSame := before.Check.String() == offered.Check.String()
	before.Check, offered.Check = nil, nil
	return isSame && before == offered
}

// decision is what follows from what is known about an offer.
type decision struct {
	phase  Phase
	reason string
	state  string // of the record; "" for none
	weight int
	kept   bool
}

// follow takes in the newest offer of the instance and reports whether its monitor is to be started.
func (g *gate) follow(offer *Offer) (start bool) {
	before := g.offer
	g.offer, g.news = offer, true
	isFirst := g.now.phase == ""
	if offer.State == workload.Stopping && isFirst {
		g.passed = true // it may have been registered by an earlier run: it drains all the same
	}
	if isAnew := !isFirst && (before.Run != offer.Run || !sameEndpoint(before.Record, offer.Record)); isAnew {
		g.stop()
		g.verdict, g.passed, g.gone = health.Verdict{}, false, false
	}
	wants := offer.State == workload.Running && hasCheck(offer)
	if offer.State != before.State {
		g.stays = offer.State == workload.Failed && g.isInUse()
	}
	if g.checking != nil && (!wants || !g.checking.isAs(*offer.Monitor)) {
		g.stop()
	}
	return wants && g.checking == nil
}

// isInUse reports whether the instance is up, or would be but for an operator.
func (g *gate) isInUse() bool {
	return g.now.state == registry.StateUp || g.now.phase == Draining || g.now.phase == Maintenance
}

// hasCheck reports whether there is anything to find out beyond what the engine says.
func hasCheck(offer *Offer) bool { return offer.Monitor != nil && health.Asks(offer.Monitor.Check) }

func sameEndpoint(a, b registry.Record) bool {
	return a.Address == b.Address && a.Port == b.Port && a.Protocol == b.Protocol
}

// stop ends the monitor. What it still finds out is not heard.
func (g *gate) stop() {
	if g.checking != nil {
		g.checking.cancel()
		g.checking = nil
	}
}

// note takes in a verdict and reports whether something may follow from it.
func (g *gate) note(v health.Verdict) bool {
	before := g.verdict
	g.verdict, g.news = v, true
	return before.At.IsZero() || v.Healthy != before.Healthy || text(v.Err) != text(before.Err)
}

// tried reports whether it is known what the offer's checks say.
func (g *gate) tried() bool { return g.checking == nil || !g.verdict.At.IsZero() }

// decide brings the gate to what is known now, logs a new phase, and reports whether the record is
// another one.
func (g *gate) decide(draining bool, log *slog.Logger) bool {
	if g.failure() == nil {
		g.gone = false
		g.passed = g.passed || g.offer.State == workload.Running
	}
	before, next := g.now, g.next(draining)
	if next.phase != before.phase || next.kept != before.kept {
		g.since = time.Now()
		g.remark = g.since.Add(overdueAfter)
		g.tell(next, log)
	}
	g.now, g.news = next, false
	return next.state != before.state || next.weight != before.weight || next.kept != before.kept
}

const (
	// overdueAfter is when somebody may begin to wonder why nothing is registered, remindAfter when to
	// tell it again.
	overdueAfter = 10 * time.Second
	remindAfter  = 10 * time.Minute
)

// remind tells that a workload that runs has not passed its checks for long. It returns how long
// there is nothing more to tell.
func (g *gate) remind(log *slog.Logger) time.Duration {
	if g.now.phase != Checking {
		return remindAfter
	}
	now := time.Now()
	if wait := g.remark.Sub(now); wait > 0 {
		return wait
	}
	g.remark = now.Add(remindAfter)
	log.Warn("not registered yet: its checks do not pass", g.args(g.now.reason, "for", now.Sub(g.since).Round(time.Second))...)
	return remindAfter
}

// next decides. It depends on the gate alone.
func (g *gate) next(draining bool) decision {
	failure := g.failure()
	d := decision{weight: cmp.Or(g.override.Weight, g.offer.Record.Weight)}
	as := func(phase Phase, state, reason string) decision {
		d.phase, d.state, d.reason = phase, state, reason
		return d
	}
	switch {
	case g.rival != "":
		return as(Held, "", fmt.Sprintf("%s offers an instance of this name too, and that one counts", g.rival))
	case g.offer.State == workload.Stopping && g.passed:
		return as(Stopping, registry.StateDraining, "its workload was told to stop")
	case g.offer.State == workload.Stopping:
		return as(Stopping, "", "its workload was told to stop")
	case g.offer.State == workload.Failed && !g.stays:
		return as(Failed, "", "its workload has failed")
	case g.offer.State != workload.Running && g.offer.State != workload.Failed:
		return as(Starting, "", "its workload does not run: it is starting, or paused")
	case failure != nil && !g.passed:
		return as(Checking, "", failure.Error())
	case g.override.Mode == override.Maintenance:
		return as(Maintenance, registry.StateMaintenance, wish(g.override))
	case failure != nil && g.isKept(draining):
		d.kept = true
		return as(Unhealthy, registry.StateUp, fmt.Sprintf("kept as long as no other instance is known to be up: %v", failure))
	case failure != nil && g.offer.Unhealthy == UnhealthyMark:
		return as(Unhealthy, registry.StateUnhealthy, failure.Error())
	case failure != nil:
		return as(Unhealthy, "", failure.Error())
	case g.override.Mode == override.Drain:
		return as(Draining, registry.StateDraining, wish(g.override))
	case draining:
		return as(Draining, registry.StateDraining, "this registrar is about to stop")
	case g.offer.State == workload.Failed:
		d.kept = true
		return as(Failed, registry.StateUp, "its workload has failed, and its record is kept as asked for")
	}
	return as(Up, registry.StateUp, "")
}

// isKept reports whether an instance that fails is not to be taken away.
func (g *gate) isKept(draining bool) bool {
	isWanted := !draining && g.override.Mode != override.Drain
	return isWanted && g.offer.KeepLast && g.now.state == registry.StateUp && !g.gone
}

func wish(o override.Override) string {
	text := fmt.Sprintf("wanted by %s", cmp.Or(o.By, "an operator"))
	if o.Reason != "" {
		text += ": " + o.Reason
	}
	return text
}

var errNotTried = errors.New("its first check has not ended")

// failure says why the workload is not healthy, nil if it is.
func (g *gate) failure() error {
	switch said := g.offer.Health; {
	case g.offer.State == workload.Failed: // there is nobody to ask
		return nil
	case said != workload.HealthUnknown && said != workload.HealthHealthy:
		return fmt.Errorf("the engine says that it is %s", said)
	case !hasCheck(g.offer) || g.verdict.Healthy:
		return nil
	case g.verdict.Err != nil:
		return g.verdict.Err
	case g.verdict.At.IsZero():
		return errNotTried
	}
	return fmt.Errorf("its check has passed %d times in a row and has to more often", g.verdict.Passed)
}

// tell logs a new phase.
func (g *gate) tell(next decision, log *slog.Logger) {
	level := slog.LevelInfo
	if next.phase == Unhealthy || next.phase == Held || next.phase == Failed {
		level = slog.LevelWarn
	}
	log.Log(context.Background(), level, string(next.phase), g.args(next.reason)...)
}

// args are the keys of a line of the log about the offer.
func (g *gate) args(reason string, more ...any) []any {
	args := []any{"service", g.offer.Record.Service, "instance", g.offer.Record.Instance, "workload", g.offer.Workload}
	if reason != "" {
		args = append(args, "reason", reason)
	}
	return append(args, more...)
}

// entry returns what is known about the offer and the keys of its record.
func (g *gate) entry(keys []registry.KeyStatus) Entry {
	e := Entry{
		Offer: *g.offer, Phase: g.now.phase, Since: g.since, Reason: g.now.reason,
		State: g.now.state, Weight: g.now.weight, Kept: g.now.kept, Verdict: g.verdict, Override: g.override,
	}
	if g.rival != "" {
		return e
	}
	e.Keys = keys
	if e.Phase != Up {
		return e
	}
	if len(keys) == 0 {
		e.Phase, e.Reason = WaitingForStore, "its record is about to be written"
	}
	for _, key := range keys {
		switch key.State {
		case registry.KeyHeld:
			e.Phase, e.Since, e.Reason = Held, key.Since, fmt.Sprintf("%s is somebody else's", key.Key)
			if key.Err != nil {
				e.Reason = key.Err.Error()
			}
			return e
		case registry.KeyWaiting:
			e.Phase, e.Since, e.Reason = WaitingForStore, key.Since, fmt.Sprintf("%s is not written yet", key.Key)
			if key.Expired {
				e.Reason = fmt.Sprintf("%s has expired, as far as is known: the store could not be asked in time to renew it", key.Key)
			}
			if key.Err != nil {
				e.Reason = key.Err.Error()
			}
		}
	}
	return e
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
