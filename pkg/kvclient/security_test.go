package kvclient_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/kv"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// authority signs certificates for one hour.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t}
	template := a.template("authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		a.t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// issue returns the PEM of a certificate of name for addresses, and of its key.
func (a *authority) issue(name string, addresses ...net.IP) (cert, key []byte) {
	a.t.Helper()
	template := a.template(name)
	template.IPAddresses = addresses
	private := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return toPEM("CERTIFICATE", der), toPEM("PRIVATE KEY", bytes)
}

func (a *authority) pem() []byte { return toPEM("CERTIFICATE", a.cert.Raw) }

func toPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// secureServer is a server with a certificate that can be changed, which asks for one of trusted.
type secureServer struct {
	*httptest.Server
	cert atomic.Pointer[tls.Certificate]
	user atomic.Pointer[string] // whose certificate was shown last
}

func startSecure(t testing.TB, trusted *authority) *secureServer {
	t.Helper()
	s := &secureServer{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.user.Store(&r.TLS.PeerCertificates[0].Subject.CommonName)
		good(w, r)
	}))
	pool := x509.NewCertPool()
	pool.AddCert(trusted.cert)
	s.Server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, Certificates: []tls.Certificate{*s.cert.Load()}}, nil
	}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	s.Config.SetKeepAlivesEnabled(false) // each request makes its own handshake
	t.Cleanup(s.Close)
	return s
}

