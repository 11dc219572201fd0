package kvclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// A watch is a loop of polls, each from the index after the last event, so that a cut costs a
// reconnection and nothing else.
//
// Against etcd a poll brings one event: its streams drop what a slow reader leaves, and one that
// starts in the past stops after the first event, both without a word. A server that answers that
// it streams, as kvd does, loses nothing, so that one poll brings all events.
//
//	poll   waitIndex=0 -> registered at 41       etcd: event 42
//	poll   waitIndex=43 -> streaming             kvd:  event 43, 47, cut
//	poll   waitIndex=48 at the next endpoint     ...

const (
	eventsBuffered  = 64                     // read ahead of Next; then the server feels the reader's pace
	trailerBytesMax = 4096                   // what may follow the one event of a poll
	pollWorked      = 1 * time.Second        // a poll that lived as long was no failure even without an event
	resumeMax       = 250 * time.Millisecond // between two tries to go on: whoever watches wants to know soon
)

// watch is a kv.Watch. One goroutine, run, polls; Next takes what it sends.
type watch struct {
	client *Client
	from   kv.WatchFrom // Key is clean, Index the next of interest: 0 until the first poll is registered
	known  position     // the furthest the store has been seen by this watch; run's alone after Watch
	start  kv.Index

	narrowed bool // the first poll was to from.Only; set before run begins

	lifetime context.Context // ends with Close or with the client
	end      context.CancelFunc
	events   chan kv.Event
	done     chan struct{} // closed when run has returned
	err      error         // why run returned; set before events is closed
	close    sync.Once

	mu   sync.Mutex // guards the fields below
	lost time.Time  // since when no endpoint holds the watch; zero while one does
	why  error

	// Of a watch that somebody else has asked for:
	once      bool          // it ends after the first event
	header    http.Header   // to be sent with each poll; nil for none
	delivered int           // events; run's alone
	cuts      atomic.Uint64 // how often it was interrupted
	cut       atomic.Bool   // it is interrupted, or over
}

// poll is one registered request, its body still to come.
type poll struct {
	endpoint   int
	registered position
	header     http.Header
	streaming  bool
	body       io.ReadCloser
	limit      *io.LimitedReader
	events     *json.Decoder
	ctx        context.Context
	cancel     context.CancelCauseFunc
	opened     time.Time
}

// Watch asks each endpoint once to register the watch; from then on it lasts until Close,
// whatever becomes of the endpoints.
func (c *Client) Watch(ctx context.Context, from kv.WatchFrom) (kv.Watch, error) {
	if len(from.Only) > 0 {
		return c.watchOnly(ctx, from)
	}
	w, err := c.newWatch(from)
	if err == nil {
		_, err = w.begin(ctx)
	}
	if err != nil {
		return nil, about(err, "watch", nameOf(from.Key))
	}
	return w, nil
}

// begin registers a new watch and returns the headers with which an endpoint has confirmed that.
func (w *watch) begin(ctx context.Context) (http.Header, error) {
	p, err := w.open(ctx)
	if err != nil {
		w.end()
		w.client.watches.Done()
		return nil, err
	}
	w.start, w.narrowed = p.registered.index, isNarrowed(p.header)
	header := p.header
	go w.run(p)
	return header, nil
}

// newWatch counts a watch among those that Close waits for.
func (c *Client) newWatch(from kv.WatchFrom) (*watch, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, &kv.Error{Kind: kv.Closed}
	}
	c.watches.Add(1)
	from.Key = kv.Clean(from.Key)
	w := &watch{client: c, from: from, events: make(chan kv.Event, eventsBuffered), done: make(chan struct{})}
	if from.Index > 0 {
		// Whoever watches from an index has read that far. A store that is not there yet has
		// lost what was read, unless the index was never real.
		w.known = position{c.seen.cluster, min(c.seen.index, from.Index-1)}
	}
	w.lifetime, w.end = context.WithCancel(c.lifetime)
	return w, nil
}

// Index returns the store's index when the watch was registered.
func (w *watch) Index() kv.Index { return w.start }

