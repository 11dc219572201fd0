package raftnode

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/pkg/kv"
)

// proposalError says what a failed proposal means to the one who made it: NoLeader if it surely
// was not applied, Unknown if it may have been or may yet be.
func proposalError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return &kv.Error{Kind: kv.NoLeader, Cause: "this member does not lead now", Err: err}
	}
	// ErrLeadershipLost, ErrRaftShutdown, a failed write: the entry may be in the log of others.
	return &kv.Error{Kind: kv.Unknown, Cause: "the member stopped leading, or stopped, before it could answer", Err: err}
}

// waitError says what it means that a caller stopped waiting. sent tells whether the request had
// left by then.
func waitError(err error, sent bool) error {
	switch {
	case !sent && errors.Is(err, context.DeadlineExceeded):
		return &kv.Error{Kind: kv.NoLeader, Cause: "no leader was ready in time", Err: err}
	case errors.Is(err, context.DeadlineExceeded):
		return &kv.Error{Kind: kv.Timeout, Err: err}
	}
	return &kv.Error{Kind: kv.Unknown, Cause: "the caller stopped waiting", Err: err}
}

func noLeader() error { return &kv.Error{Kind: kv.NoLeader, Cause: "this member does not lead now"} }

func closed() error { return &kv.Error{Kind: kv.Closed, Cause: "this member is stopping"} }

func overloaded(waiting int64) error {
	return &kv.Error{Kind: kv.Unavailable, Cause: fmt.Sprintf("overloaded: %d bytes of writes are waiting already; try again", waiting)}
}

// outcomeLost is about a command that was executed, with a result that this member has not seen.
func outcomeLost() error {
	return &kv.Error{Kind: kv.Unknown, Cause: "it was executed, but what came of it is not known here: this member has caught up with a snapshot"}
}