func (s *secureServer) use(t testing.TB, cert, key []byte) {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s.cert.Store(&pair)
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCertificatesAndAuthoritiesAreRenewedUnderARunningClient(t *testing.T) {
	loopback := net.IPv4(127, 0, 0, 1)
	before, after := newAuthority(t), newAuthority(t)
	server := startSecure(t, before)
	cert, key := before.issue("server", loopback)
	server.use(t, cert, key)
	folder := t.TempDir()
	ca, certFile, keyFile := filepath.Join(folder, "ca.pem"), filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	write(t, ca, before.pem())
	cert, key = before.issue("ann")
	write(t, certFile, cert)
	write(t, keyFile, key)
	client := open(t, kvclient.Config{Endpoints: []string{server.URL}, CAFile: ca, CertFile: certFile, KeyFile: keyFile})
	shows := func(want string) {
		t.Helper()
		if _, err := client.Write(t.Context(), aWrite); err != nil {
			t.Fatal(err)
		}
		if got := *server.user.Load(); got != want {
			t.Errorf("the certificate shown is that of %s, want %s", got, want)
		}
	}
	shows("ann")

	cert, key = before.issue("bob")
	write(t, certFile, cert)
	write(t, keyFile, key)
	shows("bob")

	cert, key = after.issue("server", loopback)
	server.use(t, cert, key)
	if _, err := client.Write(t.Context(), aWrite); !kv.Is(err, kv.Denied) || !strings.Contains(err.Error(), "--ca-file") {
		t.Errorf("a server of an authority that is not trusted: %v", err)
	}
	write(t, ca, nil) // as it is for a moment when somebody copies over it
	if _, err := client.Write(t.Context(), aWrite); !kv.Is(err, kv.Denied) {
		t.Errorf("no authority: %v", err)
	}
	write(t, ca, after.pem())
	shows("bob")
}

func TestAWatchSaysThatItIsNotResumedBecauseOfACertificateAndNoStoreHasRefusedIt(t *testing.T) {
	folder := t.TempDir()
	before, after := newAuthority(t), newAuthority(t)
	server := startSecure(t, before)
	cert, key := before.issue("server", net.IPv4(127, 0, 0, 1))
	server.use(t, cert, key)
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { // a watch that ends at once
		w.Header().Set("X-Etcd-Index", "7")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	in := func(name string, data []byte) string {
		write(t, filepath.Join(folder, name), data)
		return filepath.Join(folder, name)
	}
	cert, key = before.issue("ann")
	var log output
	client := open(t, kvclient.Config{
		Endpoints: []string{server.URL}, CAFile: in("ca.pem", before.pem()), CertFile: in("cert.pem", cert), KeyFile: in("key.pem", key), Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	watchFrom(t, client, kv.WatchFrom{Key: "/a", Index: 8})
	in("ca.pem", after.pem())
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(log.String(), "no authority that is trusted here"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say why:\n%s", log.String())
		}
	}
	if _, err := client.Read(t.Context(), kv.Read{Key: "/a"}); !kv.Is(err, kv.Denied) || kvclient.Refused(err) {
		t.Errorf("nobody has answered, and it is refused: %v", err)
	}
}

func TestAServerThatIsNotWhomItsCertificateNamesIsRefused(t *testing.T) {
	ca := newAuthority(t)
	server := startSecure(t, ca)
	cert, key := ca.issue("server", net.IPv4(127, 0, 0, 2))
	server.use(t, cert, key)
	folder := t.TempDir()
	write(t, filepath.Join(folder, "ca.pem"), ca.pem())
	client := open(t, kvclient.Config{Endpoints: []string{server.URL}, CAFile: filepath.Join(folder, "ca.pem"), Username: "ann:secret"})
	for _, call := range []func() error{
		func() error { _, err := client.Write(t.Context(), aWrite); return err },
		func() error { _, err := client.Watch(t.Context(), kv.WatchFrom{Key: "/a"}); return err },
	} {
		if err := call(); !kv.Is(err, kv.Denied) {
			t.Errorf("got %v, want the kind %q", err, kv.Denied)
		}
	}
	if server.user.Load() != nil {
		t.Error("the request was sent all the same")
	}
}

func TestTheWrongSchemeIsNamed(t *testing.T) {
	plain, _ := serve(t, good)
	_, err := open(t, inOrder(strings.Replace(plain, "http:", "https:", 1))).Write(t.Context(), aWrite)
	if !kv.Is(err, kv.Denied) || !strings.Contains(err.Error(), "whether the server speaks https") {
		t.Errorf("got %v", err)
	}
}

// guarded answers who has the password, and refuses the others as a store does.
func guarded(password *atomic.Pointer[string]) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, got, ok := r.BasicAuth(); !ok || got != *password.Load() {
			says(401, `{"errorCode":110,"message":"The request requires user authentication","cause":"Insufficient credentials","index":0}`)(w, r)
			return
		}
		if r.URL.Query().Get("wait") != "" {
			member("c1", 100, 100, event101)(w, r)
			return
		}
		good(w, r)
	}
}

func TestARefusalSaysWhomTheStoreHasRefused(t *testing.T) {
	var password atomic.Pointer[string]
	secret := "secret"
	password.Store(&secret)
	url, _ := serve(t, guarded(&password))
	for username, want := range map[string]string{"": "no user is named", "ann:guess": "user ann is not known, has another password"} {
		cfg := inOrder(url)
		cfg.Username = username
		client := open(t, cfg)
		for _, call := range []func() error{
			func() error { _, err := client.Read(t.Context(), aRead); return err },
			func() error { _, err := client.Write(t.Context(), aWrite); return err },
			func() error { _, err := client.Watch(t.Context(), kv.WatchFrom{Key: "/a"}); return err },
		} {
			err := call()
			if !kv.Is(err, kv.Denied) || !strings.Contains(fmt.Sprint(err), want) || strings.Contains(fmt.Sprint(err), "guess") {
				t.Errorf("%q: %v", username, err)
			}
		}
	}
}

func TestAPasswordFileIsReadAgainWhenTheStoreRefuses(t *testing.T) {
	var password atomic.Pointer[string]
	first, second := "first", "second"
	password.Store(&first)
	url, requests := serve(t, guarded(&password))
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, []byte(first+"\n"))
	cfg := inOrder(url)
	cfg.Username, cfg.PasswordFile = "ann", file
	client := open(t, cfg)
	if _, err := client.Write(t.Context(), aWrite); err != nil {
		t.Fatal(err)
	}
	password.Store(&second)
	before := requests.Load()
	if _, err := client.Write(t.Context(), aWrite); !kv.Is(err, kv.Denied) || requests.Load() != before+1 {
		t.Errorf("before the file is renewed, after %d requests: %v", requests.Load()-before, err)
	}
	write(t, file, []byte(second+"\n"))
	if _, err := client.Write(t.Context(), aWrite); err != nil {
		t.Error(err)
	}
	password.Store(&first)
	write(t, file, []byte(first))
	wantValues(t, watchFrom(t, client, kv.WatchFrom{Key: "/a", Index: 101}), "101")
}
