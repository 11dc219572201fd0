package daemon

import "testing"

func TestTheHeapGrowsByNoMoreThanItselfOrASmallRoom(t *testing.T) {
	for live := uint64(1); live < 1<<40; live += live/7 + 1 {
		percent := gcPercent(live)
		garbage := live * uint64(percent) / 100
		if percent < gcPercentMin || percent > gcPercentMax || garbage > max(live, garbageRoom) {
			t.Fatalf("of %d live bytes %d percent may gather as garbage", live, percent)
		}
		if live < garbageRoom && percent < gcPercentMax && garbage < garbageRoom/2 && percent > gcPercentMin {
			t.Errorf("of %d live bytes only %d percent may gather as garbage", live, percent)
		}
	}
	if gcPercent(0) != gcPercentMax {
		t.Error("an empty heap has less room than a small one")
	}
}
