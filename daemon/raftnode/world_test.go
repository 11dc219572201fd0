package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/pkg/pace"
)

// world is a network in memory and the disks of the members, in the time of a synctest bubble: what takes
// minutes takes no longer than its work.
type world struct {
	t *testing.T

	mu        sync.Mutex // guards the fields below
	listeners map[string]*listener
	slow      map[string]time.Duration // by the address of a member: each sync of its log
	cut       map[string]bool          // what a member sends and receives is kept back

	trip     atomic.Int64 // ns, between any two members
	carrying sync.WaitGroup

	changes atomic.Int64 // how often a leader was lost or found, by any member
}

// listener accepts what others dial.
type listener struct {
	address peerAddr
	conns   chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *listener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *listener) Addr() net.Addr { return l.address }

// dialer returns how the member at from reaches the others.
func (w *world) dialer(from string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, to string) (net.Conn, error) {
		w.mu.Lock()
		l := w.listeners[to]
		w.mu.Unlock()
		if l == nil {
			return nil, errors.New("connection refused")
		}
		select {
		case <-time.After(time.Duration(w.trip.Load())):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		here, near := net.Pipe()
		far, there := net.Pipe()
		w.carrying.Go(func() { w.carry(from, to, near, far) })
		w.carrying.Go(func() { w.carry(to, from, far, near) })
		select {
		case l.conns <- there:
			return here, nil
		case <-l.done:
			err := errors.New("connection refused")
			return nil, errors.Join(err, near.Close(), far.Close())
		}
	}
}

// carry brings what from sends to to, which takes half a round trip. It ends with either side.
func (w *world) carry(from, to string, source, sink net.Conn) {
	type packet struct {
		data []byte
		due  time.Time
	}
	packets := make(chan packet, 4096)
	var delivering sync.WaitGroup
	delivering.Go(func() {
		defer sink.Close()
		defer source.Close()
		for p := range packets {
			time.Sleep(time.Until(p.due))
			for w.isCut(from) || w.isCut(to) {
				time.Sleep(10 * time.Millisecond)
			}
			if _, err := sink.Write(p.data); err != nil {
				source.Close()
				for range packets { // until the reader has noticed
				}
				return
			}
		}
	})
	buffer := make([]byte, 64<<10)
	for {
		n, err := source.Read(buffer)
		if err != nil {
			break
		}
		packets <- packet{append([]byte(nil), buffer[:n]...), time.Now().Add(time.Duration(w.trip.Load() / 2))}
	}
	close(packets)
	delivering.Wait()
}

func (w *world) isCut(member string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[member]
}

func (w *world) setCut(n *Node, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[n.address()] = cut
}

func (w *world) setSlow(n *Node, sync time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slow[n.address()] = sync
}

// slowLog is a log on a disk of the world.
type slowLog struct {
	logStore
	world   *world
	address string
}

func (l *slowLog) StoreLogs(entries []*raft.Log) error {
	l.world.mu.Lock()
	takes := l.world.slow[l.address]
	l.world.mu.Unlock()
	time.Sleep(takes)
	return l.logStore.StoreLogs(entries)
}

func (l *slowLog) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

func (l *slowLog) IsMonotonic() bool {
	m, ok := l.logStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// inWorld runs act with three members that know each other. Their configurations are edited before.
func inWorld(t *testing.T, edit func(*Config), trip time.Duration, act func(w *world, nodes []*Node)) {
	t.Helper()
	var configs []Config
	for _, n := range cluster(t, 3) { // over real connections: a new cluster asks with peer.Get
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		configs = append(configs, n.config)
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, listeners: map[string]*listener{}, slow: map[string]time.Duration{}, cut: map[string]bool{}}
		w.trip.Store(int64(trip))
		nodes := make([]*Node, len(configs))
		var starting sync.WaitGroup
		for i, c := range configs {
			edit(&c)
			address := hostPort(c.PeerURLs[0])
			l := &listener{address: peerAddr(address), conns: make(chan net.Conn), done: make(chan struct{})}
			w.listeners[address] = l
			deps := Deps{
				Peers: []net.Listener{l}, dial: w.dialer(address), Fatal: func(err error) { panic(err) }, Log: log.With("member", c.Name),
				wrapLog: func(s logStore) logStore { return &slowLog{s, w, address} },
			}
			starting.Go(func() {
				var err error
				if nodes[i], err = Open(t.Context(), c, deps, &ledger{}); err != nil {
					t.Error(err)
				}
			})
		}
		starting.Wait()
		if t.Failed() {
			t.FailNow()
		}
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		for _, n := range nodes {
			watching.Go(func() {
				for s := n.outlook.look(); ; s = n.outlook.look() {
					select {
					case <-s.changed():
						w.changes.Add(1)
					case <-ctx.Done():
						return
					}
				}
			})
		}
		act(w, nodes)
		cancel()
		watching.Wait()
		var closing sync.WaitGroup
		for _, n := range nodes {
			closing.Go(func() { n.Close() })
		}
		closing.Wait()
		w.carrying.Wait() // a bubble's time ends with this goroutine
	})
}

// leads waits until all of nodes see one of them lead, and returns it.
func (w *world) leads(nodes []*Node, within time.Duration) *Node {
	w.t.Helper()
	for range pace.Every(after(within), 20*time.Millisecond) {
		for _, n := range nodes {
			agreed := n.leading() != nil
			for _, other := range nodes {
				agreed = agreed && other.Status().Leader == n.identity.MemberID
			}
			if agreed {
				return n
			}
		}
	}
	w.t.Fatalf("nobody leads for all within %v", within)
	return nil
}

func after(d time.Duration) <-chan struct{} {
	done := make(chan struct{})
	time.AfterFunc(d, func() { close(done) })
	return done
}

// writes proposes through a member until ctx ends, a few times a second.
func writes(ctx context.Context, n *Node) {
	for range pace.Every(ctx.Done(), 200*time.Millisecond) {
		soon, cancel := context.WithTimeout(ctx, 10*time.Second)
		n.Propose(soon, write("/load"))
		cancel()
	}
}
