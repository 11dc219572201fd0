package tlsconfig_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/certs"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

// patience bounds every wait for something that must happen soon.
const patience = 20 * time.Second

// records collects what is logged.
type records struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (r *records) log() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

// authority returns a new authority and its directory.
func authority(t testing.TB) (*certs.CA, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	ca, err := certs.Init(dir, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca, dir
}

// issue returns the files of a new certificate, made at the given time.
func issue(t testing.TB, ca *certs.CA, kind certs.Kind, name string, made time.Time, hosts ...string) tlsconfig.Files {
	t.Helper()
	issued, err := ca.Issue(certs.Request{Kind: kind, Name: name, Hosts: hosts}, made)
	if err != nil {
		t.Fatal(err)
	}
	return tlsconfig.Files{Cert: issued.File, Key: issued.Key, CA: filepath.Join(filepath.Dir(issued.File), "ca.crt")}
}

func newServer(t testing.TB, c tlsconfig.Config) *tlsconfig.Server {
	t.Helper()
	s, err := tlsconfig.NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newClient(t testing.TB, f tlsconfig.Files) *tlsconfig.Client {
	t.Helper()
	c, err := tlsconfig.NewClient(tlsconfig.Config{Files: f})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// link is a connection after a handshake.
type link struct {
	server, client       *tls.Conn
	serverErr, clientErr error
}

// wire returns the two ends of a connection.
func wire(t testing.TB) (ours, theirs net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if theirs, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ours, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

// connect has two sides shake hands and say a byte to each other.
func connect(t testing.TB, server, client *tls.Config) *link {
	t.Helper()
	ours, theirs := wire(t)
	l := &link{server: tls.Server(ours, server), client: tls.Client(theirs, client)}
	ours.SetDeadline(time.Now().Add(patience))
	theirs.SetDeadline(time.Now().Add(patience))
	var both sync.WaitGroup
	both.Go(func() {
		if l.serverErr = l.server.Handshake(); l.serverErr != nil {
			ours.Close()
			return
		}
		_, l.serverErr = l.server.Write([]byte("s"))
	})
	both.Go(func() {
		// In TLS 1.3 a client learns from its first read whether it was let in.
		if _, l.clientErr = io.ReadFull(l.client, make([]byte, 1)); l.clientErr != nil {
			theirs.Close()
		}
	})
	both.Wait()
	return l
}

// says fails the test unless bytes pass both ways.
func (l *link) says(t *testing.T) {
	t.Helper()
	for _, way := range [][2]*tls.Conn{{l.server, l.client}, {l.client, l.server}} {
		sent := make(chan error, 1)
		go func() { _, err := way[0].Write([]byte("x")); sent <- err }()
		if _, err := io.ReadFull(way[1], make([]byte, 1)); err != nil {
			t.Errorf("an open connection: %v", err)
		}
		if err := <-sent; err != nil {
			t.Errorf("an open connection: %v", err)
		}
	}
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAFileThatCannotBeUsedIsNamedWithTheReason(t *testing.T) {
	ca, dir := authority(t)
	other, otherDir := authority(t)
	good := issue(t, ca, certs.Server, "good", time.Now(), "localhost")
	second := issue(t, ca, certs.Server, "second", time.Now(), "localhost")
	old := issue(t, ca, certs.Server, "old", time.Now().AddDate(-1, 0, -3), "localhost")
	user := issue(t, ca, certs.Client, "user", time.Now())
	issue(t, other, certs.Client, "stranger", time.Now())
	if _, err := other.Revoke("client-stranger", time.Now()); err != nil {
		t.Fatal(err)
	}
	file := func(name string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		write(t, path, data)
		return path
	}
	locked := file("locked", pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}))
	for _, c := range []struct {
		name  string
		files tlsconfig.Files
		what  tlsconfig.What
		want  string
	}{
		{"a key of another certificate", tlsconfig.Files{Cert: good.Cert, Key: second.Key}, tlsconfig.Key, "it is not the key of the certificate " + good.Cert},
		{"an expired certificate", old, tlsconfig.Certificate, "UTC, 3 days ago; renew it"},
		{"the certificate of a client", user, tlsconfig.Certificate, "it is not for servers"},
		{"no file", tlsconfig.Files{Cert: "/none", Key: good.Key}, tlsconfig.Certificate, "cannot use the certificate /none: no such file or directory"},
		{"no key file", tlsconfig.Files{Cert: good.Cert, Key: "/none"}, tlsconfig.Key, "cannot use the key /none: no such file or directory"},
		{"a directory", tlsconfig.Files{Cert: dir, Key: good.Key}, tlsconfig.Certificate, "is a directory"},
		{"an empty file", tlsconfig.Files{Cert: file("empty", nil), Key: good.Key}, tlsconfig.Certificate, "it holds no PEM certificate"},
		{"files swapped", tlsconfig.Files{Cert: good.Key, Key: good.Cert}, tlsconfig.Certificate, "it holds no PEM certificate"},
		{"a certificate for a key", tlsconfig.Files{Cert: good.Cert, Key: good.Cert}, tlsconfig.Key, "it holds a certificate and no key"},
		{"a key with a passphrase", tlsconfig.Files{Cert: good.Cert, Key: locked}, tlsconfig.Key, "it needs a passphrase"},
		{"garbage for a key", tlsconfig.Files{Cert: good.Cert, Key: file("garbage", []byte("x"))}, tlsconfig.Key, "it holds no PEM key"},
		{"a file without end", tlsconfig.Files{Cert: good.Cert, Key: "/dev/zero"}, tlsconfig.Key, "longer than"},
		{"no authority", tlsconfig.Files{Cert: good.Cert, Key: good.Key, CA: good.Key}, tlsconfig.Authorities, "it holds no PEM certificate"},
		{"the list of another authority", tlsconfig.Files{Cert: good.Cert, Key: good.Key, CA: good.CA, CRL: filepath.Join(otherDir, "ca.crl")}, tlsconfig.RevocationList, "not signed by an authority in " + good.CA},
		{"no list", tlsconfig.Files{Cert: good.Cert, Key: good.Key, CA: good.CA, CRL: good.CA}, tlsconfig.RevocationList, "it holds no revocation list"},
		{"garbage for a list", tlsconfig.Files{Cert: good.Cert, Key: good.Key, CA: good.CA, CRL: file("garbage", []byte("x"))}, tlsconfig.RevocationList, "it is no revocation list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tlsconfig.NewServer(tlsconfig.Config{Files: c.files})
			problem, ok := err.(*tlsconfig.FileError)
			if joined, isJoined := err.(interface{ Unwrap() []error }); isJoined {
				problem, ok = joined.Unwrap()[0].(*tlsconfig.FileError)
			}
			if !ok || problem.What != c.what || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q about the %v", err, c.want, c.what)
			}
		})
	}
}

func TestAKeyThatOthersMayUseIsWarnedOf(t *testing.T) {
	ca, _ := authority(t)
	files := issue(t, ca, certs.Server, "n1", time.Now(), "localhost")
	for mode, warned := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o644: true, 0o660: true} {
		if err := os.Chmod(files.Key, mode); err != nil {
			t.Fatal(err)
		}
		var log records
		newServer(t, tlsconfig.Config{Files: files, Log: log.log()})
		if strings.Contains(log.String(), "chmod 600 "+files.Key) != warned {
			t.Errorf("mode %v: %s", mode, log.String())
		}
	}
}

