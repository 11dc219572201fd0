package tlsconfig

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Fingerprint returns the SHA-256 of c as "sha256:" and 64 hex digits.
func Fingerprint(c *x509.Certificate) string {
	s := sha256.Sum256(c.Raw)
	return "sha256:" + hex.EncodeToString(s[:])
}

// Name returns what to call c: its common name, or else what it is for, quoted.
func Name(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return fmt.Sprintf("%q", c.Subject.CommonName)
	}
	return fmt.Sprintf("%q", ForWhom(c))
}

// Hosts returns the names and addresses that c is good for.
func Hosts(c *x509.Certificate) []string {
	hosts := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return hosts
}

// hostsTold is how many hosts a message names.
const hostsTold = 5

// ForWhom returns what c is good for in words: "n1.example, 10.0.0.1", or "no host".
func ForWhom(c *x509.Certificate) string {
	hosts := Hosts(c)
	if len(hosts) == 0 {
		return "no host"
	}
	if len(hosts) > hostsTold {
		return fmt.Sprintf("%s and %d more", strings.Join(hosts[:hostsTold], ", "), len(hosts)-hostsTold)
	}
	return strings.Join(hosts, ", ")
}

// When returns a time and how far from now it is: "2026-11-20 10:00 UTC, 2 days ago".
func When(t, now time.Time) string {
	distance, form := t.Sub(now), "%s, in %s"
	if distance < 0 {
		distance, form = -distance, "%s, %s ago"
	}
	return fmt.Sprintf(form, t.UTC().Format("2006-01-02 15:04 UTC"), howLong(distance))
}

// howLong returns d, rounded, in the largest unit that it has two of.
func howLong(d time.Duration) string {
	for _, unit := range []struct {
		name string
		d    time.Duration
	}{{"days", 24 * time.Hour}, {"hours", time.Hour}, {"minutes", time.Minute}} {
		if n := (d + unit.d/2) / unit.d; n >= 2 {
			return fmt.Sprintf("%d %s", n, unit.name)
		}
	}
	return fmt.Sprintf("%d seconds", d/time.Second)
}

// alerts are what the other side says when it breaks a handshake off, as crypto/tls calls it.
var alerts = []struct{ alert, meaning string }{
	{"unknown certificate authority", "the other side does not trust the authority of the certificate that it was shown"},
	{"bad certificate", "the other side refuses the certificate that it was shown"},
	{"unknown certificate", "the other side refuses the certificate that it was shown"},
	{"expired certificate", "the other side says that the certificate that it was shown has expired"},
	{"revoked certificate", "the other side says that the certificate that it was shown is revoked"},
	{"certificate required", "the other side wants a client certificate and was shown none"},
	{"protocol version not supported", "the two sides have no version of TLS in common; TLS 1.2 is the least"},
}

// Explain says in words why a handshake failed, "" if err does not come from one. The words are for
// the side that has met err.
func Explain(err error) string {
	var file *FileError
	var refused *Refused
	var unverified *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	var operation *net.OpError
	switch {
	case errors.As(err, &file):
		return file.Error()
	case errors.As(err, &refused):
		return refused.Error()
	case errors.As(err, &unverified):
		return explainCertificate(unverified)
	case errors.As(err, &header):
		if IsHTTP(header) {
			return "the other side speaks plain HTTP, not HTTPS"
		}
		return "the other side does not speak TLS"
	case errors.As(err, &operation) && operation.Op == "remote error":
		text := strings.TrimPrefix(operation.Err.Error(), "tls: ")
		for _, a := range alerts {
			if a.alert == text {
				return a.meaning
			}
		}
		return "the other side has broken off: " + text
	case errors.As(err, &operation) && operation.Op == "local error":
		return strings.TrimPrefix(operation.Err.Error(), "tls: ")
	case err != nil && strings.HasPrefix(err.Error(), "tls: "):
		text := strings.TrimPrefix(err.Error(), "tls: ")
		if text == "client didn't provide a certificate" {
			return "it shows no certificate, and one is required"
		}
		return text
	}
	return ""
}

// IsHTTP reports whether what was no TLS is the beginning of a request or an answer of plain HTTP.
func IsHTTP(e tls.RecordHeaderError) bool {
	switch string(e.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "DELET", "OPTIO", "PATCH", "PRI *", "HTTP/":
		return true
	}
	return false
}

func explainCertificate(e *tls.CertificateVerificationError) string {
	leaf := e.UnverifiedCertificates[0] // a handshake without one fails before
	whose := "the certificate of " + Name(leaf)
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	switch {
	case errors.As(e.Err, &unknown):
		return fmt.Sprintf("%s is signed by %q, which is no authority that is trusted here", whose, leaf.Issuer.CommonName)
	case errors.As(e.Err, &host):
		return fmt.Sprintf("%s is for %s, and not for %s", whose, ForWhom(leaf), host.Host)
	case errors.As(e.Err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		// The message of crypto/x509 holds the time that it was compared with, which is now but for tests.
		if invalid.Cert != leaf && !invalid.Cert.Equal(leaf) {
			whose = "the authority " + Name(invalid.Cert) + " of " + whose
		}
		if strings.Contains(invalid.Detail, "is before") {
			return fmt.Sprintf("%s is not valid before %s; are the clocks right?", whose, invalid.Cert.NotBefore.UTC().Format("2006-01-02 15:04 UTC"))
		}
		return fmt.Sprintf("%s has expired, on %s", whose, invalid.Cert.NotAfter.UTC().Format("2006-01-02 15:04 UTC"))
	case errors.As(e.Err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return whose + " is not for this side of a connection: its extended key usage says what else it is for"
	}
	return whose + ": " + strings.TrimPrefix(e.Err.Error(), "x509: ")
}
