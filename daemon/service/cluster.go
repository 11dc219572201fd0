package service

import (
	"errors"
	"time"
)

// What is beneath the errors of changing members.
var (
	// ErrRemoved: the member was removed, and its id never comes back. The kind is NotFound.
	ErrRemoved = errors.New("removed for good")
	// ErrRisk: the change would lose the quorum, or cannot be decided without one. The kind is Invalid.
	ErrRisk = errors.New("the quorum would be lost")
)

// NewMember is a member that is to be.
type NewMember struct {
	Name     string   // "" leaves it to the member
	PeerURLs []string // http or https, host:port
	Learner  bool     // stays without a vote until somebody promotes it
}

// ClusterView is the cluster as one member sees it, at about one moment.
type ClusterView struct {
	ID      uint64
	Self    uint64 // whose view it is
	Leader  uint64 // 0 during an election
	Term    uint64
	Members []MemberView // by ascending id
}

// MemberView is one member as another sees it.
type MemberView struct {
	ID                   uint64
	Name                 string // "" until it has started
	PeerURLs, ClientURLs []string
	Voter, Learner       bool // neither: it gets a vote when it has caught up

	Alive     bool          // it has answered within a second
	Problem   string        // why not; "" if it has
	RoundTrip time.Duration // median of the last pings; 0 if it is not known, and for the member itself

	// What it has answered:
	Applied     uint64        // last log entry executed
	LastContact time.Duration // since it has heard of the leader; 0 for the leader
	Version     string        // of kvd

	ElectionTimeout time.Duration // in use; 0 if its release does not say
	ElectionFixed   bool          // it was given, and does not follow what is measured
}

// Standings returns the members as the quorum sees them.
func (v ClusterView) Standings() []Standing {
	list := make([]Standing, len(v.Members))
	for i, m := range v.Members {
		list[i] = Standing{ID: m.ID, Name: m.Name, Voter: m.Voter, Alive: m.Alive}
	}
	return list
}
