package raftnode

import (
	"context"
	"sync"
)

// watermark is a number that only rises and that can be waited for.
type watermark struct {
	mu     sync.Mutex
	value  uint64
	raised chan struct{} // closed and replaced by Advance; nil while nobody waits
}

// Advance raises the mark to value, if that is higher.
func (w *watermark) Advance(value uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if value <= w.value {
		return
	}
	w.value = value
	if w.raised != nil {
		close(w.raised)
		w.raised = nil
	}
}

// Load returns the mark.
func (w *watermark) Load() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.value
}

// Wait blocks until the mark is at least value or ctx ends.
func (w *watermark) Wait(ctx context.Context, value uint64) error {
	for {
		w.mu.Lock()
		if w.value >= value {
			w.mu.Unlock()
			return nil
		}
		if w.raised == nil {
			w.raised = make(chan struct{})
		}
		raised := w.raised
		w.mu.Unlock()
		select {
		case <-raised:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
