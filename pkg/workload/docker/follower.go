package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/kvd-io/kvd/pkg/workload"
)

// stopMargin is given to a stopping container beyond its stop timeout. One that still runs then
// has ignored its stop signal and counts as running again.
const stopMargin = 5 * time.Second

// container is what is known of a container that runs.
type container struct {
	running
	print  string    // of its line in the list that preceded the latest look; "" if none did
	seen   time.Time // when the engine last told about it
	absent int       // lists in a row that lacked it since then
	here   bool      // its process was seen on this machine
}

// failure is a container that has failed.
type failure struct {
	workload.Workload           // as it was last
	until             time.Time // when it is left out; zero: not by itself
}

// follower holds what is known of the engine's containers over all its connections. Its fields
// belong to the goroutine of Run.
type follower struct {
	*Source
	out      chan<- workload.Snapshot
	hints    *hints
	known    map[string]*container
	ids      []string             // of known, in order
	stopping map[string]time.Time // until when a container counts as stopping
	failed   map[string]*failure  // containers that do not run any more and are told all the same
	silent   map[string]bool      // containers that run, as far as can be known, but of which the engine has told nothing yet

	stale    bool              // known, stopping or silent has changed since next was made
	next     workload.Snapshot // what is known
	isNews   bool              // and it was not sent
	hasSent  bool
	sent     int               // containers in the last snapshot
	complain map[string]string // about which container what was logged last
}

func newFollower(s *Source, out chan<- workload.Snapshot) *follower {
	return &follower{Source: s, out: out, hints: newHints(), known: map[string]*container{}, stopping: map[string]time.Time{},
		failed: map[string]*failure{}, silent: map[string]bool{}, complain: map[string]string{}, stale: true}
}

// learn takes in what the engine has said about a container.
func (f *follower) learn(a answer) {
	delete(f.complain, a.id)
	if f.silent[a.id] {
		delete(f.silent, a.id)
		f.stale = true
	}
	before := f.known[a.id]
	if !a.runs {
		f.ended(a)
		return
	}
	delete(f.failed, a.id)
	now := &container{running: a.running, print: a.print, seen: time.Now()}
	if now.here = before != nil && before.here && before.PID == now.PID; !now.here {
		now.here = now.isHere()
	}
	if f.known[a.id] = now; before == nil {
		at, _ := slices.BinarySearch(f.ids, a.id)
		f.ids = slices.Insert(f.ids, at, a.id)
	}
	if before == nil || !reflect.DeepEqual(before.running, now.running) {
		f.stale = true
	}
	if before != nil && now.startedAt.After(before.startedAt) {
		delete(f.stopping, a.id)
	}
}

// signalledBit is set in the exit code of a process that a signal has ended.
const signalledBit = 128

// ended takes in that a container does not run, or that there is none.
func (f *follower) ended(a answer) {
	hasFailed := a.exit != 0 && a.exit&signalledBit == 0
	if !hasFailed && f.failed[a.id] != nil {
		delete(f.failed, a.id)
		f.stale = true
	}
	c := f.known[a.id]
	if c == nil {
		return
	}
	if _, told := f.stopping[a.id]; hasFailed && !told && c.State == workload.Running && f.cfg.FailedHold > 0 {
		last := &failure{Workload: resolve(c.running, f.known)}
		last.State, last.Reason = workload.Failed, fmt.Sprintf("exited with %d", a.exit)
		if f.cfg.FailedHold != Always {
			last.until = time.Now().Add(f.cfg.FailedHold)
		}
		f.failed[a.id] = last
	}
	delete(f.known, a.id)
	if at, found := slices.BinarySearch(f.ids, a.id); found {
		f.ids = slices.Delete(f.ids, at, at+1)
	}
	delete(f.stopping, a.id)
	f.stale = true
}

// fail notes that the engine did not tell about a container, which therefore keeps its last state:
// one hanging container is not to cost the others theirs.
func (f *follower) fail(a answer) {
	if f.known[a.id] == nil && a.listed && !f.silent[a.id] {
		f.silent[a.id] = true
		f.stale = true
	}
	if text := a.err.Error(); f.complain[a.id] != text {
		f.complain[a.id] = text
		f.cfg.Log.Warn("the engine does not tell about a container; keeping its last state", "container", a.id, "err", a.err)
	}
}

// signalled marks a container that a signal is going to stop.
func (f *follower) signalled(sent hint) {
	c := f.known[sent.id]
	if c == nil || sent.signal != c.stopSignal && sent.signal != signalKill || c.startedAt.After(sent.at) {
		return
	}
	_, known := f.stopping[sent.id]
	f.stopping[sent.id] = time.Now().Add(max(c.stopTimeout+stopMargin, f.cfg.StopHold))
	f.stale = f.stale || !known
}

// died forgets a container whose process has ended. The engine takes its networks down before it
// answers about it again, and its address may be another's by then.
func (f *follower) died(h hint) {
	if c := f.known[h.id]; c != nil && c.startedAt.Before(h.at) {
		f.learn(answer{id: h.id, exit: h.exit})
	}
}

// outlived takes those out of stopping that have outlived their time, and returns when the next
// will have; the zero time when none is stopping.
func (f *follower) outlived(now time.Time) (next time.Time) {
	for id, until := range f.stopping {
		switch {
		case !now.Before(until):
			delete(f.stopping, id)
			f.stale = true
		case next.IsZero() || until.Before(next):
			next = until
		}
	}
	return next
}

// release leaves out those that have failed long enough ago, and returns when the next will have; the
// zero time when there is none.
func (f *follower) release(now time.Time) (next time.Time) {
	for id, last := range f.failed {
		switch {
		case last.until.IsZero():
		case !now.Before(last.until):
			delete(f.failed, id)
			f.stale = true
		case next.IsZero() || last.until.Before(next):
			next = last.until
		}
	}
	return next
}

// pending returns where to send next, nil when nothing has changed since the last snapshot.
func (f *follower) pending() chan<- workload.Snapshot {
	if f.stale {
		f.stale, f.isNews, f.next = false, true, f.snapshot()
	}
	if f.isNews {
		return f.out
	}
	return nil
}

func (f *follower) delivered() { f.sent, f.hasSent, f.isNews = len(f.next.Workloads), true, false }

func (f *follower) snapshot() workload.Snapshot {
	workloads := make([]workload.Workload, 0, len(f.known)+len(f.failed))
	for _, id := range f.ids {
		w := resolve(f.known[id].running, f.known)
		if _, found := f.stopping[id]; found {
			w.State, w.Reason = workload.Stopping, reasonStopping
		}
		workloads = append(workloads, w)
	}
	for _, id := range slices.Sorted(maps.Keys(f.failed)) {
		workloads = append(workloads, f.failed[id].Workload)
	}
	return workload.Snapshot{Workloads: workloads, Incomplete: len(f.silent) > 0}
}

// forget drops all that is known and sends that nothing runs. It reports whether there was anything
// to forget.
func (f *follower) forget(ctx context.Context) bool {
	if f.sent == 0 {
		return false
	}
	clear(f.known)
	f.ids = nil
	clear(f.stopping)
	clear(f.silent)
	clear(f.failed)
	f.stale = true
	select {
	case f.pending() <- f.next:
		f.delivered()
		return true
	case <-ctx.Done():
		return false
	}
}

// lost describes a session that is over.
func lost(what string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: no answer in time: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
