package registry

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/kvd-io/kvd/pkg/kv"
)

// A seat is the store as one publisher sees it, with faults of its own.
type seat struct {
	*memStore
	owner string // whose runs these are, whatever their settings

	mu    sync.Mutex // guards the fields below
	away  bool       // nothing is answered
	late  int        // so many writes are done only after their caller has given up
	lost  int        // so many are done, and their answers lost
	deny  bool       // writes are refused
	slow  time.Duration
	tasks *sync.WaitGroup
}

var errAway = &kv.Error{Kind: kv.Unavailable, Cause: "away"}

// take counts one down and reports whether there was any.
func take(n *int) bool {
	if *n > 0 {
		*n--
		return true
	}
	return false
}

// pass takes as long as the store does for this one and reports whether it answers.
func (s *seat) pass() error {
	s.mu.Lock()
	away, slow := s.away, s.slow
	s.mu.Unlock()
	time.Sleep(slow)
	if away {
		return errAway
	}
	return nil
}

func (s *seat) Write(ctx context.Context, w kv.Write) (kv.Result, error) {
	s.mu.Lock()
	late, lost, deny := take(&s.late), take(&s.lost), s.deny
	s.mu.Unlock()
	err := s.pass()
	switch {
	case err != nil:
		return kv.Result{}, err
	case deny:
		return kv.Result{}, &kv.Error{Kind: kv.Denied, Key: w.Key}
	case late:
		s.tasks.Go(func() {
			time.Sleep(3 * time.Second)
			s.writeAs(context.Background(), s.owner, w)
		})
		return kv.Result{}, &kv.Error{Kind: kv.Timeout, Key: w.Key}
	}
	result, err := s.writeAs(ctx, s.owner, w)
	if lost && err == nil {
		return kv.Result{}, &kv.Error{Kind: kv.Unknown, Key: w.Key}
	}
	return result, err
}

func (s *seat) Read(ctx context.Context, r kv.Read) (kv.Result, error) {
	if err := s.pass(); err != nil {
		return kv.Result{}, err
	}
	return s.memStore.Read(ctx, r)
}

func (s *seat) Watch(ctx context.Context, from kv.WatchFrom) (kv.Watch, error) {
	if err := s.pass(); err != nil {
		return nil, err
	}
	return s.memStore.Watch(ctx, from)
}

func (s *seat) Grant(ctx context.Context, ttl time.Duration) (kv.Lease, error) {
	if err := s.pass(); err != nil {
		return kv.Lease{}, err
	}
	return s.memStore.Grant(ctx, ttl)
}

func (s *seat) KeepAlive(ctx context.Context, id kv.LeaseID) (kv.Lease, error) {
	if err := s.pass(); err != nil {
		return kv.Lease{}, err
	}
	return s.memStore.KeepAlive(ctx, id)
}

func (s *seat) Lease(ctx context.Context, id kv.LeaseID) (kv.Lease, error) {
	if err := s.pass(); err != nil {
		return kv.Lease{}, err
	}
	return s.memStore.Lease(ctx, id)
}

func (s *seat) Revoke(ctx context.Context, id kv.LeaseID) (kv.Index, error) {
	if err := s.pass(); err != nil {
		return 0, err
	}
	s.memStore.mu.Lock()
	for _, key := range s.attached(id) {
		if author := s.authors[key]; author != s.owner {
			s.violations = append(s.violations, fmt.Sprintf("%s revoked the lease of %s, which %s had written", s.owner, key, author))
		}
	}
	s.memStore.mu.Unlock()
	return s.memStore.Revoke(ctx, id)
}

// player is one publisher, which may end and be started again.
type player struct {
	seat    *seat
	cfg     PublisherConfig
	number  int
	run     *Publisher // nil while it does not run
	stop    func()
	starts  int
	desired []Record
	log     *strings.Builder
}

