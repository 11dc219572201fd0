// Package agent keeps every container of one host registered: what a container engine runs is
// turned into registration records, one for each published port that answers, for as long as the
// container runs.
//
// It knows what container labels mean, which address of a host others can reach, and when a
// container may be offered. It refuses to know how an engine is followed (pkg/workload/docker) and
// how records are kept in the store (pkg/registry). Between the two, offers.go is a pure function,
// gate.go holds an offer back until it answers, and agent.go is the loop.
package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"

	"github.com/kvd-io/kvd/pkg/registry"
	"github.com/kvd-io/kvd/pkg/workload"
)

// Agent registers what a source reports. Source, Publisher and Options are required.
type Agent struct {
	Source    workload.Source
	Publisher *registry.Publisher
	Options   Options
	Log       *slog.Logger // nil discards

	// Ready, unless nil, is called once, in a goroutine of Run, when what ran at the start and
	// answered at the first attempt is in the store, and nothing that earlier runs left beyond it.
	Ready func()
}

// Run registers until ctx ends, then lets the Publisher end and returns nil. It returns an error when
// the source can never work, or the Publisher's. It is called once.
func (a *Agent) Run(ctx context.Context) error {
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()

	var sourceErr, publisherErr error
	snapshots := make(chan workload.Snapshot)
	group.Go(func() {
		defer close(snapshots)
		sourceErr = a.Source.Run(ctx, snapshots)
	})
	published := make(chan struct{})
	group.Go(func() {
		defer close(published)
		publisherErr = a.Publisher.Run(ctx)
	})

	a.loop(ctx, snapshots, &group)
	cancel()
	<-published
	return errors.Join(sourceErr, publisherErr)
}

// loop keeps the publisher's desired set equal to what the latest snapshot and the gate's verdicts
// ask for, until snapshots is closed.
func (a *Agent) loop(ctx context.Context, snapshots <-chan workload.Snapshot, group *sync.WaitGroup) {
	gate := newGate(ctx, a.Log)
	defer gate.close()
	var latest workload.Snapshot
	var told []Refusal
	isReady := false
	for {
		select {
		case snapshot, open := <-snapshots:
			if !open {
				return
			}
			latest = snapshot
		case verdict := <-gate.verdicts:
			gate.note(verdict)
		}
		offers, refusals := Offers(latest.Workloads, a.Options)
		a.tell(refusals, told)
		told = refusals
		a.Publisher.Set(gate.admit(offers))
		if !isReady && gate.allTried() {
			isReady = true
			a.Publisher.Sweep(records(offers)) // not before: what answers is carried over without a gap
			group.Go(func() {
				if a.Publisher.Settle(ctx) == nil && a.Ready != nil {
					a.Ready()
				}
			})
		}
	}
}

// tell logs the refusals that were not told before: mistakes so that somebody corrects them, the
// rest for those who ask why.
func (a *Agent) tell(refusals, told []Refusal) {
	for _, refusal := range refusals {
		if slices.Contains(told, refusal) {
			continue
		}
		level := slog.LevelDebug
		if refusal.Mistake {
			level = slog.LevelWarn
		}
		a.Log.Log(context.Background(), level, "not registered as asked", "container", refusal.Container, "port", refusal.Port, "reason", refusal.Reason)
	}
}

// records returns what is offered. A record of it may be there of an earlier run and not have
// answered this one yet.
func records(offers []Offer) []registry.Record {
	list := make([]registry.Record, len(offers))
	for i, offer := range offers {
		list[i] = offer.Record
	}
	return list
}
