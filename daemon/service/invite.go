package service

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/pkg/invite"
	"github.com/kvd-io/kvd/pkg/kv"
)

// DefaultInviteTTL is how long an invitation is good for if nothing else is said.
const DefaultInviteTTL = 10 * time.Minute

// redemptions bounds how often somebody may come with a token.
var redemptions = rate{burst: 10, every: time.Second}

// inviteDoor lets in whoever comes with a token, at a rate.
type inviteDoor struct {
	mu     sync.Mutex // guards bucket
	bucket *bucket
}

func (d *inviteDoor) open(now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bucket == nil {
		d.bucket = newBucket(redemptions, now)
	}
	return d.bucket.take(now)
}

// Invite makes an invitation for one new member and returns its token, and the peer URLs of the members
// that can be asked. The token is known to nobody else: the members keep its hash. ttl 0 is
// DefaultInviteTTL. Errors by Kind: Denied, Invalid, NoLeader, Timeout, Unknown.
func (c *Session) Invite(ctx context.Context, ttl time.Duration) (token string, peers []string, err error) {
	if !c.Administrator() {
		return "", nil, c.deny("invite member", "")
	}
	if ttl == 0 {
		ttl = DefaultInviteTTL
	}
	if ttl < time.Second {
		return "", nil, &kv.Error{Op: "member invite", Kind: kv.Invalid, Cause: "an invitation is good for a second at least"}
	}
	ctx, cancel := context.WithTimeout(ctx, c.service.timeout())
	defer cancel()
	var secret [invite.TokenBytes]byte
	rand.Read(secret[:]) // never fails: it ends the process instead
	err = c.service.propose(ctx, command.Invitation{Hash: sha256.Sum256(secret[:]), TTL: ttl})
	c.service.audit.membersChanged("invite member", c.user, c.source, err, "ttl", ttl)
	if err != nil {
		return "", nil, err
	}
	for _, m := range c.service.Members() {
		if len(m.ClientURLs) > 0 {
			peers = append(peers, m.PeerURLs...)
		}
	}
	return hex.EncodeToString(secret[:]), peers, nil
}

// Redeem adds the member that comes with the token of an invitation, from source, and returns its id. An
// invitation that was used for a member which has not started yet may be used by it again. Errors by Kind:
// Denied if the token is none, was used or is over; Unavailable if too many come; those of AddMember.
func (s *Service) Redeem(ctx context.Context, token string, m NewMember, source string) (id uint64, err error) {
	if !s.invitees.open(s.audit.now()) {
		return 0, &kv.Error{Op: "join", Kind: kv.Unavailable, Cause: "too many come with invitations: try again in a moment"}
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	defer func() {
		s.audit.membersChanged("add member by invitation", "", source, err, "member", strconv.FormatUint(id, 16), "name", m.Name, "urls", m.PeerURLs)
	}()
	secret, err := hex.DecodeString(token)
	if err != nil || len(secret) != invite.TokenBytes {
		return 0, &kv.Error{Op: "join", Kind: kv.Denied, Cause: "this is no token of an invitation"}
	}
	if err := checkMember(memberRequest{Name: m.Name, PeerURLs: m.PeerURLs}); err != nil {
		return 0, err
	}
	if err := s.log.ReadBarrier(ctx); err != nil {
		return 0, err
	}
	taken := s.checkURLs(0, m.PeerURLs) // told only to who has a token
	hash := sha256.Sum256(secret)
	if s.state.machine.Invited(hash, s.log.LeaseNow()) == nil { // what is refused now leaves it as it is
		if taken != nil {
			return 0, taken
		}
		if err := s.foresee(ctx, AddVoter, Standing{Name: m.Name}, false); err != nil {
			return 0, err
		}
	}
	if err = s.propose(ctx, command.Invitation{Hash: hash}); err != nil {
		if at := s.waiting(m); kv.Is(err, kv.CompareFailed) && at != 0 {
			return at, nil
		}
		if e, ok := err.(*kv.Error); ok && (e.Kind == kv.CompareFailed || e.Kind == kv.NotFound) {
			err = &kv.Error{Op: "join", Kind: kv.Denied, Cause: e.Cause}
		}
		return 0, err
	}
	answer, err := s.changeMembers(ctx, memberRequest{Op: "add", Name: m.Name, PeerURLs: m.PeerURLs})
	return answer.ID, err
}

// waiting returns the id of the member with this name and these URLs that was added and has not started, 0
// if there is none.
func (s *Service) waiting(m NewMember) uint64 {
	for _, known := range s.Members() {
		if known.Name == m.Name && slices.Equal(known.PeerURLs, m.PeerURLs) && len(known.ClientURLs) == 0 {
			return known.ID
		}
	}
	return 0
}