// Close ends the watch and waits until its connection is given up.
func (w *watch) Close() {
	w.close.Do(w.end)
	<-w.done
}

// Next returns the next event. When ctx ends it returns kind Timeout around ctx's error, and the
// watch goes on. While no endpoint can be reached it waits: the log says so.
func (w *watch) Next(ctx context.Context) (kv.Event, error) {
	if w.lifetime.Err() != nil {
		return kv.Event{}, &kv.Error{Op: "watch", Key: nameOf(w.from.Key), Kind: kv.Closed}
	}
	select {
	case event, ok := <-w.events:
		if !ok {
			return kv.Event{}, w.err
		}
		return event, nil
	case <-ctx.Done():
		return kv.Event{}, &kv.Error{Op: "watch", Key: nameOf(w.from.Key), Kind: kv.Timeout, Err: ctx.Err()}
	}
}

// Contact returns now and nil while an endpoint holds the watch, otherwise since when and why none does. It may be
// called from any goroutine.
func (w *watch) Contact() (time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why != nil {
		return w.lost, w.why
	}
	return time.Now(), nil
}

// setContact notes why no endpoint holds the watch, nil if one does.
func (w *watch) setContact(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.why == nil {
		w.lost = time.Now()
	}
	w.why = why
}

// run receives from p and from the polls after it until the watch ends or cannot go on.
func (w *watch) run(p *poll) {
	defer w.client.watches.Done()
	defer w.cut.Store(true)
	defer close(w.done)
	defer close(w.events)
	wait := backoff.Backoff{Max: resumeMax}
	for {
		w.client.lookAfter(p)
		received, err := w.receive(p)
		w.client.rest(p)
		if cause := context.Cause(p.ctx); err != nil && cause != nil && w.lifetime.Err() == nil {
			err = cause
		}
		p.close()
		if w.once && w.delivered > 0 {
			w.err = &kv.Error{Op: "watch", Key: nameOf(w.from.Key), Kind: kv.Closed}
			return
		}
		if err != nil && w.lifetime.Err() == nil {
			w.client.unpin(p.endpoint) // it accepts watches, but who knows whether it keeps them
		}
		if received > 0 || time.Since(p.opened) >= pollWorked {
			wait.Reset()
		}
		if err == nil {
			p, err = w.open(w.lifetime)
		}
		if err != nil {
			p, err = w.resume(err, &wait)
		}
		if err != nil {
			w.err = about(err, "watch", nameOf(w.from.Key))
			return
		}
	}
}

// resume registers a poll again after reason, however long it takes, unless reason or a later one
// is final.
func (w *watch) resume(reason error, wait *backoff.Backoff) (p *poll, err error) {
	switch {
	case w.lifetime.Err() != nil: // closed, not interrupted
		return nil, &kv.Error{Kind: kv.Closed}
	case final(reason):
		return nil, reason
	}
	w.setContact(reason)
	w.cut.Store(true)
	w.cuts.Add(1)
	log := w.client.log.With("key", nameOf(w.from.Key), "index", w.from.Index)
	// One cut interrupts all watches of a client: the first to notice and the last to go on tell.
	told := w.client.interrupted(+1, slog.LevelWarn)
	log.Log(w.lifetime, told, "watch interrupted, resuming", "reason", reason)
	defer func() {
		if level := w.client.interrupted(-1, slog.LevelInfo); err == nil {
			w.setContact(nil)
			log.Log(w.lifetime, level, "watch resumed")
		}
	}()
	for !final(reason) {
		if wait.Wait(w.lifetime) != nil {
			return nil, &kv.Error{Kind: kv.Closed}
		}
		p, err := w.open(w.lifetime)
		if err == nil {
			w.cut.Store(false)
			return p, nil
		}
		level := slog.LevelDebug
		if kv.Is(err, kv.Denied) && !kv.Is(reason, kv.Denied) { // that does not pass by itself
			level = told
		}
		log.Log(w.lifetime, level, "watch not resumed yet", "reason", err)
		w.setContact(err)
		reason = err
	}
	return nil, reason
}

