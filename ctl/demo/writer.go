package demo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

const (
	writePause = 5 * time.Millisecond // after a write that failed; there is none after the others
	writesMax  = 100_000              // an end even if nobody stops the loop
)

// writer writes one key after the other without a pause, remembers which writes were acknowledged,
// and how long it had to wait for that. Its methods are safe for concurrent use.
type writer struct {
	store  kv.Store
	prefix string // of the keys

	mu           sync.Mutex // guards the fields below
	acknowledged []int      // numbers of writes, rising
	failed       int        // not acknowledged: whether they happened is not known
	failure      string     // the latest
	last         time.Time  // of the latest acknowledgement
	begun        time.Time  // when the write that was acknowledged last began
	longest      time.Duration
}

// run writes until ctx ends. It must be called once.
func (w *writer) run(ctx context.Context) {
	for n := range writesMax {
		began := time.Now()
		_, err := w.store.Write(ctx, kv.Write{Op: kv.OpSet, Key: w.key(n), Value: fmt.Sprint(n), NoValue: true})
		if ctx.Err() != nil {
			return
		}
		w.count(n, began, err)
		if err != nil {
			pause(ctx, writePause)
		}
	}
}

func (w *writer) key(n int) string { return fmt.Sprintf("%s/%06d", w.prefix, n) }

func (w *writer) count(n int, began time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed++
		w.failure = err.Error()
		return
	}
	now := time.Now()
	if !w.last.IsZero() {
		w.longest = max(w.longest, now.Sub(w.last))
	}
	w.acknowledged = append(w.acknowledged, n)
	w.last, w.begun = now, began
}

// mark forgets the gaps before the latest acknowledgement.
func (w *writer) mark() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.longest = 0
}

// gap returns the longest time between two acknowledgements of which the second came after the last
// mark, and whether a write that began after since has been acknowledged.
func (w *writer) gap(since time.Time) (longest time.Duration, goesOn bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.longest, w.begun.After(since)
}

// counts returns how many writes have ended in which way, and the latest failure.
func (w *writer) counts() (acknowledged, failed int, failure string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acknowledged), w.failed, w.failure
}

// lost returns an error that names an acknowledged write that the store does not have, or why it
// cannot be asked.
func (w *writer) lost(ctx context.Context) error {
	w.mu.Lock()
	acknowledged := w.acknowledged[:len(w.acknowledged):len(w.acknowledged)]
	w.mu.Unlock()
	result, err := w.store.Read(ctx, kv.Read{Key: w.prefix, Quorum: true})
	if err != nil {
		return fmt.Errorf("read the acknowledged writes: %w", err)
	}
	values := map[string]string{}
	for _, node := range result.Node.Nodes {
		values[node.Key] = node.Value
	}
	missing, first := 0, ""
	for _, n := range acknowledged {
		if values[w.key(n)] != fmt.Sprint(n) {
			missing++
			if first == "" {
				first = w.key(n)
			}
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d of %d acknowledged writes are lost, the first is %s", missing, len(acknowledged), first)
	}
	return nil
}
