package raftnode

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/peer"
)

// transport is raft's network transport without two things that are broken in it, measured. It is embedded so
// that its further methods, WithPreVote among them, stay visible to raft.
type transport struct {
	*raft.NetworkTransport
	self    raft.ServerID
	appends *appends
	removed func(raft.ServerID) bool // from the cluster
	durable func(index uint64) error // waits for this member's disk: see overlap
	beats   *heartbeats
}

// newTransport speaks over layer. With one request in flight there is no pipeline, which can
// wedge for ever after a follower refuses entries; with batches as entries it would gain nothing.
// grace and enough are those of heartbeats.
func newTransport(layer *streams, measured *appends, removed func(raft.ServerID) bool, grace func() time.Duration, enough time.Duration, durable func(uint64) error, log hclog.Logger) *transport {
	t := &transport{NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Logger: log, Stream: layer, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: peerTimeout,
		MsgpackUseNewTimeFormat: true, ServerAddressProvider: byID{},
	}), self: raft.ServerID(layer.self.String()), appends: measured, removed: removed, durable: durable}
	t.beats = &heartbeats{send: t.send, grace: grace, enough: enough, pulses: map[raft.ServerID]*pulse{}}
	return t
}

// AppendEntries implements raft.Transport. That a follower has entries counts once this member has them on its
// own disk, too.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, request *raft.AppendEntriesRequest, answer *raft.AppendEntriesResponse) error {
	if isHeartbeat(request) && id != t.self {
		return t.beats.give(id, target, request, answer)
	}
	return t.send(id, target, request, answer)
}

// send sends a request, and measures it.
func (t *transport) send(id raft.ServerID, target raft.ServerAddress, request *raft.AppendEntriesRequest, answer *raft.AppendEntriesResponse) error {
	began := time.Now()
	err := t.NetworkTransport.AppendEntries(id, target, request, answer)
	if id != t.self { // see Node.learn
		t.appends.note(id, t.removed, request, answer, began, err)
		if err == nil && answer.Success {
			t.beats.answered(id, request.Term, began)
		}
	}
	if last := len(request.Entries); err == nil && answer.Success && last > 0 {
		return t.durable(request.Entries[last-1].Index)
	}
	return err
}

// SetHeartbeatHandler does nothing, so that heartbeats take raft's main loop like every other
// request. The handler would change the term beside that loop, and a leader of the past could
// stamp an entry with a term that is not its own.
func (*transport) SetHeartbeatHandler(func(raft.RPC)) {}

// byID has raft dial members by their id: where they are is looked up at that moment.
type byID struct{}

// ServerAddr implements raft.ServerAddressProvider.
func (byID) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	return raft.ServerAddress(id), nil
}

// streams are raft's connections: to the other members through the peer network, and to this member
// itself in memory.
type streams struct {
	self    ID
	address peerAddr // of this member, as the others know it
	peers   *peer.StreamLayer
	fits    func(bytes int64) error // see intake

	accepted chan net.Conn
	done     chan struct{} // closed by Close
	close    sync.Once
	bringing sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // both ends of those in memory
}

func newStreams(self ID, address string, peers *peer.StreamLayer, fits func(bytes int64) error) *streams {
	l := &streams{self: self, address: peerAddr(address), peers: peers, fits: fits, accepted: make(chan net.Conn), done: make(chan struct{})}
	l.bringing.Go(l.bring)
	return l
}

// bring hands on what other members open.
func (l *streams) bring() {
	for {
		conn, err := l.peers.Accept()
		if err != nil { // closed: nothing else ends it
			return
		}
		select {
		case l.accepted <- &intake{Conn: conn, fits: l.fits}:
		case <-l.done:
			conn.Close()
			return
		}
	}
}

// Accept returns the next connection that this or another member has opened.
func (l *streams) Accept() (net.Conn, error) {
	select {
	case conn := <-l.accepted:
		return conn, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Dial connects to the member with the id that address is: see byID.
func (l *streams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	var to ID
	if err := to.UnmarshalText([]byte(address)); err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if to == l.self {
		return l.loop(timeout)
	}
	return l.peers.Dial(uint64(to), timeout)
}

// loop connects the member to itself.
func (l *streams) loop(timeout time.Duration) (net.Conn, error) {
	here, there := net.Pipe()
	l.mu.Lock()
	l.conns = append(l.conns, here, there)
	l.mu.Unlock()
	patience := time.NewTimer(timeout)
	defer patience.Stop()
	select {
	case l.accepted <- there:
		return here, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-patience.C:
		return nil, errors.New("dial this member: nobody accepts")
	}
}

// Addr returns the address of this member as the others know it.
func (l *streams) Addr() net.Addr { return l.address }

// Close ends Accept and Dial. It may be called twice.
func (l *streams) Close() error {
	l.close.Do(func() {
		close(l.done)
		l.peers.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, conn := range l.conns {
			conn.Close()
		}
	})
	l.bringing.Wait()
	return nil
}

// peerAddr is "host:port" of a peer port.
type peerAddr string

func (peerAddr) Network() string  { return "tcp" }
func (a peerAddr) String() string { return string(a) }
