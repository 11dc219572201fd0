package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/certs"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

// authority is a CA for one test.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{}
	a.certificate, a.key = sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	return a
}

// sign makes a certificate that is valid for an hour; by is nil for one that signs itself.
func sign(t *testing.T, template *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

// mutual returns what a member called name needs, who trusts those that a has signed and asks
// everybody for a certificate.
func (a *authority) mutual(t *testing.T, name string) *TLS {
	t.Helper()
	certificate, key := sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a)
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	pair := []tls.Certificate{{Certificate: [][]byte{certificate.Raw}, PrivateKey: key}}
	return &TLS{
		Server: &tls.Config{Certificates: pair, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert},
		Client: &tls.Config{Certificates: pair, RootCAs: pool},
	}
}

func secured(by *TLS) func(*setup) { return func(c *setup) { c.TLS = by } }

func TestMembersOfOneAuthorityTalkOverTLS(t *testing.T) {
	town, ca := newTown(), newAuthority(t, "ca")
	seen := make(chan string, 8)
	mine := ca.mutual(t, "alice")
	mine.VerifyPeer = func(s tls.ConnectionState) error {
		seen <- s.PeerCertificates[0].Subject.CommonName + " " + s.NegotiatedProtocol
		return nil
	}
	a, b := town.join(t, 1, secured(mine)), town.join(t, 2, secured(ca.mutual(t, "bob")))
	answer, err := a.Call(within(t), 2, methodEcho, []byte("secret"))
	if err != nil || string(answer) != "secret" {
		t.Fatalf("%q, %v", answer, err)
	}
	if name := <-seen; name != "bob http/1.1" {
		t.Error(name)
	}
	s, err := a.RaftStreams().Dial(2, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	there, err := b.RaftStreams().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	s.Write([]byte("x"))
	if _, err := there.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	got, err := Get(within(t), "https://"+b.RaftStreams().Addr().String()+"/version", mine)
	if err != nil || string(got) != "hello at /version" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAConfigurationThatIsChosenForEachClientSpeaksHTTP1(t *testing.T) {
	town, ca := newTown(), newAuthority(t, "ca")
	chosen := ca.mutual(t, "bob")
	served := chosen.Server
	served.NextProtos = []string{"h2", "http/1.1"}
	chosen.Server = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return served, nil }}
	a, _ := town.join(t, 1, secured(ca.mutual(t, "alice"))), town.join(t, 2, secured(chosen))
	if _, err := a.Call(within(t), 2, methodEcho, nil); err != nil {
		t.Error(err)
	}
	if len(served.NextProtos) != 2 {
		t.Error("the configuration was changed")
	}
}

