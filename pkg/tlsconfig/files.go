package tlsconfig

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	fileBytesMax = 1 << 20
	listBytesMax = 32 << 20 // of a revocation list
)

// settleTime is how long a file may change without its time of modification showing it: clocks of
// file systems are coarse. Files younger than that are read again each time.
const settleTime = 2 * time.Second

// What tells the files of one side apart.
type What uint8

const (
	Certificate What = iota
	Key
	Authorities
	RevocationList
	whats
)

// String returns the word for w.
func (w What) String() string {
	return [whats]string{"certificate", "key", "file of authorities", "revocation list"}[w]
}

// FileError is a file that cannot be used.
type FileError struct {
	What   What
	Path   string
	Reason string // and what to try
	Err    error  // the cause, may be nil
}

func (e *FileError) Error() string {
	return fmt.Sprintf("cannot use the %s %s: %s", e.What, e.Path, e.Reason)
}

// Unwrap returns the cause.
func (e *FileError) Unwrap() error { return e.Err }

// material is what was read from the files at one time. It is read only.
type material struct {
	pair    *tls.Certificate // nil for none; its Leaf is there
	roots   *x509.CertPool   // nil for the system's
	revoked map[revocation]bool
	sum     [sha256.Size]byte // of the files
}

// stamp tells a file from what was in its place before.
type stamp struct {
	file     fs.FileInfo
	size     int64
	modified time.Time
}

func (s stamp) same(other stamp) bool {
	return s.size == other.size && s.modified.Equal(other.modified) && (s.file == nil) == (other.file == nil) && (s.file == nil || os.SameFile(s.file, other.file))
}

// watched is files that may change.
type watched struct {
	config Config
	usage  x509.ExtKeyUsage // what the certificate is shown as

	version atomic.Uint64
	latest  atomic.Pointer[material]

	mu     sync.Mutex // guards the fields below
	stamps [whats]stamp
	young  bool              // a file may have changed since, unseen
	sum    [sha256.Size]byte // of all contents, as read last
}

// watch reads the files of c for the first time. An expired certificate is an error of a server.
func watch(c Config, usage x509.ExtKeyUsage) (*watched, error) {
	w := &watched{config: c, usage: usage}
	w.stamps, w.young = w.look()
	contents, err := w.read()
	if err != nil {
		return nil, err
	}
	m, err := w.parse(contents)
	if err != nil {
		return nil, err
	}
	w.sum = m.sum
	w.latest.Store(m)
	return w, nil
}

func (w *watched) current() *material { return w.latest.Load() }

// refresh takes over the files if they have changed and can be used, and returns how often it did.
func (w *watched) refresh() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	stamps, young := w.look()
	if !w.young && slices.EqualFunc(stamps[:], w.stamps[:], stamp.same) {
		return w.version.Load()
	}
	w.stamps, w.young = stamps, young
	contents, err := w.read()
	now := sum(contents)
	if err == nil && now == w.sum {
		return w.version.Load()
	}
	var m *material
	if err == nil {
		m, err = w.parse(contents)
	}
	if err != nil {
		if now != w.sum { // else it has been told
			w.config.Log.Warn("changed files of TLS cannot be used; those before them stay in use", "err", err)
		}
		w.sum = now
		return w.version.Load()
	}
	w.sum = now
	w.latest.Store(m)
	details := []any{}
	if m.pair != nil {
		details = append(details, "certificate", w.config.Cert, "fingerprint", Fingerprint(m.pair.Leaf), "until", m.pair.Leaf.NotAfter)
	}
	w.config.Log.Info("changed files of TLS are in use", details...)
	return w.version.Add(1)
}

func (w *watched) paths() [whats]string {
	return [whats]string{w.config.Cert, w.config.Key, w.config.CA, w.config.CRL}
}

// look returns the stamps of the files. A file that cannot be seen has none.
func (w *watched) look() (stamps [whats]stamp, young bool) {
	now := time.Now() // the clock of the files, whatever that of the connections is
	for i, path := range w.paths() {
		if path == "" {
			continue
		}
		file, err := os.Stat(path)
		if err != nil {
			continue
		}
		stamps[i] = stamp{file, file.Size(), file.ModTime()}
		young = young || now.Sub(file.ModTime()).Abs() < settleTime
	}
	return stamps, young
}

// read returns the contents of the files, as far as they can be read.
func (w *watched) read() (contents [whats][]byte, err error) {
	for i, path := range w.paths() {
		if path == "" {
			continue
		}
		limit := int64(fileBytesMax)
		if What(i) == RevocationList {
			limit = listBytesMax
		}
		data, problem := readFile(path, limit)
		if problem != nil {
			err = errors.Join(err, unreadable(What(i), path, problem))
		}
		contents[i] = data
	}
	return contents, err
}

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("it is longer than %d bytes", limit)
	}
	return data, err
}

func unreadable(what What, path string, err error) error {
	reason := err.Error()
	var known *fs.PathError
	if errors.As(err, &known) {
		reason = known.Err.Error()
	}
	if errors.Is(err, fs.ErrPermission) {
		reason += "; it has to be readable for the user " + userName()
	}
	return &FileError{what, path, reason, err}
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint(os.Getuid())
}

func sum(contents [whats][]byte) (s [sha256.Size]byte) {
	h := sha256.New()
	for _, data := range contents {
		fmt.Fprintf(h, "%d:", len(data))
		h.Write(data)
	}
	h.Sum(s[:0])
	return s
}

