package ctl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kvd-io/kvd/pkg/certs"
	"github.com/kvd-io/kvd/pkg/kvclient"
)

// certTimeout bounds the look at a certificate.
const certTimeout = 2 * time.Second

func doctorCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "doctor [FILE]...", Short: "look for what is wrong with the cluster, or soon will be", GroupID: groupCluster,
		Long: `Look for what is wrong with the cluster, or soon will be.

It asks every member, and each of them how it sees the others: members that are down or cannot
reach each other, that lag or have no leader, slow disks, clocks that differ, alarms, versions that
differ, and certificates that end soon: of every https port, and in every FILE. It changes nothing.`,
		Example: "  kvctl doctor\n  kvctl doctor certs/*.crt",
		RunE:    s.run(examine),
	}
}

// patient is a member as it was found.
type patient struct {
	kvclient.ClusterMember
	endpoint string             // that was asked; "" if it has none
	problem  error              // why it has not answered there
	view     kvclient.Cluster   // what it has answered
	asked    time.Time          // by this machine's clock
	health   error              // what it says of itself
	sync     kvclient.Durations // of its log; nothing if it does not tell
}

// foundCert is a certificate that was found.
type foundCert struct {
	where    string
	notAfter time.Time
	problem  error // why there is none to see
}

func examine(ctx context.Context, c *session, files []string) error {
	cluster, err := c.client.Cluster(ctx)
	if isNotServed(err) {
		return &usageError{text: "this is not a kvd: it does not tell how its members are", hint: "kvctl endpoint health works for an etcd, too"}
	}
	if err != nil {
		return err
	}
	patients := make([]patient, len(cluster.Members))
	for i, m := range cluster.Members {
		patients[i].ClusterMember = m
	}
	list := make([]endpoint, len(patients))
	ask(list, func(i int, _ endpoint) { c.examine(ctx, &patients[i], patients[i].ClientURLs) })
	strays := c.strays(ctx, patients)
	for _, stray := range strays {
		if i := slices.IndexFunc(patients, func(p patient) bool { return p.ID == stray.view.Member }); stray.problem == nil && i >= 0 && patients[i].problem != nil {
			stray.ClusterMember = patients[i].ClusterMember
			patients[i] = stray
		}
	}
	for _, p := range patients {
		if cluster.Leader == "" && p.problem == nil && p.view.Leader != "" {
			cluster.Leader, cluster.Quorum = p.view.Leader, p.view.Quorum // the first one that answered is cut off
		}
	}
	findings := slices.Concat(judgeCluster(cluster, patients), judgeStrays(cluster, strays), judgeCerts(c.certificates(ctx, patients, files), time.Now()))
	slices.SortStableFunc(findings, func(a, b finding) int { return a.rank() - b.rank() })
	c.tell(len(patients), findings)
	return verdictOf(findings)
}

// strays asks those endpoints that are client URLs of no member as it says: perhaps a member answers there
// all the same.
func (c *session) strays(ctx context.Context, patients []patient) []patient {
	var strays []patient
	for _, url := range c.config.Endpoints {
		if !slices.ContainsFunc(patients, func(p patient) bool { return slices.Contains(p.ClientURLs, url) }) {
			strays = append(strays, patient{endpoint: url})
		}
	}
	ask(make([]endpoint, len(strays)), func(i int, _ endpoint) { c.examine(ctx, &strays[i], []string{strays[i].endpoint}) })
	return strays
}

// examine asks one member about itself, at the first of urls that answers.
func (c *session) examine(ctx context.Context, p *patient, urls []string) {
	p.problem = errors.New("it has no client URL")
	for _, url := range urls {
		cfg := c.config
		cfg.Endpoints = []string{url}
		client, err := kvclient.New(cfg)
		if err != nil {
			p.problem = err
			continue
		}
		defer client.Close()
		p.asked, p.endpoint = time.Now(), url
		if p.view, p.problem = client.Cluster(ctx); p.problem != nil {
			p.problem = errors.New(diagnose(p.problem).Message)
			continue
		}
		p.health = client.Health(ctx)
		p.sync, _ = client.Histogram(ctx, "kvd_log_sync_duration_seconds") // without it, nothing is said of the disk
		return
	}
}

// certificates looks at those of all https ports, and in files.
func (c *session) certificates(ctx context.Context, patients []patient, files []string) (found []foundCert) {
	for _, p := range patients {
		for _, text := range slices.Concat(p.ClientURLs, p.PeerURLs) {
			if u, err := url.Parse(text); err == nil && u.Scheme == "https" {
				found = append(found, portCert(ctx, text, u.Host))
			}
		}
	}
	for _, file := range append(slices.DeleteFunc([]string{c.config.CAFile, c.config.CertFile}, func(f string) bool { return f == "" }), files...) {
		f := foundCert{where: file}
		issued, err := certs.Read(file)
		if f.problem = err; err == nil {
			f.notAfter = issued.NotAfter
		}
		found = append(found, f)
	}
	return found
}

// portCert returns the certificate that a port shows. Whether it is to be trusted is not looked at here.
func portCert(ctx context.Context, where, address string) foundCert {
	ctx, cancel := context.WithTimeout(ctx, certTimeout)
	defer cancel()
	f := foundCert{where: where}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		f.problem = err
		return f
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	err = tls.Client(conn, &tls.Config{
		InsecureSkipVerify: true, // it is read, not spoken to
		VerifyPeerCertificate: func(shown [][]byte, _ [][]*x509.Certificate) error {
			for _, der := range shown {
				if one, err := x509.ParseCertificate(der); err == nil && (f.notAfter.IsZero() || one.NotAfter.Before(f.notAfter)) {
					f.notAfter = one.NotAfter
				}
			}
			// To go on, or to say why not, would be a failed handshake in the log of the other side.
			return errors.Join(errSeen, conn.(*net.TCPConn).CloseWrite())
		},
	}).Handshake()
	if f.notAfter.IsZero() {
		f.problem = err
	} else {
		io.Copy(io.Discard, conn) // to close over what was not read would break the connection off
	}
	return f
}

// errSeen ends a handshake that has shown what it was for.
var errSeen = errors.New("the certificate was seen")

// tell prints what was found.
func (c *session) tell(members int, findings []finding) {
	var lines []string
	for _, f := range findings {
		lines = append(lines, fmt.Sprintf("%s: %s: %s: %s; %s", f.Severity, f.Subject, f.Finding, f.Meaning, f.Remedy))
	}
	if len(findings) == 0 {
		lines = []string{fmt.Sprintf("%d %s asked: nothing is wrong", members, map[bool]string{true: "member", false: "members"}[members == 1])}
	}
	c.names(lines, struct {
		Members  int       `json:"members"`
		Findings []finding `json:"findings"`
	}{members, append([]finding{}, findings...)})
}

func verdictOf(findings []finding) error {
	switch {
	case len(findings) == 0:
		return nil
	case findings[0].Severity == severe:
		return &toldError{exitServer}
	}
	return &toldError{exitDiffer}
}
