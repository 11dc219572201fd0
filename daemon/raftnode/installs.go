package raftnode

import (
	"fmt"
	"sync"
	"time"
)

// The same snapshot may come a second time when the leader has not heard that it has arrived. More often
// than that it comes only to a raft that keeps what it has been told to replace: the end of a log that no
// leader has. It would come for ever; a restart reads the true end of the log.
const (
	installsMax    = 3
	installsWindow = time.Minute
)

// installs counts how often the same snapshot has become whole here. It is safe for concurrent use.
type installs struct {
	mu    sync.Mutex // guards the fields below
	index uint64
	since time.Time // of the first time
	times int
}

// note returns an error when the snapshot of index has come too often.
func (i *installs) note(index uint64, now time.Time) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if index != i.index || now.Sub(i.since) > installsWindow {
		i.index, i.since, i.times = index, now, 0
	}
	if i.times++; i.times < installsMax {
		return nil
	}
	return fmt.Errorf("the leader's snapshot of entry %d was installed %d times in %s, and does not help: only a restart does", index, i.times, now.Sub(i.since))
}
