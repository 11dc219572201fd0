package raftnode

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kvd-io/kvd/daemon/peer"
	"github.com/kvd-io/kvd/pkg/pace"
)

const (
	// figuresEvery is the time between two questions to another member of how it does, and figuresMax how
	// long an answer counts, and may take.
	figuresEvery = time.Second
	figuresMax   = 5 * time.Second
	// delayEvery is the time between two looks at how late this machine is.
	delayEvery = 100 * time.Millisecond
)

// figures are what one member tells another of how it does.
type figures struct {
	asks  time.Duration // the election timeout that it calls for by itself
	sync  time.Duration // what a sync of its log usually takes
	syncs int           // in how many of the last seconds there was one
	reach time.Duration // the round trip to the nearest majority of the voters; 0: not known
}

// append appends f in the form that parseFigures reads.
func (f figures) append(dst []byte) []byte {
	return appendNumbers(dst, uint64(f.asks), uint64(f.sync), uint64(f.syncs), uint64(f.reach))
}

func parseFigures(data []byte) (figures, error) {
	numbers, err := parseNumbers(data, 4)
	if err != nil {
		return figures{}, err
	}
	time := func(n uint64) time.Duration { return time.Duration(min(n, math.MaxInt64)) }
	return figures{asks: time(numbers[0]), sync: time(numbers[1]), syncs: int(min(numbers[2], recentSeconds)), reach: time(numbers[3])}, nil
}

// board is where a member keeps what it knows of how the others do.
type board struct {
	mu     sync.Mutex // guards the fields below
	own    figures
	others map[ID]*onBoard
}

// onBoard is what is known of one other member.
type onBoard struct {
	trips  *recent
	asking bool
	heard  time.Time // when it has answered last; zero: never
	told   figures   // zero: it has not, because its release does not
}

func newBoard() *board { return &board{others: map[ID]*onBoard{}} }

// begin returns whether a member is to be asked: not while an answer is awaited.
func (b *board) begin(id ID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.others[id] == nil {
		b.others[id] = &onBoard{trips: newRecent()}
	}
	if b.others[id].asking {
		return false
	}
	b.others[id].asking = true
	return true
}

// end takes the answer in.
func (b *board) end(id ID, began, now time.Time, told figures, answered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.others[id]
	if o == nil { // removed meanwhile
		return
	}
	if o.asking = false; answered {
		o.heard, o.told = now, told
		o.trips.add(now, max(now.Sub(began), 1))
	}
}

// keep forgets all members but these.
func (b *board) keep(ids map[ID]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.others {
		if !ids[id] {
			delete(b.others, id)
		}
	}
}

// neighbour is what a member has said, and how far away it is.
type neighbour struct {
	figures
	trip habit
}

// fresh returns what is known of those of ids that have answered lately.
func (b *board) fresh(ids []ID, now time.Time) map[ID]neighbour {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[ID]neighbour{}
	for _, id := range ids {
		if o := b.others[id]; o != nil && !o.heard.IsZero() && now.Sub(o.heard) <= figuresMax {
			all[id] = neighbour{o.told, o.trips.look(now)}
		}
	}
	return all
}

// tempoLoop finds out how this member and the others do, and sets the tempo by it, until ctx ends.
func (n *Node) tempoLoop(ctx context.Context) {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { n.watchDelay(ctx) })
	for range pace.Every(ctx.Done(), figuresEvery) {
		n.askFigures(ctx)
		n.setTempo(time.Now())
		n.tellRaft()
	}
}

// watchDelay measures how late this machine is with what is due, until ctx ends.
func (n *Node) watchDelay(ctx context.Context) {
	timer := time.NewTimer(delayEvery)
	defer timer.Stop()
	for {
		due := time.Now().Add(delayEvery)
		timer.Reset(delayEvery)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		n.meters.delays.add(now, max(now.Sub(due), 1))
	}
}

// askFigures asks each other member how it does, unless it still owes an answer.
func (n *Node) askFigures(ctx context.Context) {
	ids := map[ID]bool{}
	for _, s := range n.Servers() {
		if s.ID == n.identity.MemberID {
			continue
		}
		ids[s.ID] = true
		if !n.board.begin(s.ID) {
			continue
		}
		asking := func() {
			ctx, cancel := context.WithTimeout(ctx, figuresMax)
			defer cancel()
			began := time.Now()
			answer, err := n.network.Call(ctx, uint64(s.ID), methodFigures, nil)
			// A member of an older release says that it knows no such question.
			_, answered := errors.AsType[*peer.HandlerError](err)
			var told figures
			if err == nil {
				told, err = parseFigures(answer)
				answered = err == nil
			}
			n.board.end(s.ID, began, time.Now(), told, answered)
		}
		if !n.start(asking) {
			n.board.end(s.ID, time.Time{}, time.Time{}, figures{}, false)
		}
	}
	n.board.keep(ids)
}

// setTempo draws the conclusions from what is known.
func (n *Node) setTempo(now time.Time) {
	voters := n.configured().others
	others := n.board.fresh(voters, now)
	var trips []habit
	var reach, asked []time.Duration
	for _, o := range others {
		trips = append(trips, o.trip)
		reach = append(reach, o.trip.usual)
		asked = append(asked, o.asks)
	}
	syncs := n.meters.syncs.look(now)
	own := sluggishness{trip: worstTrip(trips, len(voters)+1), sync: syncs.high, delay: n.meters.delays.look(now).high}
	if len(voters) == 0 {
		own = sluggishness{} // nobody waits for a sign of life
	}
	told := figures{asks: own.asks(), sync: syncs.usual, syncs: syncs.seconds}
	if len(reach) >= majority(len(voters)+1)-1 {
		told.reach = nearestMajority(reach, len(voters)+1)
	}
	n.board.mu.Lock()
	n.board.own = told
	n.board.mu.Unlock()
	n.follow(own, agreed(told.asks, asked, len(voters)+1), now)
}

// serveFigures answers a member that asks how this one does.
func (n *Node) serveFigures(context.Context, uint64, []byte) ([]byte, error) {
	n.board.mu.Lock()
	defer n.board.mu.Unlock()
	return n.board.own.append(nil), nil
}

// lag returns how many entries a follower is not known to have; this member leads.
func (n *Node) lag(id ID) uint64 {
	m := n.meters.appends.look(raft.ServerID(id.String()))
	if m == nil {
		return math.MaxUint64
	}
	last, matched := n.raft.LastIndex(), m.matched.Load()
	return max(last, matched) - matched
}
