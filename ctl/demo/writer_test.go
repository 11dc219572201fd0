package demo

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
)

// slowStore acknowledges a write after a millisecond, or when the outage ends if one has begun.
type slowStore struct {
	kv.Store // of which the writer uses no more

	mu     sync.Mutex // guards the fields below
	nodes  []*kv.Node
	outage time.Time // until when nothing is acknowledged
	refuse bool
}

func (s *slowStore) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *slowStore) Write(ctx context.Context, w kv.Write) (_ kv.Result, err error) {
	var wait time.Duration
	s.change(func() { wait = max(time.Millisecond, time.Until(s.outage)) })
	pause(ctx, wait)
	s.change(func() {
		if s.refuse || ctx.Err() != nil {
			err = &kv.Error{Kind: kv.NoLeader}
			return
		}
		s.nodes = append(s.nodes, &kv.Node{Key: w.Key, Value: w.Value})
	})
	return kv.Result{}, err
}

func (s *slowStore) Read(_ context.Context, r kv.Read) (result kv.Result, err error) {
	if !r.Quorum {
		return kv.Result{}, errors.New("a member may be behind what it is asked for")
	}
	s.change(func() { result.Node = &kv.Node{Key: r.Key, Dir: true, Nodes: s.nodes} })
	return result, nil
}

// writing runs a writer for as long as play lasts.
func writing(t *testing.T, play func(*slowStore, *writer)) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowStore{}
		w := &writer{store: s, prefix: "/w"}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.run(ctx) }()
		time.Sleep(10500 * time.Microsecond) // ten writes, and half of one
		play(s, w)
		cancel()
		<-done
	})
}

func TestTheGapIsTheLongestTimeBetweenTwoAcknowledgementsSinceTheMark(t *testing.T) {
	writing(t, func(s *slowStore, w *writer) {
		if gap, goesOn := w.gap(time.Now().Add(-5 * time.Millisecond)); gap != time.Millisecond || !goesOn {
			t.Errorf("in peace: %v, goes on %v", gap, goesOn)
		}
		// The write that is under way when the outage begins is still acknowledged.
		begins := time.Now()
		s.change(func() { s.outage = begins.Add(700 * time.Millisecond) })
		time.Sleep(300 * time.Millisecond)
		if _, goesOn := w.gap(begins); goesOn {
			t.Error("an acknowledgement of a write from before the outage counts as going on")
		}
		time.Sleep(500 * time.Millisecond)
		gap, goesOn := w.gap(begins)
		if gap < 699*time.Millisecond || gap > 701*time.Millisecond || !goesOn {
			t.Errorf("after an outage of 700 ms: %v, goes on %v", gap, goesOn)
		}
		w.mark()
		time.Sleep(10 * time.Millisecond)
		if gap, _ := w.gap(begins); gap != time.Millisecond {
			t.Errorf("after the mark: %v", gap)
		}
	})
}

func TestAnAcknowledgedWriteThatTheStoreLacksIsNamed(t *testing.T) {
	writing(t, func(s *slowStore, w *writer) {
		if err := w.lost(t.Context()); err != nil {
			t.Error(err)
		}
		s.change(func() {
			s.nodes[4].Value = "other"
			s.nodes = append(s.nodes[:7], s.nodes[8:]...)
		})
		acknowledged, _, _ := w.counts()
		err := w.lost(t.Context())
		if acknowledged != 10 || err == nil || err.Error() != "2 of 10 acknowledged writes are lost, the first is /w/000004" {
			t.Errorf("%d acknowledged, %v", acknowledged, err)
		}
	})
}

func TestAWriteThatFailsIsNotExpectedToBeThere(t *testing.T) {
	writing(t, func(s *slowStore, w *writer) {
		s.change(func() { s.refuse = true })
		time.Sleep(100 * time.Millisecond)
		acknowledged, failed, failure := w.counts()
		if acknowledged != 10 || failed < 15 || failed > 17 || failure == "" { // one in 6 ms
			t.Errorf("%d acknowledged, %d failed: %q", acknowledged, failed, failure)
		}
		if err := w.lost(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAWriterThatCannotReadSaysSo(t *testing.T) {
	w := &writer{store: unreadable{}, prefix: "/w"}
	if err := w.lost(t.Context()); err == nil || !strings.Contains(err.Error(), "read the acknowledged writes: ") {
		t.Errorf("got %v", err)
	}
}

type unreadable struct{ kv.Store }

func (unreadable) Read(context.Context, kv.Read) (kv.Result, error) {
	return kv.Result{}, &kv.Error{Kind: kv.Unavailable}
}
