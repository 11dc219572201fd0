package nemesis

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/kvd-io/kvd/e2e/cluster"
	"github.com/kvd-io/kvd/e2e/history"
)

// pollMax bounds one request of a watcher, whose connection may be dead without a word.
const pollMax = 5 * time.Second

// watcher watches everything on one member, and goes on where it was whenever that breaks off.
type watcher struct {
	workload *workload
	member   *cluster.Member
	cancel   context.CancelFunc
	ended    chan struct{}

	mu   sync.Mutex // guards the fields below
	seen history.Watch
	next uint64 // index to ask for
}

func follow(ctx context.Context, w *workload, m *cluster.Member, from uint64, stream bool) *watcher {
	ctx, cancel := context.WithCancel(ctx)
	f := &watcher{workload: w, member: m, cancel: cancel, ended: make(chan struct{}), next: from}
	f.seen = history.Watch{Member: m.Name, From: from}
	go func() { // end waits for it
		defer close(f.ended)
		for ctx.Err() == nil {
			if err := f.poll(ctx, stream); err != nil {
				sleep(ctx, thinkTime)
			}
		}
	}()
	return f
}

func (f *watcher) end() {
	f.cancel()
	<-f.ended
}

// poll sends one request and notes what comes.
func (f *watcher) poll(ctx context.Context, stream bool) error {
	ctx, cancel := context.WithTimeout(ctx, pollMax)
	defer cancel()
	form := url.Values{"wait": {"true"}, "recursive": {"true"}, "waitIndex": {strconv.FormatUint(f.index(), 10)}}
	if stream {
		form.Set("stream", "true")
		return f.workload.caller.Stream(ctx, f.member.ClientURL, "/", form, f.note)
	}
	reply, err := f.workload.caller.Keys(ctx, http.MethodGet, f.member.ClientURL, "/", form)
	if err != nil {
		return err
	}
	f.note(reply)
	if reply.Status >= http.StatusInternalServerError {
		return fmt.Errorf("%d: %s", reply.Status, reply.Message)
	}
	return nil
}

// index is the next that the watcher waits for.
func (f *watcher) index() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next
}

// note takes in one answer or event.
func (f *watcher) note(reply cluster.Reply) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case reply.Code == eventsCleared:
		f.seen.Holes = append(f.seen.Holes, history.Hole{From: f.next, To: reply.Index})
		f.next = reply.Index + 1
	case reply.Code != 0 || reply.Node == nil:
	default:
		e := history.Event{Index: reply.Node.ModifiedIndex, Action: reply.Action, Key: reply.Node.Key, Value: reply.Node.Value, At: f.workload.log.Now()}
		if reply.PrevNode != nil {
			e.Prev = reply.PrevNode.Value
		}
		f.seen.Events = append(f.seen.Events, e)
		f.next = max(f.next, e.Index+1)
	}
}

// watched returns a copy of what it was told.
func (f *watcher) watched() history.Watch {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}