func TestWhoSpeaksSomethingElseOrHasTheWrongCertificateIsToldSoOnBothSides(t *testing.T) {
	ours, others := newAuthority(t, "ours"), newAuthority(t, "others")
	refusing := func(who *TLS) *TLS {
		who.VerifyPeer = func(s tls.ConnectionState) error {
			return fmt.Errorf("the name %s is not in --peer-cert-allowed-cn", s.PeerCertificates[0].Subject.CommonName)
		}
		return who
	}
	stranger := ours.mutual(t, "alice")
	stranger.Client.Certificates = others.mutual(t, "mallory").Client.Certificates
	nameless := ours.mutual(t, "alice")
	nameless.Client.Certificates = nil
	for _, c := range []struct {
		name          string
		caller, other *TLS
		said, logged  string
	}{
		{"plain to TLS", nil, ours.mutual(t, "bob"), "it speaks https there, and this member is set up for http", "a caller speaks plain http to the peer port"},
		{"TLS to plain", ours.mutual(t, "alice"), nil, "it speaks plain http there, and this member is set up for https", "a caller speaks https to the peer port"},
		{"server of another authority", ours.mutual(t, "alice"), others.mutual(t, "bob"), "its certificate is not accepted", "a TLS handshake on the peer port failed"},
		{"client of another authority", stranger, ours.mutual(t, "bob"), "certificate", "a TLS handshake on the peer port failed"},
		{"client without certificate", nameless, ours.mutual(t, "bob"), "certificate", "client didn't provide a certificate"},
		{"name not allowed by the server", ours.mutual(t, "alice"), refusing(ours.mutual(t, "bob")), "refuses: the name alice is not in --peer-cert-allowed-cn", "the name alice is not in --peer-cert-allowed-cn"},
		{"name not allowed by the client", refusing(ours.mutual(t, "alice")), ours.mutual(t, "bob"), ": the name bob is not in --peer-cert-allowed-cn", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			town, there := newTown(), &journal{}
			a := town.join(t, 1, secured(c.caller))
			b := town.join(t, 2, secured(c.other), there.keep)
			address := b.RaftStreams().Addr().String()
			_, err := a.RaftStreams().Dial(2, 10*time.Second)
			if err == nil || !strings.Contains(err.Error(), c.said) || strings.Count(err.Error(), address) != 1 {
				t.Errorf("the caller says %v", err)
			}
			scheme := "http"
			if c.caller != nil {
				scheme = "https"
			}
			_, err = Get(within(t), scheme+"://"+address+"/version", c.caller)
			if err == nil || !strings.Contains(err.Error(), c.said) || strings.Count(err.Error(), address) != 1 {
				t.Errorf("Get says %v", err)
			}
			eventually(t, "the other tells it", func() bool { return there.count(c.logged) > 0 })
		})
	}
}

// fromFiles returns what a member works with whose certificate is peer-NAME in the directory of ca.
func fromFiles(t *testing.T, ca *certs.CA, dir, name string) *TLS {
	t.Helper()
	issued, err := ca.Issue(certs.Request{Kind: certs.Peer, Name: name, Hosts: []string{"127.0.0.1"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	settings := tlsconfig.Config{
		Files:       tlsconfig.Files{Cert: issued.File, Key: issued.Key, CA: filepath.Join(dir, "ca.crt"), CRL: filepath.Join(dir, "ca.crl")},
		ClientCerts: tlsconfig.RequiredClientCerts, AllowedNames: []string{"alice", "bob"},
	}
	server, err := tlsconfig.NewServer(settings)
	if err != nil {
		t.Fatal(err)
	}
	client, err := tlsconfig.NewClient(settings)
	if err != nil {
		t.Fatal(err)
	}
	return &TLS{Server: server.Config(), ClientFor: client.Config, Round: func() func(tls.ConnectionState, bool) error {
		server.Refresh()
		client.Refresh()
		return func(state tls.ConnectionState, incoming bool) error {
			if incoming {
				return server.Verify(state)
			}
			return client.Verify(state)
		}
	}}
}

func TestAMemberWhoseCertificateIsRevokedLosesItsOpenStreamsAndGetsNoNewOnes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	ca, err := certs.Init(dir, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	town := newTown()
	a, b := town.join(t, 1, secured(fromFiles(t, ca, dir, "alice"))), town.join(t, 2, secured(fromFiles(t, ca, dir, "bob")))
	stranger := town.join(t, 3, secured(fromFiles(t, ca, dir, "mallory")))
	if answer, err := a.Call(within(t), 2, methodEcho, []byte("x")); err != nil || string(answer) != "x" {
		t.Fatalf("%q, %v", answer, err)
	}
	if _, err := stranger.Call(within(t), 1, methodEcho, nil); err == nil {
		t.Error("a member whose name is not allowed was let in")
	}
	// Who calls and who is called is cut off alike, so one stream of each kind.
	var streams []net.Conn
	for from, to := range map[*Network]uint64{a: 2, b: 1} {
		s, err := from.RaftStreams().Dial(to, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		streams = append(streams, s)
	}
	if _, err := ca.Revoke("peer-bob", time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		s.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := s.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
			t.Errorf("an open stream of who is revoked: %d bytes, %v", n, err)
		}
	}
	if _, err := b.RaftStreams().Dial(1, 10*time.Second); err == nil {
		t.Error("who is revoked has got a new stream")
	}
}
