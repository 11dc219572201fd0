// Package peer connects the members of one cluster. It knows the peer port: HTTP/1.1, plain or over
// TLS, on which a connection becomes a stream between two members once both have said who they are;
// and calls, which many at a time share one stream. It does not know what members tell each other:
// streams of kind raft carry bytes, calls carry bytes.
//
// A stream begins with
//
//	GET /kvd/stream/rpc HTTP/1.1
//	Connection: Upgrade
//	Upgrade: kvd-peer/1
//	Kvd-Cluster-Id: 5d6ee8ab7b10d6e0
//	Kvd-From: 8211f1d0f64f3269
//	Kvd-To: 91bc3c398fb3c146
//
// and the answer 101, or a plain HTTP error whose body says in one sentence what is wrong. Every
// other path of the port belongs to Config.Handler.
//
//	n, err := peer.New(peer.Config{Listeners: listeners, Self: self, Address: address, Known: known})
//	n.Handle(1, propose)
//	n.Serve()
//	answer, err := n.Call(ctx, member, 1, request)
package peer

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/pace"
)

// What is fixed. A setting would be a question that nobody can answer better.
const (
	connectTimeout = 400 * time.Millisecond // for the system to connect; a host that is gone never answers
	helloTimeout   = 2 * time.Second        // for a TLS handshake, and for the answer 101
	headerTimeout  = 10 * time.Second       // for a caller to send a header, and for a TLS handshake
	requestTimeout = 30 * time.Second       // for a request to Config.Handler and its answer
	idleTimeout    = 30 * time.Second       // between two requests on a connection
	headerBytesMax = 16 << 10
	bodyBytesMax   = 1 << 20 // of a request to Config.Handler, and of an answer that Get returns

	guestsMax      = 256 // connections that are no streams yet
	strangersMax   = 64  // streams of those that Config.Known lets in and Config.Address does not know
	raftStreamsMax = 16  // of one member to this one; raft needs five

	// How long bytes may wait for the other side to take them before the connection counts as
	// broken, where the system can be told so. That a full receiver does not read counts as well: one
	// without its share of the processor, or, in the middle of a snapshot for raft, one whose disk
	// stalls. So this is as patient as pings are; raft itself bounds everything else that it sends.
	unackedTimeout     = 5 * time.Second
	unackedTimeoutRaft = 10 * time.Second

	roundInterval = time.Second // pings, and a look at who is still a member
	pingRounds    = 5           // without an answer to a ping before its connection counts as broken
	silentRounds  = 10          // without a ping before the connection of a caller counts as broken

	redialMin = 20 * time.Millisecond
	redialMax = time.Second
	lastingly = time.Second // a connection that lasted this long is redialed at once

	// MessageBytesMax is the size that a request or an answer of a call may have.
	MessageBytesMax = 16 << 20
	callsMax        = 4096     // in flight to one member
	callBytesMax    = 32 << 20 // of their requests

	// Requests of one member that are being handled here: more than it may have in flight, since an
	// answer is on its way before its place is free.
	runningMax      = 2 * callsMax
	runningBytesMax = 2 * callBytesMax

	toldInterval = time.Minute // between two log lines that say the same
)

// Config says who this member is and how it reaches the others. Self, Address, Known and Name are called
// often, from any goroutine: they must neither block nor call the Network.
type Config struct {
	Listeners []net.Listener // of the peer port; New takes them over, also when it fails
	TLS       *TLS           // nil: plain HTTP

	// Self returns the cluster and the member that this process is. While cluster is 0 it is no
	// member yet: there are no streams, only Handler is served.
	Self func() (cluster, member uint64)
	// Address returns host:port of a member. ok is false if it is unknown or was removed: streams
	// to it are closed then.
	Address func(member uint64) (hostPort string, ok bool)
	// Known reports whether a member may open streams to this one. Those of a member that is known
	// no longer are closed.
	Known func(member uint64) bool
	// Name returns what people call a member, "" if that is not known; nil: nobody is known by a name.
	Name func(member uint64) string

	Handler http.Handler // what else the port serves; nil: nothing

	Dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: a net.Dialer
	Log  *slog.Logger                                                         // nil: discard
	Now  func() time.Time                                                     // nil: time.Now
}

