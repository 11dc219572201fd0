package raftnode

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
)

// collector gathers commands into batches, one batch to a log entry, one entry on its way at a
// time. What arrives meanwhile goes into the next batch, so that the disk alone decides how many
// commands share a sync, and nobody waits for a timer.
type collector struct {
	queue chan *proposal
	bytes atomic.Int64 // of the commands in queue
}

// proposal is what waits for its outcome: a command of this member, or some that another member has
// forwarded, which stay together.
type proposal struct {
	commands []command.Command
	own      [1]command.Command // room for the usual one
	size     int64
	limit    time.Duration // of the wait for its outcome; 0 for none

	// foreign proposals were forwarded: their commands have an origin already, which waits for what
	// comes of them by itself. They are never passed on.
	foreign bool
	// bound proposals are for one term of this member, or for none; nil is for whoever leads.
	bound *term

	state atomic.Uint32
	// doubt says that the commands may be in a log, whatever came of the last attempt.
	doubt atomic.Bool
	done  chan outcome // has room for one
}

// The states of a proposal. Whoever changes it from waiting decides its fate: it is sent, or its
// caller gives up.
const (
	stateWaiting uint32 = iota
	stateSent
	stateAbandoned
)

type outcome struct {
	result      command.Result
	index, term uint64 // of the entry
	err         error
}

func newCollector() *collector {
	return &collector{queue: make(chan *proposal, queueCommands)}
}

func newProposal(c command.Command) *proposal {
	p := &proposal{size: int64(c.Size()), done: make(chan outcome, 1)}
	p.own[0] = c
	p.commands = p.own[:]
	return p
}

// settle gives a proposal its outcome, unless it has one.
func (p *proposal) settle(o outcome) {
	select {
	case p.done <- o:
	default:
	}
}

// abandon says that nobody waits for a proposal any more. It reports whether it may have been sent.
func (p *proposal) abandon() (sent bool) {
	return p.state.Swap(stateAbandoned) == stateSent || p.doubt.Load()
}

// propose queues p and waits for its outcome. stopped ends the wait for ever.
func (q *collector) propose(ctx context.Context, p *proposal, stopped <-chan struct{}) (outcome, error) {
	if waiting := q.bytes.Add(p.size); waiting > queueBytes {
		q.bytes.Add(-p.size)
		return outcome{}, overloaded(waiting)
	}
	select {
	case q.queue <- p:
	default:
		return outcome{}, overloaded(q.bytes.Add(-p.size))
	}
	var late <-chan time.Time
	if p.limit > 0 {
		timer := time.NewTimer(p.limit)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case o := <-p.done:
		return o, o.err
	case <-ctx.Done():
		return outcome{}, waitError(ctx.Err(), p.abandon())
	case <-late:
		return outcome{}, waitError(context.DeadlineExceeded, p.abandon())
	case <-stopped:
		if p.abandon() {
			return outcome{}, proposalError(raft.ErrRaftShutdown)
		}
		return outcome{}, closed()
	}
}

// take returns the next proposal whose caller still waits. If there is none it waits for one until
// until is closed; nil means that it does not wait. ok is false if it got none.
func (q *collector) take(until <-chan struct{}) (p *proposal, ok bool) {
	for {
		select {
		case p = <-q.queue:
		default:
			if until == nil {
				return nil, false
			}
			select {
			case p = <-q.queue:
			case <-until:
				return nil, false
			}
		}
		q.bytes.Add(-p.size)
		if p.state.Load() == stateWaiting {
			return p, true
		}
	}
}

// gather waits for a command and takes what else is there, within the limits of a batch. It
// returns nil when until is closed.
func (q *collector) gather(until <-chan struct{}) []*proposal {
	first, ok := q.take(until)
	if !ok {
		return nil
	}
	batch, size, commands := []*proposal{first}, first.size, len(first.commands)
	for commands < batchCommands && size < batchBytes {
		next, ok := q.take(nil)
		if !ok {
			break
		}
		batch, size, commands = append(batch, next), size+next.size, commands+len(next.commands)
	}
	return batch
}

// claim marks the proposals that are to be sent now, and returns them: those whose callers still wait.
func claim(batch []*proposal) []*proposal {
	kept := batch[:0]
	for _, p := range batch {
		if p.state.CompareAndSwap(stateWaiting, stateSent) || p.doubt.Load() && p.state.Load() == stateSent {
			kept = append(kept, p)
		}
	}
	return kept
}

// unclaim takes back what claim has done for proposals that surely were not executed.
func unclaim(batch []*proposal) {
	for _, p := range batch {
		if !p.doubt.Load() {
			p.state.CompareAndSwap(stateSent, stateWaiting)
		}
	}
}

// registry knows the proposals of this process that have a sequence and wait for their commands to be
// executed here. Whatever way a command takes into the log, that is where its result comes from.
type registry struct {
	origin uint64

	mu       sync.Mutex // guards the fields below
	sequence uint64     // the last one given
	waiting  map[uint64]*proposal
	flights  map[*flight]struct{}
	landed   chan struct{} // closed and replaced when a flight ends
}

// flight is a batch with sequences, from when it gets them until nothing more is done about it.
type flight struct {
	first uint64
}

func newRegistry(origin uint64) *registry {
	return &registry{origin: origin, waiting: map[uint64]*proposal{}, flights: map[*flight]struct{}{}, landed: make(chan struct{})}
}

// take off gives the commands of a batch their sequences. The state can tell repetitions apart within
// a window of sequences only: a batch that would leave it waits until the oldest flight has landed.
// It returns nil if until is closed first.
func (r *registry) takeOff(batch []*proposal, until <-chan struct{}) *flight {
	for {
		r.mu.Lock()
		if r.fits(len(batch)) {
			f := &flight{first: r.sequence + 1}
			r.flights[f] = struct{}{}
			for _, p := range batch {
				if p.foreign || p.bound != nil {
					continue
				}
				r.sequence++
				p.commands[0].Origin, p.commands[0].Sequence = r.origin, r.sequence
				r.waiting[r.sequence] = p
			}
			r.mu.Unlock()
			return f
		}
		landed := r.landed
		r.mu.Unlock()
		select {
		case <-landed:
		case <-until:
			return nil
		}
	}
}

// fits reports whether n more sequences stay within the window. r.mu is held.
func (r *registry) fits(n int) bool {
	for f := range r.flights {
		if r.sequence+uint64(n)-f.first >= command.SequenceWindow {
			return false
		}
	}
	return true
}

// land ends a flight: nobody waits for its commands any more.
func (r *registry) land(f *flight, batch []*proposal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range batch {
		if p.commands[0].Origin == r.origin {
			delete(r.waiting, p.commands[0].Sequence)
		}
	}
	delete(r.flights, f)
	close(r.landed)
	r.landed = make(chan struct{})
}

// executed is a result of a command of this process.
type executed struct {
	sequence uint64
	outcome  outcome
}

// overtake answers those whose commands were executed unseen.
func (r *registry) overtake(executed func(sequence uint64) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for sequence, p := range r.waiting {
		if executed(sequence) {
			delete(r.waiting, sequence)
			p.settle(outcome{err: outcomeLost()})
		}
	}
}

// deliver brings results to those who wait for them.
func (r *registry) deliver(results []executed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range results {
		if p, ok := r.waiting[e.sequence]; ok {
			delete(r.waiting, e.sequence)
			p.settle(e.outcome)
		}
	}
}