// interrupted counts a watch more or less that is interrupted, and returns level if it is the
// first or was the last of them, a lower one for those between.
func (c *Client) interrupted(change int, level slog.Level) slog.Level {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut += change
	if c.cut == max(change, 0) {
		return level
	}
	return slog.LevelDebug
}

// final reports whether a watch that has met err can never go on.
func final(err error) bool {
	return kv.Is(err, kv.HistoryGone) || kv.Is(err, kv.TooLarge) || refused(err)
}

// refused reports whether a server has said no, which other endpoints and later times will too.
func refused(err error) bool {
	var answered *etcdv2.Error
	return errors.As(err, &answered) && !kv.Temporary(err)
}

// open registers a poll from w.from at the first endpoint that takes it.
func (w *watch) open(ctx context.Context) (*poll, error) {
	var failed failures
	for _, i := range w.client.turn() {
		p, err := w.openAt(ctx, i)
		if err == nil {
			if err = w.accept(ctx, p); err == nil && w.start != 0 && w.from.Only != nil && isNarrowed(p.header) != w.narrowed {
				err = &kv.Error{Kind: kv.HistoryGone, Index: p.registered.index, Cluster: p.registered.cluster, Cause: "another kind of store goes on with the watch"}
			}
			if err != nil {
				p.close()
				return nil, err
			}
			return p, nil
		}
		failed = append(failed, failure{w.client.endpoints[i], err})
		if refused(err) {
			return nil, err
		}
		cause := w.client.ended(ctx)
		w.client.failedAt(i, cause)
		if cause != nil {
			return nil, failed.because(cause, false)
		}
	}
	return nil, failed.err()
}

// request returns what registers a poll.
func (w *watch) request() etcdv2.Request {
	r := etcdv2.WatchRequest(w.from)
	if w.once {
		r.Header.Del(etcdv2.HeaderWatch)
	}
	maps.Copy(r.Header, w.header)
	return r
}

// openAt registers a poll at endpoint i. ctx bounds only the registration.
func (w *watch) openAt(ctx context.Context, i int) (*poll, error) {
	c := w.client
	pollCtx, cancel := context.WithCancelCause(w.lifetime)
	stop := context.AfterFunc(ctx, func() { cancel(nil) })
	defer stop()
	response, _, err := c.send(pollCtx, c.endpoints[i], w.request())
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		defer cancel(nil)
		a, err := c.readAnswer(c.endpoints[i], response)
		if err != nil {
			return nil, err
		}
		return nil, a.err()
	}
	if number(response.Header, etcdv2.HeaderIndex) == 0 {
		response.Body.Close()
		cancel(nil)
		return nil, noStore(c.endpoints[i])
	}
	limit := &io.LimitedReader{R: response.Body}
	p := &poll{
		endpoint:   i,
		registered: positionOf(response.Header),
		header:     response.Header,
		streaming:  response.Header.Get(etcdv2.HeaderWatch) == etcdv2.WatchStream,
		body:       response.Body,
		limit:      limit,
		events:     json.NewDecoder(limit),
		ctx:        pollCtx,
		cancel:     cancel,
		opened:     time.Now(),
	}
	if !stop() {
		p.close()
		return nil, ctx.Err()
	}
	return p, nil
}

// noStore is the error of an answer that does not say where the store stands.
func noStore(from *url.URL) error {
	return &kv.Error{Kind: kv.Unknown, Cause: from.Host + " answered without " + etcdv2.HeaderIndex + ", as no store does"}
}

// accept checks that p watches the store that this watch has seen so far, and notes where it is.
func (w *watch) accept(ctx context.Context, p *poll) error {
	if err := w.verify(ctx, p.registered); err != nil {
		return err
	}
	w.known = position{p.registered.cluster, max(p.registered.index, w.known.index)}
	if w.from.Index == 0 {
		w.from.Index = p.registered.index + 1
	}
	w.client.observe(p.registered)
	if w.from.Only != nil {
		w.client.plain.Store(!isNarrowed(p.header))
	}
	return nil
}