// TLS is how members prove who they are. What is required of a certificate, and where it is
// reloaded from, is a matter of the two configurations; they are not changed.
type TLS struct {
	Server *tls.Config
	Client *tls.Config // ServerName may be empty: the host that is dialed
	// ClientFor, unless nil, takes the place of Client: it returns the configuration of one connection
	// to host, for authorities that are read from a file that changes.
	ClientFor func(host string) *tls.Config
	// VerifyPeer is asked after each handshake, on both sides, and may refuse the other side; its
	// error should say what is not accepted and what would be. nil accepts.
	VerifyPeer func(tls.ConnectionState) error
	// Round, unless nil, is called once a second. What it returns, unless that is nil, is asked about
	// every open stream, and those that it refuses are closed; incoming tells who has called whom.
	Round func() func(state tls.ConnectionState, incoming bool) error
}

func (t *TLS) verify(state tls.ConnectionState) error {
	if t.VerifyPeer == nil {
		return nil
	}
	return t.VerifyPeer(state)
}

// recheck returns what is to be asked about every stream in this round.
func (t *TLS) recheck() func(*stream) error {
	nothing := func(*stream) error { return nil }
	if t == nil || t.Round == nil {
		return nothing
	}
	check := t.Round()
	if check == nil {
		return nothing
	}
	return func(s *stream) error {
		if secure, ok := s.Conn.(*tls.Conn); ok {
			return check(secure.ConnectionState(), s.incoming)
		}
		return nil
	}
}

// Method tells calls apart. 0 is not a method.
type Method uint8

// Handler answers the calls of one method. It is called from many goroutines at a time, one for
// each call. request belongs to it, and the answer to the Network. ctx ends with the connection
// that the call came over. An error becomes the caller's Error with its text; if it is ErrNotHandled,
// the caller's Error says that the call was surely not handled.
type Handler func(ctx context.Context, from uint64, request []byte) (answer []byte, err error)

// AtOnce answers those calls of a method that can be answered without waiting for anything, before they
// go to the Handler; ok is false for the others. Further requests of the same member wait until it returns.
// request and answer are as with Handler.
type AtOnce func(from uint64, request []byte) (answer []byte, ok bool)

// Network is this member's connections with the others. It is safe for concurrent use.
type Network struct {
	config   Config
	log      *slog.Logger
	told     told
	now      func() time.Time
	server   *http.Server
	door     *door
	patience patience
	raft     *StreamLayer
	handlers [256]Handler // by Method; not changed after Serve
	atOnce   [256]AtOnce  // the same

	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	work   sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	closed   bool
	members  map[uint64]*member
	streams  map[*stream]struct{}
	numbered uint64 // streams, ever
}

// New takes over the listeners of c. It neither accepts nor dials before Serve.
func New(c Config) (*Network, error) {
	if c.Self == nil || c.Address == nil || c.Known == nil {
		closeAll(c.Listeners)
		return nil, errors.New("peer: Self, Address and Known are needed")
	}
	if c.TLS != nil && (c.TLS.Server == nil || c.TLS.Client == nil && c.TLS.ClientFor == nil) {
		closeAll(c.Listeners)
		return nil, errors.New("peer: TLS needs the configurations of both sides")
	}
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	if c.Now == nil {
		c.Now = time.Now
	}
	n := &Network{config: c, log: c.Log, now: c.Now, told: told{now: c.Now}, patience: patience{connectTimeout, helloTimeout}, members: map[uint64]*member{}, streams: map[*stream]struct{}{}}
	n.ctx, n.cancel = context.WithCancelCause(context.Background())
	n.raft = newStreamLayer(n)
	n.door = newDoor(n.log, &n.told, c.TLS != nil)
	n.server = &http.Server{
		Handler: http.HandlerFunc(n.serveHTTP), ErrorLog: log.New(&serverLog{n.log, &n.told}, "", 0),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytesMax,
		BaseContext: func(net.Listener) context.Context { return n.ctx },
		ConnContext: withGuest, ConnState: n.door.state,
	}
	return n, nil
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}

// Handle has h answer the calls of a method. It must be called before Serve.
func (n *Network) Handle(method Method, h Handler) { n.handlers[method] = h }

