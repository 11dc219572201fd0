package kvclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/pkg/etcdv2"
	"github.com/kvd-io/kvd/pkg/kv"
)

const redirectsMax = 10

// authorization is the header of credentials. A request that has it of its own is not the client's user's.
const authorization = "Authorization"

// answer is what an endpoint said, whatever its status, and to whom.
type answer struct {
	status int
	header http.Header
	body   []byte
	from   *url.URL
	to     *user

	// Of one that is passed on, body is the beginning:
	length int64 // of the whole; -1 if it is not known
	rest   *rest // after body; nil if that is all
}

// position is how far a store has come, and which store it is: "" if it does not say.
type position struct {
	cluster string
	index   kv.Index
}

// exchange sends r to the endpoints in turn until one answers so that read, which decodes an answer
// that is no 5xx, does not return kind Unknown: then it was no answer of a store. Unless r is
// repeatable it stops at the first endpoint that may have acted on it.
func (c *Client) exchange(ctx context.Context, r etcdv2.Request, repeatable bool, read func(*answer) error) error {
	return c.exchangeBy(ctx, c.attempt, r, repeatable, read)
}

// attempting sends a request to one endpoint, as attempt does.
type attempting func(ctx context.Context, endpoint *url.URL, r etcdv2.Request, patience time.Duration) (a *answer, sent bool, err error)

// exchangeBy is exchange with another way to make one attempt.
func (c *Client) exchangeBy(ctx context.Context, attempt attempting, r etcdv2.Request, repeatable bool, read func(*answer) error) error {
	ctx, cancel := c.scope(ctx)
	defer cancel()
	var failed failures
	turn := c.turn()
	for n, i := range turn {
		patience := c.requestTimeout
		if repeatable {
			patience = min(patience, share(ctx, len(turn)-n))
		}
		a, sent, err := attempt(ctx, c.endpoints[i], r, patience)
		switch {
		case err != nil:
		case a.status < 500:
			if err = read(a); !kv.Is(err, kv.Unknown) {
				return err
			}
			sent = true
		default:
			err = a.err()
			sent = !kv.Is(err, kv.NoLeader) && !kv.Is(err, kv.Unavailable) // for those nothing can have happened
		}
		failed = append(failed, failure{c.endpoints[i], err})
		cause := c.ended(ctx)
		c.failedAt(i, cause)
		switch {
		case cause != nil:
			return failed.because(cause, sent && !repeatable)
		case sent && !repeatable:
			return failed.outcomeUnknown()
		case kv.Is(err, kv.TooLarge):
			return err
		}
	}
	return failed.err()
}

// failedAt makes the endpoint after i the first to be asked from now on, unless the call has ended
// for a reason that says nothing about i. An endpoint that lets its callers' time run out does.
func (c *Client) failedAt(i int, cause *kv.Error) {
	if cause == nil || errors.Is(cause, context.DeadlineExceeded) {
		c.unpin(i)
	}
}

// scope returns ctx ending with the client as well.
func (c *Client) scope(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.lifetime, cancel)
	if c.lifetime.Err() != nil { // AfterFunc would cancel a moment later
		cancel()
	}
	return ctx, func() { stop(); cancel() }
}

// ended returns why nothing more is to be tried, nil if something is. ctx comes from scope.
func (c *Client) ended(ctx context.Context) *kv.Error {
	switch {
	case c.lifetime.Err() != nil:
		return &kv.Error{Kind: kv.Closed}
	case ctx.Err() != nil:
		return &kv.Error{Kind: kv.Timeout, Err: ctx.Err()}
	}
	return nil
}

// share is the time until an answer must begin, when n endpoints are left to ask before ctx ends: the
// first one of several must not use up the time of all.
func share(ctx context.Context, n int) time.Duration {
	end, bounded := ctx.Deadline()
	if !bounded || n < 2 {
		return math.MaxInt64
	}
	return time.Until(end) / time.Duration(n)
}

// attempt sends r to one endpoint, whose answer has to begin within patience, and reads the whole
// answer. sent reports whether the endpoint may have acted on r although err is not nil.
func (c *Client) attempt(ctx context.Context, endpoint *url.URL, r etcdv2.Request, patience time.Duration) (a *answer, sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.requestTimeout)
	defer cancel()
	impatience := time.AfterFunc(patience, cancel)
	response, sent, err := c.send(ctx, endpoint, r)
	if early := !impatience.Stop(); err != nil {
		if early && errors.Is(err, context.Canceled) {
			err = context.DeadlineExceeded
		}
		return nil, sent, err
	}
	if plain(r, response.StatusCode, response.Header) { // what is in it, and however much, is not wanted
		response.Body.Close()
		return &answer{status: response.StatusCode, header: response.Header, from: endpoint, to: c.user}, true, nil
	}
	a, err = c.readAnswer(endpoint, response)
	return a, true, err
}

