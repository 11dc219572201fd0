package kvclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

// What is passed on for somebody else keeps its bytes: an answer is the one that an endpoint gave, with its
// status and headers. Which endpoint is asked, and what is sent twice, is the same as for a call of one's own.

// relayHeadBytes of an answer are here before it counts as given: until then a read can go to another endpoint.
const relayHeadBytes = 64 << 10

// Relayed is the answer of an endpoint to a request that was passed on.
type Relayed struct {
	Status int
	Header http.Header // the caller's
	Length int64       // of the body; -1 if it is not known
	Body   io.ReadCloser
	Failed int // endpoints that were asked before, in vain
}

// Relay passes r on and returns the answer of the first endpoint that gives one, whatever its status;
// credentials in r.Header replace the client's. Only what is repeatable, a read, is sent again where it may
// have been acted on. An answer of 5xx is returned when there is no other one, and when r may have been acted
// on by it. The Body has to be closed; a Read of it waits for RequestTimeout at most. Errors by Kind:
// Unavailable and Denied, nothing was done; Timeout and Unknown, it may have been unless it was a read; Closed.
func (c *Client) Relay(ctx context.Context, r etcdv2.Request, repeatable bool) (*Relayed, error) {
	var given, trouble *answer // an answer, and the last one of 5xx while that tells how r has ended
	asked := 0
	attempt := func(bounded context.Context, endpoint *url.URL, r etcdv2.Request, patience time.Duration) (*answer, bool, error) {
		asked++
		given.discard() // it was none
		given = nil
		a, sent, err := c.attemptRelay(ctx, endpoint, r, min(patience, c.requestTimeout))
		if err == nil && a.status >= http.StatusInternalServerError {
			a.discard()
			trouble = a
		} else if err == nil {
			given = a
		} else if sent && !repeatable {
			trouble = nil
		}
		return a, sent, err
	}
	err := c.exchangeBy(ctx, attempt, r, repeatable, func(a *answer) error {
		at := a.position()
		if a.status/100 == 2 && at.index == 0 && indexed(r.Path) {
			return noStore(a.from)
		}
		c.observe(at)
		return nil
	})
	switch {
	case err == nil:
		return given.relayed(asked - 1), nil
	case trouble != nil && ctx.Err() == nil && c.lifetime.Err() == nil:
		given.discard()
		return trouble.relayed(asked - 1), nil
	}
	given.discard()
	return nil, about(err, strings.ToLower(r.Method), r.Path)
}

// indexed reports whether every answer about path says where the store stands.
func indexed(path string) bool {
	return strings.HasPrefix(path, etcdv2.KeysPath) || strings.HasPrefix(path, etcdv2.LeasesPath)
}

// attemptRelay is attempt for an answer of any length, of which the head is read. The rest comes until ctx
// or the client ends.
func (c *Client) attemptRelay(ctx context.Context, endpoint *url.URL, r etcdv2.Request, patience time.Duration) (*answer, bool, error) {
	ctx, cancel := c.scope(ctx)
	impatience := time.AfterFunc(patience, cancel)
	giveUp := func(err error) error {
		if early := !impatience.Stop(); early && errors.Is(err, context.Canceled) {
			err = context.DeadlineExceeded
		}
		cancel()
		return err
	}
	response, sent, err := c.send(ctx, endpoint, r)
	if err != nil {
		return nil, sent, giveUp(err)
	}
	head, err := io.ReadAll(io.LimitReader(response.Body, relayHeadBytes))
	if err != nil {
		response.Body.Close()
		return nil, true, giveUp(err)
	}
	whole := len(head) < relayHeadBytes || int64(len(head)) == response.ContentLength
	a := &answer{status: response.StatusCode, header: response.Header, body: head, from: endpoint, to: c.user, length: response.ContentLength}
	if whole {
		response.Body.Close()
		giveUp(nil)
		if misled(a.status, head) {
			return nil, true, errSecure
		}
		return a, true, nil
	}
	if !impatience.Stop() {
		response.Body.Close()
		cancel()
		return nil, true, context.DeadlineExceeded
	}
	a.rest = &rest{body: response.Body, cancel: cancel, patience: c.requestTimeout}
	return a, true, nil
}

// discard gives up what was not read of a; a may be nil.
func (a *answer) discard() {
	if a != nil && a.rest != nil {
		a.rest.Close()
		a.rest, a.length = nil, int64(len(a.body))
	}
}

func (a *answer) relayed(failed int) *Relayed {
	r := &Relayed{Status: a.status, Header: a.header, Length: a.length, Failed: failed, Body: io.NopCloser(bytes.NewReader(a.body))}
	if a.rest != nil {
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(a.body), a.rest), a.rest}
	}
	return r
}

// rest is what comes of an answer after its head. Each Read has to end within patience.
type rest struct {
	body     io.ReadCloser
	cancel   context.CancelFunc
	patience time.Duration
	close    sync.Once
}

func (r *rest) Read(p []byte) (int, error) {
	impatience := time.AfterFunc(r.patience, r.cancel)
	defer impatience.Stop()
	return r.body.Read(p)
}

func (r *rest) Close() error {
	r.close.Do(func() {
		r.cancel()
		r.body.Close()
	})
	return nil
}

// RelayedWatch is a watch that somebody else has asked for. It goes on at the next endpoint when one fails, as
// every watch of a Client does.
type RelayedWatch struct {
	kv.Watch
	Header http.Header // with which the watch was confirmed first; read only
	watch  *watch
}

// RelayWatch is Watch with the credentials of somebody else, "" for those of the client. once has the watch end
// after one event: the Next after it returns kind Closed.
func (c *Client) RelayWatch(ctx context.Context, from kv.WatchFrom, credentials string, once bool) (*RelayedWatch, error) {
	w, err := c.newWatch(from)
	if err != nil {
		return nil, about(err, "watch", nameOf(from.Key))
	}
	w.once = once
	if credentials != "" {
		w.header = http.Header{authorization: {credentials}}
	}
	header, err := w.begin(ctx)
	if err != nil {
		return nil, about(err, "watch", nameOf(from.Key))
	}
	return &RelayedWatch{Watch: w, Header: header, watch: w}, nil
}

// Cuts returns how often the watch was interrupted so far, and whether it is now. What happened meanwhile
// comes after an interruption, but has not come during one. Safe for concurrent use.
func (w *RelayedWatch) Cuts() (n uint64, now bool) {
	now = w.watch.cut.Load()
	return w.watch.cuts.Load(), now
}
