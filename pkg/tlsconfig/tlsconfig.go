// Package tlsconfig makes TLS configurations from files that may change under a running program:
// certificates, keys, authorities and revocation lists.
//
// It knows what is good enough to be spoken (TLS 1.2 with authenticated ciphers, or later), whom to
// accept, and how to say what is wrong with a file or a handshake. It knows no sockets and starts
// no goroutine: it looks at the files whenever a connection begins, and when Refresh is called. New
// files that cannot be used are told to the log, and those before them stay in use. Connections
// that are open go on; Server.Verify says whether one would still be let in.
//
//	server, err := tlsconfig.NewServer(tlsconfig.Config{Files: tlsconfig.Files{Cert: "a.crt", Key: "a.key"}})
//	...
//	listener = tls.NewListener(listener, server.Config())
package tlsconfig

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"slices"
	"time"
)

// Files are the files of one side of a connection, all PEM but for CRL, which may be DER.
type Files struct {
	Cert, Key string // what to show: the certificate with those between it and the authority, and its key; both or none
	CA        string // authorities that sign what the other side shows; "" means those of the system
	CRL       string // what these authorities have revoked; "" means nothing
}

// ClientCerts says what a server wants of clients.
type ClientCerts uint8

const (
	NoClientCerts       ClientCerts = iota
	OptionalClientCerts             // one that is shown has to be good
	RequiredClientCerts
)

// Config says what one side shows, and whom it accepts on the other.
type Config struct {
	Files
	ClientCerts ClientCerts // of servers

	// The certificate of the other side must have one of these common names, and be good for one of
	// these host names or addresses; none stands for any. A client compares the host that it calls,
	// too.
	AllowedNames, AllowedHosts []string

	MinVersion uint16 // tls.VersionTLS12 or later; 0 means TLS 1.2
	HTTP2      bool   // is spoken with whoever wants it; HTTP/1.1 always is

	Now func() time.Time // nil means time.Now
	Log *slog.Logger     // nil discards
}

func (c Config) withDefaults() Config {
	if c.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// ciphers are those of TLS 1.2 that encrypt and authenticate in one and keep what was said secret
// when a key becomes known later. TLS 1.3 has no others.
var ciphers = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// base returns what all connections of this side have in common.
func (c Config) base() *tls.Config {
	protocols := []string{"http/1.1"}
	if c.HTTP2 {
		protocols = []string{"h2", "http/1.1"}
	}
	return &tls.Config{MinVersion: c.MinVersion, CipherSuites: ciphers, NextProtos: protocols, Time: c.Now}
}

// Server is the side that is called. It is safe for concurrent use.
type Server struct {
	config Config
	files  *watched
	outer  *tls.Config
}

// NewServer reads the files of c, among which Cert and Key have to be. Errors are *FileError; a
// certificate that has expired, or is not for servers, is one.
func NewServer(c Config) (*Server, error) {
	s := &Server{config: c.withDefaults()}
	files, err := watch(s.config, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	s.files = files
	s.outer = s.config.base()
	s.outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		s.files.refresh()
		return s.settled(s.files.current()), nil
	}
	return s, nil
}

// Config returns the configuration for all connections: shared, read only.
func (s *Server) Config() *tls.Config { return s.outer }

// settled returns the configuration of a connection that begins now.
func (s *Server) settled(m *material) *tls.Config {
	config := s.config.base()
	config.Certificates = []tls.Certificate{*m.pair}
	switch s.config.ClientCerts {
	case OptionalClientCerts:
		config.ClientAuth, config.ClientCAs = tls.VerifyClientCertIfGiven, m.roots
	case RequiredClientCerts:
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, m.roots
	}
	// A session is taken up again only with the files that it began with. Else the whole handshake is done again, with
	// what the client shows now.
	config.WrapSession = func(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		session.Extra = append(session.Extra, m.sum[:])
		return s.outer.EncryptTicket(state, session)
	}
	config.UnwrapSession = func(identity []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		session, err := s.outer.DecryptTicket(identity, state)
		if err != nil || session == nil || !slices.ContainsFunc(session.Extra, func(extra []byte) bool { return bytes.Equal(extra, m.sum[:]) }) {
			return nil, err
		}
		return session, nil
	}
	// Unlike VerifyPeerCertificate it is called for a session that is taken up again, too.
	config.VerifyConnection = func(state tls.ConnectionState) error { return s.verify(m, state) }
	return config
}

// verify is what crypto/tls has not verified: nothing of a client that shows no certificate, for
// one.
func (s *Server) verify(m *material, state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	chains := state.VerifiedChains
	if state.DidResume { // they were verified by the files of then
		var err error
		if chains, err = m.chains(state.PeerCertificates, x509.ExtKeyUsageClientAuth, s.config); err != nil {
			return err
		}
	}
	return m.accepts(chains, s.config)
}

// Verify returns why a connection that is open would not be let in with the files as they are now,
// nil if it would.
func (s *Server) Verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 || s.config.ClientCerts == NoClientCerts {
		return nil // nothing that files could change
	}
	return s.files.current().verify(state, x509.ExtKeyUsageClientAuth, s.config)
}

// Refresh looks at the files. It returns a number that changes whenever other files come into use.
func (s *Server) Refresh() uint64 { return s.files.refresh() }

// Leaf returns the certificate that is shown now: shared, read only.
func (s *Server) Leaf() *x509.Certificate { return s.files.current().pair.Leaf }

// Client is the side that calls. It is safe for concurrent use.
type Client struct {
	config Config
	files  *watched
}

// NewClient reads the files of c, of which there may be none. Errors are *FileError. A certificate
// that has expired is no error until a connection begins: it may be renewed before.
func NewClient(c Config) (*Client, error) {
	client := &Client{config: c.withDefaults()}
	files, err := watch(client.config, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	client.files = files
	return client, nil
}

// Config returns the configuration for one connection to host, a name or an address without port.
// The caller owns it.
func (c *Client) Config(host string) *tls.Config {
	c.files.refresh()
	m := c.files.current()
	config := c.config.base()
	config.ServerName, config.RootCAs = host, m.roots
	if m.pair != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if err := expired(Certificate, c.config.Cert, m.pair.Leaf, c.config.Now()); err != nil {
				return nil, err
			}
			return m.pair, nil // also when the server names other authorities: it knows best what it accepts
		}
	}
	config.VerifyConnection = func(state tls.ConnectionState) error { return m.accepts(state.VerifiedChains, c.config) }
	return config
}

// Verify returns why a connection that is open would not be made with the files as they are now, nil
// if it would. The host that was called is not compared again.
func (c *Client) Verify(state tls.ConnectionState) error {
	return c.files.current().verify(state, x509.ExtKeyUsageServerAuth, c.config)
}

// Refresh looks at the files. It returns a number that changes whenever other files come into use.
func (c *Client) Refresh() uint64 { return c.files.refresh() }
