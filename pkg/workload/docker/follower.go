package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/kvd-io/kvd/pkg/workload"
)

const (
	// inspectBatch containers are looked at, inspectParallel at a time, before what was learnt is
	// sent: a stop is not to wait until 300 starts have been looked at.
	inspectBatch    = 32
	inspectParallel = 8

	// replay is how far back the event stream begins. The engine sends the head of its answer
	// before it subscribes us; without it an event between the two would be lost.
	replay = 5 * time.Second

	// stopMargin is given to a stopping container beyond its stop timeout. One that still runs
	// then has ignored its stop signal and counts as running again.
	stopMargin = 5 * time.Second
)

// follower holds what is known of the engine's containers over all its connections. Its fields
// belong to the goroutine of Run.
type follower struct {
	*Source
	out      chan<- workload.Snapshot
	known    map[string]running
	stopping map[string]time.Time // until when a container counts as stopping
	sent     []workload.Workload
	hasSent  bool
}

// session follows the engine over one event stream until that ends or ctx does. It subscribes
// first and lists then, so that nothing falls between; an event only says which container to look
// at, and what the engine answers about it counts. synced says that a full snapshot was reached.
func (f *follower) session(ctx context.Context) (synced bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()

	hints := newHints()
	broken, err := f.subscribe(ctx, hints, &reader)
	if err != nil {
		return false, err
	}
	relist := time.NewTicker(f.cfg.Relist)
	defer relist.Stop()
	if err := f.list(ctx, hints); err != nil {
		return false, err
	}
	for {
		if err := f.look(ctx, hints, !synced); err != nil {
			return synced, err
		}
		if !synced {
			synced = true
			f.cfg.Log.Info("following the engine", "engine", f.cfg.Host, "containers", len(f.known))
		}
		select {
		case <-hints.wake:
		case <-f.stopTimer():
		case <-relist.C:
			if err := f.list(ctx, hints); err != nil {
				return synced, err
			}
		case err := <-broken:
			return synced, err
		case <-ctx.Done():
			return synced, ctx.Err()
		}
	}
}

// subscribe opens the event stream and a goroutine that turns events into hints. The channel
// receives once, when the stream has ended.
func (f *follower) subscribe(ctx context.Context, hints *hints, reader *sync.WaitGroup) (<-chan error, error) {
	if err := f.ping(ctx); err != nil {
		return nil, err
	}
	// The client's call returns with the head of the answer, which an engine that hangs never sends.
	opening, opened := context.WithCancelCause(ctx)
	timer := time.AfterFunc(f.cfg.Timeout, func() { opened(context.DeadlineExceeded) })
	messages, errs := f.client.Events(opening, events.ListOptions{
		Since:   strconv.FormatInt(time.Now().Add(-replay).Unix(), 10),
		Filters: filters.NewArgs(filters.Arg("type", "container"), filters.Arg("type", "network")),
	})
	if !timer.Stop() {
		return nil, fmt.Errorf("its event stream did not open within %v", f.cfg.Timeout)
	}
	broken := make(chan error, 1)
	reader.Go(func() {
		defer opened(nil)
		for {
			select {
			case event := <-messages:
				hints.add(event)
			case err := <-errs:
				broken <- fmt.Errorf("event stream: %w", err)
				return
			}
		}
	})
	return broken, nil
}

// list asks for all running containers and notes them, and those known so far, to be looked at.
func (f *follower) list(ctx context.Context, hints *hints) error {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	summaries, err := f.client.ContainerList(ctx, container.ListOptions{})
	if err != nil {
		return err
	}
	ids := make([]string, 0, len(summaries)+len(f.known))
	for _, summary := range summaries {
		ids = append(ids, summary.ID)
	}
	for id := range f.known {
		ids = append(ids, id)
	}
	hints.addEach(ids)
	return nil
}

