package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/kvd-io/kvd/pkg/program"
	"github.com/kvd-io/kvd/pkg/registrar"
)

// onceMax is how long --once waits for what runs to answer.
const onceMax = 30 * time.Second

// runOnce runs a until all that runs now is registered, at most for onceMax, and prints what is not.
func runOnce(ctx context.Context, a *Agent, w io.Writer) error {
	for _, source := range a.Sources {
		if opened, err := source.Open(); err == nil && source.Expected {
			if p, ok := opened.(pinger); ok {
				if err := p.Ping(ctx); err != nil {
					return engineError(err)
				}
			}
		}
	}
	running, stop := context.WithCancel(ctx)
	ready := make(chan struct{})
	a.Ready = func() { close(ready) }
	ended := make(chan error, 1)
	go func() { ended <- a.Run(running) }()
	waiting, done := context.WithTimeout(ctx, onceMax)
	missing, err := a.awaitAll(waiting, ready)
	done()
	stop()
	if endErr := <-ended; endErr != nil {
		return &program.ExitError{Code: exitLeftover, Err: endErr}
	}
	var exit *program.ExitError
	switch {
	case errors.As(err, &exit):
		return err
	case err != nil:
		return &program.ExitError{Code: exitIncomplete, Err: err}
	}
	if len(missing) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "WORKLOAD\tSERVICE\tINSTANCE\tPHASE\tREASON")
	for _, e := range missing {
		row(table, e.Offer.Workload, e.Offer.Record.Service, e.Offer.Record.Instance, string(e.Phase), e.Reason)
	}
	table.Flush()
	return &program.ExitError{Code: exitIncomplete, Err: fmt.Errorf("%d of what runs here could not be registered", len(missing))}
}

// awaitAll waits until everything is registered, as operators want it, or ctx ends, and returns what is not. The error says that
// nothing is known for sure, and why.
func (a *Agent) awaitAll(ctx context.Context, ready <-chan struct{}) (missing []registrar.Entry, err error) {
	isReady := false
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	var failing lasting
	for {
		changed := a.Registrar.Changed()
		missing = missing[:0]
		for _, e := range a.Registrar.Entries() {
			if e.Phase != registrar.Up && e.Phase != registrar.Draining && e.Phase != registrar.Maintenance {
				missing = append(missing, e)
			}
		}
		untold, failure := a.unheard()
		if isReady && len(missing) == 0 && !untold {
			return nil, a.Publisher.Settle(ctx)
		}
		select {
		case <-ready:
			isReady, ready = true, nil
		case <-changed:
		case now := <-look.C:
			if failing.isLong(untold, now) {
				return nil, engineError(failure)
			}
		case <-ctx.Done():
			if !isReady || untold {
				return nil, fmt.Errorf("not finished after %v: %w", onceMax, cmp.Or(failure, a.Publisher.Status().Err, context.Cause(ctx)))
			}
			return missing, nil
		}
	}
}

// unheard reports whether a source that is to be there has told nothing yet and fails, and how.
func (a *Agent) unheard() (bool, error) {
	for _, s := range a.SourceStatus() {
		if s.Expected && !s.Reported && s.Err != "" {
			return true, fmt.Errorf("%s (%s) cannot be followed: %s", s.Name, s.Detail, s.Err)
		}
	}
	return false, nil
}