// verify returns HistoryGone when at cannot be the store that was seen before: what was read from
// that one is void, and events of this one would be waited for in vain until its index catches up.
func (w *watch) verify(ctx context.Context, at position) error {
	if w.known.cluster != "" && at.cluster != w.known.cluster {
		return &kv.Error{Kind: kv.HistoryGone, Index: at.index, Cluster: at.cluster, Cause: fmt.Sprintf("the store of cluster %s was replaced by one of cluster %s", w.known.cluster, at.cluster)}
	}
	if at.index >= w.known.index {
		return nil
	}
	// A member that lags behind shows an old index too. A quorum read makes it catch up, whether
	// the key is there or not.
	var now position
	key := w.from.Key
	if w.from.Only != nil { // there may be no right to the directory
		key = w.from.Only[0]
	}
	request := etcdv2.ReadRequest(kv.Read{Key: key, Quorum: true})
	request.Header = w.header
	err := w.client.exchange(ctx, request, true, func(a *answer) error {
		if now = a.position(); now.index == 0 {
			return noStore(a.from)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if now.index < w.known.index {
		return &kv.Error{Kind: kv.HistoryGone, Index: max(now.index, at.index), Cluster: at.cluster, Cause: fmt.Sprintf("the store went back from index %d: its data was replaced", w.known.index)}
	}
	return nil
}

// receive passes the events of p on and returns how many there were when p is over. err is nil
// if it ended as it should.
func (w *watch) receive(p *poll) (received int, err error) {
	for {
		event, err := w.decode(p)
		if err != nil {
			return received, err
		}
		received++
		if event.Node.ModifiedIndex >= w.from.Index {
			w.from.Index = event.Node.ModifiedIndex + 1
			w.known.index = max(w.known.index, event.Node.ModifiedIndex)
			for _, event := range w.wanted(event) {
				select {
				case w.events <- event:
					w.delivered++
				case <-w.lifetime.Done():
					return received, w.lifetime.Err()
				}
			}
		}
		if !p.streaming {
			// Reading to the end leaves the connection to the next poll.
			p.limit.N = trailerBytesMax
			_, err := io.Copy(io.Discard, p.limit)
			return received, err
		}
	}
}

// wanted returns what the watch is to bring of an event of the store.
func (w *watch) wanted(event kv.Event) []kv.Event {
	switch {
	case !concerns(event, w.from):
		return nil
	case w.from.Seen != nil:
		return unseen(event, w.from)
	}
	return []kv.Event{event}
}

// decode returns the next event of p.
func (w *watch) decode(p *poll) (kv.Event, error) {
	p.limit.N = w.client.responseBytesMax
	var line struct {
		etcdv2.Event
		etcdv2.Error
	}
	if err := p.events.Decode(&line); err != nil {
		if p.limit.N <= 0 {
			return kv.Event{}, &kv.Error{Kind: kv.TooLarge, Cause: fmt.Sprintf("an event is over %d bytes", w.client.responseBytesMax)}
		}
		return kv.Event{}, err
	}
	if line.Code != 0 {
		// Why the stream ends. What it means for the watch shows when it is resumed.
		return kv.Event{}, errors.New(line.Error.Error())
	}
	event := line.Event.Decode()
	if event.Node == nil || event.Node.ModifiedIndex == 0 {
		return kv.Event{}, errors.New("an event without node")
	}
	return event, nil
}

// concerns reports whether a watch from sees event. Servers agree for live events, but etcd is
// less exact about those it takes from its history.
func concerns(event kv.Event, from kv.WatchFrom) bool {
	key := event.Node.Key
	switch {
	case from.Only != nil:
		return kv.Among(from.Only, key) || event.Removes() && kv.Above(key, from.Only)
	case key == from.Key:
		return true
	case kv.Below(key, from.Key):
		return from.Recursive && !kv.HiddenBelow(key, from.Key)
	}
	return event.Removes() && kv.Below(from.Key, key)
}

func (p *poll) close() {
	p.cancel(nil)
	p.body.Close()
}
