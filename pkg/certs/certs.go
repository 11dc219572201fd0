// Package certs is a small certificate authority that lives in a directory: enough for the TLS of
// one cluster and its clients.
//
// It knows files, keys and certificates: NAME.crt and NAME.key for each, ca.crt and ca.key for the
// authority itself, and ca.crl for what it has revoked, which is nothing at first. All of them are for their owner alone, come
// into place complete and on disk, and are never overwritten but by Renew and Revoke. It knows
// nothing of connections; pkg/tlsconfig does.
//
//	authority, err := certs.Init("certs", "", time.Now())
//	...
//	issued, err := authority.Issue(certs.Request{Kind: certs.Server, Name: "n1", Hosts: []string{"n1.example", "10.0.0.1"}}, time.Now())
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

const (
	day           = 24 * time.Hour
	authorityLife = 3652 * day
	leafLife      = 365 * day
	// early is how far before its making a certificate is valid, for machines whose clocks are late.
	early = time.Hour

	nameBytesMax = 64 // of a common name
	hostsMax     = 100
)

// The names of the authority's own files.
const (
	Authority = "ca"
	crtEnding = ".crt"
	keyEnding = ".key"
	crlEnding = ".crl"
)

// Kind is what a certificate is for.
type Kind string

const (
	Server Kind = "server" // shown to clients
	Peer   Kind = "peer"   // shown by members to each other: as server and as client
	Client Kind = "client" // shown by clients
)

func (k Kind) usages() []x509.ExtKeyUsage {
	switch k {
	case Server:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case Peer:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	case Client:
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	return nil
}

// Request says what certificate is wanted.
type Request struct {
	Kind  Kind
	Name  string   // its common name: of a client, the user; of a member, its name
	Hosts []string // names, which may begin with "*.", and addresses that it is reached by; none for clients
}

// file returns the name of the files, without ending.
func (r Request) file() string { return string(r.Kind) + "-" + r.Name }

func (r Request) check() error {
	switch {
	case r.Kind.usages() == nil:
		return fmt.Errorf("%q is no kind of certificate: use %s, %s or %s", string(r.Kind), Server, Peer, Client)
	case r.Name == "" || len(r.Name) > nameBytesMax || strings.HasPrefix(r.Name, ".") || strings.ContainsFunc(r.Name, unfit):
		return fmt.Errorf("%q cannot be a name: use up to %d letters, digits and . _ - @, the first no dot", r.Name, nameBytesMax)
	case r.Kind == Client && len(r.Hosts) > 0:
		return errors.New("nobody calls a client: a client certificate has no hosts")
	case r.Kind != Client && len(r.Hosts) == 0:
		return fmt.Errorf("a %s certificate needs the names and addresses that %s is reached by", r.Kind, r.Name)
	case len(r.Hosts) > hostsMax:
		return fmt.Errorf("%d hosts are more than %d", len(r.Hosts), hostsMax)
	}
	for _, host := range r.Hosts {
		if _, err := netip.ParseAddr(host); err != nil && !isHostName(host) {
			return fmt.Errorf("%q is neither an address nor a host name; leave scheme and port out", host)
		}
	}
	return nil
}

// unfit reports whether r may not be part of the name of a certificate, which names its files.
func unfit(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-@", r))
}

func isHostName(host string) bool {
	labels := strings.Split(strings.TrimPrefix(host, "*."), ".")
	return len(host) <= 253 && !slices.ContainsFunc(labels, func(label string) bool {
		return label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool { return unfit(r) || r == '@' })
	})
}

// Issued is a certificate in a file.
type Issued struct {
	File string // of the certificate
	Key  string // of its key; "" when it is not there
	*x509.Certificate
}

