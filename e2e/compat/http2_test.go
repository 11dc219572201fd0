package compat

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/daemon/daemontest"
	"github.com/kvd-io/kvd/e2e/speaker"
	"github.com/kvd-io/kvd/pkg/certs"
)

func TestHTTP2IsAnsweredAsHTTP1OnOnePortWithAndWithoutTLS(t *testing.T) {
	t.Parallel()
	var members [3]member // one each, so that they have the same indices
	for i := range members {
		members[i] = startForAll(t)
	}
	for i, d := range readDialogues(t) {
		t.Run(d.name, func(t *testing.T) {
			home := fmt.Sprintf("/t%d", i+1)
			http1 := newSpeaker(t, "http://"+members[0].address, home)
			over := map[string]*speaker.Speaker{}
			for name, url := range map[string]string{"HTTP/2": "http://" + members[1].address, "HTTP/2 over TLS": "https://" + members[2].address} {
				s, err := speaker.NewHTTP2(url, home, members[2].trust)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(s.HangUp)
				over[name] = s
			}
			for _, step := range d.steps {
				wait := patience
				want, err := http1.Say(step.text, wait)
				if err != nil {
					t.Fatalf("%s: %s: %v", step.where, step.text, err)
				}
				if want == "(nothing)" {
					wait = doubt
				}
				for name, s := range over {
					got, err := s.Say(step.text, wait)
					if err != nil {
						t.Fatalf("%s: %s over %s: %v", step.where, step.text, name, err)
					}
					if got != unframed(want) {
						t.Errorf("%s: %s\n--- HTTP/1.1\n%s\n--- %s\n%s", step.where, step.text, want, name, got)
					}
				}
			}
		})
	}
}

// unframed returns an answer without what only HTTP/1.1 says of its framing.
func unframed(answer string) string {
	return strings.Replace(answer, "\nTransfer-Encoding: chunked", "", 1)
}

// member is a kvd that speaks everything on one port.
type member struct {
	address string
	trust   *tls.Config
}

func startForAll(t *testing.T) member {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	ca, err := certs.Init(dir, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.Issue(certs.Request{Kind: certs.Server, Name: "n1", Hosts: []string{"127.0.0.1"}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	url := daemontest.Start(t, 1, "--cors=*", "--cert-file="+issued.File, "--key-file="+issued.Key, "--listen-client-urls=http://ADDRESS,https://ADDRESS").URL()
	roots := x509.NewCertPool()
	roots.AddCert(ca.Issued().Certificate)
	return member{strings.TrimPrefix(url, "http://"), &tls.Config{RootCAs: roots}}
}
