package raftnode

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestLatencyIsThatOfAllDurations(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var l Latency
	var all []float64
	sum := 0.0
	for i := range uint64(500) {
		d := time.Duration(random.IntN(int(20*time.Millisecond))) + time.Microsecond
		all, sum = append(all, d.Seconds()*1000), sum+d.Seconds()*1000
		l = l.with(d, i)
	}
	mean, variance, shortest, longest := sum/500, 0.0, math.Inf(1), 0.0
	for _, one := range all {
		variance += (one - mean) * (one - mean) / 500
		shortest, longest = min(shortest, one), max(longest, one)
	}
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-6 }
	if !near(l.Average, mean) || !near(l.StandardDeviation, math.Sqrt(variance)) || !near(l.Minimum, shortest) || !near(l.Maximum, longest) || !near(l.Current, all[499]) {
		t.Errorf("%+v; average %v, deviation %v, minimum %v, maximum %v", l, mean, math.Sqrt(variance), shortest, longest)
	}
}

func TestAFlowTellsAllThereWasAndTheLastFullSecond(t *testing.T) {
	var f flow
	start := time.Unix(1000, 0)
	for i := range 10 {
		f.add(start.Add(time.Duration(i)*200*time.Millisecond), 100) // five in each of two seconds
	}
	for _, c := range []struct {
		after time.Duration
		want  Flow
	}{
		{time.Second, Flow{10, 5, 500}}, {2 * time.Second, Flow{10, 5, 500}}, {3 * time.Second, Flow{Count: 10}}, {5 * time.Second, Flow{Count: 10}},
	} {
		if got := f.look(start.Add(c.after)); got != c.want {
			t.Errorf("after %s: %+v, want %+v", c.after, got, c.want)
		}
	}
	f.add(start.Add(5*time.Second), 1) // in the place of the second second
	if got := f.look(start.Add(6 * time.Second)); got != (Flow{11, 1, 1}) {
		t.Errorf("%+v", got)
	}
}

func TestOnlyRequestsThatBringEntriesCountUnlessTheyFail(t *testing.T) {
	a, began := newAppends(), time.Now()
	entries := []*raft.Log{{Data: []byte("abc")}, {Data: []byte("d")}}
	heartbeat := &raft.AppendEntriesRequest{Term: 2}
	news := &raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 5, LeaderCommitIndex: 5}
	full := &raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 5, LeaderCommitIndex: 5, Entries: entries}
	yes, no, lost := &raft.AppendEntriesResponse{Success: true}, &raft.AppendEntriesResponse{}, errors.New("lost")
	nobody := func(raft.ServerID) bool { return false }
	a.note("b", nobody, heartbeat, yes, began, nil)
	if a.look("b") != nil {
		t.Error("a heartbeat is measured")
	}
	a.note("b", nobody, heartbeat, no, began, lost)
	a.note("b", nobody, news, yes, began, nil)
	a.note("b", nobody, full, yes, began, nil)
	a.note("b", nobody, full, no, began, nil)
	a.note("b", nobody, full, no, began, lost)
	a.note("b", nobody, news, no, began, lost)
	got := a.look("b").tally.Load()
	if got.succeeded != 2 || got.failed != 2 || got.latency.Minimum <= 0 || a.look("b").matched.Load() != 7 {
		t.Errorf("%+v, matched %d", got, a.look("b").matched.Load())
	}
	if sent := a.sent.look(time.Now()); sent.Count != 2 || a.heartbeatsFailed.Load() != 1 {
		t.Errorf("%d sent, %d heartbeats failed", sent.Count, a.heartbeatsFailed.Load())
	}
}

func TestMembersThatWereRemovedAreNotMeasuredAnyMore(t *testing.T) {
	a, removed := newAppends(), map[raft.ServerID]bool{}
	gone := func(id raft.ServerID) bool { return removed[id] }
	for i := range 1000 {
		id := raft.ServerID(fmt.Sprint(i))
		if a.of(id, gone) == nil {
			t.Fatalf("member %s is not measured", id)
		}
		removed[id] = true
	}
	if a.of("5", gone) != nil || a.look("5") != nil || len(*a.followers.Load()) > 1 {
		t.Errorf("%d are measured", len(*a.followers.Load()))
	}
	for i := range 1000 {
		a.of(raft.ServerID(fmt.Sprint("n", i)), gone)
	}
	if got := len(*a.followers.Load()); got != followersMeasured {
		t.Errorf("%d are measured", got)
	}
}
