package raftnode

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
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
			m, err := r.join(t.Context())
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

func TestAReaderThatGivesUpLeavesItsRoundToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var owner sync.WaitGroup
		failure := errors.New("no majority")
		r := newRounds(func(f func()) bool { owner.Go(f); return true }, func() (mark, error) {
			time.Sleep(time.Second)
			return mark{}, failure
		})
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		others := make(chan error, 1)
		go func() { _, err := r.join(t.Context()); others <- err }()
		if _, err := r.join(impatient); !kv.Is(err, kv.Timeout) {
			t.Errorf("the impatient reader got %v", err)
		}
		if err := <-others; err != failure {
			t.Errorf("the other reader got %v, want what the round said", err)
		}
		owner.Wait()
	})
}
