package kvclient

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
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

// newTransport returns HTTP/1.1 connections, as every v2 server speaks it.
func newTransport(cfg Config) (*http.Transport, error) {
	security, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	timeout := cmp.Or(cfg.DialTimeout, DefaultDialTimeout)
	dialer := &net.Dialer{
		Timeout: timeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount,
		},
		Control: limitUnacked,
	}
	return &http.Transport{
		DialContext:         dialer.DialContext,
		TLSClientConfig:     security,
		TLSHandshakeTimeout: cmp.Or(cfg.RequestTimeout, DefaultRequestTimeout),
		// Watches too send their headers at once, so a server that does not is not working.
		ResponseHeaderTimeout: cmp.Or(cfg.RequestTimeout, DefaultRequestTimeout),
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true,
	}, nil
}

func tlsConfig(cfg Config) (*tls.Config, error) {
	security := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the CA file: %w", err)
		}
		security.RootCAs = x509.NewCertPool()
		if !security.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s holds no PEM certificate", cfg.CAFile)
		}
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return nil, errors.New("a client certificate needs both its certificate file and its key file")
	}
	if cfg.CertFile == "" {
		return security, nil
	}
	if _, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile); err != nil {
		return nil, fmt.Errorf("cannot use the client certificate %s with the key %s: %w", cfg.CertFile, cfg.KeyFile, err)
	}
	security.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
		return &pair, err
	}
	return security, nil
}
