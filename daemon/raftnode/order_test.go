package raftnode

import (
	"context"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
)

// What a follower has forwarded has its result from the machine, and is told by the leader that it was
// committed. Whoever waits for the entry must not find it applied, and the result not there yet.
func TestWhoeverWaitsForAnEntryFindsTheResultsOfItDelivered(t *testing.T) {
	const commands = 1024
	r := newRegistry(7)
	f := &fsm{machine: &ledger{}, stop: &failStop{}, meters: newMeters(), registry: r, logBytes: newByteTrigger(1 << 30)}
	for index := uint64(1); index <= 50; index++ {
		proposals := make([]*proposal, commands)
		batch := command.Batch{Level: command.Level}
		for i := range proposals {
			proposals[i] = newProposal(write(numbered(i)))
		}
		flight := r.takeOff(proposals, nil)
		for _, p := range proposals {
			batch.Commands = append(batch.Commands, p.commands...)
		}
		waiting, early := make(chan struct{}), make(chan int)
		go func() {
			close(waiting)
			if err := f.applied.Wait(context.Background(), index); err != nil {
				t.Error(err)
			}
			missing := 0
			for _, p := range proposals {
				if len(p.done) == 0 {
					missing++
				}
			}
			early <- missing
		}()
		<-waiting
		entry := &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: batch.Append(nil)}
		entry.Extensions = checksum(entry)
		f.ApplyBatch([]*raft.Log{entry})
		if missing := <-early; missing > 0 {
			t.Fatalf("entry %d counted as applied while %d of its %d results were not delivered", index, missing, commands)
		}
		r.land(flight, proposals)
	}
}
