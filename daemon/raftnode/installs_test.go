package raftnode

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestASnapshotThatComesAgainAndAgainIsNoticed(t *testing.T) {
	begun := time.Unix(0, 0)
	var i installs
	for n, c := range []struct {
		index uint64
		after time.Duration
		stuck bool
	}{
		{7, 0, false}, {7, time.Second, false}, {8, 2 * time.Second, false}, {8, 70 * time.Second, false},
		{8, 71 * time.Second, false}, {8, 72 * time.Second, true}, {9, 73 * time.Second, false},
	} {
		if err := i.note(c.index, begun.Add(c.after)); (err != nil) != c.stuck {
			t.Errorf("step %d: %v", n, err)
		}
	}
}

func TestAHandoverThatNeverEndsStopsTheMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Node{metronome: newMetronome(time.Second), now: time.Now, stop: &failStop{}}
		refuse := func() { n.noteTransfer(raft.ErrLeadershipTransferInProgress) }
		refuse()
		time.Sleep(2 * time.Second)
		refuse()
		n.noteTransfer(nil) // it went on
		refuse()
		time.Sleep(2 * time.Second)
		refuse()
		n.noteTransfer(errors.New("another trouble"))
		refuse()
		time.Sleep(3 * time.Second)
		refuse()
		if err := n.stop.Err(); err != nil {
			t.Errorf("too early: %v", err)
		}
		time.Sleep(time.Millisecond)
		refuse()
		if n.stop.Err() == nil {
			t.Error("it goes on for ever")
		}
	})
}