// CA is the authority of a directory. It is not safe for concurrent use, nor are two of one
// directory.
type CA struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Init makes a new authority in dir, which is made if it is not there. name is what it is called;
// "" draws a name that no other has. It fails when dir has an authority, or is open to others.
func Init(dir, name string, now time.Time) (*CA, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := onlyOurs(dir, "0700"); err != nil {
		return nil, err
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = "kvd CA " + hex.EncodeToString(serial.Bytes()[:4])
	}
	ca := &CA{dir: dir, key: key}
	if ca.cert, err = ca.self(pkix.Name{CommonName: name}, serial, now); err != nil {
		return nil, err
	}
	if err := ca.keep(Authority, ca.cert, keyPEM); err != nil {
		return nil, err
	}
	return ca, ca.revoke(&x509.RevocationList{Number: big.NewInt(1)}, now)
}

// self returns a certificate of the authority, signed by itself.
func (ca *CA) self(subject pkix.Name, serial *big.Int, now time.Time) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject, NotBefore: now.Add(-early), NotAfter: now.Add(authorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Open opens the authority of dir. It fails when its key is open to others.
func Open(dir string) (*CA, error) {
	path := filepath.Join(dir, Authority+keyEnding)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no authority in %s (no %s): make one with kvctl cert init, or name its directory with --out", dir, Authority+keyEnding)
	}
	if err != nil {
		return nil, err
	}
	if err := onlyOurs(path, "0600"); err != nil {
		return nil, err
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	own, err := Read(filepath.Join(dir, Authority+crtEnding))
	if err != nil {
		return nil, err
	}
	if public, ok := own.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(&key.PublicKey) || !own.IsCA {
		return nil, fmt.Errorf("%s and %s do not belong together", own.File, path)
	}
	return &CA{dir: dir, cert: own.Certificate, key: key}, nil
}

// Issued returns the certificate of the authority itself.
func (ca *CA) Issued() Issued { return issuedIn(ca.path(Authority+crtEnding), ca.cert) }

func (ca *CA) path(name string) string { return filepath.Join(ca.dir, name) }

// Issue makes a certificate and its key. It fails when there are files of that kind and name.
func (ca *CA) Issue(r Request, now time.Time) (Issued, error) {
	if err := r.check(); err != nil {
		return Issued{}, err
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return Issued{}, err
	}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: r.Name}, ExtKeyUsage: r.Kind.usages()}
	for _, host := range r.Hosts {
		if address, err := netip.ParseAddr(host); err == nil {
			template.IPAddresses = append(template.IPAddresses, address.AsSlice())
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	cert, err := ca.sign(template, &key.PublicKey, now)
	if err != nil {
		return Issued{}, err
	}
	if err := ca.keep(r.file(), cert, keyPEM); err != nil {
		return Issued{}, err
	}
	return issuedIn(ca.path(r.file()+crtEnding), cert), nil
}

// sign makes a certificate with the subject, hosts and usages of template, valid from now on.
func (ca *CA) sign(template *x509.Certificate, public any, now time.Time) (*x509.Certificate, error) {
	if now.After(ca.cert.NotAfter) {
		return nil, fmt.Errorf("the authority itself has expired, on %s: kvctl cert renew ca", tlsconfig.When(ca.cert.NotAfter, now))
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	fresh := &x509.Certificate{
		SerialNumber: serial, Subject: template.Subject, DNSNames: template.DNSNames, IPAddresses: template.IPAddresses, ExtKeyUsage: template.ExtKeyUsage,
		NotBefore: now.Add(-early), NotAfter: now.Add(leafLife), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if fresh.NotAfter.After(ca.cert.NotAfter) {
		fresh.NotAfter = ca.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, fresh, ca.cert, public, ca.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Renew replaces the certificate of the files called name, such as "server-n1" or "ca", by one for
// the same subject, hosts, usages and key that begins now. What was signed with the one before
// stays valid, that of an authority included.
func (ca *CA) Renew(name string, now time.Time) (Issued, error) {
	old, err := Read(ca.path(name + crtEnding))
	if err != nil {
		return Issued{}, err
	}
	var fresh *x509.Certificate
	if name == Authority {
		serial, err := newSerial()
		if err != nil {
			return Issued{}, err
		}
		if fresh, err = ca.self(old.Subject, serial, now); err != nil {
			return Issued{}, err
		}
		ca.cert = fresh
	} else {
		if err := old.CheckSignatureFrom(ca.cert); err != nil {
			return Issued{}, fmt.Errorf("%s was not issued by the authority in %s", old.File, ca.dir)
		}
		if fresh, err = ca.sign(old.Certificate, old.PublicKey, now); err != nil {
			return Issued{}, err
		}
	}
	if err := replace(old.File, certPEM(fresh)); err != nil {
		return Issued{}, err
	}
	return issuedIn(old.File, fresh), nil
}

// Revoke adds the certificate of the files called name to the revocation list of the authority, and
// returns the list's file. The files stay.
func (ca *CA) Revoke(name string, now time.Time) (file string, err error) {
	if name == Authority {
		return "", errors.New("an authority cannot revoke itself: take its file away from those who trust it")
	}
	bad, err := Read(ca.path(name + crtEnding))
	if err != nil {
		return "", err
	}
	if err := bad.CheckSignatureFrom(ca.cert); err != nil {
		return "", fmt.Errorf("%s was not issued by the authority in %s", bad.File, ca.dir)
	}
	file = ca.path(Authority + crlEnding)
	before, err := readList(file)
	if err != nil {
		return "", err // an empty list in its place would let in who was revoked
	}
	list := &x509.RevocationList{Number: new(big.Int).Add(before.Number, big.NewInt(1)), RevokedCertificateEntries: before.RevokedCertificateEntries}
	if !slices.ContainsFunc(list.RevokedCertificateEntries, func(e x509.RevocationListEntry) bool { return e.SerialNumber.Cmp(bad.SerialNumber) == 0 }) {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: bad.SerialNumber, RevocationTime: now})
	}
	return file, ca.revoke(list, now)
}

// revoke writes list, with its number and entries, as the one that holds from now on.
func (ca *CA) revoke(list *x509.RevocationList, now time.Time) error {
	list.ThisUpdate, list.NextUpdate = now.Add(-early), ca.cert.NotAfter
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
	if err != nil {
		return err
	}
	return replace(ca.path(Authority+crlEnding), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func readList(file string) (*x509.RevocationList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no revocation list", file)
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err == nil && list.Number == nil {
		list.Number = big.NewInt(0)
	}
	return list, err
}

// List returns the certificates in dir: the authority first, the others by name. What is none is
// left out.
func List(dir string) ([]Issued, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+crtEnding))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("there are no certificates (*%s) in %s", crtEnding, dir)
	}
	var all []Issued
	for _, path := range paths {
		if one, err := Read(path); err == nil {
			all = append(all, one)
		}
	}
	slices.SortStableFunc(all, func(a, b Issued) int {
		switch {
		case a.IsCA == b.IsCA:
			return strings.Compare(a.File, b.File)
		case a.IsCA:
			return -1
		}
		return 1
	})
	return all, nil
}

// NameOf returns what Renew and Revoke call the files of a certificate: "server-n1".
func NameOf(file string) string { return strings.TrimSuffix(filepath.Base(file), crtEnding) }

// Read returns the first certificate of a PEM file.
func Read(file string) (Issued, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return Issued{}, err
	}
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return Issued{}, fmt.Errorf("%s holds no PEM certificate", file)
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return Issued{}, fmt.Errorf("%s: %w", file, err)
		}
		return issuedIn(file, cert), nil
	}
}

func issuedIn(file string, cert *x509.Certificate) Issued {
	key := strings.TrimSuffix(file, crtEnding) + keyEnding
	if _, err := os.Stat(key); err != nil {
		key = ""
	}
	return Issued{File: file, Key: key, Certificate: cert}
}

func newKey() (key *ecdsa.PrivateKey, keyPEM []byte, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("it holds no PEM key")
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New("it is not an ECDSA key")
	}
	return key, nil
}

// newSerial returns 127 random bits, of which the first byte is not zero.
func newSerial() (*big.Int, error) {
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	random[0] = random[0]&0x7f | 0x40
	return new(big.Int).SetBytes(random), nil
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}