func (c *Client) readAnswer(endpoint *url.URL, response *http.Response) (*answer, error) {
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, c.responseBytesMax+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > c.responseBytesMax {
		return nil, &kv.Error{Kind: kv.TooLarge, Cause: fmt.Sprintf("the answer of %s is over %d bytes", endpoint.Host, c.responseBytesMax)}
	}
	if misled(response.StatusCode, body) {
		return nil, errSecure
	}
	return &answer{status: response.StatusCode, header: response.Header, body: body, from: endpoint, to: c.user}, nil
}

// misled reports whether an answer says that it was to come over TLS.
func misled(status int, body []byte) bool {
	return status == http.StatusBadRequest && bytes.HasPrefix(body, []byte("Client sent an HTTP request to an HTTPS server"))
}

// send sends r and follows redirects, with method and body unchanged. sent reports whether the
// last server asked may have acted on r; the ones that redirected have not.
func (c *Client) send(ctx context.Context, endpoint *url.URL, r etcdv2.Request) (response *http.Response, sent bool, err error) {
	target, err := requestURL(endpoint, r)
	if err != nil {
		return nil, false, err
	}
	password, renewed := c.user.secret(), false
	for range redirectsMax + 1 {
		if response, sent, err = c.sendOnce(ctx, target, password, r); err != nil {
			return nil, sent, err
		}
		if response.StatusCode == http.StatusUnauthorized && r.Header.Get(authorization) == "" && !renewed && c.user.renewed(password) {
			response.Body.Close()
			password, renewed = c.user.secret(), true
			continue
		}
		location := response.Header.Get("Location")
		if response.StatusCode/100 != 3 || location == "" {
			return response, true, nil
		}
		response.Body.Close()
		if target, err = target.Parse(location); err != nil || target.Scheme != "http" && target.Scheme != "https" {
			return nil, false, fmt.Errorf("redirected to %q, which is no URL to follow", location)
		}
	}
	return nil, false, fmt.Errorf("redirected more than %d times, last to %s", redirectsMax, target.Redacted())
}

func requestURL(endpoint *url.URL, r etcdv2.Request) (*url.URL, error) {
	path := r.Path
	if path == etcdv2.KeysPath {
		path += "/" // etcd's access control lets the pattern /* see the root only in this spelling
	}
	target, err := endpoint.Parse(path)
	if err != nil {
		return nil, err
	}
	target.RawQuery = r.Query.Encode()
	return target, nil
}

func (c *Client) sendOnce(ctx context.Context, target *url.URL, password string, r etcdv2.Request) (*http.Response, bool, error) {
	// Until a connection is there nothing can have been sent.
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})
	form := r.Form.Encode()
	body := form
	if r.JSON != nil {
		body = string(r.JSON)
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, target.String(), strings.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	maps.Copy(request.Header, r.Header)
	switch {
	case r.Form != nil:
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	case r.JSON != nil:
		request.Header.Set("Content-Type", "application/json")
	}
	switch {
	case !c.trusts(target):
		request.Header.Del(authorization)
	case c.user.name != "" && request.Header.Get(authorization) == "":
		request.SetBasicAuth(c.user.name, password)
	}
	if c.onRequest != nil {
		c.onRequest(r.Method, target.String(), form)
	}
	response, err := c.http.Do(request)
	if err == nil {
		response.Body = &counted{response.Body, &c.bytesRead}
	}
	return response, sent.Load(), err
}

// counted is a body that counts what is read of it.
type counted struct {
	io.ReadCloser
	bytes *atomic.Uint64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.bytes.Add(uint64(n))
	return n, err
}

// trusts reports whether target is one of the endpoints: a redirect to elsewhere gets no password.
func (c *Client) trusts(target *url.URL) bool {
	for _, endpoint := range c.endpoints {
		if target.Scheme == endpoint.Scheme && target.Host == endpoint.Host {
			return true
		}
	}
	return false
}

// observe remembers where the store stands, for watches that begin later.
func (c *Client) observe(p position) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.index > 0 && (p.cluster != c.seen.cluster || p.index > c.seen.index) {
		c.seen = p
	}
}

