package service

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/store"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/pace"
)

// AlarmCorrupt is the alarm of a member whose data is not what that of the others is, or not what it
// was written as.
const AlarmCorrupt = "CORRUPT"

const (
	// checkInterval is how often a member tells the others what its state amounts to, if anything has
	// changed.
	checkInterval = time.Minute
	// checkTick is how often it looks at what they have told.
	checkTick = time.Second
	// checkGrace is how long members that differ have to tell their sums, all of them, before
	// each says which it takes for the odd one out.
	checkGrace = 5 * time.Second
	// scrubInterval is how often the sum is worked out anew, from all that there is.
	scrubInterval = time.Hour
	// scrubPause is the pause after each slice of a scrub, of about a thousand keys.
	scrubPause = 10 * time.Millisecond
)

// checks compare what this member holds with what the others hold, and with what it should be.
type checks struct {
	self    uint64 // id of this member
	machine *store.Machine
	log     Log
	told    *slog.Logger

	corrupt atomic.Pointer[store.Comparison] // why the alarm is raised, nil if it is not

	stop context.CancelFunc
	work sync.WaitGroup

	// Of the one goroutine that run is.
	checked  uint64    // commands that the state had executed when this member last told its sum
	next     time.Time // when it tells it again
	disputed bool      // a dispute that this member has answered
	since    time.Time // of the verdict that the state is corrupt, zero for none
}

// StartChecks begins to compare this member, self, with the others, until Close. Call it once.
func (s *Service) StartChecks(self uint64) {
	c := &s.checks
	ctx, cancel := context.WithCancel(context.Background())
	c.self, c.stop = self, cancel
	c.work.Go(func() { c.run(ctx) })
	c.work.Go(func() { c.scrubLoop(ctx) })
}

// close ends what StartChecks has begun.
func (c *checks) close() {
	if c.stop != nil {
		c.stop()
		c.work.Wait()
	}
}

func (c *checks) run(ctx context.Context) {
	c.next = time.Now().Add(checkInterval)
	for now := range pace.Every(ctx.Done(), checkTick) {
		c.tell(ctx, now)
		c.judge(now)
	}
}

// tell proposes a Check when it is time, and at once when members have begun to differ: whose state is
// the odd one, only the sums of all of them can tell.
func (c *checks) tell(ctx context.Context, now time.Time) {
	disputed := c.machine.Disputed()
	fresh := disputed && !c.disputed
	if !disputed {
		c.disputed = false
	}
	executed := c.machine.Counts().All
	if !fresh && (now.Before(c.next) || executed == c.checked && !disputed) || len(c.machine.Members()) < 2 {
		return
	}
	mark := c.machine.Mark()
	body := command.Check{Member: c.self, Index: mark.RaftIndex, Sum: mark.Sum.Bytes()}
	ctx, cancel := context.WithTimeout(ctx, checkGrace)
	defer cancel()
	if _, err := c.log.Propose(ctx, command.Command{Body: body}); err != nil {
		return // the next tick tries again
	}
	c.checked, c.next, c.disputed = executed, now.Add(checkInterval), disputed
}

// judge raises the alarm, or ends it after a restore or when the members that differed have gone.
func (c *checks) judge(now time.Time) {
	why, corrupt := c.machine.Corrupt(c.self)
	switch {
	case !corrupt:
		c.since = time.Time{}
		if c.corrupt.Swap(nil) != nil {
			c.told.Info("this member is as the others again", "alarm", AlarmCorrupt)
		}
	case c.since.IsZero():
		c.since = now
	case now.Sub(c.since) >= checkGrace && c.corrupt.Load() == nil:
		c.corrupt.Store(&why)
		c.told.Error("the data of this member is not to be trusted: linearizable reads are refused", "alarm", AlarmCorrupt,
			"because", reason(why), "raftIndex", why.Index, "ours", why.Ours.String(), "theirs", why.Theirs.String(), "try", remedy(c.self))
	}
}

func reason(why store.Comparison) string {
	if why.Member == 0 {
		return "what it holds in memory is not what was written"
	}
	return fmt.Sprintf("it differs from member %x", why.Member)
}

func remedy(self uint64) string {
	return fmt.Sprintf("restart this member; if the alarm comes back, replace it: remove member %x, then add a new one with an empty --data-dir", self)
}

// refuse returns the error of a read that has to be right, nil if this member can be trusted.
func (c *checks) refuse() error {
	why := c.corrupt.Load()
	if why == nil {
		return nil
	}
	return &kv.Error{Kind: kv.Corrupt, Cause: reason(*why) + "; ask another member, and " + remedy(c.self)}
}

// scrubLoop works out the sum anew now and then, at leisure.
func (c *checks) scrubLoop(ctx context.Context) {
	pause := func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(scrubPause):
			return nil
		}
	}
	for range pace.Every(ctx.Done(), scrubInterval) {
		if c.machine.Scrub(pause) != nil {
			return
		}
	}
}
