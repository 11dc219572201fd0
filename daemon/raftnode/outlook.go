package raftnode

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// outlook is what this member knows of who leads. It is a level: whoever waits for a change looks
// again at what there is then. It is safe for concurrent use.
type outlook struct {
	now func() time.Time

	mu      sync.Mutex // held while current is replaced
	current atomic.Pointer[sight]
	leaders atomic.Uint64 // how often one became known
}

// sight is an outlook at one moment. It is not changed.
type sight struct {
	leader ID        // 0 when none is known
	term   *term     // open here; nil unless this member leads
	since  time.Time // when it became known; zero while there is none
	lost   time.Time // when the leader was lost; zero while there is one

	valid context.Context // ends when there is another sight
	end   context.CancelFunc
}

func newOutlook(now func() time.Time) *outlook {
	o := &outlook{now: now}
	first := &sight{lost: now()}
	first.valid, first.end = context.WithCancel(context.Background())
	o.current.Store(first)
	return o
}

// look returns the sight of this moment.
func (o *outlook) look() *sight { return o.current.Load() }

// changed returns a channel that is closed when there is another sight.
func (s *sight) changed() <-chan struct{} { return s.valid.Done() }

// while returns a context that ends with ctx, and with the sight.
func (s *sight) while(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(s.valid, cancel)
	return ctx, func() { forget(); cancel() }
}

func (o *outlook) change(edit func(s *sight)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.current.Load()
	next := *before
	edit(&next)
	if next.leader == before.leader && next.term == before.term {
		return
	}
	switch {
	case next.leader == before.leader:
	case next.leader != 0:
		next.since, next.lost = o.now(), time.Time{}
		o.leaders.Add(1)
	default:
		next.since, next.lost = time.Time{}, o.now()
	}
	next.valid, next.end = context.WithCancel(context.Background())
	o.current.Store(&next)
	before.end()
}

func (o *outlook) setLeader(leader ID) { o.change(func(s *sight) { s.leader = leader }) }
func (o *outlook) setTerm(t *term)     { o.change(func(s *sight) { s.term = t }) }

// leaderless returns for how long no leader has been known, 0 while one is.
func (o *outlook) leaderless() time.Duration {
	s := o.look()
	if s.lost.IsZero() {
		return 0
	}
	return max(o.now().Sub(s.lost), 1)
}

// watch keeps the outlook at what raft says until the observer is deregistered. stop does that, and
// waits for the goroutine.
func (o *outlook) watch(r *raft.Raft) (stop func()) {
	news := make(chan raft.Observation, 1)
	// An observation that finds no room is dropped: one is there already, and what is looked at then
	// is newer than both.
	observer := raft.NewObserver(news, false, func(seen *raft.Observation) bool {
		_, ok := seen.Data.(raft.LeaderObservation)
		return ok
	})
	r.RegisterObserver(observer)
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			o.setLeader(leaderOf(r))
			select {
			case <-news:
			case <-done:
				return
			}
		}
	})
	return func() {
		r.DeregisterObserver(observer)
		close(done)
		watching.Wait()
	}
}

// leaderOf returns the leader that raft knows, 0 for none.
func leaderOf(r *raft.Raft) (leader ID) {
	_, id := r.LeaderWithID()
	leader.UnmarshalText([]byte(id)) // leaves 0 when there is none
	return leader
}
