package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/kvd-io/kvd/daemon/command"
	"github.com/kvd-io/kvd/daemon/raftnode"
	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/pace"
	"github.com/kvd-io/kvd/pkg/program"
)

const (
	statusTimeout = time.Second            // for a member to say how it is
	overviewsMax  = 8                      // at a time: each asks all members
	promoteRound  = 500 * time.Millisecond // between two looks at whether new members have caught up
	membersMax    = 64                     // of a cluster, those without a vote included
	memberURLsMax = 16
	memberTextMax = 1024 // bytes of a name or a URL
)

// Cluster is raft's side of the members as the service needs it; *raftnode.Node is one.
type Cluster interface {
	Status() raftnode.Status
	Servers() []raftnode.Server
	Founders() []command.Member
	Connections() map[raftnode.ID]raftnode.Connection
	LastContact() time.Duration
	// Ask has a member answer a call, be it this one.
	Ask(ctx context.Context, member raftnode.ID, method raftnode.Method, request []byte) ([]byte, error)

	// For the leader alone:
	AddServer(id raftnode.ID, address string) error
	PromoteServer(id raftnode.ID, address string) error
	DemoteServer(id raftnode.ID) error
	RemoveServer(id raftnode.ID) error
	Transfer(ctx context.Context, to raftnode.ID) error
}

// members is what changes of the members have to agree on.
type members struct {
	cluster   Cluster
	changing  chan struct{} // holds a value while the leader makes a change
	overviews chan struct{} // a place for each that is being made
	draw      func() uint64 // returns an id for a new member
}

func newMembers() members {
	return members{changing: make(chan struct{}, 1), overviews: make(chan struct{}, overviewsMax), draw: func() uint64 { return max(rand.Uint64(), 1) }}
}

