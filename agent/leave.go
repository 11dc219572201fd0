package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload/systemd"
)

// DefaultShutdownDrain is how long readers are given at a shutdown: see sidekick.DefaultDrain.
const DefaultShutdownDrain = 5 * time.Second

const (
	askMax   = time.Second                     // for systemd to say whether it shuts the machine down
	tellMax  = registry.DefaultWithdrawTimeout // for a store to be told at the end
	tellLast = time.Second                     // for one that is known not to answer
)

// leave makes all that is registered draining, gives readers the time to follow, and has the Publisher
// remove it at its end, if nothing of it will answer in a moment. It returns early when all is gone before,
// or ctx ends.
func (a *Agent) leave(ctx context.Context) {
	if a.Leaves == nil || !a.Leaves(ctx) {
		return
	}
	a.Publisher.Keep(false)
	registered := a.Publisher.Status()
	a.Log.Info("the machine shuts down: what is registered drains and is removed", "registered", registered.Registered, "drain", a.Drain)
	patience := tellMax
	if registered.Err != nil {
		patience = tellLast
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := a.Registrar.Drain(bounded); err != nil {
		a.Log.Warn("cannot tell readers to drain", "reason", err)
		return
	}
	over := time.NewTimer(a.Drain)
	defer over.Stop()
	for {
		changed := a.Registrar.Changed()
		if !a.isFound() {
			return
		}
		select {
		case <-changed:
		case <-over.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// isFound reports whether readers can still find anything of this host.
func (a *Agent) isFound() bool {
	for _, e := range a.Registrar.Entries() {
		if e.State != "" {
			return true
		}
	}
	return false
}

// isShutdown reports whether systemd shuts the machine down. Where it cannot be asked, it does not.
func isShutdown(ctx context.Context, log *slog.Logger) bool {
	ctx, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	plans, err := systemd.ReadPlans(ctx, "")
	if err != nil {
		log.Debug("cannot find out why it is to end", "reason", err)
		return false
	}
	return plans.Shutdown
}
