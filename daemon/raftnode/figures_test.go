package raftnode

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAMemberIsAskedAgainOnceItHasAnsweredAndCountsForAFewSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, all := newBoard(), []ID{2, 3}
		if !b.begin(2) || b.begin(2) || !b.begin(3) {
			t.Error("a member that owes an answer is asked again, or one that owes none is not")
		}
		began := time.Now()
		time.Sleep(40 * ms)
		b.end(2, began, time.Now(), figures{asks: time.Second}, true)
		b.end(3, began, time.Now(), figures{}, false)
		if got := b.fresh(all, time.Now()); len(got) != 1 || got[2].asks != time.Second || got[2].trip.seconds != 1 {
			t.Errorf("known: %+v", got)
		}
		if !b.begin(2) || !b.begin(3) {
			t.Error("they are not asked again")
		}
		time.Sleep(figuresMax + ms)
		if got := b.fresh(all, time.Now()); len(got) != 0 {
			t.Errorf("what is old counts: %+v", got)
		}
		b.keep(map[ID]bool{3: true})
		b.end(2, began, time.Now(), figures{}, true) // it was removed while it was asked
		if got := b.fresh(all, time.Now()); len(got) != 0 {
			t.Errorf("who was removed counts: %+v", got)
		}
	})
}
