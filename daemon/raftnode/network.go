package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/peer"
)

// handlers are those of calls that rooms above answer.
type handlers [256]atomic.Pointer[peer.Handler]

// Answer has h answer the calls of a method, on every member, from now on. Until then they fail as not
// handled.
func (n *Node) Answer(method peer.Method, h peer.Handler) { n.handlers[method].Store(&h) }

// openNetwork prepares the peer port. It answers nobody before Serve, and there are no streams before
// raft runs.
func (n *Node) openNetwork(deps Deps) error {
	if len(deps.Peers) == 0 {
		return errors.New("open a member: there is no listener for peers")
	}
	if len(n.config.PeerURLs) == 0 {
		scheme := "http"
		if deps.PeerTLS != nil {
			scheme = "https"
		}
		n.config.PeerURLs = []string{scheme + "://" + deps.Peers[0].Addr().String()}
	}
	n.pages.HandleFunc("GET "+ClusterPath, n.serveCluster)
	n.pages.HandleFunc("POST "+ClusterPath, n.serveCluster)
	var err error
	n.network, err = peer.New(peer.Config{
		Listeners: deps.Peers, TLS: deps.PeerTLS, Log: n.log, Now: deps.Now, Handler: &n.pages, Dial: deps.dial,
		Self: func() (cluster, member uint64) {
			if !n.ready.Load() {
				return 0, 0
			}
			return uint64(n.identity.ClusterID), uint64(n.identity.MemberID)
		},
		Address: n.addressOf,
		// Who is not known yet may have been added since this member has last heard of the cluster;
		// whom raft does not know gets no vote, and no answer from the leader.
		Known: func(member uint64) bool { return !n.fsm.machine.Removed(member) },
		Name:  n.nameOf,
	})
	if err != nil {
		return fmt.Errorf("open the peer port: %w", err)
	}
	n.network.HandleAtOnce(methodConfirm, n.serveConfirm)
	n.network.HandleAtOnce(methodReadIndex, n.readIndexAtOnce)
	n.network.Handle(methodFigures, n.serveFigures)
	n.network.Handle(MethodStatus, n.handler(MethodStatus))
	for method, h := range map[peer.Method]peer.Handler{
		methodPropose: n.servePropose, methodReadIndex: n.serveReadIndex,
		MethodRenew: n.handler(MethodRenew), MethodLease: n.handler(MethodLease), MethodMembers: n.handler(MethodMembers),
	} {
		n.network.Handle(method, n.forMembers(h))
	}
	return nil
}

// forMembers returns h for the members in raft's latest configuration alone. It is for what a leader
// answers: its configuration is never older than that of whom it has made a member.
func (n *Node) forMembers(h peer.Handler) peer.Handler {
	return func(ctx context.Context, from uint64, request []byte) ([]byte, error) {
		if _, ok := n.configured().addresses[ID(from)]; !ok {
			return nil, fmt.Errorf("%w: %s is no member of this cluster", peer.ErrNotHandled, ID(from))
		}
		return h(ctx, from, request)
	}
}

// handler returns what answers the calls of a method that a room above has been given.
func (n *Node) handler(method peer.Method) peer.Handler {
	return func(ctx context.Context, from uint64, request []byte) ([]byte, error) {
		h := n.handlers[method].Load()
		if h == nil {
			return nil, peer.ErrNotHandled
		}
		return (*h)(ctx, from, request)
	}
}

// hostPort returns HOST:PORT of a peer URL that was validated.
func hostPort(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	return u.Host
}

// address is where the other members reach this one.
func (n *Node) address() string { return hostPort(n.config.PeerURLs[0]) }

// addressOf returns where a member is. A leader that is not in the configuration here, because that is
// old, is known by the address that it gives itself.
func (n *Node) addressOf(member uint64) (string, bool) {
	if !n.ready.Load() || n.fsm.machine.Removed(member) {
		return "", false
	}
	if address, ok := n.configured().addresses[ID(member)]; ok {
		return address, true
	}
	// Members call themselves by their ids as long as raft has no address for them.
	address, leader := n.raft.LeaderWithID()
	_, _, err := net.SplitHostPort(string(address))
	return string(address), leader == raft.ServerID(ID(member).String()) && err == nil
}

// nameOf returns what people call a member, "" if that is not known here.
func (n *Node) nameOf(member uint64) string {
	for _, m := range n.fsm.machine.Members() {
		if m.ID == member {
			return m.Name
		}
	}
	for _, f := range n.config.Founders {
		if uint64(f.memberID(n.identity.ClusterToken)) == member {
			return f.Name
		}
	}
	return ""
}

// isGone reports whether a member was removed from the cluster, as far as this one knows.
func (n *Node) isGone(server raft.ServerID) bool {
	var id ID
	return id.UnmarshalText([]byte(server)) == nil && n.fsm.machine.Removed(uint64(id))
}

// Alone reports whether this member is the only voter.
func (n *Node) Alone() bool { return n.configured().alone() }