func TestChangedFilesComeIntoUseAndBrokenOnesDoNot(t *testing.T) {
	ca, _ := authority(t)
	files := issue(t, ca, certs.Server, "n1", time.Now(), "localhost")
	var log records
	server := newServer(t, tlsconfig.Config{Files: files, Log: log.log()})
	client := newClient(t, tlsconfig.Files{CA: files.CA})
	shown := func() *link {
		t.Helper()
		l := connect(t, server.Config(), client.Config("localhost"))
		if l.serverErr != nil || l.clientErr != nil {
			t.Fatalf("%v, %v", l.serverErr, l.clientErr)
		}
		return l
	}
	serial := func(l *link) string { return l.client.ConnectionState().PeerCertificates[0].SerialNumber.String() }
	open := shown()
	first := serial(open)

	if _, err := ca.Renew("server-n1", time.Now()); err != nil {
		t.Fatal(err)
	}
	second := serial(shown())
	if second == first {
		t.Error("a renewed certificate is not shown")
	}
	good := read(t, files.Cert)
	version := server.Refresh()
	for _, broken := range [][]byte{nil, good[:len(good)/2], read(t, issue(t, ca, certs.Server, "n2", time.Now(), "localhost").Cert),
		read(t, issue(t, ca, certs.Server, "n3", time.Now().AddDate(-2, 0, 0), "localhost").Cert)} {
		write(t, files.Cert, broken)
		before := strings.Count(log.String(), "stay in use")
		for range 3 {
			if got := serial(shown()); got != second {
				t.Errorf("%s is shown, want the last good one", got)
			}
		}
		if told := strings.Count(log.String(), "stay in use") - before; told != 1 {
			t.Errorf("the log tells %d times of one broken file:\n%s", told, log.String())
		}
	}
	if err := os.Remove(files.Cert); err != nil {
		t.Fatal(err)
	}
	if got := serial(shown()); got != second || server.Refresh() != version {
		t.Errorf("without the file %s is shown", got)
	}
	if _, err := ca.Issue(certs.Request{Kind: certs.Server, Name: "n4", Hosts: []string{"localhost"}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	// First the certificate, then the key: what does not match yet does not count.
	dir := filepath.Dir(files.Cert)
	if err := os.Rename(filepath.Join(dir, "server-n4.crt"), files.Cert); err != nil {
		t.Fatal(err)
	}
	if got := serial(shown()); got != second {
		t.Errorf("%s is shown before its key is there", got)
	}
	if err := os.Rename(filepath.Join(dir, "server-n4.key"), files.Key); err != nil {
		t.Fatal(err)
	}
	if got := serial(shown()); got == second || server.Refresh() != version+1 {
		t.Error("a new pair is not shown")
	}
	open.says(t)
}

func TestAnAuthorityThatIsExchangedCountsFromTheNextConnectionOn(t *testing.T) {
	before, _ := authority(t)
	after, _ := authority(t)
	old, fresh := issue(t, before, certs.Peer, "n1", time.Now(), "localhost"), issue(t, after, certs.Peer, "n1", time.Now(), "localhost")
	trusted := filepath.Join(t.TempDir(), "ca")
	write(t, trusted, read(t, old.CA))
	server := newServer(t, tlsconfig.Config{Files: tlsconfig.Files{Cert: fresh.Cert, Key: fresh.Key, CA: trusted}, ClientCerts: tlsconfig.RequiredClientCerts})
	client := newClient(t, tlsconfig.Files{Cert: fresh.Cert, Key: fresh.Key, CA: trusted})
	l := connect(t, server.Config(), client.Config("localhost"))
	if text := tlsconfig.Explain(l.clientErr); !strings.Contains(text, `the certificate of "n1" is signed by `) || !strings.Contains(text, "no authority that is trusted here") {
		t.Errorf("a server of an unknown authority: %q", text)
	}
	write(t, trusted, append(read(t, old.CA), read(t, fresh.CA)...))
	l = connect(t, server.Config(), client.Config("localhost"))
	if l.clientErr != nil || l.serverErr != nil {
		t.Fatalf("with both authorities: %v, %v", l.clientErr, l.serverErr)
	}
	write(t, trusted, read(t, old.CA))
	server.Refresh()
	if err := server.Verify(l.server.ConnectionState()); !strings.Contains(tlsconfig.Explain(err), "no authority that is trusted here") {
		t.Errorf("an open connection whose authority has gone: %v", err)
	}
}

func TestARevokedCertificateIsRefusedInNewAndResumedSessions(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		ca, dir := authority(t)
		files := issue(t, ca, certs.Server, "n1", time.Now(), "localhost")
		users := map[string]tlsconfig.Files{"ann": issue(t, ca, certs.Client, "ann", time.Now()), "bob": issue(t, ca, certs.Client, "bob", time.Now())}
		issue(t, ca, certs.Client, "nobody", time.Now())
		if _, err := ca.Revoke("client-nobody", time.Now()); err != nil { // so that there is a list
			t.Fatal(err)
		}
		files.CRL = filepath.Join(dir, "ca.crl")
		server := newServer(t, tlsconfig.Config{Files: files, ClientCerts: tlsconfig.RequiredClientCerts})
		sessions := map[string]tls.ClientSessionCache{"ann": tls.NewLRUClientSessionCache(1), "bob": tls.NewLRUClientSessionCache(1)}
		as := func(user string) *link {
			config := newClient(t, users[user]).Config("localhost")
			config.ClientSessionCache, config.MaxVersion = sessions[user], version
			return connect(t, server.Config(), config)
		}
		for user := range users {
			as(user)
		}
		open := as("ann")
		if open.serverErr != nil || !open.server.ConnectionState().DidResume {
			t.Fatalf("not resumed: %v", open.serverErr)
		}
		if err := server.Verify(open.server.ConnectionState()); err != nil {
			t.Error(err)
		}
		if _, err := ca.Revoke("client-ann", time.Now()); err != nil {
			t.Fatal(err)
		}
		for _, what := range []string{"resumed", "new"} {
			if l := as("ann"); !strings.Contains(tlsconfig.Explain(l.serverErr), `the certificate of "ann" is refused: its authority has revoked it`) {
				t.Errorf("%s session of who is revoked: %v", what, l.serverErr)
			}
			sessions["ann"] = nil
		}
		if l := as("bob"); l.serverErr != nil {
			t.Errorf("who is not revoked: %v", l.serverErr)
		}
		if err := server.Verify(open.server.ConnectionState()); err == nil {
			t.Error("the open connection of who is revoked would still be let in")
		}
	}
}

func TestWhoIsLetInFollowsFromTheSettings(t *testing.T) {
	ca, _ := authority(t)
	stranger, _ := authority(t)
	files := issue(t, ca, certs.Peer, "n1", time.Now(), "n1.example", "10.0.0.1")
	none := tlsconfig.Files{CA: files.CA}
	with := func(f tlsconfig.Files) tlsconfig.Files { f.CA = files.CA; return f }
	n2 := issue(t, ca, certs.Peer, "n2", time.Now(), "n2.example")
	ann := issue(t, ca, certs.Client, "ann", time.Now())
	old := issue(t, ca, certs.Client, "old", time.Now().AddDate(-2, 0, 0))
	mallory := with(issue(t, stranger, certs.Client, "mallory", time.Now()))
	onlyServer := issue(t, ca, certs.Server, "web", time.Now(), "web.example")
	for _, c := range []struct {
		name   string
		server tlsconfig.Config
		client tlsconfig.Files
		want   string // of the server's error; "" lets in
	}{
		{"not asked for one", tlsconfig.Config{}, none, ""},
		{"not asked, and shows a bad one", tlsconfig.Config{}, mallory, ""},
		{"optional and none", tlsconfig.Config{ClientCerts: tlsconfig.OptionalClientCerts}, none, ""},
		{"optional and a good one", tlsconfig.Config{ClientCerts: tlsconfig.OptionalClientCerts}, ann, ""},
		{"optional and a bad one", tlsconfig.Config{ClientCerts: tlsconfig.OptionalClientCerts}, mallory, "no authority that is trusted here"},
		{"required and none", tlsconfig.Config{ClientCerts: tlsconfig.RequiredClientCerts}, none, "it shows no certificate, and one is required"},
		{"required and a good one", tlsconfig.Config{ClientCerts: tlsconfig.RequiredClientCerts}, ann, ""},
		{"a name that is allowed", tlsconfig.Config{ClientCerts: tlsconfig.RequiredClientCerts, AllowedNames: []string{"n3", "n2"}}, n2, ""},
		{"a name that is not", tlsconfig.Config{ClientCerts: tlsconfig.RequiredClientCerts, AllowedNames: []string{"n3", "n2"}}, ann, `its common name is not "n3" or "n2"`},
		{"a host that is allowed", tlsconfig.Config{ClientCerts: tlsconfig.RequiredClientCerts, AllowedHosts: []string{"n2.example"}}, n2, ""},
		{"a host that is not", tlsconfig.Config{ClientCerts: tlsconfig.RequiredClientCerts, AllowedHosts: []string{"n3.example"}}, n2, `it is for n2.example, and not for "n3.example"`},
		{"name and host", tlsconfig.Config{ClientCerts: tlsconfig.RequiredClientCerts, AllowedNames: []string{"n2"}, AllowedHosts: []string{"n3.example"}}, n2, "is refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.server.Files = files
			l := connect(t, newServer(t, c.server).Config(), newClient(t, c.client).Config("n1.example"))
			text := tlsconfig.Explain(l.serverErr)
			if c.want == "" && (l.serverErr != nil || l.clientErr != nil) || c.want != "" && !strings.Contains(text, c.want) {
				t.Errorf("%q (%v, %v), want %q", text, l.serverErr, l.clientErr, c.want)
			}
		})
	}

	required := newServer(t, tlsconfig.Config{Files: files, ClientCerts: tlsconfig.RequiredClientCerts})
	if l := connect(t, required.Config(), newClient(t, old).Config("n1.example")); !strings.Contains(tlsconfig.Explain(l.clientErr), "it has expired, on ") {
		t.Errorf("one's own expired certificate: %v", l.clientErr)
	}
	pair, err := tls.LoadX509KeyPair(old.Cert, old.Key)
	if err != nil {
		t.Fatal(err)
	}
	config := newClient(t, none).Config("n1.example")
	config.Certificates = []tls.Certificate{pair}
	if l := connect(t, required.Config(), config); !strings.Contains(tlsconfig.Explain(l.serverErr), `the certificate of "old" has expired, on `) {
		t.Errorf("an expired certificate of a client: %v", l.serverErr)
	}
	if pair, err = tls.LoadX509KeyPair(onlyServer.Cert, onlyServer.Key); err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{pair}
	if l := connect(t, required.Config(), config); !strings.Contains(tlsconfig.Explain(l.serverErr), "is not for this side of a connection") {
		t.Errorf("a server's certificate of a client: %v", l.serverErr)
	}
	if _, err := tlsconfig.NewClient(tlsconfig.Config{Files: onlyServer}); err == nil || !strings.Contains(err.Error(), "it is not for clients") {
		t.Errorf("a server's certificate of a client: %v", err)
	}

	for host, want := range map[string]string{"n1.example": "", "10.0.0.1": "", "n2.example": "is for n1.example, 10.0.0.1, and not for n2.example", "10.0.0.2": "and not for 10.0.0.2"} {
		l := connect(t, newServer(t, tlsconfig.Config{Files: files}).Config(), newClient(t, none).Config(host))
		if text := tlsconfig.Explain(l.clientErr); !strings.Contains(text, want) || want == "" && l.clientErr != nil {
			t.Errorf("%s: %v", host, l.clientErr)
		}
	}
}

