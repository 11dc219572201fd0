package store

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
)

// removedMax is how many ids of removed members are remembered, the newest: one removal a day for
// eleven years.
const removedMax = 4096

func (s *state) putMember(m command.Member) error {
	if s.isRemoved(m.ID) {
		return &kv.Error{Op: "member", Kind: kv.Invalid, Index: s.revision,
			Cause: fmt.Sprintf("member %x was removed from this cluster, and its id never comes back: add it as a new member, with an empty data directory", m.ID)}
	}
	if known, ok := s.members[m.ID]; ok {
		switch m.Part {
		case command.MemberSelf:
			known.Name, known.ClientURLs = m.Name, m.ClientURLs
			m = known
		case command.MemberStanding:
			known.PeerURLs, known.Voter, known.Learner = m.PeerURLs, m.Voter, m.Learner
			m = known
		}
	}
	m.Part = command.MemberWhole
	s.members[m.ID] = m
	return nil
}

// removeMember takes a member out of the table. It may not have been in there: a member that never
// started has not told its name.
func (s *state) removeMember(r command.MemberRemove) error {
	refuse := func(kind kv.Kind, cause string) error {
		return &kv.Error{Op: "member remove", Kind: kind, Cause: cause, Index: s.revision}
	}
	if r.ID == 0 {
		return refuse(kv.Invalid, "no member has the id 0")
	}
	if s.isRemoved(r.ID) {
		return refuse(kv.NotFound, fmt.Sprintf("member %x was removed before", r.ID))
	}
	delete(s.members, r.ID)
	s.removed = append(s.removed, r.ID) // never changed in place: copies of the state share it
	s.removed = s.removed[max(0, len(s.removed)-removedMax):]
	return nil
}

func (s *state) isRemoved(id uint64) bool { return slices.Contains(s.removed, id) }

func (s *state) sortedMembers() []command.Member {
	return slices.SortedFunc(maps.Values(s.members), func(a, b command.Member) int { return cmp.Compare(a.ID, b.ID) })
}

// Members returns the members of the cluster by ascending id. The slices in them are shared.
func (m *Machine) Members() []command.Member {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.sortedMembers()
}

// Removed reports whether a member with this id was removed from the cluster. Such an id never comes
// back: who has it is to be sent away.
func (m *Machine) Removed(id uint64) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.isRemoved(id)
}