// HandleAtOnce has h answer what it can of the calls of a method. It must be called before Serve.
func (n *Network) HandleAtOnce(method Method, h AtOnce) { n.atOnce[method] = h }

// Serve starts accepting, in the background.
func (n *Network) Serve() {
	for _, l := range n.config.Listeners {
		l = n.listener(l)
		n.start(func() {
			if err := n.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				n.log.Error("the peer port is no longer served", "address", l.Addr().String(), "err", err, "try", "restart this member")
			}
		})
	}
	n.start(n.goRounds)
}

// start runs f in a goroutine that Close waits for. It returns false if Close was called.
func (n *Network) start(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.work.Go(f)
	return true
}

// Close closes listeners and connections, fails the calls in flight, and waits until nothing runs
// any more, handlers included. It may be called more than once.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	streams := n.allStreams()
	n.mu.Unlock()
	n.cancel(net.ErrClosed)
	n.raft.Close()
	n.server.Close()
	closeAll(n.config.Listeners)
	n.door.close()
	for _, s := range streams {
		s.Close()
	}
	n.work.Wait()
	return nil
}

// allStreams returns the streams there are. n.mu is held.
func (n *Network) allStreams() []*stream {
	all := make([]*stream, 0, len(n.streams))
	for s := range n.streams {
		all = append(all, s)
	}
	return all
}

// enter counts the caller in, so that Close waits until it calls n.work.Done. It returns false if
// Close was called.
func (n *Network) enter() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.work.Add(1)
	return true
}

// goRounds looks after everything that nobody waits for, once a second.
func (n *Network) goRounds() {
	for range pace.Every(n.ctx.Done(), roundInterval) {
		n.round()
	}
}

// round pings, and parts with those who are members no longer.
func (n *Network) round() {
	n.mu.Lock()
	streams := n.allStreams()
	ids := slices.Collect(maps.Keys(n.members))
	n.mu.Unlock()
	for _, id := range ids {
		if _, ok := n.config.Address(id); !ok {
			n.forget(id)
		}
	}
	recheck := n.config.TLS.recheck()
	for _, s := range streams {
		if !n.expects(s) {
			s.Close()
		} else if err := recheck(s); err != nil {
			n.log.Warn("a connection with a member is closed: its certificate is not accepted any more", "member", fmt.Sprintf("%x", s.member), "err", err)
			s.Close()
		} else if f := s.round.Load(); f != nil {
			(*f)()
		}
	}
}

// expects reports whether the other side of s is still a member.
func (n *Network) expects(s *stream) bool {
	if s.incoming {
		return n.config.Known(s.member)
	}
	_, ok := n.config.Address(s.member)
	return ok
}

// member is what is known of another member, or of a process that says it is one.
type member struct {
	traffic
	link   *link                   // nil while it has no address
	cancel context.CancelCauseFunc // of link
}

// meet returns the entry of a member, a new one if need be. n.mu is held.
func (n *Network) meet(id uint64) *member {
	m := n.members[id]
	if m == nil {
		m = &member{}
		n.members[id] = m
	}
	return m
}

// linkTo returns what keeps a connection for calls to a member, which must have an address. Error:
// net.ErrClosed.
func (n *Network) linkTo(id uint64) (*link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, net.ErrClosed
	}
	m := n.meet(id)
	if m.link == nil {
		l := newLink(n, id)
		ctx, cancel := context.WithCancelCause(n.ctx)
		m.link, m.cancel = l, cancel
		n.work.Go(func() { l.run(ctx) })
	}
	return m.link, nil
}

// forget ends the calls to a member that has no address.
func (n *Network) forget(id uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.members[id]
	if m == nil {
		return
	}
	if m.link != nil {
		m.cancel(ErrUnknownMember)
		m.link = nil
	}
	for s := range n.streams {
		if s.member == id {
			return
		}
	}
	delete(n.members, id)
}

// Connect keeps a connection for calls to a member from now on, so that the first call need not
// wait for one and Stats can tell the round trip. It does not wait. A Call does the same. Errors:
// ErrUnknownMember, net.ErrClosed.
func (n *Network) Connect(to uint64) error {
	_, err := n.reach(to)
	return err
}

