package wal

import (
	"errors"
	"fmt"
	"sync"
)

// keeper makes the next segment while the last one is filled, and takes back old ones, so that an
// append seldom waits for either. It also holds the first fault, after which nothing is written.
type keeper struct {
	factory  factory // of the goroutine, once it runs
	requests chan request
	made     chan made // has room for the answer to the only request on its way
	retired  chan struct{}
	quit     chan struct{}
	work     sync.WaitGroup

	mu       sync.Mutex
	first    error // fault
	old      []*segment
	reusable int64 // size of a segment that is worth keeping
}

type request struct {
	seq  uint64
	size int64
}

type made struct {
	segment *segment
	err     error
}

func (k *keeper) start() {
	k.requests, k.made = make(chan request, 1), make(chan made, 1)
	k.retired, k.quit = make(chan struct{}, 1), make(chan struct{})
	k.work.Go(k.run)
}

func (k *keeper) run() {
	for {
		select {
		case r := <-k.requests:
			k.takeBack()
			var m made
			if m.err = k.fault(); m.err == nil {
				m.segment, m.err = k.factory.produce(r.seq, r.size)
			}
			k.made <- m
		case <-k.retired:
			k.takeBack()
		case <-k.quit:
			k.takeBack() // or the next start would find them in the log
			return
		}
	}
}

// stop ends the goroutine, if it runs, and closes what nobody has taken.
func (k *keeper) stop() error {
	var err error
	if k.quit != nil {
		close(k.quit)
		k.work.Wait()
		select {
		case m := <-k.made:
			if m.err == nil {
				err = m.segment.file.Close()
			}
		default:
		}
	}
	for _, s := range k.old {
		err = errors.Join(err, s.file.Close())
	}
	return errors.Join(err, k.factory.close())
}

// retire hands over segments that hold nothing any more, oldest first. Those of the reusable size may
// be used again.
func (k *keeper) retire(old []*segment, reusable int64) {
	if len(old) == 0 {
		return
	}
	k.mu.Lock()
	k.old, k.reusable = append(k.old, old...), reusable
	k.mu.Unlock()
	select {
	case k.retired <- struct{}{}:
	default:
	}
}

// takeBack takes the retired segments out of the directory, oldest first and none after a fault: a
// crash leaves no gap.
func (k *keeper) takeBack() {
	k.mu.Lock()
	old, reusable := k.old, k.reusable
	k.old = nil
	k.mu.Unlock()
	for _, s := range old {
		if k.fault() != nil {
			s.file.Close()
			continue
		}
		if err := k.factory.retire(s, reusable); err != nil {
			k.fail(fmt.Errorf("take %s out of the log: %w", segmentName(s.seq), err))
			s.file.Close() // unless it is
		}
	}
}

// fail notes a fault, if it is the first, and returns the first one.
func (k *keeper) fail(err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.first == nil {
		k.first = err
	}
	return k.first
}

// fault returns the fault after which nothing is written, nil while there is none.
func (k *keeper) fault() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.first
}
