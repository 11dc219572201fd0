package tlsconfig

import (
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
