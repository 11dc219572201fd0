package store

import (
	"crypto/subtle"
	"encoding/binary"
	"slices"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/snapfile"
)

const (
	// invitedMax is how many invitations are remembered, used and expired ones among them: whoever comes
	// with one of those is told so. Those are forgotten first.
	invitedMax = 64

	inviteTTLMax = 24 * time.Hour
)

// invitation is what entitles somebody to add one member, until deadline on the lease clock.
type invitation struct {
	hash     [32]byte
	deadline int64
	used     bool
}

func (i invitation) over(clock int64) bool { return i.used || i.deadline <= clock }

// invite makes an invitation known, or uses it up.
func (s *state) invite(c command.Invitation) error {
	refuse := func(kind kv.Kind, cause string) error {
		return &kv.Error{Op: "invitation", Kind: kind, Cause: cause, Index: s.revision}
	}
	at := s.invitation(c.Hash)
	invited := slices.Clone(s.invited) // copies of the state share it
	if c.TTL != 0 {
		if c.TTL < 0 || c.TTL > inviteTTLMax {
			return refuse(kv.Invalid, "an invitation is good for at most "+inviteTTLMax.String())
		}
		if at >= 0 {
			return refuse(kv.Exists, "there is this invitation already")
		}
		if len(invited) >= invitedMax {
			over := slices.IndexFunc(invited, func(i invitation) bool { return i.over(s.clock) })
			if over < 0 {
				return refuse(kv.Invalid, "too many invitations are open: wait until some are used or over")
			}
			invited = slices.Delete(invited, over, over+1)
		}
		s.invited = append(invited, invitation{hash: c.Hash, deadline: s.clock + int64(c.TTL)})
		return nil
	}
	if err := s.checkInvitation(at, s.clock); err != nil {
		return err
	}
	invited[at].used = true
	s.invited = invited
	return nil
}

// checkInvitation returns why the one at a place cannot be used; nil if it can.
func (s *state) checkInvitation(at int, clock int64) error {
	refuse := func(kind kv.Kind, cause string) error {
		return &kv.Error{Op: "invitation", Kind: kind, Cause: cause, Index: s.revision}
	}
	switch {
	case at < 0:
		return refuse(kv.NotFound, "nobody was invited with this token")
	case s.invited[at].used:
		return refuse(kv.CompareFailed, "this invitation was used before: each is for one member")
	case s.invited[at].over(clock):
		return refuse(kv.NotFound, "this invitation is over: it was not used in time")
	}
	return nil
}

// Invited returns why nobody could use the invitation with this hash at clock; nil if somebody could.
// Errors by Kind: NotFound, also if it is over; CompareFailed if it was used.
func (m *Machine) Invited(hash [32]byte, clock int64) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.state.checkInvitation(m.state.invitation(hash), clock)
}

// invitation returns where the one with a hash is, -1 if there is none. How long it takes says nothing of
// the hashes.
func (s *state) invitation(hash [32]byte) int {
	found := -1
	for i := range s.invited {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(s.invited[i].hash[:], hash[:]), i, found)
	}
	return found
}

func (i invitation) appendTo(b []byte) []byte {
	b = append(b, i.hash[:]...)
	b = binary.AppendVarint(b, i.deadline)
	if i.used {
		return append(b, 1)
	}
	return append(b, 0)
}

func readInvitation(item *snapfile.Item) (i invitation) {
	for at := range i.hash {
		i.hash[at] = item.Byte()
	}
	i.deadline = item.Int()
	i.used = item.Byte() == 1
	return i
}
