package certs_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/pkg/certs"
)

func newAuthority(t testing.TB) (ca *certs.CA, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "certs")
	ca, err := certs.Init(dir, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca, dir
}

func roots(cas ...*certs.CA) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range cas {
		pool.AddCert(ca.Issued().Certificate)
	}
	return pool
}

func TestACertificateIsGoodForItsHostsAndItsUseAlone(t *testing.T) {
	ca, _ := newAuthority(t)
	now := time.Now()
	for kind, uses := range map[certs.Kind]map[x509.ExtKeyUsage]bool{
		certs.Server: {x509.ExtKeyUsageServerAuth: true, x509.ExtKeyUsageClientAuth: false},
		certs.Peer:   {x509.ExtKeyUsageServerAuth: true, x509.ExtKeyUsageClientAuth: true},
		certs.Client: {x509.ExtKeyUsageServerAuth: false, x509.ExtKeyUsageClientAuth: true},
	} {
		hosts := []string{"n1.example", "*.wild.example", "10.0.0.1", "fd00::1"}
		if kind == certs.Client {
			hosts = nil
		}
		issued, err := ca.Issue(certs.Request{Kind: kind, Name: "n1", Hosts: hosts}, now)
		if err != nil {
			t.Fatal(err)
		}
		for use, good := range uses {
			if _, err := issued.Verify(x509.VerifyOptions{Roots: roots(ca), KeyUsages: []x509.ExtKeyUsage{use}}); (err == nil) != good {
				t.Errorf("%s for use %v: %v", kind, use, err)
			}
		}
		for _, host := range []string{"n1.example", "any.wild.example", "10.0.0.1", "fd00::1"} {
			if err := issued.VerifyHostname(host); (err == nil) != (kind != certs.Client) {
				t.Errorf("%s for %s: %v", kind, host, err)
			}
		}
		if issued.VerifyHostname("n2.example") == nil || issued.VerifyHostname("10.0.0.2") == nil {
			t.Errorf("%s is good for other hosts", kind)
		}
		if left := issued.NotAfter.Sub(now); left < 364*24*time.Hour || left > 366*24*time.Hour || now.Before(issued.NotBefore) || issued.IsCA {
			t.Errorf("%s: from %v to %v", kind, issued.NotBefore, issued.NotAfter)
		}
	}
	own := ca.Issued()
	if left := own.NotAfter.Sub(now); left < 10*364*24*time.Hour || !own.IsCA || own.MaxPathLen != 0 {
		t.Errorf("the authority: until %v", own.NotAfter)
	}
}