func TestOldVersionsAndCiphersAreNotSpoken(t *testing.T) {
	ca, _ := authority(t)
	files := issue(t, ca, certs.Server, "n1", time.Now(), "localhost")
	for _, c := range []struct {
		least, clientsBest uint16
		cipher             uint16
		ok                 bool
	}{
		{0, tls.VersionTLS13, 0, true},
		{0, tls.VersionTLS12, 0, true},
		{0, tls.VersionTLS11, 0, false},
		{tls.VersionTLS13, tls.VersionTLS12, 0, false},
		{tls.VersionTLS13, tls.VersionTLS13, 0, true},
		{0, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, true},
		{0, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, false},
	} {
		config := newClient(t, tlsconfig.Files{CA: files.CA}).Config("localhost")
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, c.clientsBest
		if config.CipherSuites = nil; c.cipher != 0 {
			config.CipherSuites = []uint16{c.cipher}
		}
		l := connect(t, newServer(t, tlsconfig.Config{Files: files, MinVersion: c.least}).Config(), config)
		if (l.serverErr == nil) != c.ok {
			t.Errorf("%+v: %v", c, l.serverErr)
		}
		if l.serverErr != nil && tlsconfig.Explain(l.serverErr) == "" {
			t.Errorf("there are no words for %v", l.serverErr)
		}
	}
}

