package daemon

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/kvd-io/kvd/daemon/peer"
	"github.com/kvd-io/kvd/pkg/tlsconfig"
)

// TLS is what the https ports of one kind show, and whom they let in.
type TLS struct {
	Cert, Key string // PEM files
	CA, CRL   string // PEM files; CA "" means the system's

	// ClientCerts is one of certsOff, certsOn and certsOptional. With a CA, off means on, as in etcd.
	ClientCerts string

	AllowedCNs, AllowedHostnames []string // of other members; none stands for any

	Auto bool // refused: a certificate that nobody has signed
}

// The values of ClientCerts.
const (
	certsOff      = "false"
	certsOn       = "true"
	certsOptional = "optional"
)

// The values of Config.TLSMinVersion.
var tlsVersions = map[string]uint16{"TLS1.2": tls.VersionTLS12, "TLS1.3": tls.VersionTLS13}

const defaultTLSVersion = "TLS1.2"

// tlsFlags are the names of the flags of one TLS, in the order of its fields.
type tlsFlags struct {
	urls, cert, key, ca, crl, clientCerts, cns, hostnames, auto string
}

var (
	clientTLSFlags = tlsFlags{"listen-client-urls", "cert-file", "key-file", "trusted-ca-file", "client-crl-file", "client-cert-auth", "", "", "auto-tls"}
	peerTLSFlags   = tlsFlags{"listen-peer-urls", "peer-cert-file", "peer-key-file", "peer-trusted-ca-file", "peer-crl-file", "peer-client-cert-auth",
		"peer-cert-allowed-cn", "peer-cert-allowed-hostname", "peer-auto-tls"}
)

// addTLSFlags defines the flags about TLS.
func (c *Config) addTLSFlags(flags *pflag.FlagSet) {
	flags.StringVar(&c.ClientTLS.Cert, "cert-file", c.ClientTLS.Cert, "`file` of the certificate for https clients, PEM")
	flags.StringVar(&c.ClientTLS.Key, "key-file", c.ClientTLS.Key, "`file` of its key")
	flags.StringVar(&c.ClientTLS.ClientCerts, "client-cert-auth", c.ClientTLS.ClientCerts, "whether clients have to show a certificate: true, false, or optional; true if there is a --trusted-ca-file")
	flags.StringVar(&c.ClientTLS.CA, "trusted-ca-file", c.ClientTLS.CA, "`file` of the authorities that sign the certificates of clients, PEM")
	flags.StringVar(&c.ClientTLS.CRL, "client-crl-file", c.ClientTLS.CRL, "`file` of certificates of clients that were revoked")
	flags.BoolVar(&c.CertUsers, "client-cert-cn-as-user", c.CertUsers, "whoever shows a client certificate and no password is the user of its common name")
	flags.StringVar(&c.PeerTLS.Cert, "peer-cert-file", c.PeerTLS.Cert, "`file` of the certificate that members show each other, PEM")
	flags.StringVar(&c.PeerTLS.Key, "peer-key-file", c.PeerTLS.Key, "`file` of its key")
	flags.StringVar(&c.PeerTLS.ClientCerts, "peer-client-cert-auth", c.PeerTLS.ClientCerts, "whether other members have to show a certificate: true or false; true if there is a --peer-trusted-ca-file")
	flags.StringVar(&c.PeerTLS.CA, "peer-trusted-ca-file", c.PeerTLS.CA, "`file` of the authorities that sign the certificates of members, PEM (default: the system's)")
	flags.StringVar(&c.PeerTLS.CRL, "peer-crl-file", c.PeerTLS.CRL, "`file` of certificates of members that were revoked")
	flags.StringSliceVar(&c.PeerTLS.AllowedCNs, "peer-cert-allowed-cn", c.PeerTLS.AllowedCNs, "`names` of which a member's certificate must have one as its common name (default any)")
	flags.StringSliceVar(&c.PeerTLS.AllowedHostnames, "peer-cert-allowed-hostname", c.PeerTLS.AllowedHostnames, "`hosts` of which a member's certificate must be good for one (default any)")
	flags.StringVar(&c.TLSMinVersion, "tls-min-version", c.TLSMinVersion, "oldest version of TLS that is spoken: TLS1.2 or TLS1.3")
	flags.BoolVar(&c.ClientTLS.Auto, "auto-tls", c.ClientTLS.Auto, "refused")
	flags.BoolVar(&c.PeerTLS.Auto, "peer-auto-tls", c.PeerTLS.Auto, "refused")
	for _, name := range []string{"client-cert-auth", "peer-client-cert-auth"} {
		flags.Lookup(name).NoOptDefVal = certsOn
	}
	for _, name := range []string{"auto-tls", "peer-auto-tls"} {
		flags.Lookup(name).Hidden = true
	}
}

