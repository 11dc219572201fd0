package raftnode

import (
	"runtime"
	"sync"
)

// mark is what a reader may rely on: once the entry at index is applied here, the state holds all
// that was committed before the round began that returned the mark.
type mark struct {
	index uint64
	term  uint64 // of the leader, and of the entry at index
}

// rounds lets all who ask for a mark at the same time share one round of asking. Nobody gets the
// answer of a round that had begun before they asked: an old answer may be from before a write that
// the asker has seen. One round is on its way at a time.
type rounds struct {
	ask func() (mark, error) // one round; bounded by whoever made it
	// start runs a goroutine that has an owner. It returns false when that is stopping.
	start func(func()) bool

	mu   sync.Mutex // guards the fields below
	next *round     // has not begun; nil while nobody waits for one
	busy bool       // a goroutine works through the rounds
}

type round struct {
	done chan struct{} // closed when mark and err are there
	mark mark
	err  error
}

func newRounds(start func(func()) bool, ask func() (mark, error)) *rounds {
	return &rounds{ask: ask, start: start}
}

// join returns the answer of the next round.
func (r *rounds) join() (mark, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	if !r.busy {
		if !r.start(r.work) {
			r.next = nil
			r.mu.Unlock()
			return mark{}, closed()
		}
		r.busy = true
	}
	r.mu.Unlock()
	<-mine.done
	return mine.mark, mine.err
}

// work runs rounds until nobody waits for one.
func (r *rounds) work() {
	for {
		// Whoever can run now may be about to ask: it shares the round. An idle processor does not wait.
		runtime.Gosched()
		r.mu.Lock()
		now := r.next
		r.next = nil
		r.busy = now != nil
		r.mu.Unlock()
		if now == nil {
			return
		}
		now.mark, now.err = r.ask()
		close(now.done)
	}
}
