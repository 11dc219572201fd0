package peer

import (
	"cmp"
	"container/list"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// serveHTTP answers one request of the peer port.
func (n *Network) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if !n.enter() {
		n.refuse(w, r, refuse(StatusNotReady, "this member stops"))
		return
	}
	defer n.work.Done()
	guest := guestOf(r.Context())
	n.door.busy(guest, +1)
	defer n.door.busy(guest, -1)
	if r.TLS != nil {
		if err := n.config.TLS.verify(*r.TLS); err != nil {
			n.refuse(w, r, refuse(StatusNotAllowed, "%v", err))
			return
		}
	}
	if strings.HasPrefix(r.URL.Path, streamPath) {
		n.serveHello(w, r)
		return
	}
	if n.config.Handler == nil {
		http.NotFound(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, bodyBytesMax)
	n.config.Handler.ServeHTTP(w, r)
}

// refuse answers a request that is not granted, and tells the log.
func (n *Network) refuse(w http.ResponseWriter, r *http.Request, why *Refusal) {
	if n.told.due(host(r.RemoteAddr) + " " + why.Text) {
		n.log.Warn("refused a connection to the peer port", "from", r.RemoteAddr, "member", clean(r.Header.Get(headerFrom)), "why", why.Text)
	}
	w.Header().Set("Connection", "close")
	http.Error(w, why.Text, why.Status)
}

// serveHello makes the connection a stream, or says why not.
func (n *Network) serveHello(w http.ResponseWriter, r *http.Request) {
	h, err := parseHello(r)
	if err == nil {
		cluster, self := n.config.Self()
		err = h.check(cluster, self, n.config.Known)
	}
	if err != nil {
		n.refuse(w, r, err.(*Refusal))
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		n.refuse(w, r, refuse(StatusOtherVersion, "a stream needs HTTP/1.1"))
		return
	}
	n.door.leave(guestOf(r.Context()))
	early := make([]byte, buffered.Reader.Buffered())
	io.ReadFull(buffered.Reader, early)
	conn.SetDeadline(time.Now().Add(headerTimeout))
	if _, err := io.WriteString(conn, welcome); err != nil {
		conn.Close()
		return
	}
	conn.SetDeadline(time.Time{})
	n.welcome(&stream{Conn: conn, kind: h.kind, member: h.from, incoming: true, early: early})
}

// welcome gives an incoming stream to whom it is for.
func (n *Network) welcome(s *stream) {
	s, err := n.adopt(s)
	if err != nil {
		return
	}
	for _, o := range n.outnumbered(s) {
		n.tellTwins(o, s)
		o.Close()
	}
	n.seen(s.member)
	if s.kind == kindRaft {
		n.raft.offer(s)
		return
	}
	if !n.start(func() { n.serveCalls(s) }) {
		s.Close()
	}
}

// tellTwins tells the log when a connection makes place for one of the same member from elsewhere.
func (n *Network) tellTwins(old, s *stream) {
	was, is := host(old.RemoteAddr().String()), host(s.RemoteAddr().String())
	if old.member == s.member && was != is && n.told.due("twins "+hex(s.member)) {
		n.log.Warn("a member connects from another host, and its earlier connection is closed", "member", hex(s.member), "from", is, "earlier", was,
			"try", "if it runs on both hosts, a data directory was copied: stop one, and start that with an empty --data-dir as a new member")
	}
}

// seen notes that a member is there: no need to wait before it is dialed again for calls.
func (n *Network) seen(member uint64) {
	if l, err := n.reach(member); err == nil {
		l.wake()
	}
}

// outnumbered returns the streams that make place for s, the oldest ones: calls of a member come
// over one, raft has a few, and strangers share a number.
func (n *Network) outnumbered(s *stream) []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var alike, strangers []*stream
	for o := range n.streams {
		if o.incoming && o.member == s.member && o.kind == s.kind {
			alike = append(alike, o)
		}
		if o.incoming && n.members[o.member].link == nil {
			strangers = append(strangers, o)
		}
	}
	alikeMax := 1
	if s.kind == kindRaft {
		alikeMax = raftStreamsMax
	}
	return append(oldest(alike, alikeMax), oldest(strangers, strangersMax)...)
}

// oldest returns what is too much when there may be no more than limit.
func oldest(streams []*stream, limit int) []*stream {
	slices.SortFunc(streams, func(a, b *stream) int { return cmp.Compare(a.number, b.number) })
	return streams[:max(0, len(streams)-limit)]
}

// listener returns l with what every connection to the peer port goes through.
func (n *Network) listener(l net.Listener) net.Listener {
	l = &doorListener{l, n.door}
	if n.config.TLS != nil {
		l = tls.NewListener(l, serverConfig(n.config.TLS.Server))
	}
	return l
}

type doorListener struct {
	net.Listener
	door *door
}

// Accept returns the next connection there is room for.
func (l *doorListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tune(conn, unackedTimeout)
		if g := l.door.enter(conn); g != nil {
			return g, nil
		}
	}
}

// door bounds the connections whose other side has not said who it is. A new one takes the place
// of the one that has been silent longest. It is safe for concurrent use.
type door struct {
	log   *slog.Logger
	told  *told
	isTLS bool

	serving sync.WaitGroup // goroutines of the server, one for each guest until it leaves

	mu     sync.Mutex
	closed bool
	guests list.List // of *guest, the oldest first
}