// tlsFlagsOfEtcd are the flags about TLS that etcd has as well.
var tlsFlagsOfEtcd = []string{
	"cert-file", "key-file", "client-cert-auth", "trusted-ca-file", "client-crl-file", "auto-tls",
	"peer-cert-file", "peer-key-file", "peer-client-cert-auth", "peer-trusted-ca-file", "peer-crl-file", "peer-cert-allowed-cn", "peer-cert-allowed-hostname", "peer-auto-tls",
	"tls-min-version",
}

// checkTLS returns what is wrong with the settings about TLS, before any file is looked at.
func (c *Config) checkTLS() error {
	problems := []error{c.ClientTLS.check(clientTLSFlags, c.ListenClientURLs), c.PeerTLS.check(peerTLSFlags, c.ListenPeerURLs)}
	if slices.ContainsFunc(c.ListenPeerURLs, isHTTPS) && slices.ContainsFunc(c.ListenPeerURLs, func(text string) bool { return !isHTTPS(text) }) {
		problems = append(problems, configErrorf("listen-peer-urls", "http and https together: members speak one of them with each other, all the same"))
	}
	if c.PeerTLS.ClientCerts == certsOptional {
		problems = append(problems, configErrorf("peer-client-cert-auth", "use true or false: a member without a certificate may not be let in"))
	}
	if _, ok := tlsVersions[c.TLSMinVersion]; !ok {
		problems = append(problems, configErrorf("tls-min-version", "%q is unknown: use TLS1.2 or TLS1.3; older versions are not safe any more", c.TLSMinVersion))
	}
	if c.CertUsers && c.ClientTLS.wanted() == tlsconfig.NoClientCerts {
		problems = append(problems, configErrorf("client-cert-cn-as-user", "no client is asked for a certificate: add --trusted-ca-file, and --client-cert-auth=optional if not all clients have one"))
	}
	return errors.Join(problems...)
}

// check returns what is wrong with t, the settings of the ports at urls.
func (t *TLS) check(flags tlsFlags, urls []string) error {
	var problems []error
	refuse := func(wrong bool, flag, format string, args ...any) {
		if wrong {
			problems = append(problems, configErrorf(flag, format, args...))
		}
	}
	secure := slices.ContainsFunc(urls, isHTTPS)
	refuse(t.Auto, flags.auto, "a certificate that nobody has signed protects from nobody in between; kvctl cert makes an authority and certificates in three lines: use --%s and --%s", flags.cert, flags.key)
	refuse(secure && t.Cert == "" && t.Key == "", flags.cert, "https in --%s needs --%s and --%s; kvctl cert makes them", flags.urls, flags.cert, flags.key)
	refuse(secure && t.Cert != "" && t.Key == "", flags.key, "the certificate of --%s needs its key", flags.cert)
	refuse(secure && t.Key != "" && t.Cert == "", flags.cert, "the key of --%s needs its certificate", flags.key)
	refuse(!slices.Contains([]string{certsOff, certsOn, certsOptional}, t.ClientCerts), flags.clientCerts, "%q is unknown: use true or false", t.ClientCerts)
	for _, set := range []struct {
		flag  string
		given bool
	}{
		{flags.cert, t.Cert != ""}, {flags.key, t.Key != ""}, {flags.ca, t.CA != ""}, {flags.crl, t.CRL != ""}, {flags.clientCerts, t.ClientCerts != certsOff},
		{flags.cns, len(t.AllowedCNs) > 0}, {flags.hostnames, len(t.AllowedHostnames) > 0},
	} {
		refuse(set.given && !secure, set.flag, "it has no effect, and what is said stays readable for everybody in between: no url of --%s begins with https://", flags.urls)
	}
	refuse(t.ClientCerts != certsOff && t.CA == "", flags.clientCerts, "it needs --%s: whom the authorities of the system know is not known here", flags.ca)
	refuse(t.CRL != "" && t.CA == "", flags.crl, "it needs --%s, whose authorities have signed the list", flags.ca)
	refuse(len(t.AllowedCNs) > 0 && t.CA == "", flags.cns, "it needs --%s: without it no certificate is asked for", flags.ca)
	refuse(len(t.AllowedHostnames) > 0 && t.CA == "", flags.hostnames, "it needs --%s: without it no certificate is asked for", flags.ca)
	return errors.Join(problems...)
}

