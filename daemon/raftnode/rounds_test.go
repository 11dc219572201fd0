package raftnode

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestReadersThatAskDuringARoundShareTheNextOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun atomic.Uint64
		release := make(chan struct{})
		var owner sync.WaitGroup
		r := newRounds(func(f func()) bool { owner.Go(f); return true }, func() (mark, error) {
			m := mark{index: begun.Add(1)}
			<-release
			return m, nil
		})
		got := make(chan uint64, 11)
		ask := func() {
			m, err := r.join()
			if err != nil {
				t.Error(err)
			}
			got <- m.index
		}
		go ask()
		synctest.Wait() // its round has begun
		for range 10 {
			go ask()
		}
		synctest.Wait()
		release <- struct{}{}
		if first := <-got; first != 1 {
			t.Errorf("the first reader got round %d", first)
		}
		release <- struct{}{}
		for range 10 {
			if later := <-got; later != 2 {
				t.Errorf("a reader that asked during round 1 got round %d", later)
			}
		}
		owner.Wait()
		if begun.Load() != 2 {
			t.Errorf("%d rounds for 11 readers", begun.Load())
		}
	})
}