func TestAListThatIsOutOfDateStillCountsAndIsWarnedOf(t *testing.T) {
	ca, dir := authority(t)
	files := issue(t, ca, certs.Server, "n1", time.Now(), "localhost")
	ann := issue(t, ca, certs.Client, "ann", time.Now())
	own := read(t, filepath.Join(dir, "ca.key"))
	block, _ := pem.Decode(own)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := certs.Read(ann.Cert)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: bad.SerialNumber, ThisUpdate: time.Now().AddDate(0, -2, 0), NextUpdate: time.Now().AddDate(0, -1, 0),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: bad.SerialNumber, RevocationTime: time.Now()}},
	}, ca.Issued().Certificate, key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	files.CRL = filepath.Join(t.TempDir(), "list.der")
	write(t, files.CRL, der)
	var log records
	server := newServer(t, tlsconfig.Config{Files: files, ClientCerts: tlsconfig.RequiredClientCerts, Log: log.log()})
	if !strings.Contains(log.String(), "the revocation list is out of date") {
		t.Errorf("not told:\n%s", log.String())
	}
	if l := connect(t, server.Config(), newClient(t, ann).Config("localhost")); !strings.Contains(tlsconfig.Explain(l.serverErr), "has revoked it") {
		t.Errorf("who is on it: %v", l.serverErr)
	}
}

