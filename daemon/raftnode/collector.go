package raftnode

import (
	"context"
	"sync/atomic"

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

// proposal is a command that waits for its result. Whoever changes its state from waiting
// decides its fate: the collector takes it, or its caller gives up.
type proposal struct {
	command command.Command
	size    int64
	state   atomic.Uint32
	done    chan outcome // has room for one
}

const (
	stateWaiting uint32 = iota
	stateTaken
	stateAbandoned
)

type outcome struct {
	result command.Result
	err    error
}

func newCollector() *collector {
	return &collector{queue: make(chan *proposal, queueCommands)}
}

// propose queues c and waits for its outcome. stopped ends the wait for ever.
func (q *collector) propose(ctx context.Context, c command.Command, stopped <-chan struct{}) (command.Result, error) {
	p := &proposal{command: c, size: int64(c.Size()), done: make(chan outcome, 1)}
	if waiting := q.bytes.Add(p.size); waiting > queueBytes {
		q.bytes.Add(-p.size)
		return command.Result{}, overloaded(waiting)
	}
	select {
	case q.queue <- p:
	default:
		return command.Result{}, overloaded(q.bytes.Add(-p.size))
	}
	select {
	case o := <-p.done:
		return o.result, o.err
	case <-ctx.Done():
		sent := !p.state.CompareAndSwap(stateWaiting, stateAbandoned)
		return command.Result{}, waitError(ctx.Err(), sent)
	case <-stopped:
		if p.state.CompareAndSwap(stateWaiting, stateAbandoned) {
			return command.Result{}, closed()
		}
		return command.Result{}, proposalError(raft.ErrRaftShutdown)
	}
}

// take claims the next proposal whose caller still waits. If there is none it waits for one until
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
		if p.state.CompareAndSwap(stateWaiting, stateTaken) {
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
	batch, size := []*proposal{first}, first.size
	for len(batch) < batchCommands && size < batchBytes {
		next, ok := q.take(nil)
		if !ok {
			break
		}
		batch, size = append(batch, next), size+next.size
	}
	return batch
}

// refuse answers everything that waits with err.
func (q *collector) refuse(err error) {
	for {
		p, ok := q.take(nil)
		if !ok {
			return
		}
		p.done <- outcome{err: err}
	}
}

// commitLoop carries batches through the log while the term is led.
func (n *Node) commitLoop(t *term) {
	for t.ctx.Err() == nil {
		batch := n.collector.gather(t.ctx.Done())
		if batch == nil {
			return
		}
		commands := make([]command.Command, len(batch))
		for i, p := range batch {
			commands[i] = p.command
		}
		n.meters.batch.Observe(float64(len(commands)))
		results, index, err := n.commit(t, commands)
		for i, p := range batch {
			if err != nil {
				p.done <- outcome{err: err}
				continue
			}
			if results[i].RaftIndex == 0 {
				results[i].RaftIndex, results[i].RaftTerm = index, t.number
			}
			p.done <- outcome{result: results[i]}
		}
	}
}

// commit stamps the commands with the lease clock, carries them through the log in one entry and
// returns their results once the local machine has applied them.
func (n *Node) commit(t *term, commands []command.Command) ([]command.Result, uint64, error) {
	clock, now := t.clock()
	wallOffset := n.fsm.wallOffset.Load()
	if drift := now.UnixNano() - clock - wallOffset; wallOffset == 0 || drift > wallDriftMax || drift < -wallDriftMax {
		wallOffset = now.UnixNano() - clock
	}
	batch := command.Batch{Level: command.Level, Clock: clock, WallOffset: wallOffset, Commands: commands}
	future := n.raft.ApplyLog(raft.Log{Data: batch.Append(nil)}, enqueueTimeout)
	if err := future.Error(); err != nil {
		return nil, 0, proposalError(err)
	}
	return future.Response().([]command.Result), future.Index(), nil
}
