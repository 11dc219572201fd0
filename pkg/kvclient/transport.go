package kvclient

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

// A link that has died without a word is found by keepalive probes when nothing is in flight, and
// by the unacknowledged-data timeout when something is: both within about ten seconds.
const (
	keepAliveIdle     = 5 * time.Second
	keepAliveInterval = 2 * time.Second
	keepAliveCount    = 2
	unackedMax        = 9 * time.Second
)

const responseHeaderBytesMax = 64 << 10

// newTransport returns HTTP/1.1 connections, as every v2 server speaks it. The environment's proxies
// are not used: a store is no web site.
func newTransport(cfg Config) (*http.Transport, error) {
	security, err := newSecurity(cfg)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{
		Timeout: cmp.Or(cfg.DialTimeout, DefaultDialTimeout),
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount,
		},
		Control: limitUnacked,
	}
	timeout := cmp.Or(cfg.RequestTimeout, DefaultRequestTimeout)
	return &http.Transport{
		DialContext: dialer.DialContext,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return security.dial(ctx, dialer, timeout, network, address)
		},
		// Watches too send their headers at once, so a server that does not is not working.
		ResponseHeaderTimeout:  timeout,
		MaxResponseHeaderBytes: responseHeaderBytesMax,
		MaxIdleConnsPerHost:    cmp.Or(cfg.IdleConnections, 8),
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
	}, nil
}

// security is whom to trust and what to show.
type security struct{ files *tlsconfig.Client }

func newSecurity(cfg Config) (*security, error) {
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("a client certificate needs both its certificate file and its key file")
	}
	files, err := tlsconfig.NewClient(tlsconfig.Config{
		Files: tlsconfig.Files{Cert: cfg.CertFile, Key: cfg.KeyFile, CA: cfg.CAFile}, Log: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	return &security{files}, nil
}

// dial returns a connection whose handshake, which may take as long as timeout, is done.
func (s *security) dial(ctx context.Context, dialer *net.Dialer, timeout time.Duration, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	raw, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, s.files.Config(host))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}
