package raftnode

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/pkg/kv"
)

func TestAnErrorTellsWhetherTheCommandMayHaveBeenApplied(t *testing.T) {
	for _, c := range []struct {
		err  error
		want kv.Kind
	}{
		{proposalError(raft.ErrNotLeader), kv.NoLeader},
		{proposalError(raft.ErrEnqueueTimeout), kv.NoLeader},
		{proposalError(fmt.Errorf("wrapped: %w", raft.ErrLeadershipTransferInProgress)), kv.NoLeader},
		{proposalError(raft.ErrLeadershipLost), kv.Unknown},
		{proposalError(raft.ErrRaftShutdown), kv.Unknown},
		{proposalError(raft.ErrAbortedByRestore), kv.Unknown},
		{proposalError(errors.New("input/output error")), kv.Unknown},
		{waitError(context.DeadlineExceeded, false), kv.NoLeader},
		{waitError(context.DeadlineExceeded, true), kv.Timeout},
		{waitError(context.Canceled, true), kv.Unknown},
	} {
		if got := kv.KindOf(c.err); got != c.want {
			t.Errorf("%v: kind %s, want %s", c.err, got, c.want)
		}
	}
}