// guest is a connection to the peer port.
type guest struct {
	net.Conn
	door   *door
	first  sync.Once
	served sync.Once // its goroutine of the server has ended, or gave it away

	place *list.Element // in door.guests; nil when it left. Guarded by door.mu, like busy
	busy  int           // requests that are being answered
}

func newDoor(log *slog.Logger, told *told, isTLS bool) *door {
	return &door{log: log, told: told, isTLS: isTLS}
}

// enter returns conn as a guest, or nil when it had to be closed.
func (d *door) enter(conn net.Conn) *guest {
	g := &guest{Conn: conn, door: d}
	d.mu.Lock()
	out := d.makeRoom()
	closed, full := d.closed, d.guests.Len() >= guestsMax
	refused := closed || full
	if !refused {
		g.place = d.guests.PushBack(g)
		d.serving.Add(1)
	}
	d.mu.Unlock()
	if out != nil {
		out.Conn.Close()
	}
	if (out != nil || full) && !closed && d.told.due("full") {
		d.log.Warn("too many connections to the peer port: the oldest that is silent is closed", "max", guestsMax, "last", conn.RemoteAddr().String())
	}
	if refused {
		conn.Close()
		return nil
	}
	return g
}

// makeRoom takes the oldest guest that is not being answered out, if a new one needs its place.
func (d *door) makeRoom() *guest {
	if d.guests.Len() < guestsMax {
		return nil
	}
	for e := d.guests.Front(); e != nil; e = e.Next() {
		if g := e.Value.(*guest); g.busy == 0 {
			d.remove(g)
			return g
		}
	}
	return nil
}

func (d *door) remove(g *guest) {
	if g.place != nil {
		d.guests.Remove(g.place)
		g.place = nil
	}
}

func (d *door) leave(g *guest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(g)
}

func (d *door) busy(g *guest, change int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g.busy += change
}

// state is told by the server what becomes of a connection.
func (d *door) state(conn net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		g := guestBehind(conn)
		g.served.Do(d.serving.Done)
	}
}

// close closes all guests and waits for the server to be done with them.
func (d *door) close() {
	d.mu.Lock()
	d.closed = true
	for e := d.guests.Front(); e != nil; e = e.Next() {
		e.Value.(*guest).Conn.Close()
	}
	d.mu.Unlock()
	d.serving.Wait()
}

// Close closes the connection and gives its place to another.
func (g *guest) Close() error {
	g.door.leave(g)
	return g.Conn.Close()
}

// Read reads. The first byte tells whether the caller speaks what this port speaks.
func (g *guest) Read(p []byte) (n int, err error) {
	n, err = g.Conn.Read(p)
	if n > 0 {
		g.first.Do(func() {
			if isTLS := p[0] == recordHandshake; isTLS != g.door.isTLS {
				n, err = g.misunderstood(isTLS, n)
			}
		})
	}
	return n, err
}

// misunderstood is for a caller that was set up otherwise than this member. To plain HTTP on a port
// of TLS the server knows an answer; to TLS on a plain port it would look for the end of a line.
func (g *guest) misunderstood(isTLS bool, n int) (int, error) {
	g.door.tellScheme(isTLS, g.RemoteAddr().String())
	if !isTLS {
		return n, nil
	}
	io.WriteString(g.Conn, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nthis peer port speaks plain http\n")
	return 0, io.EOF
}

// tellScheme tells the log about such a caller.
func (d *door) tellScheme(isTLS bool, from string) {
	if !d.told.due(host(from) + " scheme") {
		return
	}
	if isTLS {
		d.log.Warn("a caller speaks https to the peer port, and this member is set up for http", "from", from,
			"try", "give this member --peer-cert-file and --peer-key-file, and all peer URLs the same scheme")
		return
	}
	d.log.Warn("a caller speaks plain http to the peer port, and this member is set up for https", "from", from,
		"try", "give that member --peer-cert-file and --peer-key-file, and all peer URLs the same scheme")
}

type guestKey struct{}

func withGuest(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, guestKey{}, guestBehind(conn))
}

func guestOf(ctx context.Context) *guest { return ctx.Value(guestKey{}).(*guest) }

func guestBehind(conn net.Conn) *guest { return behindTLS(conn).(*guest) }

// serverLog passes on what the HTTP server complains about: handshakes that failed, mostly.
type serverLog struct {
	log  *slog.Logger
	told *told
}

func (l *serverLog) Write(line []byte) (int, error) {
	text := strings.TrimPrefix(clean(string(line)), "http: ")
	rest, isHandshake := strings.CutPrefix(text, "TLS handshake error from ")
	from, why, ok := strings.Cut(rest, ": ")
	switch {
	case !isHandshake || !ok:
		if l.told.due(text) {
			l.log.Warn("peer port", "err", text)
		}
	case why == "EOF" || strings.HasSuffix(why, "connection reset by peer") || strings.Contains(why, "HTTP request to an HTTPS server"): // a look at the port; and guest.Read has told
		l.log.Debug("a connection to the peer port ended before its TLS handshake", "from", from, "err", why)
	case l.told.due(host(from) + " " + why):
		l.log.Warn("a TLS handshake on the peer port failed", "from", from, "err", why,
			"try", "compare the caller's --peer-cert-file with --peer-trusted-ca-file here, and the other way round")
	}
	return len(line), nil
}

func host(address string) string {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return h
}
