package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/kvd-io/kvd/pkg/backoff"
)

// link keeps one connection for calls to a member: it dials, and dials again. It is safe for
// concurrent use.
type link struct {
	network *Network
	member  uint64
	woken   chan struct{} // holds one wish to dial at once

	mu       sync.Mutex
	session  *session      // nil while there is none
	dialing  chan struct{} // closed when the attempt that is under way, or due at once, has ended; nil if none is
	since    time.Time     // session is there
	failures uint64
	err      error // why there is no session
	news     bool  // the log has not heard that there is a session, or heard that there is none
}

func newLink(n *Network, member uint64) *link {
	return &link{network: n, member: member, woken: make(chan struct{}, 1), dialing: make(chan struct{}), news: true}
}

// run keeps the connection until ctx ends.
func (l *link) run(ctx context.Context) {
	retry := backoff.Backoff{Min: redialMin, Max: redialMax}
	for {
		s, err := l.dial(ctx)
		l.dialed(ctx, s, err)
		lasted := false
		if err == nil {
			began := l.network.now()
			stop := context.AfterFunc(ctx, func() { s.fail(context.Cause(ctx)) })
			err = s.run()
			stop()
			lasted = l.network.now().Sub(began) >= lastingly
			l.lost(ctx, err, lasted)
		}
		if ctx.Err() != nil {
			l.over(ctx)
			return
		}
		if lasted {
			retry.Reset()
			continue
		}
		l.wait(ctx, retry.Next())
		l.begin()
	}
}

// wait waits for d, for wake, or for the end of ctx.
func (l *link) wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.woken:
	case <-ctx.Done():
	}
}

// wake has the link dial now if it waits: the other side has shown that it is there.
func (l *link) wake() {
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

func (l *link) dial(ctx context.Context) (*session, error) {
	select {
	case <-l.woken: // what happened before the attempt is no reason for another
	default:
	}
	conn, err := l.network.open(ctx, l.member, kindRPC)
	if err != nil {
		return nil, err
	}
	s := newSession(conn, l.network.now)
	conn.setRound(s.round)
	return s, nil
}

// begin notes that an attempt is due: calls wait for its end.
func (l *link) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialing = make(chan struct{})
}

// dialed notes the end of an attempt.
func (l *link) dialed(ctx context.Context, s *session, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.dialing)
	l.dialing = nil
	l.session, l.err = s, err
	if err != nil {
		l.failed(ctx, "cannot reach a member", err)
		return
	}
	l.since = l.network.now()
	if l.news {
		l.news = false
		l.network.log.Info("connected to a member", "member", hex(l.member), l.network.name(l.member), "address", s.conn.RemoteAddr().String())
	}
}

// lost notes the end of a session.
func (l *link) lost(ctx context.Context, err error, redial bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session, l.err, l.since = nil, err, time.Time{}
	if redial {
		l.dialing = make(chan struct{})
	}
	l.failed(ctx, "lost the connection to a member", err)
}

// failed counts and tells a failure. l.mu is held.
func (l *link) failed(ctx context.Context, what string, err error) {
	l.failures++
	if ctx.Err() == nil && l.network.told.due(fmt.Sprintf("%s %x %s", what, l.member, alike(err))) {
		l.news = true
		l.network.log.Warn(what, "member", hex(l.member), l.network.name(l.member), "err", err)
	}
}

// alike returns the text of err without the port of this side, which is another one at each attempt.
func alike(err error) string {
	text := err.Error()
	if network, ok := errors.AsType[*net.OpError](err); ok && network.Source != nil {
		text = strings.ReplaceAll(text, network.Source.String(), "")
	}
	return text
}

// over fails the calls that wait for an attempt that will not be made.
func (l *link) over(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = context.Cause(ctx)
	if l.dialing != nil {
		close(l.dialing)
		l.dialing = nil
	}
}

// connected returns the session. It waits for an attempt to connect that is under way, and fails
// at once if none is.
func (l *link) connected(ctx context.Context) (*session, error) {
	for {
		l.mu.Lock()
		s, dialing, err := l.session, l.dialing, l.err
		l.mu.Unlock()
		if s != nil {
			return s, nil
		}
		if dialing == nil {
			return nil, err
		}
		select {
		case <-dialing:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// describe fills the fields of stats that are about the link.
func (l *link) describe(stats *Stats) {
	l.mu.Lock()
	s := l.session
	stats.Member, stats.Connected, stats.Failures, stats.LastError = l.member, l.since, l.failures, l.err
	l.mu.Unlock()
	if s != nil {
		stats.RoundTrip, stats.RoundTripMax, stats.InFlight = s.stats()
	}
}
