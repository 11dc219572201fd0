package tlsconfig

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

// Refused is the error of a certificate that is valid and not accepted all the same.
type Refused struct {
	Certificate *x509.Certificate
	Reason      string
}

func (e *Refused) Error() string {
	return fmt.Sprintf("the certificate of %s is refused: %s", Name(e.Certificate), e.Reason)
}

// verify returns why the other side of an open connection, which is used as usage says, would not be
// let in.
func (m *material) verify(state tls.ConnectionState, usage x509.ExtKeyUsage, c Config) error {
	chains, err := m.chains(state.PeerCertificates, usage, c)
	if err != nil {
		return err
	}
	return m.accepts(chains, c)
}

// chains returns the valid chains from what was shown, at least one certificate, to an authority.
func (m *material) chains(shown []*x509.Certificate, usage x509.ExtKeyUsage, c Config) ([][]*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, one := range shown[1:] {
		between.AddCert(one)
	}
	chains, err := shown[0].Verify(x509.VerifyOptions{
		Roots: m.roots, Intermediates: between, CurrentTime: c.Now(), KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return nil, &tls.CertificateVerificationError{UnverifiedCertificates: shown, Err: err}
	}
	return chains, nil
}

// accepts returns why the other side is not let in, whose chains of certificates are valid; nil if
// it is. Errors are *Refused.
func (m *material) accepts(chains [][]*x509.Certificate, c Config) error {
	leaf := chains[0][0] // verified: at least one chain of one certificate
	if len(m.revoked) > 0 && !slices.ContainsFunc(chains, m.holds) {
		return &Refused{leaf, "its authority has revoked it"}
	}
	if len(c.AllowedNames) > 0 && !slices.Contains(c.AllowedNames, leaf.Subject.CommonName) {
		return &Refused{leaf, fmt.Sprintf("its common name is not %s", oneOf(c.AllowedNames))}
	}
	if len(c.AllowedHosts) > 0 && !slices.ContainsFunc(c.AllowedHosts, func(host string) bool { return leaf.VerifyHostname(host) == nil }) {
		return &Refused{leaf, fmt.Sprintf("it is for %s, and not for %s", ForWhom(leaf), oneOf(c.AllowedHosts))}
	}
	return nil
}

// holds reports whether no certificate of chain is revoked.
func (m *material) holds(chain []*x509.Certificate) bool {
	return !slices.ContainsFunc(chain, func(c *x509.Certificate) bool {
		return m.revoked[revocation{string(c.RawIssuer), string(c.SerialNumber.Bytes())}]
	})
}

func oneOf(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(quoted, " or ")
}