// look takes all hints, asks the engine about the containers they name and sends what has changed.
// whole holds the snapshot back until every hint is taken.
func (f *follower) look(ctx context.Context, hints *hints, whole bool) error {
	for {
		changed, signals, all := hints.take(inspectBatch)
		if all {
			if err := f.list(ctx, hints); err != nil {
				return err
			}
		}
		f.note(signals)
		if !whole && len(signals) > 0 {
			if err := f.send(ctx); err != nil {
				return err
			}
		}
		if err := f.inspect(ctx, changed); err != nil {
			return err
		}
		f.note(signals) // again: the container's start may not have been known before
		if len(changed) == 0 || !whole {
			if err := f.send(ctx); err != nil {
				return err
			}
		}
		if len(changed) == 0 && !all {
			return nil
		}
	}
}

// note marks the containers that a signal is going to stop.
func (f *follower) note(signals []signalSent) {
	for _, sent := range signals {
		c, found := f.known[sent.id]
		isStop := sent.signal == c.stopSignal || sent.signal == signalKill
		if found && isStop && !c.startedAt.After(sent.at) {
			f.stopping[sent.id] = time.Now().Add(c.stopTimeout + stopMargin)
		}
	}
}

// inspect asks about each of ids. A container that the engine fails to tell about keeps its last
// state, so that one hanging container does not cost the others theirs; a lost engine is an error.
func (f *follower) inspect(ctx context.Context, ids []string) error {
	answers := make([]inspectAnswer, len(ids))
	var group sync.WaitGroup
	slots := make(chan struct{}, inspectParallel)
	for i, id := range ids {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			answers[i] = f.ask(ctx, id)
		})
	}
	group.Wait()
	failed := false
	for i, id := range ids {
		answer := answers[i]
		if answer.err != nil {
			if client.IsErrConnectionFailed(answer.err) || ctx.Err() != nil {
				return answer.err
			}
			f.cfg.Log.Warn("the engine does not tell about a container; keeping its last state", "container", id, "err", answer.err)
			failed = true
			continue
		}
		if !answer.runs {
			delete(f.known, id)
			delete(f.stopping, id)
			continue
		}
		if answer.running.startedAt.After(f.known[id].startedAt) {
			delete(f.stopping, id)
		}
		f.known[id] = answer.running
	}
	if failed {
		return f.ping(ctx)
	}
	return nil
}

type inspectAnswer struct {
	running running
	runs    bool
	err     error
}

func (f *follower) ask(ctx context.Context, id string) inspectAnswer {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	answer, err := f.client.ContainerInspect(ctx, id)
	if cerrdefs.IsNotFound(err) {
		return inspectAnswer{}
	}
	if err != nil {
		return inspectAnswer{err: err}
	}
	c, runs := read(answer)
	return inspectAnswer{running: c, runs: runs}
}

// send sends a snapshot unless the last one said the same.
func (f *follower) send(ctx context.Context) error {
	now := time.Now()
	workloads := make([]workload.Workload, 0, len(f.known))
	for id, c := range f.known {
		if until, found := f.stopping[id]; found && now.Before(until) {
			c.State, c.Reason = workload.Stopping, "stopping"
		} else {
			delete(f.stopping, id)
		}
		workloads = append(workloads, c.Workload)
	}
	slices.SortFunc(workloads, func(a, b workload.Workload) int { return cmp.Compare(a.ID, b.ID) })
	if f.hasSent && reflect.DeepEqual(workloads, f.sent) {
		return nil
	}
	select {
	case f.out <- workload.Snapshot{Workloads: workloads}:
		f.sent, f.hasSent = workloads, true
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stopTimer fires when the first stopping container has run out of its time; nil when none stops.
func (f *follower) stopTimer() <-chan time.Time {
	var first time.Time
	for _, until := range f.stopping {
		if first.IsZero() || until.Before(first) {
			first = until
		}
	}
	if first.IsZero() {
		return nil
	}
	return time.After(time.Until(first))
}

// forget sends an empty snapshot unless the last one was empty, and reports whether it did.
func (f *follower) forget(ctx context.Context) bool {
	clear(f.known)
	clear(f.stopping)
	had := len(f.sent) > 0
	if err := f.send(ctx); errors.Is(err, context.Canceled) {
		return false
	}
	return had
}
