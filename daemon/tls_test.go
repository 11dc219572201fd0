package daemon

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/crypto/bcrypt"

	"github.com/kvd-io/kvd/pkg/certs"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

// journal is a log that can be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// await waits until the log holds text.
func (j *journal) await(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(edgePatience); !strings.Contains(j.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in the log:\n%s", text, j)
		}
	}
}

// safe is a member that listens on https, and the authority of its directory of certificates.
type safe struct {
	*Daemon
	t   *testing.T
	ca  *certs.CA
	dir string
	log *journal
	url string
}

// openSafe starts a member with a certificate for 127.0.0.1. DIR in flags is the directory of
// certificates.
func openSafe(t *testing.T, flags ...string) *safe {
	t.Helper()
	s := &safe{t: t, dir: filepath.Join(t.TempDir(), "certs"), log: &journal{}}
	var err error
	if s.ca, err = certs.Init(s.dir, "", time.Now()); err != nil {
		t.Fatal(err)
	}
	s.issue(certs.Server, "n1", time.Now(), "127.0.0.1")
	cfg := DefaultConfig()
	cfg.DataDir, cfg.ListenClientURLs, cfg.ListenPeerURLs = t.TempDir(), []string{"https://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}
	set := pflag.NewFlagSet("kvd", pflag.ContinueOnError)
	cfg.AddFlags(set)
	line := strings.ReplaceAll(strings.Join(append([]string{"--cert-file=DIR/server-n1.crt", "--key-file=DIR/server-n1.key"}, flags...), "\n"), "DIR", s.dir)
	if err := set.Parse(strings.Split(line, "\n")); err != nil {
		t.Fatal(err)
	}
	s.Daemon, err = Open(t.Context(), cfg, Deps{Log: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})), HashCost: bcrypt.MinCost})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.url = s.listening[0]
	return s
}

func (s *safe) issue(kind certs.Kind, name string, made time.Time, hosts ...string) {
	s.t.Helper()
	if _, err := s.ca.Issue(certs.Request{Kind: kind, Name: name, Hosts: hosts}, made); err != nil {
		s.t.Fatal(err)
	}
}

// forget has the log tell of the next handshake that fails, however soon it is.
func (s *safe) forget() {
	told := s.server.secure[0].failures
	told.mu.Lock()
	defer told.mu.Unlock()
	told.told = time.Time{}
}