// parse makes sense of the contents of the files.
func (w *watched) parse(contents [whats][]byte) (*material, error) {
	m := material{sum: sum(contents)}
	if w.config.Cert != "" || w.config.Key != "" {
		pair, err := w.parsePair(contents[Certificate], contents[Key])
		if err != nil {
			return nil, err
		}
		m.pair = pair
	}
	var authorities []*x509.Certificate
	if w.config.CA != "" {
		var err error
		if authorities, err = parseCertificates(Authorities, w.config.CA, contents[Authorities]); err != nil {
			return nil, err
		}
		m.roots = x509.NewCertPool()
		for _, c := range authorities {
			m.roots.AddCert(c)
		}
	}
	if w.config.CRL != "" {
		var err error
		if m.revoked, err = w.parseList(contents[RevocationList], authorities); err != nil {
			return nil, err
		}
	}
	return &m, nil
}

func (w *watched) parsePair(cert, key []byte) (*tls.Certificate, error) {
	chain, err := parseCertificates(Certificate, w.config.Cert, cert)
	if err != nil {
		return nil, err
	}
	leaf, now := chain[0], w.config.Now()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, w.keyProblem(key, err)
	}
	if !canBe(leaf, w.usage) {
		return nil, &FileError{Certificate, w.config.Cert, fmt.Sprintf("it is not for %s: its extended key usage says what else it is for", sideOf(w.usage)), nil}
	}
	if w.usage == x509.ExtKeyUsageServerAuth {
		if err := expired(Certificate, w.config.Cert, leaf, now); err != nil {
			return nil, err
		}
	}
	if now.Before(leaf.NotBefore) {
		w.config.Log.Warn("the certificate is not valid yet; is the clock of this machine right?", "certificate", w.config.Cert, "from", leaf.NotBefore)
	}
	if info, err := os.Stat(w.config.Key); err == nil && info.Mode().Perm()&0o037 != 0 {
		w.config.Log.Warn("others than its owner and its group can use the key: chmod 600 "+w.config.Key, "key", w.config.Key, "mode", info.Mode().Perm().String())
	}
	pair.Leaf = leaf
	return &pair, nil
}

// keyProblem says what is wrong with a key that crypto/tls cannot use.
func (w *watched) keyProblem(key []byte, err error) error {
	reason := strings.TrimPrefix(err.Error(), "tls: ")
	block, _ := pem.Decode(key)
	switch {
	case strings.Contains(reason, "does not match"):
		reason = fmt.Sprintf("it is not the key of the certificate %s: name a certificate and a key that were made together", w.config.Cert)
	case block == nil:
		reason = "it holds no PEM key"
	case block.Type == "CERTIFICATE":
		reason = "it holds a certificate and no key: were the two files swapped?"
	case strings.Contains(block.Type, "ENCRYPTED") || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		reason = "it needs a passphrase, which nobody is there to type: store it without, readable for its owner alone"
	}
	return &FileError{Key, w.config.Key, reason, err}
}

// expired returns the error of a certificate that is no longer valid at now, nil if it is.
func expired(what What, path string, c *x509.Certificate, now time.Time) error {
	if !now.After(c.NotAfter) {
		return nil
	}
	return &FileError{what, path, fmt.Sprintf("it has expired, on %s; renew it, as with kvctl cert renew", When(c.NotAfter, now)), nil}
}

// canBe reports whether c may be used as usage says. One that says nothing may be used as anything.
func canBe(c *x509.Certificate, usage x509.ExtKeyUsage) bool {
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(c.ExtKeyUsage, usage) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

func sideOf(usage x509.ExtKeyUsage) string {
	if usage == x509.ExtKeyUsageServerAuth {
		return "servers"
	}
	return "clients"
}

// parseCertificates returns the certificates of a PEM file, at least one.
func parseCertificates(what What, path string, data []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for len(data) > 0 {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, &FileError{what, path, strings.TrimPrefix(err.Error(), "x509: "), err}
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, &FileError{what, path, "it holds no PEM certificate", nil}
	}
	return all, nil
}

// revocation is a certificate that its authority has revoked.
type revocation struct {
	issuer string // as in the certificate, DER
	serial string // bytes of the number
}

// parseList returns what the revocation lists in data revoke. Each has to be signed by one of
// authorities.
func (w *watched) parseList(data []byte, authorities []*x509.Certificate) (map[revocation]bool, error) {
	var lists [][]byte
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "X509 CRL" {
			lists = append(lists, block.Bytes)
		}
	}
	if lists == nil && !bytes.Contains(data, []byte("-----BEGIN")) {
		lists = [][]byte{data}
	}
	problem := func(reason string, err error) error {
		return &FileError{RevocationList, w.config.CRL, reason, err}
	}
	if lists == nil {
		return nil, problem("it holds no revocation list, PEM (X509 CRL) or DER", nil)
	}
	revoked := map[revocation]bool{}
	for _, der := range lists {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, problem("it is no revocation list: "+strings.TrimPrefix(err.Error(), "x509: "), err)
		}
		if !slices.ContainsFunc(authorities, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(c) == nil
		}) {
			return nil, problem(fmt.Sprintf("the list of %q is not signed by an authority in %s", list.Issuer.String(), w.config.CA), nil)
		}
		if now := w.config.Now(); !list.NextUpdate.IsZero() && now.After(list.NextUpdate) {
			w.config.Log.Warn("the revocation list is out of date; what it lists stays revoked, what came since is not known",
				"file", w.config.CRL, "issuer", list.Issuer.String(), "due", list.NextUpdate)
		}
		for _, entry := range list.RevokedCertificateEntries {
			revoked[revocation{string(list.RawIssuer), string(entry.SerialNumber.Bytes())}] = true
		}
	}
	return revoked, nil
}
