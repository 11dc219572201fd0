package store

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/daemon/command"
)

// forwarders are members that send commands to a leader and, when they are not sure, send them again:
// the log may hold a command many times, in any order, but never out of its window.
type forwarders struct {
	sent []command.Command // all of them, once
	next [3]uint64         // sequence of each
}

// draw returns what comes into the log next: new commands, and some of the recent ones again.
func (f *forwarders) draw(t *rapid.T, tr *trial) []command.Command {
	var log []command.Command
	for range rapid.IntRange(1, 6).Draw(t, "commands") {
		if len(f.sent) > 0 && rapid.IntRange(0, 2).Draw(t, "again") == 0 {
			recent := f.sent[max(0, len(f.sent)-200):]
			log = append(log, rapid.SampledFrom(recent).Draw(t, "repeated"))
			continue
		}
		c := tr.drawCommand(t)
		from := rapid.IntRange(0, len(f.next)-1).Draw(t, "from")
		f.next[from]++
		c.Origin, c.Sequence = uint64(from+1), f.next[from]
		f.sent = append(f.sent, c)
		log = append(log, c)
	}
	return log
}

// cut cuts a log into entries.
func cut(t *rapid.T, log []command.Command) [][]command.Command {
	var entries [][]command.Command
	for len(log) > 0 {
		n := rapid.IntRange(1, len(log)).Draw(t, "in one entry")
		entries, log = append(entries, log[:n]), log[n:]
	}
	return entries
}

// Two machines execute one log that is cut into entries differently, one of them with snapshots and
// restores in between, and a third one executes each command once, when it comes for the first
// time: all have the same state in the end, and say the same.
func TestHoweverALogIsCutAndWhateverComesTwiceTheStateIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := newTrial(t)
		once := trialReplica(t)
		var from forwarders
		seen := map[[2]uint64]bool{}
		for range rapid.IntRange(1, 30).Draw(t, "stretches") {
			elapsed := rapid.SampledFrom([]time.Duration{0, 1, time.Second, time.Minute}).Draw(t, "elapsed")
			for _, r := range []*replica{tr.whole, tr.reborn, once} {
				r.now += elapsed
			}
			log := from.draw(t, tr)
			var results [2][]command.Result
			for i, r := range []*replica{tr.whole, tr.reborn} {
				for _, entry := range cut(t, log) {
					results[i] = append(results[i], r.applyAll(entry...)...)
				}
			}
			for i, c := range log {
				a, b := results[0][i], results[1][i]
				a.RaftIndex, b.RaftIndex = 0, 0
				id := [2]uint64{c.Origin, c.Sequence}
				if show(a) != show(b) || a.Repeated != seen[id] {
					t.Fatalf("%+v, seen before: %v\n one says %s\nanother %s", c, seen[id], show(a), show(b))
				}
				if !seen[id] {
					seen[id] = true
					only := once.applyAll(c)[0]
					only.RaftIndex = 0
					if show(only) != show(a) {
						t.Fatalf("%+v\n executed among repeats it says %s\n alone %s", c, show(a), show(only))
					}
				}
			}
			if rapid.IntRange(0, 3).Draw(t, "restart") == 0 {
				again := trialReplica(t)
				if err := again.Restore(bytes.NewReader(tr.reborn.snapshot())); err != nil {
					t.Fatal(err)
				}
				again.index, again.now = tr.reborn.index, tr.reborn.now
				tr.reborn = again
			}
		}
		for name, r := range map[string]*replica{"restarted": tr.reborn, "without repeats": once} {
			if r.Sum() != tr.whole.Sum() || r.Index() != tr.whole.Index() || r.get("", true) != tr.whole.get("", true) || !slices.Equal(r.state.removed, tr.whole.state.removed) {
				t.Fatalf("%s: %s, sum %v\nwant %s, sum %v", name, r.get("", true), r.Sum(), tr.whole.get("", true), tr.whole.Sum())
			}
			if err := audit(r.Machine); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	})
}

func show(r command.Result) string {
	return fmt.Sprintf("%s, %v, %v, repeated %v", renderOutcome(r.Result, r.Err), r.Index, r.Changed, r.Repeated)
}
