package raftnode

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

func TestASnapshotAnswersThoseWhoWaitForWhatItStandsFor(t *testing.T) {
	leader := &ledger{}
	leader.Apply(41, 2, &command.Batch{Commands: []command.Command{{Origin: 5, Sequence: 1}, {Origin: 6, Sequence: 2}}})
	var written bytes.Buffer
	if _, err := leader.Snapshot().WriteTo(&written); err != nil {
		t.Fatal(err)
	}
	f := &fsm{machine: &ledger{}, meters: newMeters(), registry: newRegistry(5), logBytes: newByteTrigger(1 << 40)}
	batch := []*proposal{
		{commands: []command.Command{write("/a")}, done: make(chan outcome, 1)},
		{commands: []command.Command{write("/b")}, done: make(chan outcome, 1)},
	}
	f.registry.takeOff(batch, nil)
	if err := f.Restore(&openSnapshot{io.NopCloser(&written), 41}); err != nil {
		t.Fatal(err)
	}
	if err := f.applied.Wait(t.Context(), 41); err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.applied.Wait(ended, 42); err == nil {
		t.Error("what is not in the snapshot counts as applied")
	}
	select {
	case o := <-batch[0].done:
		if !kv.Is(o.err, kv.Unknown) {
			t.Errorf("the command in the snapshot ends with %+v", o)
		}
	default:
		t.Error("the command in the snapshot still waits")
	}
	select {
	case o := <-batch[1].done:
		t.Errorf("the command that is not in the snapshot ends with %+v", o)
	default:
	}
}
