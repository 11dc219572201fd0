package raftnode

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// distant makes heartbeats to a follower that answers after trip, until it falls silent.
func distant(trip, grace time.Duration) (h *heartbeats, silent, sent *atomic.Int64) {
	silent, sent = new(atomic.Int64), new(atomic.Int64)
	return &heartbeats{
		grace:  func() time.Duration { return grace },
		pulses: map[raft.ServerID]*pulse{},
		send: func(_ raft.ServerID, _ raft.ServerAddress, request *raft.AppendEntriesRequest, answer *raft.AppendEntriesResponse) error {
			sent.Add(1)
			if silent.Load() > 0 {
				time.Sleep(peerTimeout)
				return errors.New("timeout")
			}
			time.Sleep(trip)
			*answer = raft.AppendEntriesResponse{Term: request.Term, Success: true}
			return nil
		},
	}, silent, sent
}

// lead gives signs of life as raft does, until it would step down or for a time. It returns when raft would have.
func lead(h *heartbeats, term uint64, lease, most time.Duration) time.Duration {
	begun := time.Now()
	contact := begun
	for time.Since(begun) < most {
		time.Sleep(45 * ms)
		var answer raft.AppendEntriesResponse
		err := h.give("b", "b", &raft.AppendEntriesRequest{Term: term}, &answer)
		if time.Since(contact) > lease {
			break
		}
		if err == nil && answer.Success {
			contact = time.Now()
		}
	}
	return time.Since(begun)
}

func TestALeaderOverASlowLinkLeadsOnAndOneThatHearsNobodyStepsDown(t *testing.T) {
	const lease, minute = 240 * ms, time.Minute
	synctest.Test(t, func(t *testing.T) {
		h, _, _ := distant(300*ms, 0)
		if got := lead(h, 1, lease, minute); got >= time.Second {
			t.Errorf("with raft's own lease it leads for %v over a link of 300 ms", got)
		}
		h, silent, sent := distant(300*ms, 720*ms-lease)
		if got := lead(h, 2, lease, minute); got < minute {
			t.Errorf("with a longer lease it leads for %v", got)
		}
		if n := sent.Load(); n < 150 || n > 200 {
			t.Errorf("in a minute %d signs of life have gone out, one at a time at 300 ms each", n)
		}
		silent.Store(1)
		if got := lead(h, 2, lease, minute); got < 600*ms || got > 1200*ms {
			t.Errorf("it leads for %v without an answer, want about 720 ms after the last one", got)
		}
		h.close()
	})
}

func TestAnAnswerOfAnEarlierTermIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, silent, _ := distant(10*ms, 500*ms)
		lead(h, 1, 240*ms, 5*time.Second)
		silent.Store(1)
		if got := lead(h, 2, 240*ms, time.Minute); got > 1200*ms {
			t.Errorf("in a term in which nobody answers it leads for %v", got)
		}
		h.close()
		if err := h.give("b", "b", &raft.AppendEntriesRequest{Term: 3}, new(raft.AppendEntriesResponse)); err == nil {
			t.Error("after the end a sign of life was answered")
		}
	})
}

func TestAFollowerThatRefusesIsHeardAsOne(t *testing.T) {
	h, _, _ := distant(0, time.Second)
	h.send = func(_ raft.ServerID, _ raft.ServerAddress, _ *raft.AppendEntriesRequest, answer *raft.AppendEntriesResponse) error {
		*answer = raft.AppendEntriesResponse{Term: 7}
		return nil
	}
	var answer raft.AppendEntriesResponse
	if err := h.give("b", "b", &raft.AppendEntriesRequest{Term: 3}, &answer); err != nil || answer.Success || answer.Term != 7 {
		t.Errorf("%+v, %v", answer, err)
	}
}

func TestWhoHasJustAnsweredSomethingElseIsSparedASignOfLife(t *testing.T) {
	const lease, minute = 240 * ms, time.Minute
	synctest.Test(t, func(t *testing.T) {
		h, silent, sent := distant(ms, 0)
		h.enough = 50 * ms
		give := h.send
		h.send = func(id raft.ServerID, target raft.ServerAddress, request *raft.AppendEntriesRequest, answer *raft.AppendEntriesResponse) error {
			asked := time.Now()
			err := give(id, target, request, answer)
			if err == nil {
				h.answered(id, request.Term, asked)
			}
			return err
		}
		if got := lead(h, 1, lease, minute); got < minute {
			t.Errorf("it leads for %v", got)
		}
		if n := sent.Load(); n < 500 || n > 800 {
			t.Errorf("in a minute %d signs of life have gone out, want one every 91 ms", n)
		}
		silent.Store(1)
		if got := lead(h, 1, lease, minute); got > lease+peerTimeout+200*ms {
			t.Errorf("it leads for %v without an answer", got)
		}
		silent.Store(0)
		before := sent.Load()
		h.answered("b", 2, time.Now())
		lead(h, 3, lease, 40*ms)
		if sent.Load() == before {
			t.Error("an answer in another term has spared a sign of life")
		}
	})
}

// Raft keeps one request and one answer for each follower: the next answer is read into the bytes of the last.
func TestAnAnswerOfItsOwnSharesNothingWithTheRequest(t *testing.T) {
	h, _, _ := distant(0, 0)
	h.enough = time.Minute
	h.answered("b", 3, time.Now())
	request := &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ID: []byte("leader"), Addr: []byte("leader:1")}, Term: 3}
	var answer raft.AppendEntriesResponse
	if err := h.give("b", "b", request, &answer); err != nil || !answer.Success || answer.Term != 3 {
		t.Fatalf("%+v, %v", answer, err)
	}
	copy(answer.ID, "member")
	copy(answer.Addr, "member:2")
	if string(request.ID) != "leader" || string(request.Addr) != "leader:1" {
		t.Errorf("the request says %s at %s now", request.ID, request.Addr)
	}
}