func (a *answer) position() position { return positionOf(a.header) }

func positionOf(header http.Header) position {
	return position{cluster: header.Get(etcdv2.HeaderClusterID), index: number(header, etcdv2.HeaderIndex)}
}

// number returns a header that counts something, 0 if it is absent or no number.
func number(header http.Header, name string) uint64 {
	n, err := strconv.ParseUint(header.Get(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// result returns what an answer of the keys API says. Only if it was asked for may it lack a node.
func (a *answer) result(mayLackNode bool) (kv.Result, error) {
	if a.status != http.StatusOK && a.status != http.StatusCreated {
		return kv.Result{}, a.err()
	}
	var event etcdv2.Event
	if err := json.Unmarshal(a.body, &event); err != nil || event.Action == "" || event.Node == nil && !mayLackNode {
		// The status says that it was done, so for a write no other kind would be true.
		return kv.Result{}, &kv.Error{Kind: kv.Unknown, Cause: a.from.Host + " answered with something other than a v2 event", Err: err}
	}
	return kv.Result{
		Event:     event.Decode(),
		Created:   a.status == http.StatusCreated,
		Index:     number(a.header, etcdv2.HeaderIndex),
		RaftIndex: number(a.header, etcdv2.HeaderRaftIndex),
		RaftTerm:  number(a.header, etcdv2.HeaderRaftTerm),
		Cluster:   a.position().cluster,
	}, nil
}

// err returns the error that an answer without success stands for.
func (a *answer) err() error {
	var wire etcdv2.Error
	if err := json.Unmarshal(a.body, &wire); err != nil || wire.Code == 0 {
		return a.foreign(wire.Message)
	}
	e := wire.Decode("", "")
	e.Cluster = a.position().cluster
	switch {
	case a.status == http.StatusRequestEntityTooLarge:
		e.Kind = kv.TooLarge
	case e.Kind == kv.Denied:
		e.Cause = a.to.advice()
	}
	return e
}

// kinds are what a status means when the body is no error of the keys API.
var kinds = map[int]kv.Kind{
	http.StatusBadRequest:            kv.Invalid,
	http.StatusUnauthorized:          kv.Denied,
	http.StatusForbidden:             kv.Denied,
	http.StatusConflict:              kv.Invalid,
	http.StatusGone:                  kv.NotFound,
	http.StatusRequestEntityTooLarge: kv.TooLarge,
}

// foreign returns the error of an answer that is not of the keys API: of another part of the v2
// API, which has a message, or of some other server, as a proxy.
func (a *answer) foreign(message string) error {
	var health struct{ Health, Reason string }
	if json.Unmarshal(a.body, &health) == nil && health.Health != "" {
		return &kv.Error{Kind: kv.Unavailable, Cause: health.Reason}
	}
	e := &kv.Error{Kind: kinds[a.status], Cause: message}
	switch {
	case a.status >= 500:
		e.Kind = kv.Unknown
	case a.status == http.StatusNotFound && message != "":
		e.Kind = kv.NotFound
	case a.status == http.StatusForbidden && message != "":
		e.Kind = kv.Invalid // nobody may: it cannot be done
	case a.status == http.StatusUnauthorized && message != "":
		e.Cause = a.to.advice()
	}
	if message != "" {
		var known struct{ Kind, Cause string }
		if json.Unmarshal(a.body, &known) == nil && known.Kind == kv.NoLeader.String() {
			e.Kind, e.Cause = kv.NoLeader, known.Cause
		}
		return e
	}
	var sick struct{ Health, Reason string }
	if json.Unmarshal(a.body, &sick) == nil && sick.Health == "false" {
		return &kv.Error{Kind: kv.Unavailable, Cause: sick.Reason}
	}
	text := strings.TrimSpace(string(a.body[:min(len(a.body), 200)]))
	e.Cause = fmt.Sprintf("%s answered %d %s: %q", a.from.Host, a.status, http.StatusText(a.status), text)
	if a.status == http.StatusNotFound {
		e.Cause += "; it does not serve the v2 API (an etcd does so only with --enable-v2)"
	}
	return e
}

// nameOf is key as a person writes it.
func nameOf(key string) string { return cmp.Or(key, "/") }

// about returns err with what was attempted.
func about(err error, op, key string) error {
	var e *kv.Error
	if !errors.As(err, &e) {
		return &kv.Error{Op: op, Key: key, Kind: kv.Internal, Err: err}
	}
	told := *e
	told.Op, told.Key = op, key
	return &told
}