func (n *Network) reach(to uint64) (*link, error) {
	cluster, self := n.config.Self()
	if cluster == 0 {
		return nil, errNoMember
	}
	if to == self {
		return nil, errors.New("a member does not call itself")
	}
	if _, ok := n.config.Address(to); !ok {
		return nil, ErrUnknownMember
	}
	return n.linkTo(to)
}

// Call sends a request to a member and returns its answer, which belongs to the caller; request is
// free again when Call returns. It waits for a connection that is being made, for the answer, and
// until ctx ends: then it gives up waiting, and the connection lives on. While the member cannot be
// reached it fails at once, until the next attempt to connect, which is made within a second.
//
// An error is an *Error. Beneath it are ErrUnknownMember, ErrBusy, ErrTooLarge, a *Refusal, a
// *HandlerError, ctx's error, net.ErrClosed, and those of the network.
func (n *Network) Call(ctx context.Context, to uint64, method Method, request []byte) ([]byte, error) {
	answer, sent, err := n.call(ctx, to, method, request)
	if err != nil {
		return nil, &Error{Member: to, Method: method, Sent: sent, Err: err}
	}
	return answer, nil
}

func (n *Network) call(ctx context.Context, to uint64, method Method, request []byte) (answer []byte, sent bool, err error) {
	if len(request) > MessageBytesMax {
		return nil, false, fmt.Errorf("%w: the request has %d bytes, the most is %d", ErrTooLarge, len(request), MessageBytesMax)
	}
	l, err := n.reach(to)
	if err != nil {
		return nil, false, err
	}
	s, err := l.connected(ctx)
	if err != nil {
		return nil, false, err
	}
	return s.call(ctx, method, request)
}

// RaftStreams returns the streams of kind raft. It is always the same.
func (n *Network) RaftStreams() *StreamLayer { return n.raft }

// hex is how ids are written, in headers, logs and errors.
func hex(id uint64) string { return strconv.FormatUint(id, 16) }

// name is for the log: what people call a member, nothing if that is not known.
func (n *Network) name(member uint64) slog.Attr {
	if n.config.Name == nil {
		return slog.Attr{}
	}
	name := n.config.Name(member)
	if name == "" {
		return slog.Attr{}
	}
	return slog.String("name", name)
}

// told keeps the log readable when a member that is set up wrongly calls every second. It is safe
// for concurrent use.
type told struct {
	now func() time.Time

	mu   sync.Mutex
	last map[string]time.Time
}

const toldMax = 256 // different lines in an interval; more are not told

// due reports whether what key stands for was not told in the last minute, and takes it as told.
func (t *told) due(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if last, ok := t.last[key]; ok && now.Sub(last) < toldInterval {
		return false
	}
	if len(t.last) >= toldMax {
		for k, last := range t.last {
			if now.Sub(last) >= toldInterval {
				delete(t.last, k)
			}
		}
		if len(t.last) >= toldMax {
			return false
		}
	}
	if t.last == nil {
		t.last = map[string]time.Time{}
	}
	t.last[key] = now
	return true
}

// Stats is what Network knows of its connection with one member.
type Stats struct {
	Member    uint64
	Connected time.Time // since when calls to it have a connection; zero: they have none
	// RoundTrip is the median, and RoundTripMax the longest, of the last 16 pings, one each second.
	// 0: not measured since the connection was made.
	RoundTrip, RoundTripMax time.Duration
	RoundTrips              RoundTrips
	InFlight                int    // calls to it that are not answered
	Sent, Received          uint64 // bytes, over all streams with it
	Failures                uint64 // attempts to connect that failed, and connections that broke
	LastError               error  // why there is no connection; nil if there is one
}

// Stats returns the state of the connections with all members that were called, or have called,
// in the order of their ids.
func (n *Network) Stats() []Stats {
	n.mu.Lock()
	var links []*link
	var all []Stats
	for _, m := range n.members {
		if m.link != nil {
			links = append(links, m.link)
			all = append(all, Stats{Sent: m.sent.Load(), Received: m.received.Load(), RoundTrips: m.trips.look()})
		}
	}
	n.mu.Unlock()
	for i, l := range links {
		l.describe(&all[i])
	}
	slices.SortFunc(all, func(a, b Stats) int { return cmp.Compare(a.Member, b.Member) })
	return all
}
