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
	offer    Offer
	rival    string            // the workload whose offer of the same instance counts; "" if this one does
	override override.Override // what operators want

	checking *checking      // nil while nothing is checked
	verdict  health.Verdict // of the monitor, since the workload started
	passed   bool           // all checks have passed at some time since the workload started

	now   decision
	since time.Time // of the phase
}

// checking is a monitor that runs.
type checking struct {
	check  string // the text of what it checks
	cancel context.CancelFunc
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
func (g *gate) follow(offer Offer) (start bool) {
	before := g.offer
	g.offer = offer
	isFirst := g.now.phase == ""
	if offer.State == workload.Stopping && isFirst {
		g.passed = true // it may have been registered by an earlier run: it drains all the same
	}
	if isAnew := !isFirst && (before.Run != offer.Run || !sameEndpoint(before.Record, offer.Record)); isAnew {
		g.stop()
		g.verdict, g.passed = health.Verdict{}, false
	}
	wants := offer.State == workload.Running && offer.Monitor != nil
	if g.checking != nil && (!wants || g.checking.check != offer.Monitor.Check.String()) {
		g.stop()
	}
	return wants && g.checking == nil
}

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
	g.verdict = v
	return before.At.IsZero() || v.Healthy != before.Healthy || text(v.Err) != text(before.Err)
}

// tried reports whether it is known what the offer's checks say.
func (g *gate) tried() bool { return g.checking == nil || !g.verdict.At.IsZero() }

// decide brings the gate to what is known now and logs a new phase. It reports whether anything is
// new, and whether the record is.
func (g *gate) decide(draining bool, log *slog.Logger) (news, record bool) {
	g.passed = g.passed || g.offer.State == workload.Running && g.failure() == nil
	before, next := g.now, g.next(draining)
	if next.phase != before.phase {
		g.since = time.Now()
		g.tell(next, log)
	}
	g.now = next
	return next != before, next.state != before.state || next.weight != before.weight || next.kept != before.kept
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
	case g.offer.State != workload.Running:
		return as(Starting, "", fmt.Sprintf("its workload is %s", g.offer.State))
	case failure != nil && !g.passed:
		return as(Checking, "", failure.Error())
	case g.override.Mode == override.Maintenance:
		return as(Maintenance, stateMaintenance, wish(g.override))
	case failure != nil && g.offer.Unhealthy == UnhealthyMark:
		return as(Unhealthy, stateUnhealthy, failure.Error())
	case failure != nil:
		return as(Unhealthy, "", failure.Error())
	case g.override.Mode == override.Drain:
		return as(Draining, registry.StateDraining, wish(g.override))
	case draining:
		return as(Draining, registry.StateDraining, "this registrar is about to stop")
	}
	return as(Up, registry.StateUp, "")
}

const (
	stateMaintenance = "maintenance"
	stateUnhealthy   = "unhealthy"
)

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
	switch health := g.offer.Health; {
	case health != workload.HealthUnknown && health != workload.HealthHealthy:
		return fmt.Errorf("the engine says that it is %s", health)
	case g.offer.Monitor == nil || g.verdict.Healthy:
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
	if next.phase == Unhealthy || next.phase == Held {
		level = slog.LevelWarn
	}
	args := []any{"service", g.offer.Record.Service, "instance", g.offer.Record.Instance, "workload", g.offer.Workload}
	if next.reason != "" {
		args = append(args, "reason", next.reason)
	}
	log.Log(context.Background(), level, string(next.phase), args...)
}

func (g *gate) entry() Entry {
	return Entry{
		Offer: g.offer, Phase: g.now.phase, Since: g.since, Reason: g.now.reason,
		State: g.now.state, Weight: g.now.weight, Kept: g.now.kept, Verdict: g.verdict, Override: g.override,
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