// as returns a client that shows the certificate of the files called name, "" for none. Each request
// has a connection of its own.
func (s *safe) as(name string) *http.Client {
	s.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.Issued().Certificate)
	config := &tls.Config{RootCAs: roots}
	if name != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(s.dir, name+".crt"), filepath.Join(s.dir, name+".key"))
		if err != nil {
			s.t.Fatal(err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return &http.Client{Timeout: edgePatience, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

// do sends a request and returns status and body.
func do(t *testing.T, client *http.Client, method, url, form string, headers ...string) (int, string) {
	t.Helper()
	status, body, err := try(client, method, url, form, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

func try(client *http.Client, method, url, form string, headers ...string) (int, string, error) {
	r, err := http.NewRequest(method, url, strings.NewReader(form))
	if err != nil {
		return 0, "", err
	}
	if form != "" && form[0] != '{' {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body), err
}

// stream opens a stream of changes of /k, over a connection of its own.
func stream(t *testing.T, client *http.Client, base string) *bufio.Reader {
	t.Helper()
	answer, err := client.Get(base + "/v2/keys/k?wait=true&recursive=true&stream=true")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	return bufio.NewReader(answer.Body)
}

func TestAnHTTPSPortTakesTLSAloneAndSaysSo(t *testing.T) {
	t.Parallel()
	s := openSafe(t, "--listen-client-urls=https://127.0.0.1:0,http://127.0.0.1:0")
	s.url = s.listening[0]
	plain := s.listening[1]
	if !strings.HasPrefix(s.url, "https://") || !strings.HasPrefix(plain, "http://") {
		t.Fatalf("it listens on %q", s.listening)
	}
	if status, body := do(t, s.as(""), "PUT", s.url+"/v2/keys/a", "value=1"); status != http.StatusCreated {
		t.Errorf("over TLS: %d %s", status, body)
	}
	if status, body := do(t, s.as(""), "GET", plain+"/v2/keys/a", ""); status != http.StatusOK {
		t.Errorf("on the other port, without: %d %s", status, body)
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "POST", "OPTIONS"} {
		status, body := do(t, s.as(""), method, "http"+strings.TrimPrefix(s.url, "https")+"/v2/keys/a", "value=2")
		if status != http.StatusBadRequest || !strings.Contains(body, "Client sent an HTTP request to an HTTPS server: use https://") {
			t.Errorf("%s without TLS: %d %s", method, status, body)
		}
	}
	if _, body := do(t, s.as(""), "GET", s.url+"/v2/keys/a", ""); !strings.Contains(body, `"value":"1"`) {
		t.Errorf("what came without TLS was done: %s", body)
	}
	s.log.await(t, "plain HTTP came to a port that speaks HTTPS")
	if _, _, err := try(s.as(""), "GET", "https"+strings.TrimPrefix(plain, "http")+"/v2/keys/a", ""); err == nil {
		t.Error("TLS on the plain port was answered")
	}
	s.log.await(t, "TLS came to a port that speaks plain HTTP")
	if _, _, err := try(&http.Client{Timeout: edgePatience}, "GET", s.url+"/v2/keys/a", ""); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("who does not trust the authority: %v", err)
	}
	s.log.await(t, "the other side refuses the certificate that it was shown")
}

func TestOnePortForBothTakesWhatComes(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := listener.Addr().String()
	listener.Close()
	s := openSafe(t, "--listen-client-urls=http://"+at+",https://"+at)
	if len(s.listening) != 2 {
		t.Errorf("it listens on %q", s.listening)
	}
	kept := &http.Client{Timeout: edgePatience, Transport: &http.Transport{TLSClientConfig: s.as("").Transport.(*http.Transport).TLSClientConfig}}
	t.Cleanup(kept.CloseIdleConnections)
	for i := range 3 {
		for _, scheme := range []string{"http", "https"} {
			if status, body := do(t, kept, "PUT", scheme+"://"+at+"/v2/keys/"+scheme, fmt.Sprintf("value=%d", i)); status >= 300 {
				t.Errorf("%s: %d %s", scheme, status, body)
			}
		}
	}
}

// wiretap passes connections on to an address and keeps what it sees.
type wiretap struct {
	mu   sync.Mutex
	seen bytes.Buffer
}

func (w *wiretap) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen.Write(p)
}

func (w *wiretap) bytes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Clone(w.seen.Bytes())
}

// tap returns the address of a relay to address.
func tap(t *testing.T, address string) (string, *wiretap) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wiretap{}
	var relays sync.WaitGroup
	t.Cleanup(func() { listener.Close(); relays.Wait() })
	relays.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", address)
			if err != nil {
				near.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
				relays.Go(func() {
					io.Copy(io.MultiWriter(way[1], w), way[0])
					near.Close()
					far.Close()
				})
			}
		}
	})
	return listener.Addr().String(), w
}

func TestNothingThatIsSaidToAnHTTPSPortIsReadableOnTheWay(t *testing.T) {
	t.Parallel()
	s := openSafe(t, "--max-connections=3")
	address, wire := tap(t, strings.TrimPrefix(s.url, "https://"))
	base := "https://" + address
	secrets := []string{"canary-key", "canary-value", "canary-user", "canary-password", "X-Etcd-Index", "HTTP/1.1"}
	watch := stream(t, s.as(""), base)
	do(t, s.as(""), "PUT", base+"/v2/keys/k/canary-key", "value=canary-value")
	if line, err := watch.ReadString('\n'); err != nil || !strings.Contains(line, "canary-value") {
		t.Fatalf("the watch says %q, %v", line, err)
	}
	do(t, s.as(""), "GET", base+"/v2/keys/k/canary-key", "", "Authorization", "Basic Y2FuYXJ5LXVzZXI6Y2FuYXJ5LXBhc3N3b3Jk")
	// Those who find no room are not told so in the clear.
	var crowd []net.Conn
	for range 6 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(edgePatience))
		crowd = append(crowd, conn)
	}
	for _, conn := range crowd[3:] { // the first ones may have found room
		if n, _ := io.Copy(io.Discard, conn); n > 0 {
			t.Errorf("who finds no room is sent %d bytes", n)
		}
	}
	seen := wire.bytes()
	if len(seen) < 1000 {
		t.Fatalf("only %d bytes were seen on the way", len(seen))
	}
	for _, secret := range append(secrets, "Y2FuYXJ5") {
		if bytes.Contains(seen, []byte(secret)) {
			t.Errorf("%q can be read on the way", secret)
		}
	}
}

