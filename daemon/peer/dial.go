package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"
)

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// patience is how long the other side may take.
type patience struct {
	connect time.Duration // for the system to connect
	hello   time.Duration // for each of the TLS handshake and the answer 101
}

// open makes a stream to a member. ctx bounds it, and so does n.patience.
func (n *Network) open(ctx context.Context, to uint64, k kind) (*stream, error) {
	cluster, self := n.config.Self()
	if cluster == 0 {
		return nil, errNoMember
	}
	address, ok := n.config.Address(to)
	if !ok {
		return nil, ErrUnknownMember
	}
	conn, err := connect(ctx, n.patience, n.config.Dial, address, n.config.TLS)
	if err != nil {
		return nil, err
	}
	early, err := bounded(ctx, n.patience.hello, conn, func() ([]byte, error) {
		return hello{kind: k, cluster: cluster, from: self, to: to}.say(conn, address)
	})
	if err != nil {
		conn.Close()
		return nil, explain(err, address, n.config.TLS)
	}
	return n.adopt(&stream{Conn: conn, kind: k, member: to, early: early})
}

// connect connects to address, over TLS if t is not nil. An error names the address.
func connect(ctx context.Context, p patience, dial dialFunc, address string, t *TLS) (net.Conn, error) {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	soon, cancel := context.WithTimeout(ctx, p.connect)
	defer cancel()
	conn, err := dial(soon, "tcp", address)
	if err != nil {
		return nil, err // a net.OpError names the address
	}
	tune(conn, unackedTimeout)
	if t == nil {
		return conn, nil
	}
	secure := tls.Client(conn, clientConfig(t, address))
	_, err = bounded(ctx, p.hello, secure, func() ([]byte, error) {
		if err := secure.Handshake(); err != nil {
			return nil, err
		}
		return nil, t.verify(secure.ConnectionState())
	})
	if err != nil {
		conn.Close()
		return nil, explain(err, address, nil)
	}
	return secure, nil
}

// bounded runs a conversation over conn that ends with ctx, and within limit.
func bounded(ctx context.Context, limit time.Duration, conn net.Conn, talk func() ([]byte, error)) ([]byte, error) {
	conn.SetDeadline(time.Now().Add(limit))
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	result, err := talk()
	if !stop() {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return result, conn.SetDeadline(time.Time{})
}

// clientConfig returns the configuration for one connection to address.
func clientConfig(t *TLS, address string) *tls.Config {
	var c *tls.Config
	if t.ClientFor != nil {
		host, _, _ := net.SplitHostPort(address)
		c = t.ClientFor(host)
	} else {
		c = t.Client.Clone()
	}
	c.NextProtos = []string{"http/1.1"}
	if c.ServerName == "" {
		c.ServerName, _, _ = net.SplitHostPort(address)
	}
	return c
}

// serverConfig returns c for the peer port, where nothing but HTTP/1.1 is spoken.
func serverConfig(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{"http/1.1"}
	if choose := c.GetConfigForClient; choose != nil {
		c.GetConfigForClient = func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			chosen, err := choose(info)
			if chosen == nil || err != nil || slices.Equal(chosen.NextProtos, []string{"http/1.1"}) {
				return chosen, err
			}
			return serverConfig(chosen), nil
		}
	}
	return c
}

// keepAlive has the system ask a silent host for a sign of life.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3}

// tcpBehind returns the connection of the system that carries conn, nil if it is none of TCP.
func tcpBehind(conn net.Conn) *net.TCPConn {
	conn = behindTLS(conn)
	if g, ok := conn.(*guest); ok {
		conn = g.Conn
	}
	tcp, _ := conn.(*net.TCPConn)
	return tcp
}

// contactError is what went wrong with whatever listens at an address.
type contactError struct {
	address string
	err     error
}

func (e *contactError) Error() string { return e.address + ": " + e.err.Error() }
func (e *contactError) Unwrap() error { return e.err }

// explain returns err, of a conversation with what listens at address, in words that name address,
// cause and remedy. t is not nil if a TLS handshake has gone well on this side.
func explain(err error, address string, t *TLS) error {
	if _, ok := errors.AsType[*Refusal](err); ok {
		return err // it names the address
	}
	if _, ok := errors.AsType[*contactError](err); ok {
		return err
	}
	network, _ := errors.AsType[*net.OpError](err)
	if network != nil && network.Op == "dial" {
		return err // it names the address, too
	}
	record, isRecord := errors.AsType[tls.RecordHeaderError](err)
	certificate, _ := errors.AsType[*tls.CertificateVerificationError](err)
	timeout, _ := errors.AsType[net.Error](err)
	switch {
	case isRecord && string(record.RecordHeader[:]) == "HTTP/":
		err = errSpeaksPlain
	case certificate != nil:
		err = fmt.Errorf("its certificate is not accepted: %w; compare it with --peer-trusted-ca-file", err)
	case network != nil && network.Op == "remote error":
		err = fmt.Errorf("it does not accept this member's certificate (%w): compare --peer-cert-file here with --peer-trusted-ca-file there", network.Err)
	case timeout != nil && timeout.Timeout():
		err = fmt.Errorf("it accepts connections, but does not answer: is the process there stopped or overloaded? (%w)", err)
	case t != nil && (errors.Is(err, errClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)):
		// In TLS 1.3 the other side looks at the certificate when the handshake is over on this one.
		err = fmt.Errorf("it hangs up after the TLS handshake (%w): its log may say that it does not accept this member's certificate", err)
	}
	return &contactError{address, err}
}
