package raftnode

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// term is one leadership of this member, from the moment at which everything that earlier
// leaders committed has been applied here.
type term struct {
	number    uint64
	openIndex uint64 // of the entry that opened it: whatever is committed later reaches the machine
	base      int64  // lease clock when it opened, ns
	since     time.Time
	now       func() time.Time

	ctx    context.Context // ends with the leadership
	cancel context.CancelFunc
	work   sync.WaitGroup // what LeadWhile started
	rounds *rounds        // of confirming the term
	poll   poll           // in them
}

// clock returns the lease clock of the term and the time it was read.
func (t *term) clock() (clock int64, now time.Time) {
	now = t.now()
	return t.base + now.Sub(t.since).Nanoseconds(), now
}

// leadLoop follows raft's leadership until ctx ends. Raft's main loop waits for whoever reads
// notify, so reading is all that happens with raft's news here: leaderships are opened and closed
// after it, by the newest state.
func (n *Node) leadLoop(ctx context.Context, notify <-chan bool) {
	news := make(chan bool, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			select {
			case leads := <-notify:
				n.tellRaft() // before the new leader's first sign of life
				select {     // replace older news
				case <-news:
				default:
				}
				news <- leads
			case <-ctx.Done():
				return
			}
		}
	})
	defer reader.Wait()
	defer n.closeTerm()
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-news:
			n.closeTerm()
			if leads {
				n.openTerm(ctx)
			}
		}
	}
}

// openTerm commits a mark in the new term and begins to lead once the mark is applied here. Until
// then the commit index of a new leader says nothing: it may not know yet what is committed.
func (n *Node) openTerm(ctx context.Context) {
	number := n.raft.CurrentTerm()
	opening := n.raft.ApplyLog(raft.Log{}, 0)
	if err := opening.Error(); err != nil {
		n.log.Warn("cannot open the term", "term", number, "err", err)
		return
	}
	if err := n.fsm.applied.Wait(ctx, opening.Index()); err != nil || n.raft.CurrentTerm() != number {
		return
	}
	t := &term{number: number, openIndex: opening.Index(), base: n.fsm.clock.Load(), since: n.now(), now: n.now, poll: poll{start: n.start}}
	t.ctx, t.cancel = context.WithCancel(ctx)
	t.rounds = newRounds(n.start, n.meters.counted(func() (mark, error) { return n.confirm(t) }))

	n.leadMu.Lock()
	n.outlook.setTerm(t)
	for _, work := range n.leadWork {
		t.work.Go(func() { work(t.ctx) })
	}
	opened := n.opened
	n.opened = nil
	n.leadMu.Unlock()

	n.log.Info("leading", "term", number, "member", n.identity.MemberID, "index", opening.Index())
	if opened != nil {
		close(opened)
	}
}

// closeTerm ends the current leadership, if any, and waits for its work.
func (n *Node) closeTerm() {
	n.leadMu.Lock()
	t := n.leading()
	n.outlook.setTerm(nil)
	n.leadMu.Unlock()
	if t == nil {
		return
	}
	t.cancel()
	t.work.Wait()
	n.log.Info("no longer leading", "term", t.number)
}

// leading returns the open term, nil while this member does not lead.
func (n *Node) leading() *term { return n.outlook.look().term }

// LeadWhile calls work each time this member begins to lead, from now on and also if it leads
// already. The context of the call ends with the leadership, or with Close; the node waits for
// work to return before it leads again or closes. work may use the node.
func (n *Node) LeadWhile(work func(ctx context.Context)) {
	n.leadMu.Lock()
	defer n.leadMu.Unlock()
	n.leadWork = append(n.leadWork, work)
	if t := n.leading(); t != nil {
		t.work.Go(func() { work(t.ctx) })
	}
}

// LeaseNow returns the lease clock in nanoseconds: on the leader the time since it began to lead
// is added to the replicated clock; elsewhere, and while there is no leader, it stands still.
func (n *Node) LeaseNow() int64 {
	if t := n.leading(); t != nil {
		clock, _ := t.clock()
		return clock
	}
	return n.fsm.clock.Load()
}
