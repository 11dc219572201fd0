package raftnode

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// voters answer polls: those of times after that time, the others never. They note who was asked.
type voters struct {
	times map[ID]time.Duration
	mute  time.Duration // after which the others say that they do not tell

	mu    sync.Mutex
	asked []ID
}

func (v *voters) tell(id ID) bool {
	v.mu.Lock()
	v.asked = append(v.asked, id)
	took, tells := v.times[id]
	v.mu.Unlock()
	if !tells {
		took = v.mute
	}
	time.Sleep(took)
	return tells
}

// change has a voter answer after another time, or never if that is negative.
func (v *voters) change(id ID, took time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.times[id] = took; took < 0 {
		delete(v.times, id)
	}
}

// whom returns who was asked since the last call.
func (v *voters) whom() []ID {
	synctest.Wait() // a poll that cannot succeed ends before all who are asked have heard of it
	v.mu.Lock()
	defer v.mu.Unlock()
	asked := v.asked
	v.asked = nil
	slices.Sort(asked)
	return asked
}

// polling runs test with a poll, whose goroutines it waits for.
func polling(t *testing.T, test func(p *poll)) {
	synctest.Test(t, func(t *testing.T) {
		var owner sync.WaitGroup
		defer owner.Wait()
		test(&poll{start: func(f func()) bool { owner.Go(f); return true }})
	})
}

func TestAPollAsksNoMoreThanAreNeededAndThoseFirstWhoWereQuick(t *testing.T) {
	polling(t, func(p *poll) {
		all := []ID{1, 2, 3, 4}
		v := &voters{times: map[ID]time.Duration{1: 3 * time.Millisecond, 2: time.Millisecond, 3: 2 * time.Millisecond, 4: 4 * time.Millisecond}}
		quick := []ID{2, 3}
		for run := range 2 * pollAll {
			if !p.run(all, 2, v.tell) {
				t.Fatalf("run %d: too few told", run)
			}
			time.Sleep(time.Second)
			asked, want := v.whom(), quick
			if run%pollAll == 0 {
				want = all
			}
			if !slices.Equal(asked, want) {
				t.Errorf("run %d has asked %v, want %v", run, asked, want)
			}
			if run == pollAll/2 { // slower than another one, though in time: the next poll of all finds that out
				v.change(3, 5*time.Millisecond)
			}
			if run == pollAll {
				quick = []ID{1, 2}
			}
		}
	})
}

func TestAPollAsksTheOthersWhenAVoterIsLateOrDoesNotTell(t *testing.T) {
	for name, mute := range map[string]time.Duration{"late": time.Minute, "does not tell": 0} {
		t.Run(name, func(t *testing.T) {
			polling(t, func(p *poll) {
				v := &voters{times: map[ID]time.Duration{1: 0, 2: time.Millisecond}, mute: mute}
				p.run([]ID{1, 2}, 1, v.tell)
				time.Sleep(time.Second)
				v.change(1, -1)
				v.whom()
				begun := time.Now()
				if !p.run([]ID{1, 2}, 1, v.tell) {
					t.Error("nobody told")
				}
				if took := time.Since(begun); took > pollPatience+time.Millisecond {
					t.Errorf("it took %v", took)
				}
				if asked := v.whom(); !slices.Equal(asked, []ID{1, 2}) {
					t.Errorf("%v were asked", asked)
				}
				if !p.run([]ID{1, 2}, 1, v.tell) || !slices.Equal(v.whom(), []ID{2}) {
					t.Error("the next poll has asked the other one again")
				}
			})
		})
	}
}

func TestAPollFailsWhenTooFewTell(t *testing.T) {
	polling(t, func(p *poll) {
		v := &voters{times: map[ID]time.Duration{1: 0}}
		if p.run([]ID{1, 2, 3, 4}, 2, v.tell) {
			t.Error("one of four was enough for two")
		}
		if asked := v.whom(); len(asked) != 4 {
			t.Errorf("only %v were asked", asked)
		}
		if p.run(nil, 1, v.tell) {
			t.Error("nobody was enough for one")
		}
		if !p.run(nil, 0, v.tell) {
			t.Error("nobody was not enough for none")
		}
	})
}
