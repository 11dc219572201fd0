package store

import "github.com/kvd-io/kvd/daemon/command"

// Refound makes the state that of a new cluster of these members, which has removed nobody yet. The index moves on by bump: if it is
// not 0, no index that the cluster of before may have given out comes again, and the history is
// dropped, so that who watches from such an index learns that it has to read anew. Keys, leases and
// what these have left stay as they are, and so does the sum. It is for a machine that nobody uses.
func (m *Machine) Refound(members []command.Member, bump uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	clear(s.members)
	s.removed, s.invited = nil, nil
	for _, member := range members {
		s.members[member.ID] = member
	}
	if bump > 0 {
		s.revision += bump
		s.history = history{length: s.history.length, dropped: s.revision}
	}
	m.view.Store(nil)
	m.events = nil
}