func TestARenewedCertificateIsInUseAndNoWatchNoticesIt(t *testing.T) {
	t.Parallel()
	s := openSafe(t, "--trusted-ca-file=DIR/ca.crt")
	s.issue(certs.Client, "ann", time.Now())
	ann := s.as("client-ann")
	watch := stream(t, ann, s.url)
	serial := func() string {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), ann.Transport.(*http.Transport).TLSClientConfig)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	renewed, err := s.ca.Renew("server-n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if got := serial(); got == before || got != renewed.SerialNumber.String() {
		t.Errorf("%s is shown, want %s", got, renewed.SerialNumber)
	}
	s.log.await(t, tlsconfig.Fingerprint(renewed.Certificate))
	if err := os.WriteFile(renewed.File, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.log.await(t, "changed files of TLS cannot be used") // without anybody who connects
	if got := serial(); got != renewed.SerialNumber.String() {
		t.Errorf("with a broken file %s is shown", got)
	}
	do(t, ann, "PUT", s.url+"/v2/keys/k/a", "value=1")
	if line, err := watch.ReadString('\n'); err != nil || !strings.Contains(line, `"value":"1"`) {
		t.Errorf("the watch from before says %q, %v", line, err)
	}
}

func TestWhoIsRevokedIsShutOutAndCutOffAndNobodyElse(t *testing.T) {
	t.Parallel()
	s := openSafe(t, "--trusted-ca-file=DIR/ca.crt", "--client-crl-file=DIR/ca.crl", "--client-cert-auth")
	watches := map[string]*bufio.Reader{}
	for _, name := range []string{"ann", "bob"} {
		s.issue(certs.Client, name, time.Now())
		watches[name] = stream(t, s.as("client-"+name), s.url)
	}
	if _, err := s.ca.Revoke("client-bob", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := try(s.as("client-bob"), "GET", s.url+"/v2/keys/", ""); err == nil {
		t.Error("who is revoked was let in")
	}
	if line, err := watches["bob"].ReadString('\n'); err == nil || line != "" {
		t.Errorf("the open watch of who is revoked says %q, %v", line, err)
	}
	s.log.await(t, "open connections closed: their certificates are not accepted any more")
	s.log.await(t, `the certificate of \"bob\" is refused: its authority has revoked it`)
	do(t, s.as("client-ann"), "PUT", s.url+"/v2/keys/k/a", "value=1")
	if line, err := watches["ann"].ReadString('\n'); err != nil || !strings.Contains(line, `"value":"1"`) {
		t.Errorf("the watch of another says %q, %v", line, err)
	}
}

func TestOnlyGoodCertificatesOfClientsAreLetIn(t *testing.T) {
	t.Parallel()
	stranger, err := certs.Init(filepath.Join(t.TempDir(), "stranger"), "another", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, auth := range []string{"true", "optional"} {
		s := openSafe(t, "--trusted-ca-file=DIR/ca.crt", "--client-cert-auth="+auth)
		s.issue(certs.Client, "ann", time.Now())
		s.issue(certs.Client, "old", time.Now().AddDate(-2, 0, 0))
		s.issue(certs.Server, "web", time.Now(), "web.example")
		if _, err := stranger.Issue(certs.Request{Kind: certs.Client, Name: "mallory" + auth}, time.Now()); err != nil {
			t.Fatal(err)
		}
		for _, ending := range []string{".crt", ".key"} {
			if err := os.Link(filepath.Join(filepath.Dir(stranger.Issued().File), "client-mallory"+auth+ending), filepath.Join(s.dir, "mallory"+ending)); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			name string
			good bool
			log  string
		}{
			{"client-ann", true, ""}, {"", auth == "optional", "it shows no certificate, and one is required"},
			{"client-old", false, `the certificate of \"old\" has expired, on `},
			{"mallory", false, `is signed by \"another\", which is no authority that is trusted here`},
			{"server-web", false, "is not for this side of a connection"},
		} {
			s.forget()
			_, _, err := try(s.as(c.name), "GET", s.url+"/v2/keys/", "")
			if (err == nil) != c.good {
				t.Errorf("%s, %q: %v", auth, c.name, err)
			}
			if !c.good {
				s.log.await(t, c.log)
			}
		}
	}
}

func TestAFileOfTLSThatCannotBeUsedIsASettingThatCannot(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs")
	ca, err := certs.Init(dir, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, made := range map[string]time.Time{"good": time.Now(), "old": time.Now().AddDate(-2, 0, 0)} {
		if _, err := ca.Issue(certs.Request{Kind: certs.Peer, Name: name, Hosts: []string{"localhost"}}, made); err != nil {
			t.Fatal(err)
		}
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, c := range []struct {
		tls        TLS
		flag, want string
	}{
		{TLS{Cert: path("peer-old.crt"), Key: path("peer-old.key")}, "cert-file", "it has expired, on "},
		{TLS{Cert: path("peer-good.crt"), Key: path("peer-old.key")}, "key-file", "it is not the key of the certificate"},
		{TLS{Cert: path("peer-good.crt"), Key: path("peer-good.key"), CA: path("none")}, "trusted-ca-file", "no such file"},
		{TLS{Cert: path("peer-good.crt"), Key: path("peer-good.key"), CA: path("ca.crt"), CRL: path("ca.crt")}, "client-crl-file", "it holds no revocation list"},
	} {
		c.tls.ClientCerts = certsOff
		clients := DefaultConfig()
		clients.DataDir, clients.ListenClientURLs, clients.ListenPeerURLs, clients.ClientTLS = t.TempDir(), []string{"https://127.0.0.1:0"}, []string{"http://127.0.0.1:0"}, c.tls
		_, err := Open(t.Context(), clients, Deps{})
		var setting *ConfigError
		if !errors.As(err, &setting) || setting.Flag != c.flag || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want one about --%s with %q", err, c.flag, c.want)
		}
	}
}

func TestACertificateIsAUserOnlyWhenAskedForAndOnlyItsOwn(t *testing.T) {
	t.Parallel()
	for _, on := range []bool{false, true} {
		s := openSafe(t, "--trusted-ca-file=DIR/ca.crt", "--client-cert-auth=optional", fmt.Sprintf("--client-cert-cn-as-user=%v", on))
		for _, name := range []string{"ann", "nobody", "root"} {
			s.issue(certs.Client, name, time.Now())
		}
		none := s.as("")
		for _, c := range [][3]string{
			{"PUT", "/v2/auth/users/root", `{"user":"root","password":"pw"}`},
			{"PUT", "/v2/auth/roles/mine", `{"role":"mine","permissions":{"kv":{"read":["/mine"],"write":["/mine"]}}}`},
			{"PUT", "/v2/auth/users/ann", `{"user":"ann","password":"pw","roles":["mine"]}`},
			{"PUT", "/v2/auth/users/bob", `{"user":"bob","password":"pw"}`},
			{"PUT", "/v2/auth/enable", ""},
		} {
			if status, body := do(t, none, c[0], s.url+c[1], c[2]); status >= 300 {
				t.Fatalf("%v: %d %s", c, status, body)
			}
		}
		basic := func(user string) []string {
			r := &http.Request{Header: http.Header{}}
			r.SetBasicAuth(user, "pw")
			return []string{"Authorization", r.Header.Get("Authorization")}
		}
		if status, body := do(t, none, "DELETE", s.url+"/v2/auth/roles/guest", "", basic("root")...); status >= 300 {
			t.Fatalf("%d %s", status, body)
		}
		for _, c := range []struct {
			what    string
			cert    string
			headers []string
			path    string
			allowed bool
		}{
			{"no certificate", "", nil, "/v2/keys/mine", false},
			{"a user's certificate", "client-ann", nil, "/v2/keys/mine", on},
			{"beyond the user's rights", "client-ann", nil, "/v2/keys/other", false},
			{"a certificate of no user", "client-nobody", nil, "/v2/keys/mine", false},
			{"root's certificate", "client-root", nil, "/v2/keys/other", on},
			{"a password wins", "client-root", basic("bob"), "/v2/keys/mine", false},
			{"a wrong password is no reason to look further", "client-root", []string{"Authorization", "Basic eDp5"}, "/v2/keys/mine", false},
			{"a proxy's certificate", "client-root", []string{"X-Forwarded-For", "10.0.0.1"}, "/v2/keys/mine", false},
			{"a proxy's certificate", "client-root", []string{"Via", "1.1 proxy"}, "/v2/keys/mine", false},
			{"a proxy's certificate", "client-root", []string{"Forwarded", "for=10.0.0.1"}, "/v2/keys/mine", false},
		} {
			status, body := do(t, s.as(c.cert), "PUT", s.url+c.path, "value=1", c.headers...)
			if (status < 300) != c.allowed || !c.allowed && status != http.StatusUnauthorized {
				t.Errorf("%s, with the flag %v: %d %s", c.what, on, status, body)
			}
		}
		if status, _ := do(t, s.as("client-root"), "GET", s.url+"/v2/auth/users", ""); (status == http.StatusOK) != on {
			t.Errorf("root's certificate at the list of users, with the flag %v: %d", on, status)
		}
	}
}

// secureTest serves handler over TLS on in-memory connections. It returns how to shake hands as a
// client.
func secureTest(t *testing.T, handler http.Handler, l limits) (*server, *pipes, func(net.Conn) *tls.Conn) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	ca, err := certs.Init(dir, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.Issue(certs.Request{Kind: certs.Server, Name: "n1", Hosts: []string{"n1"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	secure, err := tlsconfig.NewServer(tlsconfig.Config{Files: tlsconfig.Files{Cert: issued.File, Key: issued.Key}})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Issued().Certificate)
	listener := newPipes()
	log := slog.New(slog.DiscardHandler)
	s := serve([]net.Listener{&port{Listener: listener, tls: secure}}, handler, newDoor(l, log), log)
	return s, listener, func(conn net.Conn) *tls.Conn { return tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "n1"}) }
}

func TestStalledHandshakesHinderNobodyAndAreCutOff(t *testing.T) {
	t.Parallel()
	for _, stalled := range []int{1000, 3000} { // within the bound, and beyond
		synctest.Test(t, func(t *testing.T) {
			s, listener, over := secureTest(t, answerOK, limits{connections: 10_000})
			defer s.Close()
			start := time.Now()
			var slow []net.Conn
			for i := range stalled {
				conn := listener.dial()
				if i%2 == 0 {
					io.WriteString(conn, "\x16\x03\x01\x02\x00\x01\x00") // of a handshake to come
				}
				slow = append(slow, conn)
			}
			quick := over(listener.dial())
			io.WriteString(quick, askRoot)
			answer, err := http.ReadResponse(bufio.NewReader(quick), nil)
			if err != nil || answer.StatusCode != 200 {
				t.Fatalf("beside %d: %+v, %v", stalled, answer, err)
			}
			if took := time.Since(start); took > 2*handshakePatience {
				t.Errorf("beside %d a client waits for %v", stalled, took)
			}
			for _, conn := range slow {
				io.Copy(io.Discard, conn)
			}
			if took := time.Since(start); took > 2*handshakePatience+handshakeTimeout+roundInterval {
				t.Errorf("a handshake may take %v", took)
			}
			quick.Close()
		})
	}
}

func TestACrowdThatComesAtOnceIsLetInWithoutLoss(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, listener, over := secureTest(t, answerOK, limits{connections: 10_000})
		defer s.Close()
		var crowd sync.WaitGroup
		for range handshakesMax + 200 {
			crowd.Go(func() {
				conn := over(listener.dial())
				defer conn.Close()
				io.WriteString(conn, askRoot)
				if answer, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || answer.StatusCode != 200 {
					t.Errorf("%v", err)
				}
			})
		}
		crowd.Wait()
	})
}

func TestOverTLSWhoTakesNoAnswerIsCutOffAndAStopDoesNotWaitForTheIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		big := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, 1<<20)) })
		s, listener, over := secureTest(t, big, limits{connections: 9})
		deaf := over(listener.dial())
		if err := deaf.Handshake(); err != nil {
			t.Fatal(err)
		}
		io.WriteString(deaf, askRoot)
		time.Sleep(answerTimeout + 3*roundInterval)
		if n, _ := s.door.count(); n != 0 {
			t.Errorf("who takes no answer for %v is still inside", answerTimeout)
		}
		spare := over(listener.dial())
		if err := spare.Handshake(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		start := time.Now()
		go io.Copy(io.Discard, spare) // the farewell
		s.Close()
		if took := time.Since(start); took >= closeGrace {
			t.Errorf("a stop waits for a connection that has asked nothing: %v", took)
		}
		deaf.Close()
		spare.Close()
	})
}

func TestTheMetricsTellOfTLS(t *testing.T) {
	t.Parallel()
	s := openSafe(t, "--trusted-ca-file=DIR/ca.crt")
	s.issue(certs.Client, "ann", time.Now())
	if _, _, err := try(s.as(""), "GET", s.url+"/metrics", ""); err == nil {
		t.Fatal("let in without a certificate")
	}
	s.log.await(t, "TLS handshakes with clients failed")
	_, page := do(t, s.as("client-ann"), "GET", s.url+"/metrics", "")
	if !strings.Contains(page, "\nkvd_tls_handshakes_failed_total 1\n") {
		t.Errorf("no failed handshake in\n%s", page)
	}
	_, end, _ := strings.Cut(page, "\nkvd_tls_certificate_end_timestamp_seconds ")
	end, _, _ = strings.Cut(end, "\n")
	if seconds, err := strconv.ParseFloat(end, 64); err != nil || int64(seconds) != s.secure.Leaf().NotAfter.Unix() {
		t.Errorf("the certificate ends at %q, want %v", end, s.secure.Leaf().NotAfter)
	}
}
