package raftnode

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
)

// followersMeasured is for how many members appends are measured; a cluster has fewer.
const followersMeasured = 64

// Latency describes durations in milliseconds; all fields are 0 while there are none.
type Latency struct {
	Current, Average, StandardDeviation, Minimum, Maximum float64

	squares float64 // the average of the squares
}

// with returns l, which describes count durations, and one more.
func (l Latency) with(d time.Duration, count uint64) Latency {
	now, n := float64(d)/float64(time.Millisecond), float64(count)
	if count == 0 || now < l.Minimum {
		l.Minimum = now
	}
	l.Maximum = max(l.Maximum, now)
	l.Current = now
	l.Average = (l.Average*n + now) / (n + 1)
	l.squares = (l.squares*n + now*now) / (n + 1)
	l.StandardDeviation = math.Sqrt(max(0, l.squares-l.Average*l.Average))
	return l
}

// Follower is how the requests to append entries went that this member has sent to another while it led,
// since its start. Heartbeats are none, and neither is what only tells the other what is committed, unless it
// fails.
type Follower struct {
	ID                ID
	Latency           Latency // until the other had the entries on its disk
	Succeeded, Failed uint64
}

// Flow is how many requests to append entries went one way since the start of this member, and in the last
// full second.
type Flow struct {
	Count          uint64
	PerSecond      float64
	BytesPerSecond float64
}

// Followers returns a Follower for each other member, by ascending id. It does not block.
func (n *Node) Followers() []Follower {
	var all []Follower
	for _, s := range n.configured().servers {
		var f Follower
		if s.ID == n.serverID() || f.ID.UnmarshalText([]byte(s.ID)) != nil {
			continue
		}
		if m := n.meters.appends.look(s.ID); m != nil {
			t := m.tally.Load()
			f.Latency, f.Succeeded, f.Failed = t.latency, t.succeeded, t.failed
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Follower) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Appends returns what this member has sent as a leader, to all others, and received as a follower. It does
// not block.
func (n *Node) Appends() (sent, received Flow) {
	now := time.Now()
	return n.meters.appends.sent.look(now), n.meters.appends.received.look(now)
}

// appends measures requests to append entries. What is measured takes no lock, but for the first request
// to a member.
type appends struct {
	sent, received   flow
	heartbeatsFailed atomic.Uint64

	mu        sync.Mutex // held while followers is replaced
	followers atomic.Pointer[map[raft.ServerID]*followerMeter]
}

// followerMeter measures requests to one member.
type followerMeter struct {
	duration prometheus.Histogram
	tally    atomic.Pointer[tally] // replaced, so that its numbers belong together
	matched  atomic.Uint64         // the last entry that the member is known to have
}

type tally struct {
	latency           Latency
	succeeded, failed uint64
}

func newAppends() *appends {
	a := &appends{}
	a.followers.Store(&map[raft.ServerID]*followerMeter{})
	return a
}

// look returns the meter of a member, nil if it has none.
func (a *appends) look(id raft.ServerID) *followerMeter { return (*a.followers.Load())[id] }

// of returns the meter of a member, a new one if need be. It is nil for one that was removed, and when there
// are too many. The meters of other members that were removed are forgotten then.
func (a *appends) of(id raft.ServerID, removed func(raft.ServerID) bool) *followerMeter {
	if m := a.look(id); m != nil {
		return m
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	followers := maps.Clone(*a.followers.Load())
	maps.DeleteFunc(followers, func(id raft.ServerID, _ *followerMeter) bool { return removed(id) })
	m := followers[id]
	if m == nil && !removed(id) && len(followers) < followersMeasured {
		m = &followerMeter{duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kvd_peer_append_duration_seconds", Help: "Time from sending entries to a follower until it has them on its disk.",
			Buckets: peerBuckets(), ConstLabels: prometheus.Labels{"peer": string(id)},
		})}
		m.tally.Store(&tally{})
		followers[id] = m
	}
	a.followers.Store(&followers)
	return m
}

// answered notes what came of one request.
func (m *followerMeter) answered(request *raft.AppendEntriesRequest, answer *raft.AppendEntriesResponse, took time.Duration, err error) {
	if err == nil && answer.Success {
		m.matched.Store(request.PrevLogEntry + uint64(len(request.Entries)))
	}
	if err == nil && len(request.Entries) == 0 {
		return
	}
	if err == nil {
		m.duration.Observe(took.Seconds())
	}
	for { // two terms of this member may overlap
		before := m.tally.Load()
		after := *before
		if err != nil {
			after.failed++
		} else {
			after.latency = after.latency.with(took, after.succeeded)
			after.succeeded++
		}
		if m.tally.CompareAndSwap(before, &after) {
			return
		}
	}
}

// note takes a request to a member in, and what came of it.
func (a *appends) note(id raft.ServerID, removed func(raft.ServerID) bool, request *raft.AppendEntriesRequest, answer *raft.AppendEntriesResponse, began time.Time, err error) {
	now := time.Now()
	if isHeartbeat(request) {
		if err != nil {
			a.heartbeatsFailed.Add(1)
		}
		return
	}
	if err == nil && len(request.Entries) > 0 {
		a.sent.add(now, sizeOf(request.Entries))
	}
	if m := a.of(id, removed); m != nil {
		m.answered(request, answer, now.Sub(began), err)
	}
}

// isHeartbeat tells the requests that raft sends for their own sake from those that bring something.
func isHeartbeat(r *raft.AppendEntriesRequest) bool {
	return len(r.Entries) == 0 && r.PrevLogEntry == 0 && r.LeaderCommitIndex == 0
}

// sizeOf returns how many bytes the content of entries has.
func sizeOf(entries []*raft.Log) (bytes int) {
	for _, e := range entries {
		bytes += len(e.Data) + len(e.Extensions)
	}
	return bytes
}

// flow counts requests and their bytes, and knows how many there were lately. Two that come at the very turn
// of a second may count as one for that second; the total is exact. Nothing in it takes a lock.
type flow struct {
	count   atomic.Uint64
	seconds [4]struct {
		unix            atomic.Int64
		requests, bytes atomic.Uint64
	}
}

func (f *flow) add(now time.Time, bytes int) {
	f.count.Add(1)
	second := now.Unix()
	slot := &f.seconds[second&3]
	if old := slot.unix.Load(); old != second && slot.unix.CompareAndSwap(old, second) {
		slot.requests.Store(0)
		slot.bytes.Store(0)
	}
	slot.requests.Add(1)
	slot.bytes.Add(uint64(bytes))
}

// look returns the flow in the second before that of now.
func (f *flow) look(now time.Time) Flow {
	seen := Flow{Count: f.count.Load()}
	last := now.Unix() - 1
	if slot := &f.seconds[last&3]; slot.unix.Load() == last {
		seen.PerSecond, seen.BytesPerSecond = float64(slot.requests.Load()), float64(slot.bytes.Load())
	}
	return seen
}