func TestFilesAreForTheirOwnerAloneAndNothingIsLeftBeside(t *testing.T) {
	ca, dir := newAuthority(t)
	if _, err := ca.Issue(certs.Request{Kind: certs.Client, Name: "ann"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Revoke("client-ann", time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Renew("client-ann", time.Now()); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
		if info, err := entry.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", entry.Name(), info.Mode(), err)
		}
	}
	if got := strings.Join(names, " "); got != "ca.crl ca.crt ca.key client-ann.crt client-ann.key" {
		t.Errorf("files: %s", got)
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	ca, dir := newAuthority(t)
	request := certs.Request{Kind: certs.Client, Name: "ann"}
	look := func() map[string]string {
		now := map[string]string{}
		paths, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, path := range paths {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			now[path] = string(data)
		}
		return now
	}
	if _, err := ca.Issue(request, time.Now()); err != nil {
		t.Fatal(err)
	}
	before := look()
	if _, err := ca.Issue(request, time.Now()); err == nil || !strings.Contains(err.Error(), "client-ann.crt is there already") {
		t.Errorf("a second certificate of one name: %v", err)
	}
	if _, err := certs.Init(dir, "", time.Now()); err == nil || !strings.Contains(err.Error(), "ca.crt is there already") {
		t.Errorf("a second authority: %v", err)
	}
	for path, data := range look() {
		if before[path] != data {
			t.Errorf("%s has changed", path)
		}
	}
	// A key alone is not overwritten either.
	if err := os.Remove(filepath.Join(dir, "client-ann.crt")); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue(request, time.Now()); err == nil || !strings.Contains(err.Error(), "client-ann.key is there already") {
		t.Errorf("over a key: %v", err)
	}
}

func TestOfManyWhoMakeOneAuthorityOneSucceeds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	made := make(chan *certs.CA, 8)
	var all sync.WaitGroup
	for range cap(made) {
		all.Go(func() {
			if ca, err := certs.Init(dir, "", time.Now()); err == nil {
				made <- ca
			}
		})
	}
	all.Wait()
	if len(made) != 1 {
		t.Fatalf("%d authorities were made", len(made))
	}
	again, err := certs.Open(dir)
	if err != nil || !again.Issued().Equal((<-made).Issued().Certificate) {
		t.Errorf("what is there is not what was made: %v", err)
	}
}

func TestRenewingKeepsNamesAndKeyAndWhatWasSignedBefore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	made := time.Now().AddDate(-1, 0, 1)
	ca, err := certs.Init(dir, "an authority", made)
	if err != nil {
		t.Fatal(err)
	}
	old, err := ca.Issue(certs.Request{Kind: certs.Peer, Name: "n1", Hosts: []string{"n1.example", "10.0.0.1"}}, made)
	if err != nil {
		t.Fatal(err)
	}
	before := ca.Issued()
	fresh, err := ca.Renew("peer-n1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	samePublic := func(a, b certs.Issued) bool {
		return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
	}
	if fresh.Subject.CommonName != "n1" || fresh.VerifyHostname("n1.example") != nil || !fresh.IPAddresses[0].Equal(net.IPv4(10, 0, 0, 1)) || len(fresh.ExtKeyUsage) != 2 || !samePublic(fresh, old) {
		t.Errorf("renewed: %+v", fresh.Certificate)
	}
	if !fresh.NotAfter.After(old.NotAfter) || fresh.SerialNumber.Cmp(old.SerialNumber) == 0 {
		t.Errorf("until %v, before %v", fresh.NotAfter, old.NotAfter)
	}
	authority, err := ca.Renew(certs.Authority, time.Now())
	if err != nil || !authority.NotAfter.After(before.NotAfter) || !samePublic(authority, before) {
		t.Fatalf("the authority: %v, %v", authority.NotAfter, err)
	}
	again, err := certs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	later, err := again.Issue(certs.Request{Kind: certs.Client, Name: "ann"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, pool := range map[string]*x509.CertPool{"old": roots(ca), "renewed": roots(again)} {
		for _, leaf := range []certs.Issued{fresh, later} {
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				t.Errorf("%s under the %s authority: %v", leaf.File, name, err)
			}
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(before.Certificate)
	if _, err := later.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("who trusts the authority as it was trusts nothing new: %v", err)
	}
}

func TestARevocationListGrows(t *testing.T) {
	ca, dir := newAuthority(t)
	for i, name := range []string{"ann", "bob"} {
		issued, err := ca.Issue(certs.Request{Kind: certs.Client, Name: name}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time changes nothing
			if _, err := ca.Revoke("client-"+name, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(filepath.Join(dir, "ca.crl"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if err := list.CheckSignatureFrom(ca.Issued().Certificate); err != nil {
			t.Error(err)
		}
		if n := len(list.RevokedCertificateEntries); n != i+1 || list.RevokedCertificateEntries[i].SerialNumber.Cmp(issued.SerialNumber) != 0 {
			t.Errorf("%d are revoked, want %d", n, i+1)
		}
	}
}

func TestWhatCannotBeDoneIsSaidWithTheRemedy(t *testing.T) {
	ca, dir := newAuthority(t)
	other, otherDir := newAuthority(t)
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Issue(certs.Request{Kind: certs.Client, Name: "stranger"}, time.Now()); err != nil {
		t.Fatal(err)
	}
	stranger, err := os.ReadFile(filepath.Join(otherDir, "client-stranger.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "client-stranger.crt"), stranger, 0o600); err != nil {
		t.Fatal(err)
	}
	issue := func(r certs.Request) func() error {
		return func() error { _, err := ca.Issue(r, time.Now()); return err }
	}
	for _, c := range []struct {
		do   func() error
		want string
	}{
		{issue(certs.Request{Kind: "user", Name: "a"}), "use server, peer or client"},
		{issue(certs.Request{Kind: certs.Client, Name: "../ca"}), "cannot be a name"},
		{issue(certs.Request{Kind: certs.Client, Name: ".hidden"}), "cannot be a name"},
		{issue(certs.Request{Kind: certs.Client, Name: strings.Repeat("a", 65)}), "cannot be a name"},
		{issue(certs.Request{Kind: certs.Client, Name: ""}), "cannot be a name"},
		{issue(certs.Request{Kind: certs.Client, Name: "a", Hosts: []string{"b"}}), "has no hosts"},
		{issue(certs.Request{Kind: certs.Server, Name: "a"}), "needs the names and addresses that a is reached by"},
		{issue(certs.Request{Kind: certs.Server, Name: "a", Hosts: []string{"https://b"}}), "leave scheme and port out"},
		{issue(certs.Request{Kind: certs.Server, Name: "a", Hosts: []string{"b:1"}}), "leave scheme and port out"},
		{issue(certs.Request{Kind: certs.Server, Name: "a", Hosts: []string{"b..c"}}), "neither an address nor a host name"},
		{func() error { _, err := certs.Open(t.TempDir()); return err }, "kvctl cert init"},
		{func() error { _, err := certs.Init(open, "", time.Now()); return err }, "chmod 0700 " + open},
		{func() error { _, err := ca.Renew("client-stranger", time.Now()); return err }, "was not issued by the authority in " + dir},
		{func() error { _, err := ca.Revoke("client-stranger", time.Now()); return err }, "was not issued by the authority in " + dir},
		{func() error { _, err := ca.Revoke("ca", time.Now()); return err }, "cannot revoke itself"},
		{func() error { _, err := ca.Renew("none", time.Now()); return err }, "no such file"},
		{func() error { _, err := certs.List(t.TempDir()); return err }, "there are no certificates"},
		{func() error {
			_, err := ca.Issue(certs.Request{Kind: certs.Client, Name: "late"}, time.Now().AddDate(11, 0, 0))
			return err
		}, "kvctl cert renew ca"},
		{func() error {
			if err := os.Chmod(filepath.Join(otherDir, "ca.key"), 0o644); err != nil {
				return err
			}
			_, err := certs.Open(otherDir)
			return err
		}, "chmod 0600 "},
		{func() error {
			os.Chmod(filepath.Join(otherDir, "ca.key"), 0o600)
			os.Remove(filepath.Join(otherDir, "ca.crt"))
			os.Link(filepath.Join(otherDir, "client-stranger.crt"), filepath.Join(otherDir, "ca.crt"))
			_, err := certs.Open(otherDir)
			return err
		}, "do not belong together"},
	} {
		if err := c.do(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}
