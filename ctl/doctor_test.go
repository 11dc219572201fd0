package ctl

import (
	"bytes"
	"crypto/tls"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestTheDoctorsLookAtACertificateIsNoFailedHandshakeThere(t *testing.T) {
	for name, version := range map[string]uint16{"TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer // by the server
			server := httptest.NewUnstartedServer(http.NotFoundHandler())
			server.Config.ErrorLog = log.New(&said, "", 0)
			server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: version, MaxVersion: version}
			server.StartTLS()
			f := portCert(t.Context(), "here", server.Listener.Addr().String())
			server.Close()
			if f.problem != nil || !f.notAfter.Equal(server.Certificate().NotAfter) {
				t.Errorf("%+v, want a certificate until %v", f, server.Certificate().NotAfter)
			}
			if !strings.HasSuffix(said.String(), ": EOF\n") || strings.Count(said.String(), "\n") != 1 {
				t.Errorf("the server says %q, which is more than that somebody has hung up", &said)
			}
		})
	}
}

func TestAPortWithoutACertificateIsTold(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	if f := portCert(t.Context(), "here", server.Listener.Addr().String()); f.problem == nil {
		t.Errorf("plain HTTP: %+v", f)
	}
	server.Close()
	if f := portCert(t.Context(), "here", server.Listener.Addr().String()); f.problem == nil {
		t.Errorf("nobody: %+v", f)
	}
}