func TestWhatIsNoTLSIsRecognised(t *testing.T) {
	ca, _ := authority(t)
	server := newServer(t, tlsconfig.Config{Files: issue(t, ca, certs.Server, "n1", time.Now(), "localhost")})
	for sent, want := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n": "speaks plain HTTP", "PUT /v2/keys/a HTTP/1.1\r\n\r\n": "speaks plain HTTP", "DELETE / HTTP/1.1": "speaks plain HTTP",
		"\x00\x01\x02\x03\x04\x05\x06": "does not speak TLS",
	} {
		ours, theirs := net.Pipe()
		go func() { io.WriteString(theirs, sent); theirs.Close() }()
		if err := tls.Server(ours, server.Config()).Handshake(); !strings.Contains(tlsconfig.Explain(err), want) {
			t.Errorf("%q: %v", sent, err)
		}
	}
	if text := tlsconfig.Explain(io.EOF); text != "" {
		t.Errorf("an error of no handshake: %q", text)
	}
}

func TestTimesAreToldWithTheirDistance(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for then, want := range map[time.Time]string{
		now.AddDate(0, 0, -3):              "2026-11-19 10:00 UTC, 3 days ago",
		now.Add(90 * time.Minute):          "2026-11-22 11:30 UTC, in 2 hours",
		now.Add(-5 * time.Minute):          "2026-11-22 09:55 UTC, 5 minutes ago",
		now.Add(30 * time.Second):          "2026-11-22 10:00 UTC, in 30 seconds",
		now.AddDate(1, 0, 0).Add(-1e9 * 5): "2027-11-22 09:59 UTC, in 365 days",
	} {
		if got := tlsconfig.When(then, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestNoSessionOutlivesAChangeOfTheFilesAndItsClientIsLetInByWhatItShowsNow(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		ca, dir := authority(t)
		files := issue(t, ca, certs.Server, "n1", time.Now(), "localhost")
		lost, renewed := issue(t, ca, certs.Client, "ann", time.Now()), issue(t, ca, certs.Client, "ann-2", time.Now())
		issue(t, ca, certs.Client, "nobody", time.Now())
		if _, err := ca.Revoke("client-nobody", time.Now()); err != nil { // so that there is a list
			t.Fatal(err)
		}
		files.CRL = filepath.Join(dir, "ca.crl")
		server := newServer(t, tlsconfig.Config{Files: files, ClientCerts: tlsconfig.RequiredClientCerts})
		session := tls.NewLRUClientSessionCache(1)
		as := func(shown tlsconfig.Files) *link {
			config := newClient(t, shown).Config("localhost")
			config.ClientSessionCache, config.MaxVersion = session, version
			return connect(t, server.Config(), config)
		}
		as(lost)
		if l := as(lost); l.serverErr != nil || !l.server.ConnectionState().DidResume {
			t.Fatalf("not resumed: %v", l.serverErr)
		}
		if _, err := ca.Revoke("client-ann", time.Now()); err != nil {
			t.Fatal(err)
		}
		if l := as(renewed); l.serverErr != nil || l.clientErr != nil || l.server.ConnectionState().DidResume {
			t.Fatalf("another certificate with the session of one that was revoked: %v, %v, resumed: %v", l.serverErr, l.clientErr, l.server.ConnectionState().DidResume)
		}
		if l := as(renewed); l.serverErr != nil || !l.server.ConnectionState().DidResume {
			t.Errorf("not resumed after the change: %v", l.serverErr)
		}
	}
}
