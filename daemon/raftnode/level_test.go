package raftnode

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/command"
)

func TestAnEntryThatOnlyALaterVersionUnderstandsStopsTheMember(t *testing.T) {
	for name, c := range map[string]struct {
		entry []byte
		want  string
	}{
		"a later level": {
			(&command.Batch{Level: command.Level + 1, Commands: []command.Command{write("/later")}}).Append(nil),
			fmt.Sprintf("entry 9: log entry: it needs feature level %d, this version has %d: upgrade this member; if a newer kvd wrote it, start that version", command.Level+1, command.Level),
		},
		"an unknown command": {append((&command.Batch{Level: command.Level}).Append(nil), 4<<3|2, 2, 1<<3, 99), "unknown command type 99; if a newer kvd wrote it, start that version"},
	} {
		t.Run(name, func(t *testing.T) {
			machine := &ledger{}
			var fault error
			stop := &failStop{fatal: func(err error) { fault = err }}
			f := &fsm{machine: machine, stop: stop, meters: newMeters(), logBytes: newByteTrigger(1 << 40)}
			entry := &raft.Log{Index: 9, Term: 1, Type: raft.LogCommand, Data: c.entry}
			entry.Extensions = checksum(entry)
			after := &raft.Log{Index: 10, Term: 1, Type: raft.LogCommand, Data: (&command.Batch{Commands: []command.Command{write("/after")}}).Append(nil)}
			after.Extensions = checksum(after)
			func() {
				defer func() {
					if recover() == nil {
						t.Error("it went on")
					}
				}()
				f.ApplyBatch([]*raft.Log{entry, after})
			}()
			if fault == nil || !strings.Contains(fault.Error(), c.want) || !strings.Contains(remedy(fault), "start the version") {
				t.Errorf("the fault is %v", fault)
			}
			if len(machine.keys()) != 0 || f.applied.Load() != 0 {
				t.Errorf("%q were applied, up to entry %d", machine.keys(), f.applied.Load())
			}
		})
	}
	if got := remedy(errors.New("input/output error")); !strings.Contains(got, "check the disk") {
		t.Error(got)
	}
}
