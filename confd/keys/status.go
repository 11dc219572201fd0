package keys

import (
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// Status says how true a mirror is.
type Status struct {
	Index     kv.Index // of the store, as far as the mirror follows it; 0 if the source has none
	Cluster   string   // "" if it is not known
	Keys      int
	BytesRead uint64    // of the bodies of the store's answers, since the source was opened; 0 if it does not count
	Heard     time.Time // when the source was heard last: now while it is followed; zero: never
	Err       error     // why it is not heard any more; nil if it is
	Stale     time.Time // when what the mirror has was true, if that was in an earlier run; else zero
}

// Status returns how true the mirror is now.
func (m *Mirror) Status() Status {
	m.mu.Lock()
	status := Status{Index: m.from.Index, Cluster: m.from.Cluster, Keys: m.tree.Len(), Stale: m.stale}
	heard, bytes := m.heard, m.bytes
	m.mu.Unlock()
	if heard != nil { // without the lock: a source may be asked that holds one of its own
		status.Heard, status.Err = heard()
	}
	if bytes != nil {
		status.BytesRead = bytes()
	}
	return status
}

// Count returns how many keys are held at and below key.
func (m *Mirror) Count(key string) int {
	n := 0
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tree.Ascend(key, func(found, _ string) bool {
		if found == key || kv.Below(found, key) {
			n++
		}
		return strings.HasPrefix(found, key)
	})
	return n
}

// report sets whom Status asks how the source is.
func (m *Mirror) report(heard func() (time.Time, error), bytes func() uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard, m.bytes = heard, bytes
}