func isHTTPS(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "https"
}

// wanted returns what clients have to show.
func (t *TLS) wanted() tlsconfig.ClientCerts {
	switch {
	case t.ClientCerts == certsOptional:
		return tlsconfig.OptionalClientCerts
	case t.ClientCerts == certsOn || t.CA != "":
		return tlsconfig.RequiredClientCerts
	}
	return tlsconfig.NoClientCerts
}

// settings returns t in the words of tlsconfig.
func (t *TLS) settings(version string, log *slog.Logger, now func() time.Time) tlsconfig.Config {
	return tlsconfig.Config{
		Files:       tlsconfig.Files{Cert: t.Cert, Key: t.Key, CA: t.CA, CRL: t.CRL},
		ClientCerts: t.wanted(), AllowedNames: t.AllowedCNs, AllowedHosts: t.AllowedHostnames,
		MinVersion: tlsVersions[version], Now: now, Log: log,
	}
}

// clientTLS returns what the https ports for clients work with, nil if there are none. Errors are
// *ConfigError.
func (c *Config) clientTLS(deps Deps) (*tlsconfig.Server, error) {
	if !slices.ContainsFunc(c.ListenClientURLs, isHTTPS) {
		return nil, nil
	}
	settings := c.ClientTLS.settings(c.TLSMinVersion, deps.Log, deps.Now)
	settings.HTTP2 = true
	server, err := tlsconfig.NewServer(settings)
	if err != nil {
		return nil, clientTLSFlags.explain(err)
	}
	for _, text := range c.AdvertiseClientURLs {
		if u, err := url.Parse(text); err == nil && u.Scheme == "https" && server.Leaf().VerifyHostname(u.Hostname()) != nil {
			deps.Log.Warn("clients that go by an advertised url will refuse the certificate, which is not for that host", "url", text,
				"certificate", c.ClientTLS.Cert, "hosts", tlsconfig.ForWhom(server.Leaf()))
		}
	}
	return server, nil
}

// peerTLS returns what members call each other with, nil if their ports speak plain HTTP. Errors are
// *ConfigError.
func (c *Config) peerTLS(deps Deps) (*peer.TLS, error) {
	if !slices.ContainsFunc(c.ListenPeerURLs, isHTTPS) {
		return nil, nil
	}
	settings := c.PeerTLS.settings(c.TLSMinVersion, deps.Log, deps.Now)
	server, err := tlsconfig.NewServer(settings)
	if err != nil {
		return nil, peerTLSFlags.explain(err)
	}
	settings.Log = nil // the server's side tells of the files, which are the same
	client, err := tlsconfig.NewClient(settings)
	if err != nil {
		return nil, peerTLSFlags.explain(err)
	}
	if settings.ClientCerts == tlsconfig.NoClientCerts {
		deps.Log.Warn("whoever reaches the peer port may take part in this cluster: add --peer-trusted-ca-file")
	}
	return &peer.TLS{Server: server.Config(), ClientFor: client.Config, Round: whenFilesChange(server, client)}, nil
}

// whenFilesChange returns what a peer.Network asks once a second.
func whenFilesChange(server *tlsconfig.Server, client *tlsconfig.Client) func() func(tls.ConnectionState, bool) error {
	var seen [2]uint64 // changes, of both sides
	return func() func(tls.ConnectionState, bool) error {
		now := [2]uint64{server.Refresh(), client.Refresh()}
		if now == seen {
			return nil
		}
		seen = now
		return func(state tls.ConnectionState, incoming bool) error {
			if incoming {
				return server.Verify(state)
			}
			return client.Verify(state)
		}
	}
}

// explain returns an error of tlsconfig as one of the settings.
func (f tlsFlags) explain(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var problems []error
		for _, one := range joined.Unwrap() {
			problems = append(problems, f.explain(one))
		}
		return errors.Join(problems...)
	}
	var file *tlsconfig.FileError
	if !errors.As(err, &file) {
		return fmt.Errorf("TLS: %w", err)
	}
	flag := map[tlsconfig.What]string{tlsconfig.Certificate: f.cert, tlsconfig.Key: f.key, tlsconfig.Authorities: f.ca, tlsconfig.RevocationList: f.crl}[file.What]
	return configErrorf(flag, "%v", file)
}