// begin waits until no change is being made, or ctx ends. If it returns true, end has to be called.
func (m *members) begin(ctx context.Context) bool {
	select {
	case m.changing <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (m *members) end() { <-m.changing }

// Govern tells the service what it changes the members through. Call it before anybody asks for that.
func (s *Service) Govern(cluster Cluster) { s.members.cluster = cluster }

// memberStatus is what a member says of itself.
type memberStatus struct {
	Applied     uint64        `json:"applied"`
	LastContact time.Duration `json:"lastContact"` // ns
	Version     string        `json:"version"`

	ElectionTimeout time.Duration `json:"electionTimeout,omitempty"` // ns
	Fixed           bool          `json:"fixed,omitempty"`           // it was given
}

// AnswerStatus answers a member that asks how this one is.
func (s *Service) AnswerStatus(context.Context, uint64, []byte) ([]byte, error) {
	status := s.members.cluster.Status()
	return json.Marshal(memberStatus{
		Applied: status.AppliedIndex, LastContact: s.members.cluster.LastContact(), Version: program.Version(),
		ElectionTimeout: status.ElectionTimeout, Fixed: status.Fixed,
	})
}

// Overview asks all members how they are, for a second at most. Errors by Kind: Unavailable when too many
// do so at the same time.
func (s *Service) Overview(ctx context.Context) (ClusterView, error) {
	select {
	case s.members.overviews <- struct{}{}:
		defer func() { <-s.members.overviews }()
	default:
		return ClusterView{}, &kv.Error{Op: "cluster", Kind: kv.Unavailable, Cause: "too many ask how the cluster is: try again"}
	}
	return s.look(ctx), nil
}

// look is Overview without its bound, for the leader's own work.
func (s *Service) look(ctx context.Context) ClusterView {
	status := s.members.cluster.Status()
	view := ClusterView{ID: uint64(status.ClusterID), Self: uint64(status.MemberID), Leader: uint64(status.Leader), Term: status.Term}
	known := map[uint64]command.Member{}
	for _, m := range s.Members() {
		known[m.ID] = m
	}
	connections := s.members.cluster.Connections()
	for _, server := range s.members.cluster.Servers() {
		m := known[uint64(server.ID)]
		one := MemberView{
			ID: uint64(server.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs,
			Voter: server.Voter, Learner: m.Learner && !server.Voter, RoundTrip: connections[server.ID].RoundTrip,
		}
		if one.PeerURLs == nil {
			one.PeerURLs = []string{"http://" + server.Address} // it has not said more yet
		}
		view.Members = append(view.Members, one)
	}
	var asking sync.WaitGroup
	for i := range view.Members {
		asking.Go(func() { s.ask(ctx, &view.Members[i]) })
	}
	asking.Wait()
	slices.SortFunc(view.Members, func(a, b MemberView) int { return cmp.Compare(a.ID, b.ID) })
	return view
}

// ask fills in what a member says of itself.
func (s *Service) ask(ctx context.Context, m *MemberView) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	text, err := s.members.cluster.Ask(ctx, raftnode.ID(m.ID), raftnode.MethodStatus, nil)
	var status memberStatus
	if err == nil {
		err = json.Unmarshal(text, &status)
	}
	if err != nil {
		m.Problem = err.Error()
		return
	}
	m.Alive, m.Applied, m.LastContact, m.Version = true, status.Applied, status.LastContact, status.Version
	m.ElectionTimeout, m.ElectionFixed = status.ElectionTimeout, status.Fixed
}

// memberRequest is a change on its way to the leader.
type memberRequest struct {
	Op         string   `json:"op"` // add, update, remove, promote, demote or transfer
	ID         uint64   `json:"id,omitempty"`
	Name       string   `json:"name,omitempty"`
	PeerURLs   []string `json:"peerURLs,omitempty"`
	Learner    bool     `json:"learner,omitempty"`
	AcceptRisk bool     `json:"acceptRisk,omitempty"`
	Leader     uint64   `json:"leader,omitempty"` // when it was asked for, 0 if none was known
}

// memberAnswer is what the leader says to it.
type memberAnswer struct {
	ID    uint64     `json:"id,omitempty"` // of the new member
	Error *wireError `json:"error,omitempty"`
	Why   string     `json:"why,omitempty"` // of reasons
}

// reasons are the errors beneath that come over the wire by name.
var reasons = map[string]error{"removed": ErrRemoved, "risk": ErrRisk}

// AnswerMembers does as the leader what another member, or this one, was asked to change.
func (s *Service) AnswerMembers(ctx context.Context, _ uint64, request []byte) ([]byte, error) {
	var r memberRequest
	if err := json.Unmarshal(request, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", raftnode.ErrNotHandled, err)
	}
	if !s.members.begin(ctx) {
		return nil, raftnode.ErrNotHandled
	}
	defer s.members.end()
	if s.members.cluster.Status().State != "leader" || ctx.Err() != nil {
		return nil, raftnode.ErrNotHandled
	}
	var answer memberAnswer
	var err error
	switch r.Op {
	case "add":
		answer.ID, err = s.addMember(ctx, r)
	case "update":
		err = s.updateMember(ctx, r)
	case "remove":
		err = s.removeMember(ctx, r)
	case "promote":
		err = s.promoteMember(ctx, r.ID)
	case "demote":
		err = s.demoteMember(ctx, r)
	case "transfer":
		err = s.transfer(ctx, r.ID, r.Leader)
	default:
		err = &kv.Error{Op: "member", Kind: kv.Invalid, Cause: "this member does not know the change " + strconv.Quote(r.Op) + ": give all members the same version"}
	}
	if errors.Is(err, raftnode.ErrNotHandled) {
		return nil, err
	}
	if err != nil {
		answer.Error = wireErrorOf(err)
		for name, reason := range reasons {
			if errors.Is(err, reason) {
				answer.Why = name
			}
		}
	}
	return json.Marshal(answer)
}

// changeMembers has the leader make a change, and returns when this member has seen it. When the leader is
// lost on the way, as by a transfer, it asks the next one: no change is made twice.
func (s *Service) changeMembers(ctx context.Context, r memberRequest) (memberAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	r.Leader = uint64(s.members.cluster.Status().Leader)
	doubt := false
	for {
		answer, err := s.askMembers(ctx, r)
		if kv.Is(err, kv.Unknown) && ctx.Err() == nil {
			doubt = true
			continue
		}
		if err != nil && doubt {
			return s.doneBefore(r, err)
		}
		return answer, err
	}
}

// doneBefore returns what came of a change that was asked for twice, the second time with err.
func (s *Service) doneBefore(r memberRequest, err error) (memberAnswer, error) {
	for _, m := range s.Members() {
		if r.Op == "add" && kv.Is(err, kv.Exists) && slices.Equal(m.PeerURLs, r.PeerURLs) {
			return memberAnswer{ID: m.ID}, nil
		}
		if r.Op == "promote" && m.ID == r.ID && m.Voter {
			return memberAnswer{}, nil
		}
		if r.Op == "demote" && m.ID == r.ID && m.Learner {
			return memberAnswer{}, nil
		}
	}
	if r.Op == "remove" && errors.Is(err, ErrRemoved) {
		return memberAnswer{}, nil
	}
	return memberAnswer{}, err
}

func (s *Service) askMembers(ctx context.Context, r memberRequest) (memberAnswer, error) {
	request, err := json.Marshal(r)
	if err != nil {
		return memberAnswer{}, err
	}
	text, err := s.log.AskLeader(ctx, raftnode.MethodMembers, request)
	if err != nil {
		return memberAnswer{}, err
	}
	var answer memberAnswer
	if err := json.Unmarshal(text, &answer); err != nil {
		return memberAnswer{}, fmt.Errorf("the answer of the leader: %w", err)
	}
	if answer.Error != nil {
		err := answer.Error.err().(*kv.Error)
		err.Err = reasons[answer.Why]
		return memberAnswer{}, err
	}
	_ = s.log.ReadBarrier(ctx) // it is done, whether this member sees it yet or not
	return answer, nil
}

// addMember makes a member: raft first, so that whoever finds it among the members can join.
func (s *Service) addMember(ctx context.Context, r memberRequest) (uint64, error) {
	if err := checkMember(r); err != nil {
		return 0, err
	}
	if err := s.checkURLs(0, r.PeerURLs); err != nil {
		return 0, err
	}
	if err := s.checkName(r.Name); err != nil {
		return 0, err
	}
	if len(s.members.cluster.Servers()) >= membersMax {
		return 0, &kv.Error{Op: "member add", Kind: kv.Invalid, Cause: fmt.Sprintf("a cluster has at most %d members", membersMax)}
	}
	change := AddVoter
	if r.Learner {
		change = AddLearner
	}
	if err := s.foresee(ctx, change, Standing{Name: cmp.Or(r.Name, "the new member")}, false); err != nil {
		return 0, err
	}
	id, address := s.members.draw(), hostPort(r.PeerURLs[0])
	for _, server := range s.members.cluster.Servers() {
		if server.Address == address && !server.Voter { // of an addition that was cut short here
			id = uint64(server.ID)
		}
	}
	if err := s.members.cluster.AddServer(raftnode.ID(id), address); err != nil {
		return 0, err
	}
	return id, s.note(ctx, command.Member{ID: id, Name: r.Name, PeerURLs: r.PeerURLs, Learner: r.Learner})
}

func checkMember(r memberRequest) error {
	long := func(text string) bool { return len(text) > memberTextMax }
	if len(r.PeerURLs) == 0 || len(r.PeerURLs) > memberURLsMax || long(r.Name) || slices.ContainsFunc(r.PeerURLs, long) {
		return &kv.Error{Op: "member", Kind: kv.Invalid, Cause: fmt.Sprintf("a member has 1 to %d peer URLs; they and its name have at most %d bytes", memberURLsMax, memberTextMax)}
	}
	for _, text := range r.PeerURLs {
		if hostPort(text) == "" {
			return &kv.Error{Op: "member", Kind: kv.Invalid, Cause: text + " is no peer URL"}
		}
	}
	return nil
}

// checkName refuses the name of another member: people go by names.
func (s *Service) checkName(name string) error {
	for _, m := range s.Members() {
		if name != "" && m.Name == name {
			return &kv.Error{Op: "member add", Kind: kv.Invalid, Cause: fmt.Sprintf("a member is called %s already, %s: take another name, or remove that one first", name, raftnode.ID(m.ID))}
		}
	}
	return nil
}

// checkURLs refuses URLs that lead to where another member than id is, whatever their scheme.
func (s *Service) checkURLs(id uint64, urls []string) error {
	for _, m := range s.Members() {
		taken := func(u string) bool {
			return slices.ContainsFunc(m.PeerURLs, func(known string) bool { return hostPort(known) == hostPort(u) })
		}
		if m.ID != id && slices.ContainsFunc(urls, taken) {
			return &kv.Error{Op: "member", Kind: kv.Exists, Cause: "membership: peerURL exists"}
		}
	}
	return nil
}

// hostPort returns the address in a peer URL.
func hostPort(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return ""
	}
	return u.Host
}

// foresee refuses a change that would lose the quorum, or cannot be decided.
func (s *Service) foresee(ctx context.Context, change Change, who Standing, acceptRisk bool) error {
	c, err := WhatIf(s.look(ctx).Standings(), change, who)
	if err != nil {
		return err
	}
	if c.Stuck || c.Voters == 0 || c.LosesQuorum && !acceptRisk {
		return &kv.Error{Op: "member", Kind: kv.Invalid, Cause: c.Text, Err: ErrRisk}
	}
	return nil
}

// member returns a member, or why it is none.
func (s *Service) member(id uint64) (command.Member, raftnode.Server, error) {
	servers, table := s.members.cluster.Servers(), s.Members()
	at := slices.IndexFunc(servers, func(v raftnode.Server) bool { return uint64(v.ID) == id })
	in := slices.IndexFunc(table, func(m command.Member) bool { return m.ID == id })
	switch {
	case s.state.machine.Removed(id):
		return command.Member{}, raftnode.Server{}, &kv.Error{Op: "member", Kind: kv.NotFound, Err: ErrRemoved, Cause: "Member permanently removed: " + strconv.FormatUint(id, 16)}
	case at < 0:
		return command.Member{}, raftnode.Server{}, noMember(id)
	case in < 0:
		return command.Member{ID: id}, servers[at], nil
	}
	return table[in], servers[at], nil
}

func (s *Service) updateMember(ctx context.Context, r memberRequest) error {
	if err := checkMember(r); err != nil {
		return err
	}
	m, server, err := s.member(r.ID)
	if err != nil {
		return err
	}
	if err := s.checkURLs(r.ID, r.PeerURLs); err != nil {
		return err
	}
	if address := hostPort(r.PeerURLs[0]); address != server.Address {
		if err := s.members.cluster.AddServer(server.ID, address); err != nil {
			return err
		}
	}
	m.PeerURLs, m.Part = r.PeerURLs, command.MemberStanding
	return s.note(ctx, m)
}

// removeMember takes a member out of raft first: what is in the table alone counts for nothing, while one
// that raft counts on, and that nobody speaks to any more, could lose the others their quorum.
func (s *Service) removeMember(ctx context.Context, r memberRequest) error {
	_, server, err := s.member(r.ID)
	if kv.Is(err, kv.NotFound) && !s.state.machine.Removed(r.ID) && s.isInTable(r.ID) {
		return s.forget(ctx, r.ID) // an earlier leader has begun
	}
	if err != nil {
		return err
	}
	if err := s.foresee(ctx, RemoveMember, Standing{ID: r.ID}, r.AcceptRisk); err != nil {
		return err
	}
	if err := s.leadNoMore(ctx, server.ID); err != nil {
		return err
	}
	if err := s.members.cluster.RemoveServer(server.ID); err != nil {
		return err
	}
	return s.forget(ctx, r.ID)
}

// leadNoMore returns nil if another member leads than id. If it is this one, it hands over: the change has
// not been handled then, and the next leader is asked for it.
func (s *Service) leadNoMore(ctx context.Context, id raftnode.ID) error {
	if s.members.cluster.Status().MemberID != id {
		return nil
	}
	if err := s.members.cluster.Transfer(ctx, 0); err != nil {
		return err
	}
	return raftnode.ErrNotHandled
}

// demoteMember takes a member's vote away, and has it stay a learner. One that has lost its vote, and of
// which the leader was lost before it could say so, becomes a learner as well.
func (s *Service) demoteMember(ctx context.Context, r memberRequest) error {
	m, server, err := s.member(r.ID)
	if err != nil {
		return err
	}
	if server.Voter {
		if err := s.foresee(ctx, DemoteMember, Standing{ID: r.ID}, r.AcceptRisk); err != nil {
			return err
		}
		if err := s.leadNoMore(ctx, server.ID); err != nil {
			return err
		}
		if err := s.members.cluster.DemoteServer(server.ID); err != nil {
			return err
		}
	} else if m.Learner {
		return &kv.Error{Op: "member demote", Kind: kv.Invalid, Cause: "it has no vote"}
	}
	return s.voteNoMore(ctx, m)
}

// voteNoMore has all members know that one has lost its vote.
func (s *Service) voteNoMore(ctx context.Context, m command.Member) error {
	m.Voter, m.Learner, m.Part = false, true, command.MemberStanding
	return s.note(ctx, m)
}

// forget has all members know that one was removed. It may have been known before.
func (s *Service) forget(ctx context.Context, id uint64) error {
	err := s.note(ctx, command.MemberRemove{ID: id})
	if kv.Is(err, kv.NotFound) {
		return nil
	}
	return err
}

func (s *Service) promoteMember(ctx context.Context, id uint64) error {
	m, server, err := s.member(id)
	if err != nil {
		return err
	}
	switch {
	case server.Voter && m.Voter:
		return &kv.Error{Op: "member promote", Kind: kv.Invalid, Cause: "it has a vote already"}
	case server.Voter: // an earlier leader has begun
		return s.vote(ctx, m)
	}
	if err := s.foresee(ctx, PromoteMember, Standing{ID: id}, false); err != nil {
		return err
	}
	if !s.caughtUp(ctx, id, s.members.cluster.Status().CommitIndex) {
		return &kv.Error{Op: "member promote", Kind: kv.Invalid, Cause: "it has not caught up with the log yet: try again when kvctl member list shows that it has"}
	}
	return s.promote(ctx, m, server)
}

func (s *Service) isInTable(id uint64) bool {
	return slices.ContainsFunc(s.Members(), func(m command.Member) bool { return m.ID == id })
}

// started reports whether a member has told the others that it has started. Only by that they know, if it
// loses its disk, that it must not come back under its id: before, it may have no vote that it could forget.
func (s *Service) started(id uint64) bool {
	return slices.ContainsFunc(s.Members(), func(m command.Member) bool { return m.ID == id && len(m.ClientURLs) > 0 })
}

// isUpToDate asks a member whether it has started, and executed the log up to index.
func (s *Service) isUpToDate(ctx context.Context, id, index uint64) bool {
	m := MemberView{ID: id}
	s.ask(ctx, &m)
	return m.Alive && m.Applied >= index && s.started(id)
}

// caughtUp gives a member a second to be up to date.
func (s *Service) caughtUp(ctx context.Context, id, index uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	for {
		if s.isUpToDate(ctx, id, index) {
			return true
		}
		select {
		case <-time.After(statusTimeout / 20):
		case <-ctx.Done():
			return false
		}
	}
}

func (s *Service) promote(ctx context.Context, m command.Member, server raftnode.Server) error {
	if err := s.members.cluster.PromoteServer(server.ID, server.Address); err != nil {
		return err
	}
	return s.vote(ctx, m)
}

// vote has all members know that one has its vote.
func (s *Service) vote(ctx context.Context, m command.Member) error {
	m.Voter, m.Learner, m.Part = true, false, command.MemberStanding
	return s.note(ctx, m)
}

// transfer hands the leadership to a member, 0 for the fittest unless that has happened since from led.
func (s *Service) transfer(ctx context.Context, to, from uint64) error {
	if to == 0 && from != 0 && from != uint64(s.members.cluster.Status().MemberID) {
		return nil
	}
	if to != 0 {
		_, server, err := s.member(to)
		if err != nil {
			return err
		}
		if s.members.cluster.Status().MemberID == server.ID {
			return nil
		}
		if !server.Voter {
			return &kv.Error{Op: "member transfer", Kind: kv.Invalid, Cause: "a member without a vote cannot lead"}
		}
	} else if voters := slices.DeleteFunc(s.members.cluster.Servers(), func(v raftnode.Server) bool { return !v.Voter }); len(voters) < 2 {
		return &kv.Error{Op: "member transfer", Kind: kv.Invalid, Cause: "there is no other member that could lead"}
	}
	return s.members.cluster.Transfer(ctx, raftnode.ID(to))
}

// note has all members know of a change, as the leader that has decided on it. Under the next one that may not
// hold any more: then it has not been handled, and that one is asked, which goes on from what raft knows.
func (s *Service) note(ctx context.Context, body command.Body) error {
	result, err := s.log.ProposeLeading(ctx, command.Command{Body: body})
	if kv.Is(err, kv.NoLeader) {
		return fmt.Errorf("%w: %w", raftnode.ErrNotHandled, err)
	}
	if err == nil {
		err = result.Err
	}
	return err
}

func (s *Service) propose(ctx context.Context, body command.Body) error {
	result, err := s.log.Propose(ctx, command.Command{Body: body})
	if err == nil {
		err = result.Err
	}
	return err
}

// LeadMembers does the leader's work on the members until ctx ends: those that have caught up and are to
// vote get their vote, and removals that an earlier leader has begun are brought to their end.
func (s *Service) LeadMembers(ctx context.Context) {
	s.nameFounders(ctx)
	for range pace.Every(ctx.Done(), promoteRound) {
		s.settleMembers(ctx)
	}
}

// nameFounders has all members know the founders by the names and URLs that they were all told, until each
// says more of itself.
func (s *Service) nameFounders(ctx context.Context) {
	if !s.members.begin(ctx) {
		return
	}
	defer s.members.end()
	servers, known := s.serversByID(), s.Members()
	for _, founder := range s.members.cluster.Founders() {
		_, there := servers[founder.ID]
		if !there || slices.ContainsFunc(known, func(m command.Member) bool { return m.ID == founder.ID }) {
			continue
		}
		founder.Part = command.MemberStanding // what it has said of itself meanwhile stays
		if err := s.note(ctx, founder); err != nil {
			s.audit.log.Debug("a founder is not known by its name yet", "name", founder.Name, "err", err)
		}
	}
}

func (s *Service) settleMembers(ctx context.Context) {
	upToDate := s.askNewMembers(ctx) // before: nobody's change waits for who does not answer
	if !s.members.begin(ctx) {
		return
	}
	defer s.members.end()
	servers := s.serversByID()
	for _, m := range s.Members() {
		if ctx.Err() != nil {
			return
		}
		server, there := servers[m.ID]
		var err error
		switch {
		case !there:
			err = s.forget(ctx, m.ID)
		case server.Voter && !m.Voter: // the vote was given, and the leader lost before it could say so
			err = s.vote(ctx, m)
		case !server.Voter && m.Voter: // the vote was taken away, likewise
			err = s.voteNoMore(ctx, m)
		case !server.Voter && !m.Learner && upToDate[m.ID]:
			if err = s.foresee(ctx, PromoteMember, Standing{ID: m.ID}, false); err == nil {
				err = s.promote(ctx, m, server)
			}
		}
		if err != nil {
			s.audit.log.Debug("a change of members was not finished", "member", strconv.FormatUint(m.ID, 16), "err", err)
		}
	}
}

// askNewMembers returns which of the members that are to get a vote are up to date.
func (s *Service) askNewMembers(ctx context.Context) map[uint64]bool {
	commitIndex, servers := s.members.cluster.Status().CommitIndex, s.serversByID()
	upToDate := map[uint64]bool{}
	var mu sync.Mutex // guards upToDate
	var asking sync.WaitGroup
	for _, m := range s.Members() {
		if server, there := servers[m.ID]; !there || server.Voter || m.Learner {
			continue
		}
		asking.Go(func() {
			is := s.isUpToDate(ctx, m.ID, commitIndex)
			mu.Lock()
			defer mu.Unlock()
			upToDate[m.ID] = is
		})
	}
	asking.Wait()
	return upToDate
}

func (s *Service) serversByID() map[uint64]raftnode.Server {
	servers := map[uint64]raftnode.Server{}
	for _, server := range s.members.cluster.Servers() {
		servers[uint64(server.ID)] = server
	}
	return servers
}