// start begins a run. A standing owner has other settings in every third one, and a view less.
func (p *player) start() {
	if p.starts++; isStanding(p.cfg.Owner) {
		p.cfg.Owner, p.cfg.Views = p.seat.owner+"/s1", modelViews()
		if p.starts%3 == 0 {
			p.cfg.Owner, p.cfg.Views = p.seat.owner+"/s2", modelViews()[1:]
		}
	}
	p.run = NewPublisher(p.cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	run := p.run
	go func() { defer close(done); run.Run(ctx) }()
	p.stop = func() { cancel(); <-done; p.run = nil }
	p.run.Set(p.desired)
	p.run.Sweep(nil)
}

// want desires the instances whose bits are set. Whatever is desired by whom, its values differ.
func (p *player) want(bits, port int) {
	p.desired = nil
	for i := range 4 {
		if bits&(1<<i) != 0 {
			p.desired = append(p.desired, Record{
				Service: "s" + string(rune('a'+i%2)), Instance: fmt.Sprint("i", i), Address: fmt.Sprint("10.0.0.", p.number+1),
				Port: 1000 + port, Protocol: "tcp", State: StateUp,
			})
		}
	}
	if p.run != nil {
		p.run.Set(p.desired)
	}
}

// move is one thing that happens, and how long nothing else does.
type move struct {
	what, who, with int
	pause           time.Duration
}

const moveKinds = 16

func modelViews() []View {
	return []View{{"/services", LayoutJSON}, {"/reg", LayoutRegistrator}, {"/skydns/kvd", LayoutSkyDNS}}
}

// game is several publishers of the same names in one store.
type game struct {
	store   *memStore
	players []*player
	tasks   sync.WaitGroup
}

func newGame(leases bool) *game {
	g := &game{store: newMemStore()}
	g.store.noLeases = !leases
	for i, owner := range []string{"m1/agent/s1", "m2/agent/s1", "m3/0123"} {
		s := &seat{memStore: g.store, owner: strings.TrimSuffix(owner, "/s1"), tasks: &g.tasks}
		log := &strings.Builder{}
		p := &player{seat: s, number: i, log: log, cfg: PublisherConfig{
			Store: s, Leaser: s, Owner: owner, Views: modelViews(), Keep: i == 0, Log: slog.New(slog.NewTextHandler(log, nil)),
		}}
		p.want(3<<i, 0)
		p.start()
		g.players = append(g.players, p)
	}
	return g
}

var operatorKeys = []string{"/services/sa/i0", "/services/sb/i1", "/reg/sa/i2", "/skydns/kvd/sb/i3", "/reg/sb/i1"}

func (g *game) play(m move) {
	p, s := g.players[m.who], g.players[m.who].seat
	key := operatorKeys[m.with%len(operatorKeys)]
	set := func(change func()) { s.mu.Lock(); change(); s.mu.Unlock() }
	in := func(change func()) { g.store.mu.Lock(); change(); g.store.mu.Unlock() }
	switch m.what {
	case 0, 1, 2:
		p.want(m.with, 0)
	case 3:
		p.want(m.with, m.with)
	case 4:
		set(func() { s.away = true })
	case 5:
		set(func() { s.away = false })
	case 6:
		set(func() { s.lost = m.with })
	case 7:
		set(func() { s.late = m.with % 4 })
	case 8:
		set(func() { s.slow = time.Duration(m.with) * 200 * time.Millisecond })
	case 9:
		set(func() { s.deny = m.with > 7 })
	case 10:
		if p.run != nil {
			p.stop()
		} else {
			p.start()
		}
	case 11: // somebody takes a name
		in(func() { g.operate(kv.Write{Op: kv.OpSet, Key: key, Value: "somebody's"}) })
	case 12: // and gives it back, or takes somebody else's away
		in(func() { g.operate(kv.Write{Op: kv.OpDelete, Key: key}) })
	case 13: // a lease ends
		in(func() {
			for id := range g.store.leases {
				if int(id)%3 == m.with%3 {
					g.store.endLease(id, kv.ActionExpire)
				}
			}
		})
	case 14:
		in(g.store.cutWatches)
	case 15:
		if m.with == 15 {
			in(g.store.wipe)
		} else { // somebody changes a value and leaves its owner
			in(func() {
				if node := g.store.nodes[key]; node != nil && strings.Contains(node.Value, `"owner"`) {
					g.edit(node)
				}
			})
		}
	}
	time.Sleep(m.pause)
}

// operate is a write of somebody who knows nothing of all this. The store is locked.
func (g *game) operate(w kv.Write) {
	s := g.store
	if w.Op == kv.OpDelete {
		if s.nodes[w.Key] != nil {
			s.remove(kv.ActionDelete, w.Key)
		}
		return
	}
	s.index++
	s.nodes[w.Key] = &kv.Node{Key: w.Key, Value: w.Value, ModifiedIndex: s.index}
	delete(s.expires, w.Key)
	s.authors[w.Key] = "somebody"
	s.emit(kv.ActionSet, s.nodes[w.Key])
}

// edit changes a value but not whose it is.
func (g *game) edit(node *kv.Node) {
	author := g.store.authors[node.Key]
	g.operate(kv.Write{Op: kv.OpSet, Key: node.Key, Value: strings.Replace(node.Value, `"port":1`, `"port":2`, 1)})
	g.store.authors[node.Key] = author
}

// check returns what is wrong after everybody has had time in a store that works.
func (g *game) check() string {
	g.store.mu.Lock()
	for key, node := range g.store.nodes {
		if _, ends := g.store.expires[key]; !ends && node.Lease == 0 { // what somebody has written has to be removed by somebody
			g.operate(kv.Write{Op: kv.OpDelete, Key: key})
		}
	}
	g.store.mu.Unlock()
	for _, p := range g.players {
		p.seat.mu.Lock()
		p.seat.away, p.seat.late, p.seat.lost, p.seat.deny, p.seat.slow = false, 0, 0, false, 0
		p.seat.mu.Unlock()
	}
	time.Sleep(3 * time.Minute)
	synctest.Wait()
	g.store.mu.Lock()
	g.store.expire()
	g.store.mu.Unlock()
	var wrong []string
	report := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	wrong = append(wrong, g.store.violations...)
	wants := map[string]bool{}
	owners := map[string]int{}
	for _, p := range g.players {
		if p.run == nil {
			continue
		}
		for _, record := range p.desired {
			record.Owner = p.cfg.Owner
			for _, view := range p.cfg.Views {
				key, _ := view.key(record)
				wants[key] = true
				if node := g.store.nodes[key]; node != nil && node.Value == view.value(record) {
					owners[key]++
				}
			}
		}
		for _, status := range p.run.Keys() {
			node := g.store.nodes[status.Key]
			if registered := status.State == KeyRegistered; node == nil || registered != (g.store.authors[status.Key] == p.seat.owner) || !registered && status.State != KeyHeld {
				report("%s says of %s: %s (%v); there is %+v of %s", p.cfg.Owner, status.Key, status.State, status.Err, node, g.store.authors[status.Key])
			}
		}
	}
	for key := range wants {
		if owners[key] != 1 {
			report("%s is wanted, and right for %d: %+v", key, owners[key], g.store.nodes[key])
		}
	}
	for key := range g.store.nodes {
		if !wants[key] {
			report("%s is not wanted and there: %+v of %s", key, g.store.nodes[key], g.store.authors[key])
		}
	}
	return strings.Join(wrong, "\n")
}

func (g *game) end() {
	for _, p := range g.players {
		if p.run != nil {
			p.stop()
		}
	}
	g.tasks.Wait()
}

// TestWhateverHappensNobodyTouchesAnothersKeyAndInTheEndAllAreRight plays random moves of three
// publishers that want the same names, of operators, and of a store that fails them one by one.
func TestWhateverHappensNobodyTouchesAnothersKeyAndInTheEndAllAreRight(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		leases := rapid.Bool().Draw(rt, "leases")
		moves := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) move {
			return move{
				what:  rapid.IntRange(0, moveKinds-1).Draw(rt, "what"),
				who:   rapid.IntRange(0, 2).Draw(rt, "who"),
				with:  rapid.IntRange(0, 15).Draw(rt, "with"),
				pause: time.Duration(rapid.SampledFrom([]int{0, 0, 1, 30, 1000, 7000, 20000}).Draw(rt, "ms")) * time.Millisecond,
			}
		}), 1, 40).Draw(rt, "moves")
		wrong, log := "", ""
		synctest.Test(t, func(*testing.T) {
			g := newGame(leases)
			for _, m := range moves {
				g.play(m)
			}
			wrong = g.check()
			g.end()
			for _, p := range g.players {
				log += p.cfg.Owner + ":\n" + p.log.String()
			}
		})
		if wrong != "" {
			rt.Fatalf("%s\n%s", wrong, log)
		}
	})
}
