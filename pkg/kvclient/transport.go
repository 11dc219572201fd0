package kvclient

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
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
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        90 * time.Second,
		DisableCompression:     true,
	}, nil
}

// security is whom to trust and what to show. Both files are read for each new connection, so that
// they may be renewed under a client that goes on.
type security struct {
	caFile            string
	certFile, keyFile string

	mu    sync.Mutex     // guards roots
	roots *x509.CertPool // as last read; nil: the system's
}

func newSecurity(cfg Config) (*security, error) {
	s := &security{caFile: cfg.CAFile, certFile: cfg.CertFile, keyFile: cfg.KeyFile}
	if (s.certFile == "") != (s.keyFile == "") {
		return nil, errors.New("a client certificate needs both its certificate file and its key file")
	}
	if err := s.readRoots(); err != nil {
		return nil, err
	}
	if s.certFile != "" {
		if _, err := tls.LoadX509KeyPair(s.certFile, s.keyFile); err != nil {
			return nil, fmt.Errorf("cannot use the client certificate %s with the key %s: %w", s.certFile, s.keyFile, err)
		}
	}
	return s, nil
}

func (s *security) readRoots() error {
	if s.caFile == "" {
		return nil
	}
	pem, err := os.ReadFile(s.caFile)
	if err != nil {
		return fmt.Errorf("cannot read the CA file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("CA file %s holds no PEM certificate", s.caFile)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roots = roots
	return nil
}

// config returns how to speak to host.
func (s *security) config(host string) *tls.Config {
	_ = s.readRoots() // a file that is just being replaced: those read before still hold
	s.mu.Lock()
	defer s.mu.Unlock()
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: s.roots}
	if s.certFile != "" {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
			return &pair, err
		}
	}
	return config
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
	conn := tls.Client(raw, s.config(host))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}
